#!/usr/bin/env python
"""Predicts images: pictures with a legend, label maps and, if asked for, maps of confidence.

An input is a file, a folder (with its sub-folders) or a quoted pattern. For each image there are,
in the output folder,

  overlays/NAME.jpg      the image under the colours of its classes
  labels/NAME.png        class ids, with the colours as palette (16-bit grey above 256 classes)
  confidence/NAME.png    with --confidence: the probability of each pixel's class, 255 for 1

NAME is the image's path below what all inputs have in common, without its suffix, unless two differ
in that alone. Images are read ahead and results written behind, each by DATALOADER.NUM_WORKERS
threads; one that cannot be read is named, and the others are predicted. TEST.MODE, TEST.AUG and
INPUT.MIN_SIZE_TEST say how the model sees an image. The names of the classes are those of the data
set in the config (of DATASETS.FOLDER, classes.txt is enough) or, where it is not there, of
class_frequency.json beside MODEL.WEIGHTS.
"""

import argparse
import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sar import program
from sar.data.datasets.folder import IMAGE_SUFFIXES
from sar.engine.predictor import Prediction, Predictor
from sar.errors import InputError
from sar.fileio import atomic_path
from sar.threads import map_ahead

EXAMPLES = """examples:
  python tools/predict.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml --input photos \\
      --output predictions MODEL.WEIGHTS output/CamVid/sar_sem_fpn_R_18/model_final.pth
  python tools/predict.py --config-file C --input 'drive/**/*.jpg' still.png --output predictions \\
      --confidence MODEL.WEIGHTS W TEST.MODE slide
"""
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".gif")


def main(argv: list[str] | None = None) -> int:
    parser = program.parser(__doc__, EXAMPLES)
    program.add_config(parser)
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="files, folders or patterns"
    )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where results go")
    parser.add_argument("--confidence", action="store_true", help="also write confidence/")
    parser.add_argument("--no-overlays", action="store_true", help="do not write overlays/")
    return program.run(predict, parser.parse_args(argv))


def predict(args: argparse.Namespace) -> None:
    """Predicts and writes all images.

    Raises:
        InputError: anything wrong; with single images, once the others are done.
    """
    files = find_images(args.input, args.output)
    names = output_names(files)
    check_keeps_inputs(files, args.output)
    predictor = Predictor.load(args.config_file, *args.opts)

    def write(name_and_prediction: tuple[str, Prediction | InputError]) -> InputError | None:
        name, prediction = name_and_prediction
        if isinstance(prediction, InputError):
            return prediction
        save(prediction, Path(args.output), name, with_overlay=not args.no_overlays)
        return None

    predictions = predictor.predict_all(files, with_confidence=args.confidence)
    results = map_ahead(write, zip(names, predictions, strict=True), predictor.num_threads)
    num_failed = 0
    with tqdm(total=len(files), desc="Predicting", unit="image", disable=args.quiet) as progress:
        for error in results:
            if error:
                num_failed += 1
                progress.write(f"error: {error}", file=sys.stderr)
            progress.update()
    if not args.quiet:
        print(f"{len(files) - num_failed} predictions in {args.output}")
    if num_failed:
        raise InputError(f"{num_failed} of {len(files)} images not predicted")


def save(prediction: Prediction, folder: Path, name: str, *, with_overlay: bool) -> None:
    """Writes what is asked for of one image.

    Raises:
        InputError: it cannot be written.
    """
    pictures = {folder / "labels" / f"{name}.png": (prediction.label_image(), {})}
    if with_overlay:
        # Full resolution for the colours too, or letters of the legend have fringes.
        options = {"quality": 90, "subsampling": 0}
        pictures[folder / "overlays" / f"{name}.jpg"] = (prediction.overlay(), options)
    if prediction.confidence is not None:
        pictures[folder / "confidence" / f"{name}.png"] = (prediction.confidence_image(), {})
    for path, (picture, options) in pictures.items():
        try:
            with atomic_path(path, sync=False) as temporary:
                picture.save(temporary, **options)
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error}): make room, or choose another --output"
            ) from error


def find_images(inputs: Sequence[str], output: str) -> list[str]:
    """Absolute paths of the images, each once. What lies in the output folder is no input of a
    folder or pattern around it.

    Raises:
        InputError: an input that is not there, holds no image, or is a video.
    """
    found: dict[str, None] = {}
    for word in inputs:
        if os.path.isfile(word):
            files = [word]
        elif os.path.isdir(word):
            files = [path for path in walk(word) if not is_below(path, output)]
        else:
            files = sorted(filter(os.path.isfile, glob.glob(word, recursive=True)))
            files = [path for path in files if not is_below(path, output)]
            if not files and not glob.has_magic(word):
                is_key = "." in word and word.replace(".", "").replace("_", "").isupper()
                hint = "; KEY VALUE pairs come after another option, such as --output" * is_key
                raise InputError(f"--input {word} is not there: correct the path{hint}")
        if not files:
            raise InputError(f"--input {word}: no image there ({', '.join(IMAGE_SUFFIXES)})")
        found.update(dict.fromkeys(map(os.path.abspath, files)))
    for path in found:
        if path.lower().endswith(VIDEO_SUFFIXES):
            raise InputError(
                f"--input {path} is a video, of which this program reads the pictures only: write "
                f"them to a folder, such as with `ffmpeg -i {path} frames/%06d.png`, and give that"
            )
    return list(found)


def walk(folder: str) -> list[str]:
    """Images in a folder and below, sorted; hidden files are the systems' own."""
    return sorted(
        os.path.join(directory, name)
        for directory, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )


def is_below(path: str, folder: str) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def output_names(files: Sequence[str]) -> list[str]:
    """A name for each file's results, all different: its path below the folder that all share."""
    root = os.path.commonpath([os.path.dirname(path) for path in files])
    paths = [os.path.relpath(path, root) for path in files]
    stems = [os.path.splitext(path)[0] for path in paths]
    return stems if len(set(stems)) == len(stems) else paths


def check_keeps_inputs(files: Sequence[str], output: str) -> None:
    """Raises InputError where a file to predict lies where results are written."""
    for path in files:
        if is_below(path, output):
            raise InputError(
                f"--input {path} lies in --output {output}, and could be overwritten: choose "
                "another --output"
            )


if __name__ == "__main__":
    sys.exit(main())
