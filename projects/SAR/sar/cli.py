"""Options, output and exit codes that all command-line programs share.

This module does not import PyTorch or detectron2.
"""

import argparse
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

from sar.config_file import locate
from sar.errors import InputError, printable
from sar.files.dataset_root import root
from sar.user_code import import_modules

_EXIT_CODES = """\
exit codes:
  0 done, 1 an error or a problem that was found, 2 a wrong command line, 130 stopped by Ctrl-C"""

# The console command that runs this program, such as sar-predict; "" if Python runs its file.
command = ""
_PROGRAM = re.compile(r"python (?:%\(prog\)s|(tools/\w+\.py))")


def parser(description: str, examples: str, *, talks: bool = True) -> argparse.ArgumentParser:
    """Return a parser whose help ends with exit codes and examples.

    Args:
        description: the program's docstring.
        examples: "example:" and one call of the program per line.
        talks: add --quiet and --verbose, which `run` reads.
    """
    result = Parser(
        prog=command or None,
        description=description,
        epilog=epilog(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if talks:
        talk = result.add_mutually_exclusive_group()
        talk.add_argument("--quiet", action="store_true", help="print errors only")
        talk.add_argument("--verbose", action="store_true", help="print each step")
    return result


class Parser(argparse.ArgumentParser):
    """A parser that shows control characters as escapes in its errors."""

    def error(self, message: str) -> None:
        super().error(printable(message))  # a shell's * can add any file name


def epilog(examples: str, exit_codes: str = "") -> str:
    """Return the end of the help: all programs' exit codes, then `exit_codes`, then examples.

    If a console command runs the program, the examples use console commands.
    """
    if command:
        examples = _PROGRAM.sub(lambda found: call_of(found[1]) if found[1] else command, examples)
    return f"{_EXIT_CODES}{exit_codes}\n\n{examples}"


def call_of(file: str) -> str:
    """Return how to call a program of the project, as the running program was called.

    Args:
        file: train_net.py, or a file such as tools/compare.py.

    Returns:
        "python tools/compare.py", or "sar-compare" if a console command runs this program.
    """
    if not command:
        return f"python {file}"
    name = Path(file).stem.replace("_", "-")
    return "sar-train" if name == "train-net" else f"sar-{name}"


def add_config(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add --config-file and, at the end of the line, overrides.

    Args:
        default: used without --config-file, which is required if there is no default.
    """
    parser.add_argument(
        "--config-file",
        required=default is None,
        default=default,
        metavar="FILE",
        help="a config of train_net.py" + (" (default: %(default)s)" if default else ""),
    )
    _add_overrides(parser)


def add_model(parser: argparse.ArgumentParser, nargs: str | None = None) -> None:
    """Add --config-file or --weights, both as `config_file`, and overrides as in `add_config`.

    Args:
        nargs: "+" for several files.
    """
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "--weights",
        dest="config_file",
        nargs=nargs,
        metavar="FILE",
        help="model_inference.pth of a training, which holds config, classes and weights",
    )
    either.add_argument(
        "--config-file",
        nargs=nargs,
        metavar="FILE",
        help="a config of train_net.py; give MODEL.WEIGHTS at the end of the line",
    )
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    add_import(parser)
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="overrides of the config, last"
    )


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add --import, which `run` follows."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module or .py file of yours first, such as one with a head; repeatable",
    )


def add_output(
    parser: argparse.ArgumentParser,
    metavar: str,
    help: str,
    *,
    required: bool = True,
    default: Path | None = None,
) -> None:
    """Add --output, a path in which a leading ~ is expanded, and --overwrite.

    A program passes both to `sar.files.program_outputs.Outputs`, which writes its files.

    Args:
        metavar: FOLDER or FILE.
    """
    parser.add_argument(
        "--output", required=required, default=default, type=path, metavar=metavar, help=help
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files in --output that this program did not write (default: refuse)",
    )


def download_parser(
    description: str, example: str, default_folder: str, *, output: bool = False
) -> argparse.ArgumentParser:
    """Return the command line of a tools/prepare_*.py: the folder of a download, and --threads.

    Args:
        description: the program's docstring.
        example: a call of the program, with its options.
        default_folder: where the download is, below the folder of the data sets.
        output: add --output, for programs that write a complete data set.
    """
    result = parser(description, f"example:\n  {example}\n")
    result.add_argument(
        "--folder",
        type=path,
        default=Path(root(), default_folder),
        metavar="FOLDER",
        help=f"the folder {default_folder} (default: under DETECTRON2_DATASETS: %(default)s)",
    )
    if output:
        result.add_argument(
            "--output", type=path, metavar="FOLDER", help="where to write (default: --folder)"
        )
    result.add_argument(
        "--threads",
        type=positive,
        default=min(16, os.cpu_count() or 1),
        metavar="N",
        help="default: one per core, at most 16 (%(default)s)",
    )
    return result


def _whole_number(least: int) -> Callable[[str], int]:
    def convert(word: str) -> int:
        if not word.isdecimal() or int(word) < least:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}, found {word!r}"
            )
        return int(word)

    return convert


# Types of options.
count, positive = _whole_number(0), _whole_number(1)


def path(word: str) -> Path:
    """Return the path; a leading ~ becomes the home folder, as in --output=~/x."""
    return Path(os.path.expanduser(word))


def run(
    main: Callable[[argparse.Namespace], int | None],
    args: argparse.Namespace,
    when_stopped: str = "",
) -> int:
    """Call `main(args)` and return the result of `exit_code`.

    The modules in `args.imports` are imported first. `args.quiet` and `args.verbose` set how much
    is printed. Control characters in names and values are printed as escapes.
    """
    logging.basicConfig(
        level="INFO" if args.verbose else "ERROR" if args.quiet else "WARNING",
        format="%(levelname)s: %(message)s",
    )
    for handler in logging.getLogger().handlers:
        handler.addFilter(printable_record)
    if not args.quiet:
        note_packaged_configs(args)

    def call() -> int | None:
        import_modules(getattr(args, "imports", ()))
        return main(args)

    with redirect_stdout(_PrintableStream(sys.stdout)):
        return exit_code(call, when_stopped, with_traceback=args.verbose)


# Characters that a program prints itself, to break and indent lines.
_LAYOUT = "\n\t"
# detectron2 colours some messages.
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def printable_record(record: logging.LogRecord) -> bool:
    """Remove colours from a log record and show control characters as escapes; always True."""
    record.msg = printable(_COLOR.sub("", record.getMessage()), keep=_LAYOUT)
    record.args = ()
    return True


class _PrintableStream:
    """A text stream that shows control characters as escapes."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text, keep=_LAYOUT))

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def note_packaged_configs(args: argparse.Namespace) -> None:
    """Print which file is used for each --config-file that is not here but in the package."""
    given = getattr(args, "config_file", None) or []
    for path in [given] if isinstance(given, str) else given:
        if (found := locate(path)) != path:
            text = f"{path} is not in this folder. Using the config of the package: {found}"
            print(printable(text), file=sys.stderr)


def exit_code(
    main: Callable[[], int | None], when_stopped: str = "", *, with_traceback: bool = False
) -> int:
    """Call `main` and return its exit code (None is 0).

    An InputError or an OSError (a file or the console) is printed, and 1 is returned. After Ctrl-C,
    130 is returned. Other errors pass through.

    Args:
        when_stopped: how to continue after Ctrl-C.
        with_traceback: also print the traceback of an OSError.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if with_traceback:
            traceback.print_exc()
        if error.filename is None:
            _drop_unwritten_output()
        print(f"error: {printable(_described(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"Stopped. {when_stopped}".rstrip(), file=sys.stderr)
        return 130


def _described(error: OSError) -> str:
    """Return the file and the reason; without a file, the message of the system."""
    if error.filename is None or error.strerror is None:
        return str(error)
    return f"{os.fsdecode(error.filename)} cannot be read or written ({error.strerror})"


def _drop_unwritten_output() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)


def discard(stream: TextIO) -> None:
    """Discard what the stream still holds and all later output.

    For a stream that cannot be written (a closed pipe, a full disk): otherwise Python tries again
    when it ends, and prints a second error.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
