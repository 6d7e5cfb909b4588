"""The console commands of an installed package.

`sar-train` runs train_net.py, and `sar-predict` runs tools/predict.py. The other files in tools/
have commands too. The package holds all these files: as links in a checkout, as copies in a wheel.
"""

import runpy
import sys
from pathlib import Path

from sar import cli


def main() -> None:
    """Run the program that belongs to the name of the command in sys.argv[0]."""
    command = Path(sys.argv[0]).name
    runpy.run_path(str(program_of(command)), run_name="__main__")


def program_of(command: str) -> Path:
    """Return the file of a command such as sar-check-dataset, and note the command for its help."""
    cli.command = command
    package = Path(__file__).parent
    if command == "sar-train":
        return package / "train_net.py"
    return package / "tools" / f"{command.removeprefix('sar-').replace('-', '_')}.py"
