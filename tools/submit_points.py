#!/usr/bin/env python
"""Write predicted labels of point clouds as the submission of a benchmark.

--folder is the data set that tools/prepare_scannet.py or tools/prepare_semantic_kitti.py wrote. Its
classes.txt says which benchmark it is. First predict its test clouds:

  python tools/predict.py --weights model_inference.pth --input FOLDER/clouds/test \\
      --output predicted

The output folder then gets, from predicted/labels:

  SCENE.txt                             ScanNet20, ScanNet200: the official id of each vertex's
                                        class, one on each line
  sequences/NN/predictions/SCAN.label   SemanticKITTI: the official ids, 32 bits for each point

All clouds of the split must be there, with the right number of labels. With --split val, the files
are for the official evaluation programs. Zip the files without the hidden journal of this program.
"""

import argparse
import sys

from sar import cli

EXAMPLE = """example:
  python tools/submit_points.py --folder datasets/scannet/scannet200 --labels predicted/labels \\
      --output submission
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLE)
    parser.add_argument(
        "--folder", required=True, type=cli.path, metavar="FOLDER", help="the prepared data set"
    )
    parser.add_argument(
        "--labels",
        required=True,
        type=cli.path,
        metavar="FOLDER",
        help="the labels/ that tools/predict.py wrote",
    )
    cli.add_output(parser, "FOLDER", "folder for the files of the submission")
    parser.add_argument(
        "--split", choices=("test", "val"), default="test", help="default: %(default)s"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sar.data.clouds import read_cloud, read_cloud_label
from sar.data.datasets import scannet, semantic_kitti
from sar.data.datasets.folder import read_classes
from sar.data.preparation import check_there
from sar.errors import InputError, listed
from sar.files.program_outputs import Outputs, collected
from sar.threads import map_ahead

_NUM_THREADS = min(16, os.cpu_count() or 1)


@dataclass(frozen=True)
class Benchmark:
    """The files of a benchmark.

    Attributes:
        name: for messages.
        classes: the class name of each official id, in the order of our ids.
        clouds: returns the names of the clouds of a split.
        suffixes: of a cloud, and of the predicted labels of a cloud.
        file_of: returns the file of a cloud in the submission.
        encode: returns the content of this file, from official ids (N,).
    """

    name: str
    classes: Mapping[int, str]
    clouds: Callable[[str], Sequence[str]]
    suffixes: tuple[str, str]
    file_of: Callable[[str], str]
    encode: Callable[[np.ndarray], bytes]


def scans_of_kitti(split: str) -> list[str]:
    """Return the names that tools/prepare_semantic_kitti.py gives to the scans of a split."""
    sequences = semantic_kitti.NUM_SCANS[split].items()
    return [f"{i:02d}_{scan:06d}" for i, number in sequences for scan in range(number)]


def file_of_scan(name: str) -> str:
    sequence, _, scan = name.partition("_")
    return f"sequences/{sequence}/predictions/{scan}.label"


def as_lines(ids: np.ndarray) -> bytes:
    return "".join(f"{official}\n" for official in ids.tolist()).encode()


BENCHMARKS = (
    *(
        Benchmark(
            f"ScanNet{len(classes)}",
            classes,
            lambda split: scannet.scenes()[split],
            (".npz", ".npz"),
            "{}.txt".format,
            as_lines,
        )
        for classes in (scannet.CLASSES_20, scannet.CLASSES_200)
    ),
    Benchmark(
        "SemanticKITTI",
        semantic_kitti.CLASSES,
        scans_of_kitti,
        (".bin", ".label"),
        file_of_scan,
        lambda ids: ids.astype("<u4").tobytes(),
    ),
)


def main(argv: list[str] | None = None) -> int:
    return cli.run(submit, parse_args(argv), when_stopped="Run it again to write all files.")


def submit(args: argparse.Namespace, names: Sequence[str] | None = None) -> None:
    """Write the files of a submission.

    Args:
        names: of the clouds; by default, all clouds of the official split.

    Raises:
        InputError: the data set is of no benchmark; clouds or labels are missing; or the labels of
            a cloud are wrong, after the files of all others were written.
    """
    benchmark = find_benchmark(args.folder)
    names = benchmark.clouds(args.split) if names is None else names
    of_cloud, of_labels = benchmark.suffixes
    clouds = [args.folder / "clouds" / args.split / f"{name}{of_cloud}" for name in names]
    labels = [args.labels / f"{name}{of_labels}" for name in names]
    check_there(clouds, f"{args.split} clouds of {benchmark.name}", "Prepare the data set again.")
    remedy = f"Run tools/predict.py with --input {args.folder / 'clouds' / args.split}."
    check_there(labels, f"label files of {benchmark.name} {args.split}", remedy)
    targets = [args.output / benchmark.file_of(name) for name in names]
    outputs = Outputs(
        args.output,
        overwrite=args.overwrite,
        inputs=[*clouds, *labels],
        data=[args.folder, args.labels],
    )
    outputs.check(targets)

    def write(paths: tuple[Path, Path, Path]) -> list[InputError]:
        errors: list[InputError] = []
        with collected(errors):
            cloud, label, target = paths
            content = benchmark.encode(official_ids(cloud, label, benchmark))
            with outputs.writing(target, sync=False) as temporary:
                temporary.write_bytes(content)
        return errors

    results = map_ahead(write, zip(clouds, labels, targets, strict=True), _NUM_THREADS)
    results = tqdm(results, benchmark.name, len(names), unit="cloud", disable=args.quiet)
    failures = [f"  {error}" for errors in results for error in errors]
    if failures:
        raise InputError(
            f"The submission is not complete, because {len(failures)} of {len(names)} files could "
            "not be written:",
            *failures[:3],
        )
    if not args.quiet:
        print(f"{len(names)} files for {benchmark.name} {args.split} in {args.output}")


def find_benchmark(folder: Path) -> Benchmark:
    """Return the benchmark with the classes of a folder.

    Raises:
        InputError: there is none, or classes.txt cannot be read.
    """
    names, _ = read_classes(folder / "classes.txt")
    for benchmark in BENCHMARKS:
        if names == list(benchmark.classes.values()):
            return benchmark
    raise InputError(
        f"{folder / 'classes.txt'} has the classes {listed(names)}. Expected the classes of "
        f"{', '.join(benchmark.name for benchmark in BENCHMARKS)}: correct --folder."
    )


def official_ids(cloud: Path, label: Path, benchmark: Benchmark) -> np.ndarray:
    """Return the official id of each point of a cloud (N,), from its predicted labels.

    Raises:
        InputError: a file cannot be read, the numbers of points differ, or a label is not a class.
    """
    ids, num_points = read_cloud_label(label), len(read_cloud(cloud))
    if len(ids) != num_points:
        raise InputError(
            f"{label} has {len(ids)} labels, but {cloud} has {num_points} points: predict it again."
        )
    wrong = (ids < 0) | (ids >= len(benchmark.classes))
    if wrong.any():
        raise InputError(
            f"{label} has the labels {listed(np.unique(ids[wrong]))}, which are not classes of "
            f"{benchmark.name} (0 to {len(benchmark.classes) - 1}): predict it again."
        )
    return np.array(list(benchmark.classes))[ids]


if __name__ == "__main__":
    sys.exit(main())
