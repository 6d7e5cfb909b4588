"""What a case came to: refused with a clear message, accepted and right, or a failure."""

import json
import math
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from sar.config import load_config

from .case import ACCEPTED, REFUSED, Case, Mutation
from .configs import PLANTED
from .processes import Outcome
from .sandbox import CLASSES, Sandbox, digests, load_weights, read_metrics

# What a refused run may write to: the log, and the mark of an evaluation that has started;
# pictures, and counts of a split, that came before.
LOGS = re.compile(r"output/(.+/)?log\.txt.*|output/inference/[^/]+/(run|class_frequency)\.json")
MAY_WRITE = {
    "visualize": re.compile(r"pictures/.*\.png|output/log\.txt"),
    "check_dataset": re.compile(r"checked/class_frequency\.json"),
    "predict": re.compile(r"predicted/.*\.(png|jpg)"),
}
# What any run may change of that which was there. A new training moves the rest of OUTPUT_DIR.
MAY_CHANGE = {
    "train": re.compile(r"output/(config\.yaml|log\.txt|class_frequency\.json|inference/.*)"),
    "resume": re.compile(
        r"output/(config\.yaml|log\.txt|class_frequency\.json|inference/.*|metrics\.json"
        r"|last_checkpoint|model_(final|best|\d{7})\.pth)"
    ),
    "evaluate": re.compile(r"output/(log\.txt|inference/.*)"),
}
PREVIOUS = "output/previous/"
MAX_MESSAGE = 3000
# Runs are judged by the weights that come out: those of the good run, bit for bit.
RUNS = ("train", "resume")


def judge(
    case: Case, mutation: Mutation, outcome: Outcome, before: dict[str, str], sandbox: Sandbox
) -> tuple[str, str]:
    """The verdict, REFUSED, ACCEPTED or "failed", and why.

    Args:
        before: digests of the case's folder before the program ran.
    """
    problem = _how_it_ended(outcome)
    if not problem and (case.folder / PLANTED).exists():
        problem = "something planted in the input was executed"
    if not problem and outcome.code != 0:
        problem = _message_problem(case, outcome) or _damage(case, outcome, before)
        if not problem and mutation.expected == ACCEPTED:
            problem = f"refused, but is right: {error_lines(outcome)[-1]}"
        verdict, reason = REFUSED, (error_lines(outcome) or [""])[-1]
    elif not problem:
        problem = _wrong_result(case, mutation, outcome, sandbox)
        if not problem and mutation.expected == REFUSED:
            problem = "accepted, but is wrong"
        verdict, reason = ACCEPTED, ""
    if not problem:
        problem = _touched_input(case, before)
    return ("failed", problem) if problem else (verdict, reason)


def error_lines(outcome: Outcome) -> list[str]:
    """Lines that begin with "error:", argparse's with the program's name before it."""
    lines = re.split(r"[\r\n]+", outcome.stderr)
    return [line for line in lines if re.match(r"([\w.]+: )?error: ", line)]


def _how_it_ended(outcome: Outcome) -> str:
    if outcome.timed_out:
        return f"no end after {outcome.seconds:.0f} s"
    if outcome.code < 0:
        return f"ended by signal {-outcome.code}"
    if outcome.left_processes:
        return "left processes behind"
    for text in (outcome.stderr, outcome.stdout):
        if "Traceback (most recent call last)" in text:
            last = re.findall(r"^\w[\w.]*(?:Error|Exception|Exit)\b.*", text, re.MULTILINE)
            return f"traceback: {last[-1][:300] if last else ''}"
    return ""


def _message_problem(case: Case, outcome: Outcome) -> str:
    errors = error_lines(outcome)
    # predict goes on past images that it cannot read, and sums them up.
    if len(errors) != 1 and not (case.program == "predict" and errors):
        return f"{len(errors)} error messages: {outcome.stderr[-300:]!r}"
    message = outcome.stderr[outcome.stderr.index(errors[0]) :]
    if len(message) > MAX_MESSAGE:
        return f"a message of {len(message)} characters: {message[:300]!r}"
    # What is wrong with the files of a data set is a list, check_dataset's on stdout.
    said = message + outcome.stdout * (case.program == "check_dataset")
    if not any(is_named(name, said) for name in case.names):
        return f"the message names none of {case.names}: {message[:400]!r}"
    return ""


def is_named(name: str, text: str) -> bool:
    """Whether a text has a name as a whole: of MODEL.LOSS.NAME, neither LOSS nor MODEL.LOSS."""
    before = r"(?<![\w.])" if name[:1].isalnum() else ""
    after = r"(?!\w|\.\w)" if name[-1:].isalnum() else ""
    return re.search(f"{before}{re.escape(name)}{after}", text) is not None


def _damage(case: Case, outcome: Outcome, before: dict[str, str]) -> str:
    """What a refused run has changed; of a training that had begun, what is no longer of use."""
    if "Starting training from iteration" in outcome.stdout:
        return _unusable_output(case.folder / "output")
    after = digests(case.folder)
    allowed = MAY_WRITE.get(case.program, LOGS)
    changed = [
        name
        for name in before.keys() | after.keys()
        if before.get(name) != after.get(name) and not allowed.fullmatch(name)
    ]
    return f"refused, but changed {', '.join(sorted(changed)[:5])}" if changed else ""


def _unusable_output(output: Path) -> str:
    try:
        load_config(str(output / "config.yaml"))
        read_metrics(output)
    except Exception as error:
        return f"OUTPUT_DIR cannot be used any more: {error!r}"
    # A new training moves the checkpoints of the one before to a folder.
    if any(map(_is_whole, (*output.glob("*.pth"), *output.glob("previous/*.pth")))):
        return ""
    return "OUTPUT_DIR has no checkpoint any more"


def _is_whole(path: Path) -> bool:
    try:
        return len(load_weights(path)) > 0
    except Exception:
        return False


def _touched_input(case: Case, before: dict[str, str]) -> str:
    """Whether a program wrote to its input, or to a run that it only reads."""
    after = digests(case.folder)
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    if case.program in MAY_CHANGE:
        changed = [name for name in changed if not MAY_CHANGE[case.program].fullmatch(name)]
    if case.program == "train":
        changed = [
            name
            for name in changed
            if after.get(name.replace("output/", PREVIOUS, 1)) != before[name]
        ]
    left = [name for name in after if Path(name).name.startswith(".") and name not in before]
    if changed:
        return f"changed {', '.join(changed)}"
    return f"left temporary files: {', '.join(left)}" if left else ""


def _wrong_result(case: Case, mutation: Mutation, outcome: Outcome, sandbox: Sandbox) -> str:
    must_be_same = mutation.expected == ACCEPTED
    try:
        if case.program in RUNS:
            reference = sandbox.trained if case.program == "train" else sandbox.resumed
            return _wrong_run(case.folder, reference if must_be_same else None)
        if case.program == "evaluate":
            return _wrong_evaluation(case.folder, sandbox.evaluated if must_be_same else None)
        if case.program == "check_dataset":
            return _wrong_count(case.folder)
        if case.program == "visualize":
            return _wrong_pictures(case.folder)
        if case.program == "predict":
            return _wrong_predictions(case.folder)
        if case.program == "convert":
            return _wrong_conversion(case.folder)
        if case.program == "report":
            return _wrong_page(case.folder)
        return "" if outcome.stdout.strip() else "no output"
    except Exception as error:
        return f"accepted, but the result cannot be read: {error!r}"


def _wrong_run(folder: Path, reference: Path | None) -> str:
    output = folder / "output"
    cfg = load_config(str(output / "config.yaml"))
    name = (output / "last_checkpoint").read_text()
    checkpoint = torch.load(output / name, map_location="cpu", weights_only=True)
    if checkpoint["iteration"] != cfg.SOLVER.MAX_ITER - 1:
        return f"{name} is of iteration {checkpoint['iteration']}, not of {cfg.SOLVER.MAX_ITER - 1}"
    weights = checkpoint["model"]
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        return f"{name} has weights that are not finite"
    metrics = read_metrics(output)
    losses = [line["total_loss"] for line in metrics if "total_loss" in line]
    if not losses or not all(map(math.isfinite, losses)):
        return f"metrics.json has the losses {losses}"
    if cfg.DATASETS.TEST and not any("sem_seg/mIoU" in line for line in metrics):
        return "metrics.json has no mIoU"
    if reference is not None:
        expected = load_weights(reference / "model_final.pth")
        if any(not torch.equal(weights[key], expected[key]) for key in expected):
            return "other weights than those of the good run"
    return ""


def _metrics(folder: Path) -> dict[str, float | None]:
    (file,) = (folder / "output/inference").glob("*/sem_seg_evaluation.json")
    return json.loads(file.read_text())["metrics"]


def _wrong_evaluation(folder: Path, reference: Path | None) -> str:
    metrics = _metrics(folder)
    if not 0 <= metrics["mIoU"] <= 100:
        return f"mIoU is {metrics['mIoU']}"
    if reference is not None and metrics != _metrics(reference):
        return "other metrics than those of the good evaluation"
    return ""


def _wrong_count(folder: Path) -> str:
    """Counts the training labels again, with Pillow alone."""
    written = json.loads((folder / "checked/class_frequency.json").read_text())
    num_classes = len(written["class_names"])
    labels = [path for path in (folder / "mine/labels/train").rglob("*.png") if path.is_file()]
    image_files = (folder / "mine/images/train").rglob("[!.]*")
    names = {stem(path, folder / "mine/images/train") for path in image_files if path.is_file()}
    pixels, images = np.zeros(num_classes, int), np.zeros(num_classes, int)
    number = 0
    for path in labels:
        if stem(path, folder / "mine/labels/train") not in names:
            continue
        with Image.open(path) as image:
            counts = np.bincount(np.asarray(image).ravel(), minlength=65536)[:num_classes]
        pixels, images, number = pixels + counts, images + (counts > 0), number + 1
    expected = {"pixels": pixels.tolist(), "images": images.tolist(), "num_images": number}
    found = {key: written[key] for key in expected}
    return "" if found == expected else f"counted {found}, but there are {expected}"


def stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _wrong_pictures(folder: Path) -> str:
    images = [path for path in (folder / "mine/images/val").rglob("*") if path.is_file()]
    pictures = list((folder / "pictures").rglob("*.png"))
    for path in pictures:
        with Image.open(path) as picture:
            picture.load()
    return "" if len(pictures) == len(images) else f"{len(pictures)} pictures of {len(images)}"


def _wrong_predictions(folder: Path) -> str:
    found = {}
    for path in (folder / "predicted/labels").rglob("*.png"):
        with Image.open(path) as labels:
            found[stem(path, folder / "predicted/labels")] = labels.size
    expected = {}
    for path in filter(Path.is_file, (folder / "mine/images/val").rglob("*.png")):
        with Image.open(path) as image:
            expected[stem(path, folder / "mine/images/val")] = image.size
    return "" if found == expected else f"label maps {found} of {expected}"


def _wrong_page(folder: Path) -> str:
    page = (folder / "report.html").read_text(encoding="utf-8")
    content = json.loads(page.split('id="data">')[1].split("</script>")[0])
    shown = [name["name"] for name in content["classes"]], content["num_evaluated"]
    return "" if shown == (list(CLASSES), 3) else f"a page of {shown}"


def _wrong_conversion(folder: Path) -> str:
    before = torch.load(folder / "torchvision.pth", map_location="cpu", weights_only=True)
    before = before.get("model", before)
    after = load_weights(folder / "converted.pth")
    same = len(after) == len(before) and all(
        torch.equal(a, b) or (a != a).any()
        for a, b in zip(after.values(), before.values(), strict=True)
    )
    return "" if same else "other weights than those that were given"
