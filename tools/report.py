#!/usr/bin/env python
"""Compare runs in one HTML page: metrics, classes, confusions, curves, features and images.

The page loads nothing from other files or the network. A table of the methods goes to the console.

A RUN is the OUTPUT_DIR of a training that was evaluated, or NAME=FOLDER. FOLDER may be a quoted
pattern. Runs with the same NAME are one method with several seeds: the page shows their mean and
spread. Without NAME, the method has the name of the folder. If the whole RUN is a folder or matches
folders, it has no NAME: 'lr=*' may match the folder lr=0.1. All differences are relative to the
first method.

The page starts with the settings and labels that differ between the runs. A note says if the
comparison is not fair, because length, batch size, data, input, schedule, weights or evaluation
differ. The metrics are those of the last evaluation during the training. If there is none, they
are those of --eval-only with model_best.pth, or else with model_final.pth. An evaluation by
--eval-only is left out if its checkpoint was replaced later.

The program runs one model of each method on some images of the data set. This is the model of the
method's first run; if there is only one method, the models of all its runs. The weights come from
model_best.pth, or else from model_final.pth. The page shows the cosines between class centres, a
map of the embeddings (PCA; t-SNE if scikit-learn is installed), and the images whose predictions
differ most. If a checkpoint or the data set is missing, the page says so and shows the rest.
"""

import argparse
import logging
import sys
from collections.abc import Iterable

from sar import cli

EXAMPLES = """examples:
  python tools/report.py output/CamVid/baseline_sem_fpn_R_18 output/CamVid/sar_sem_fpn_R_18 \\
      --output report.html
  python tools/report.py 'baseline=output/baseline_seed_*' 'SAR=output/sar_seed_*' \\
      --output report.html --images 100
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_import(parser)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="FOLDER or NAME=FOLDER")
    cli.add_output(parser, "FILE", "the page to write, NAME.html")
    parser.add_argument(
        "--dataset",
        default="",
        metavar="NAME",
        help="the evaluated data set, such as a test split (default: the first DATASETS.TEST that "
        "all runs share)",
    )
    parser.add_argument(
        "--images",
        type=cli.count,
        default=32,
        metavar="N",
        help="number of images that each model predicts (default: 32; 0: none)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

from tqdm import tqdm

from sar.errors import printable
from sar.files.program_outputs import Outputs
from sar.report import compare, find_runs, render, warnings_of
from sar.report.summary import format_summary

logger = logging.getLogger("report")


def main(argv: list[str] | None = None) -> int:
    return cli.run(write_page, parse_args(argv))


def write_page(args: argparse.Namespace) -> None:
    def show_progress(items: Iterable, title: str) -> Iterable:
        return tqdm(items, printable(title), disable=args.quiet)

    runs = find_runs(args.runs)
    outputs = Outputs.of_file(
        args.output,
        overwrite=args.overwrite,
        inputs=[path for run in runs for path in run.files()],
    )
    content = compare(
        runs, num_images=args.images, dataset=args.dataset, show_progress=show_progress
    )
    for text in warnings_of(content):
        logger.warning(text)
    page = render(content)
    with outputs.writing(args.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if not args.quiet:
        print(format_summary(content))
        dataset = printable(content["dataset"])
        print(f"Comparison of {len(runs)} runs on {dataset} in {args.output}")


if __name__ == "__main__":
    sys.exit(main())
