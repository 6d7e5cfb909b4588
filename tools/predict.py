#!/usr/bin/env python
"""Predict images, videos or point clouds: labels, pictures with a legend, and confidence.

An input is a file, a folder or a quoted pattern. A folder includes its sub-folders and linked
folders. Hidden folders, and folders that systems create, such as @eaDir, are skipped. The output
folder gets for each image:

  overlays/NAME.jpg      the image with the colours of its classes drawn over it
  labels/NAME.png        class ids, with the colours as palette (16-bit grey above 256 classes)
  confidence/NAME.png    with --confidence: the probability of each pixel's class, 255 for 1

A video (such as mp4, mov or GIF) gives one overlays/NAME.mp4. Each frame gives
labels/NAME/000001.png and so on, and the same in confidence/. The overlays are MPEG-4 without
sound, at the mean frame rate of the video. Name videos, or match them with a pattern: a folder only
gives its images. If a video is cut off, the frames before the cut are predicted.

A model of point clouds takes clouds instead (npz, ply, las, laz, txt, xyz, csv, pts or bin), and
writes for each cloud (in a folder, text without points, such as README.txt, is skipped):

  labels/NAME.ply        a copy of the cloud, in its own format, with class ids as labels (KITTI:
                         NAME.label)
  overlays/NAME.jpg      the cloud and its classes, obliquely and from above
  viewers/NAME.html      a page that turns the cloud in a browser, at most 2 MB
  confidence/NAME.npy    with --confidence: the probability of each point's class, float32

If the labels of a cloud are class ids of the model, pictures and pages also show the ground truth
and the errors.

NAME is the path of the file below the folder that all inputs share, without its suffix. If two
files would then share a name, the suffixes stay. A file that cannot be read or written is reported,
and the others are predicted. If an earlier run wrote files for a NAME that this run does not write,
such as its confidence, they are removed: they could be of another model.

TEST.MODE, TEST.AUG and INPUT.MIN_SIZE_TEST set how the model sees an image. DATALOADER.NUM_WORKERS
threads read files ahead, and the same number of threads write.

--weights takes model_inference.pth, which a training writes at its end. It needs no config and no
data set. With --config-file, any checkpoint can be MODEL.WEIGHTS.

A checkpoint stores the names and colours of the classes. If an older checkpoint has none, they
come from the data set of the config, or from class_frequency.json next to MODEL.WEIGHTS. For
DATASETS.FOLDER, classes.txt is enough.
"""

import argparse
import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sar import cli

EXAMPLES = """examples:
  python tools/predict.py --weights model_inference.pth --input photos --output predictions
  python tools/predict.py --config-file configs/CamVid/sar_sem_fpn_R_18.yaml --input photos \\
      --output predictions MODEL.WEIGHTS output/CamVid/sar_sem_fpn_R_18/model_final.pth
  python tools/predict.py --config-file C --input 'drive/**/*.jpg' still.png --output predictions \\
      --confidence MODEL.WEIGHTS W TEST.MODE slide
  python tools/predict.py --config-file C --input drive.mp4 --output predictions MODEL.WEIGHTS W
  python tools/predict.py --weights model_inference.pth --input scans/*.ply --output predictions
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = cli.parser(__doc__, EXAMPLES)
    cli.add_model(parser)
    parser.add_argument(
        "--input", required=True, nargs="+", metavar="PATH", help="files, folders or patterns"
    )
    cli.add_output(parser, "FOLDER", "folder for the results")
    parser.add_argument("--confidence", action="store_true", help="also write confidence/")
    parser.add_argument(
        "--no-overlays", action="store_true", help="do not write overlays/ and viewers/"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_args()  # answer --help before the imports below, which take seconds

import numpy as np
from PIL import Image
from tqdm import tqdm

from sar.config import load_config
from sar.data.clouds import CLOUD_SUFFIXES, is_other_text, label_file, label_suffix
from sar.data.datasets.folder import IMAGE_SUFFIXES, is_system_folder
from sar.data.locations import folders_of_config
from sar.data.units import CLOUDS, IMAGES, Units, units_of_config
from sar.data.video import import_cv2, is_video, read_video, read_video_header, write_video
from sar.errors import InputError, listed, printable
from sar.files.atomic import names_below_common_folder, remove_leftovers
from sar.files.program_outputs import Outputs, collected
from sar.prediction.cloud_prediction import CloudPrediction
from sar.prediction.predictor import Prediction, Predictor
from sar.threads import map_ahead

# Folders in --output.
RESULTS = ("labels", "overlays", "viewers", "confidence")
# Suffixes of the files that only some runs write for a cloud, by their folder.
OPTIONAL_OF_CLOUD = {"overlays": ".jpg", "viewers": ".html", "confidence": ".npy"}
# With subsampling, the letters of the legend would get coloured edges.
JPEG = {"quality": 90, "subsampling": 0}


def main(argv: list[str] | None = None) -> int:
    return cli.run(predict, parse_args(argv))


def predict(args: argparse.Namespace) -> None:
    """Predict and write all images, then the videos; or all point clouds.

    Raises:
        InputError: anything is wrong. For single files, it is raised after the others are done.
    """
    cfg = load_config(args.config_file, args.opts)
    units = units_of_config(cfg)
    is_of_clouds = units is CLOUDS
    files = find_files(args.input, args.output, units, quiet=args.quiet)
    check_keeps_inputs(files, args.output)
    names = dict(zip(files, output_names(files), strict=True))
    videos = {path: name for path, name in names.items() if is_video(path) and not is_of_clouds}
    images = {path: name for path, name in names.items() if path not in videos}
    if videos:
        import_cv2()  # before any image is predicted
    outputs = Outputs(
        args.output,
        overwrite=args.overwrite,
        inputs=[args.config_file, cfg.MODEL.WEIGHTS, *files, *filter(None, map(label_file, files))],
        data=folders_of_config(cfg),
    )
    if is_of_clouds:
        planned = [path for name in images.items() for path in files_of_cloud(*name, args).values()]
    else:
        planned = planned_files(images.values(), videos.values(), args)
    # If an earlier run was killed.
    for folder in {path.parent for path in planned} | set(frame_folders(videos.values(), args)):
        remove_leftovers(folder)
    outputs.check(planned)
    predictor = Predictor.load(args.config_file, *args.opts)
    num_done, errors = predict_files(predictor, images, outputs, args, units)
    for path, name in videos.items():
        num_frames, error = predict_video(predictor, path, name, outputs, args)
        num_done += num_frames
        if error:
            say(error)
            errors.append(error)
    if not args.quiet:
        plural = "" if num_done == 1 else "s"
        print(f"{num_done} prediction{plural} in {args.output}")
    if errors:
        what = (
            "files not predicted, or not to the end"
            if videos
            else f"{units.sample}s not predicted or written"
        )
        raise InputError(f"{len(errors)} of {len(files)} {what}")


def planned_files(
    images: Iterable[str], videos: Iterable[str], args: argparse.Namespace
) -> list[Path]:
    """Return the files that will be written, from the names of the results.

    The frames of a video are not counted yet, so all PNG files in its folders are returned.
    """
    files = [
        args.output / kind / f"{name}.png" for kind in kinds_of_arrays(args) for name in images
    ]
    for folder in frame_folders(videos, args):
        files += folder.glob("[!.]*.png")
    if not args.no_overlays:
        files += [args.output / "overlays" / f"{name}.jpg" for name in images]
        files += [args.output / "overlays" / f"{name}.mp4" for name in videos]
    return files


def kinds_of_arrays(args: argparse.Namespace) -> list[str]:
    """Return the folders of the results with a value for each pixel."""
    return ["labels", *(["confidence"] if args.confidence else [])]


def frame_folders(videos: Iterable[str], args: argparse.Namespace) -> list[Path]:
    """Return the folders for the frames of videos, from the names of the results."""
    return [args.output / kind / name for kind in kinds_of_arrays(args) for name in videos]


def files_of_cloud(path: str, name: str, args: argparse.Namespace) -> dict[str, Path]:
    """Return the files that will be written for a cloud, by their folder in --output."""
    is_cloud = path.lower().endswith(CLOUD_SUFFIXES)  # others are reported later
    suffixes = {"labels": label_suffix(path) if is_cloud else Path(path).suffix}
    for folder, suffix in OPTIONAL_OF_CLOUD.items():
        is_written = args.confidence if folder == "confidence" else not args.no_overlays
        if is_written:
            suffixes[folder] = suffix
    return {folder: args.output / folder / f"{name}{end}" for folder, end in suffixes.items()}


def say(error: InputError) -> None:
    tqdm.write(f"error: {error}", file=sys.stderr)


def predict_files(
    predictor: Predictor,
    names: dict[str, str],
    outputs: Outputs,
    args: argparse.Namespace,
    units: Units,
) -> tuple[int, list[InputError]]:
    """Predict and write images or clouds.

    Args:
        names: the name of the results for each path.
        units: what the progress bar calls the files.

    Returns:
        The number of predicted files, and the errors of the other files, already printed.

    Raises:
        DiskFullError: the disk is full.
    """

    def write(
        result: tuple[str, Prediction | CloudPrediction | InputError],
    ) -> InputError | None:
        path, prediction = result
        if isinstance(prediction, InputError):
            return prediction
        errors: list[InputError] = []
        with collected(errors):
            if isinstance(prediction, CloudPrediction):
                save_cloud(prediction, outputs, path, names[path], args)
            else:
                save(prediction, outputs, names[path], with_overlay=not args.no_overlays)
        return errors[0] if errors else None

    predictions = predictor.predict_all(names, with_confidence=args.confidence)
    results = map_ahead(write, zip(names, predictions, strict=True), predictor.num_threads)
    errors = []
    if names:
        progress = tqdm(results, "Predicting", len(names), unit=units.sample, disable=args.quiet)
        for error in filter(None, progress):
            say(error)
            errors.append(error)
    return len(names) - len(errors), errors


def predict_video(
    predictor: Predictor, path: str, name: str, outputs: Outputs, args: argparse.Namespace
) -> tuple[int, InputError | None]:
    """Predict and write the frames of a video, up to the first that fails.

    Returns:
        The number of predicted frames, and the error of the next one, if any.

    Raises:
        DiskFullError: the disk is full.
    """
    errors = []

    def until_error() -> Iterator[tuple[int, Prediction]]:
        predictions = predictor.predict_all(read_video(path), with_confidence=args.confidence)
        for number, prediction in enumerate(predictions, 1):
            if isinstance(prediction, InputError):
                errors.append(prediction)
                return
            yield number, prediction

    def write(frame: tuple[int, Prediction]) -> Image.Image | None:
        number, prediction = frame
        save(prediction, outputs, f"{name}/{number:06d}", with_overlay=False)
        # All frames show the same classes; otherwise the height of the legend would change.
        return None if args.no_overlays else prediction.overlay(all_classes=True)

    try:
        header = read_video_header(path)
    except InputError as error:
        return 0, error
    steps = map_ahead(write, until_error(), predictor.num_threads)
    if not args.no_overlays:
        overlays = outputs.folder / "overlays" / f"{name}.mp4"
        steps = write_video(overlays, header.frame_rate, steps, writing=outputs.writing)
    num_frames = 0
    with collected(errors):
        for _ in tqdm(
            steps, total=header.num_frames, desc=printable(name), unit="frame", disable=args.quiet
        ):
            num_frames += 1
    if num_frames and args.no_overlays:
        outputs.remove(outputs.folder / "overlays" / f"{name}.mp4")
    if errors:
        return num_frames, errors[0]
    for kind in ("labels", "confidence"):  # of an earlier and longer video of this name
        for frame in (outputs.folder / kind / name).glob("[!.]*.png"):
            if frame.stem.isdecimal() and int(frame.stem) > num_frames:
                outputs.remove(frame)
    return num_frames, None


def save(prediction: Prediction, outputs: Outputs, name: str, *, with_overlay: bool) -> None:
    """Write the results of one image.

    Overlay and confidence of an earlier run are removed, because they can be of another model.

    Raises:
        InputError: a file cannot be written.
    """
    labels, confidence, overlay = (
        outputs.folder / kind / f"{name}{suffix}"
        for kind, suffix in (("labels", ".png"), ("confidence", ".png"), ("overlays", ".jpg"))
    )
    pictures = {labels: (prediction.label_image(), {})}
    if prediction.confidence is not None:
        pictures[confidence] = (prediction.confidence_image(), {})
    if with_overlay:
        pictures[overlay] = (prediction.overlay(), JPEG)
    for path in {confidence, overlay} - pictures.keys():
        outputs.remove(path)
    for path, (picture, options) in pictures.items():
        with outputs.writing(path, sync=False) as temporary:
            picture.save(temporary, **options)


def save_cloud(
    prediction: CloudPrediction, outputs: Outputs, path: str, name: str, args: argparse.Namespace
) -> None:
    """Write the results of one cloud, and remove the others of an earlier run as `save` does.

    Args:
        path: the file of the cloud.
        name: the name of the results.

    Raises:
        InputError: a file cannot be written, or the format of the cloud cannot store a label.
    """
    steps = {
        "labels": lambda temporary: prediction.write_labels(path, temporary),
        "overlays": lambda temporary: prediction.overlay().save(temporary, **JPEG),
        "viewers": lambda temporary: prediction.write_viewer(temporary, Path(path).stem),
        "confidence": lambda temporary: np.save(temporary, prediction.confidence),
    }
    files = files_of_cloud(path, name, args)
    for folder, suffix in OPTIONAL_OF_CLOUD.items():
        if folder not in files:
            outputs.remove(outputs.folder / folder / f"{name}{suffix}")
    for folder, file in files.items():
        with outputs.writing(file, sync=False) as temporary:
            steps[folder](temporary)


def find_files(
    inputs: Sequence[str],
    output: str | os.PathLike,
    units: Units,
    *,
    quiet: bool = False,
) -> list[str]:
    """Return the absolute paths of the images and videos, or of the clouds, each once.

    If a folder or pattern contains the output folder, earlier results are left out.

    Args:
        units: of the model: images or clouds.
        quiet: do not print which text files of a folder are skipped, because they are no clouds.

    Raises:
        InputError: an input is missing, holds no such file, or holds earlier results only; or a
            folder cannot be read.
    """
    found: dict[str, None] = {}
    suffixes = CLOUD_SUFFIXES if units is CLOUDS else IMAGE_SUFFIXES
    results = result_folders(output)
    for word in map(os.path.expanduser, inputs):
        if os.path.isfile(word):
            files = [word]
        elif os.path.isdir(word):
            if os.path.realpath(word) == os.path.realpath(output):
                raise InputError(f"--input {word} is also --output: choose another --output")
            files = walk(word, suffixes)
            others = list(filter(is_other_text, files))
            files = sorted(set(files) - set(others))
            if others and not quiet:
                print(f"Skipped, because these text files have no points: {listed(others, 3)}")
        else:
            files = sorted(filter(os.path.isfile, glob.glob(word, recursive=True)))
            named = set(Path(word).parts)
            files = [
                path
                for path in files
                if not any(map(is_system_folder, set(Path(path).parent.parts) - named))
            ]
            if not files and not glob.has_magic(word):
                is_key = "." in word and word.replace(".", "").replace("_", "").isupper()
                hint = "; KEY VALUE pairs come after another option, such as --output" * is_key
                raise InputError(f"--input {word} not found: correct the path{hint}")
        if not files:
            hint = ". Name videos, or match them with a pattern" if units is IMAGES else ""
            raise InputError(
                f"--input {word}: no {units.sample} found ({', '.join(suffixes)}), but the model "
                f"segments {units.sample}s{hint}"
            )
        if not os.path.isfile(word):
            files = [path for path in files if not lies_in(path, results)]
        if not files:
            raise InputError(
                f"--input {word} is inside --output {output}, where results are written: choose "
                "another --output"
            )
        found.update(dict.fromkeys(map(os.path.abspath, files)))
    return list(found)


def walk(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the files with one of the suffixes in a folder and its sub-folders, sorted.

    Links are followed, but not in circles. Hidden files and folders, and folders that operating
    systems create, are skipped.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise InputError(
            f"--input {folder}: the folder {error.filename} cannot be read ({error.strerror}): "
            "ask for permission to read it, or leave it out"
        ) from error

    found = []
    for directory, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [
            name
            for name in folders
            if not is_system_folder(name) and not leads_back(os.path.join(directory, name), folder)
        ]
        found += [
            os.path.join(directory, name)
            for name in names
            if name.lower().endswith(suffixes) and not name.startswith(".")
        ]
    return sorted(found)


def leads_back(folder: str, start: str) -> bool:
    """Return whether the path from `start` to a folder already contains it or a folder inside it.

    Links are resolved.
    """
    target = os.path.realpath(folder)
    way = Path(folder).parents[: len(Path(folder).parts) - len(Path(start).parts)]
    return any(Path(os.path.realpath(passed)).is_relative_to(target) for passed in way)


def result_folders(output: str | os.PathLike) -> set[Path]:
    """Return the folders in the output folder where results are written, with links resolved."""
    return {Path(os.path.realpath(Path(output, name))) for name in RESULTS}


def lies_in(path: str, folders: set[Path]) -> bool:
    """Return whether a file, with links resolved, is in one of the folders or their sub-folders."""
    return not folders.isdisjoint(Path(os.path.realpath(path)).parents)


def output_names(files: Sequence[str]) -> list[str]:
    """Return a name for the results of each file: its path below the folder that all files share.

    All names differ, and no name is inside the folder for the frames of a video.
    """
    paths = names_below_common_folder(files)
    stems = [os.path.splitext(path)[0] for path in paths]
    videos = {stem for path, stem in zip(paths, stems, strict=True) if is_video(path)}
    folders = {str(folder) for stem in stems for folder in Path(stem).parents}
    return stems if len(set(stems)) == len(stems) and not videos & folders else paths


def check_keeps_inputs(files: Sequence[str], output: str | os.PathLike) -> None:
    """Raise InputError if a file to predict is inside a folder where results are written."""
    results = result_folders(output)
    for path in files:
        if lies_in(path, results):
            raise InputError(
                f"--input {path} is inside --output {output} and could be overwritten: choose "
                "another --output"
            )


if __name__ == "__main__":
    sys.exit(main())
