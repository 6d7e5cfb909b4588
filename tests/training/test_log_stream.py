import logging
import os
import subprocess
import sys

import pytest

from sar.errors import InputError
from sar.training.log_stream import fail_once

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no file that is full")


def test_a_full_log_is_said_once(capfd):
    logger = logging.Logger("test")
    with open("/dev/full", "w") as stream:
        logger.addHandler(logging.StreamHandler(stream))
        fail_once(logger.handlers[0])
        with pytest.raises(InputError, match="/dev/full cannot be written.*No space left"):
            logger.info("first")
        logger.info("second")
    assert capfd.readouterr().err == ""


def test_other_errors_of_a_handler_are_reported_as_ever(capfd, tmp_path):
    logger = logging.Logger("test")
    with open(tmp_path / "log", "w") as stream:
        logger.addHandler(logging.StreamHandler(stream))
        fail_once(logger.handlers[0])
        logger.info("%d", "no number")
    assert "TypeError" in capfd.readouterr().err


CONSOLE = """
import logging, sys
from sar.training.log_stream import fail_once
logger = logging.getLogger("test")
logger.setLevel("INFO")
logger.addHandler(logging.StreamHandler(sys.stdout))
fail_once(logger.handlers[0])
logger.info("first")
logger.info("second")
"""


@pytest.mark.slow
def test_a_console_that_cannot_be_written_is_given_up():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CONSOLE], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 0 and "Traceback" not in done.stderr
