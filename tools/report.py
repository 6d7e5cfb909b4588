#!/usr/bin/env python
"""Compares runs in one HTML page, which loads nothing: metrics, classes, curves, features, images.

A RUN is the OUTPUT_DIR of a training that was evaluated, or NAME=FOLDER; FOLDER may be a quoted
pattern. A RUN that as a whole is a folder or matches some, as 'lr=*' does lr=0.1, has no NAME. Runs
of one NAME are those of one method with other seeds: the page has their mean and spread. Without
NAME it is the folder's own name. Differences are to the method named first.

First comes how the runs were trained and evaluated: the settings and the labels that differ, and a
note if the comparison is not fair, because length, batch size, data, input, schedule, weights or
evaluation differ. An evaluation by --eval-only is passed over if its checkpoint was replaced since.

The model of each method's first run (of a single method: of all its runs), which is model_best.pth,
else model_final.pth, with its config.yaml, is shown some images of the data set: for the cosines of
its class centres, a map of its embeddings (PCA; t-SNE where scikit-learn is installed), and the
images where predictions differ most. Where checkpoint or data set are missing, the page says so and
has the rest.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from sar import cli

EXAMPLES = """examples:
  python tools/report.py output/CamVid/baseline_sem_fpn_R_18 output/CamVid/sar_sem_fpn_R_18 \\
      --output report.html
  python tools/report.py 'baseline=output/baseline_seed_*' 'SAR=output/sar_seed_*' \\
      --output report.html --images 100
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="FOLDER or NAME=FOLDER")
    cli.add_output(parser, "FILE", "the page, NAME.html")
    parser.add_argument(
        "--images",
        type=cli.count,
        default=32,
        metavar="N",
        help="shown to each model (32; 0: none)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from tqdm import tqdm

from sar.errors import printable
from sar.files.program_outputs import Outputs
from sar.report import Run, compare, find_runs, render

logger = logging.getLogger("report")


def main(argv: list[str] | None = None) -> int:
    return cli.run(write_page, parse_args(argv))


def write_page(args: argparse.Namespace) -> None:
    def show_progress(batches: Sequence, run: Run) -> Sequence:
        return tqdm(
            batches, f"Looking at {printable(run.folder.name)}", unit="image", disable=args.quiet
        )

    runs = find_runs(args.runs)
    outputs = Outputs.of_file(
        args.output,
        overwrite=args.overwrite,
        inputs=[path for run in runs for path in run.files()],
    )
    content = compare(runs, num_images=args.images, show_progress=show_progress)
    settings = content["settings"]
    for text in filter(None, (settings["unfair"], content["warning"], *settings["notes"])):
        logger.warning(text)
    page = render(content)
    with outputs.writing(args.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if not args.quiet:
        print(f"Comparison of {len(runs)} runs in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
