"""Options, output and exit codes of the command-line programs."""

import argparse
import logging
import subprocess
import sys

import pytest

from sar import cli
from sar.errors import InputError


def fail(error):
    raise error


def arguments(*words):
    return cli.parser("Does it.", "example:\n  python it.py").parse_args(words)


@pytest.mark.parametrize(
    "main, code, said",
    [
        (lambda args: None, 0, ""),
        (lambda args: 1, 1, ""),
        (lambda args: fail(InputError("a.png is bad")), 1, "error: a.png is bad\n"),
        (lambda args: fail(KeyboardInterrupt), 130, "Stopped. Go on.\n"),
    ],
    ids=["done", "problem", "error", "stopped"],
)
def test_how_it_ends(main, code, said, capsys):
    assert cli.run(main, arguments(), "Go on.") == code
    assert capsys.readouterr() == ("", said)


def test_names_of_others_cannot_write_to_the_terminal(capsys, caplog):
    name = "\x1b[2J\u202e.png"

    def main(args):
        print(f"{name}:\n\tlisted")
        logging.getLogger("a library").error("%s is bad\x1b[31m\x07", name)
        raise InputError(f"{name} is bad")

    root = logging.getLogger()
    handler = logging.StreamHandler()
    root.addHandler(handler)
    try:
        cli.run(main, arguments())
    finally:
        root.removeHandler(handler)
        for other in root.handlers:
            other.removeFilter(cli.printable_record)
    out, err = capsys.readouterr()
    assert out == "\\x1b[2J\\u202e.png:\n\tlisted\n"
    assert err == "\\x1b[2J\\u202e.png is bad\\x07\nerror: \\x1b[2J\\u202e.png is bad\n"


def test_a_wrong_command_line_cannot_write_to_the_terminal(capsys):
    with pytest.raises(SystemExit, match="2"):
        arguments("\x1b[2J.png")
    assert "arguments: \\x1b[2J.png" in capsys.readouterr().err


def test_a_file_of_the_system_cannot_write_to_the_terminal(capsys):
    def main(args):
        open("nowhere/\x1b[2J\nerror: forged.png")

    assert cli.run(main, arguments()) == 1
    reason = "cannot be read or written (No such file or directory)"
    expected = f"error: nowhere/\\x1b[2J\\nerror: forged.png {reason}\n"
    assert capsys.readouterr().err == expected


def test_an_error_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda args: 1 / 0, arguments())


def test_how_much_is_said(monkeypatch):
    levels = []
    monkeypatch.setattr(logging, "basicConfig", lambda level, format: levels.append(level))
    for words in ([], ["--quiet"], ["--verbose"]):
        cli.run(lambda args: None, arguments(*words))
    assert levels == ["WARNING", "ERROR", "INFO"]
    with pytest.raises(SystemExit, match="2"):
        arguments("--quiet", "--verbose")


def test_overrides_come_last():
    parser = cli.parser("Does it.", "")
    cli.add_model(parser, nargs="+")
    parser.add_argument("--output")
    args = parser.parse_args(["--config-file", "A", "B", "--output", "x", "SEED", "-1"])
    assert (args.config_file, args.output, args.opts) == (["A", "B"], "x", ["SEED", "-1"])


def test_a_model_is_a_config_or_a_file_with_everything(capsys):
    parser = cli.parser("Does it.", "")
    cli.add_model(parser)
    assert parser.parse_args(["--config-file", "C", "SEED", "1"]).config_file == "C"
    assert parser.parse_args(["--weights", "W", "SEED", "1"]).config_file == "W"
    for words in ([], ["--weights", "W", "--config-file", "C"]):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(words)
    assert "one of the arguments --weights --config-file is required" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["-1", "x", "1.5", "", "\u00b2"])
def test_numbers_that_are_none(word):
    for kind, least in ((cli.count, 0), (cli.positive, 1)):
        with pytest.raises(argparse.ArgumentTypeError, match=f"at least {least}, found"):
            kind(word)
    assert cli.count("0") == 0 and cli.positive("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1, found '0'"):
        cli.positive("0")


def test_files_that_cannot_be_read_or_written_have_no_traceback(tmp_path, capsys):
    path = tmp_path / "nowhere" / "a.png"
    assert cli.run(lambda args: path.read_text(), arguments()) == 1
    reason = "cannot be read or written (No such file or directory)"
    assert capsys.readouterr() == ("", f"error: {path} {reason}\n")
    assert cli.run(lambda args: path.read_text(), arguments("--verbose")) == 1
    assert "Traceback" in capsys.readouterr().err
    assert cli.run(lambda args: fail(OSError("encoder error")), arguments()) == 1
    assert capsys.readouterr().err == "error: encoder error\n"


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("ends", ["| true", "> /dev/full"])
def test_a_console_that_takes_no_more(lines, ends):
    code = f"import time; from sar import cli; time.sleep(0.5 * ({lines} == 1)); "
    code += f"raise SystemExit(cli.exit_code(lambda: print(('x' * 100 + chr(10)) * {lines})))"
    shell = f'set -o pipefail; "{sys.executable}" -c "{code}" {ends}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (message,) = done.stderr.splitlines()
    assert message.startswith("error: [Errno ")


def test_output_and_overwrite(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = cli.parser("Does it.", "")
    cli.add_output(parser, "FILE", "the page")
    args = parser.parse_args(["--output=~/page.html"])
    assert (str(args.output), args.overwrite) == ("/home/me/page.html", False)
    assert parser.parse_args(["--output", "x", "--overwrite"]).overwrite


def test_it_needs_neither_pytorch_nor_detectron2():
    code = "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None; import sar.cli"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
