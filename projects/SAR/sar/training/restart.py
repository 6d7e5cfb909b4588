"""Decide whether a training that torchrun restarts resumes or starts from the beginning.

A first start can fail before OUTPUT_DIR belongs to its run, while OUTPUT_DIR still holds the
checkpoints of an earlier run. So a training notes its begin in the store of torchrun's agent, which
lives as long as the launch.
"""

import os

from torch import distributed

_BEGUN = "sar/begun"


def note_begun() -> None:
    """Note that OUTPUT_DIR now belongs to this run. Does nothing without torchrun."""
    if store := _launch_store():
        store.set(_BEGUN, "yes")


def goes_on() -> bool:
    """Return True if an earlier start of this launch has begun its run."""
    if store := _launch_store():
        return store.check([_BEGUN])
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # without a store, assume so


def _launch_store() -> distributed.Store | None:
    """Return the store, or None without torchrun and with some releases of torch."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(address, port, is_master=False)
