"""Damage that any file can take, done to every file that a program reads."""

import os
from functools import partial
from pathlib import Path

from .case import EITHER, REFUSED, Case, mutation
from .configs import CONFIG, GROUPS


def missing(path: Path, case: Case) -> None:
    path.unlink()


def empty(path: Path, case: Case) -> None:
    path.write_bytes(b"")


def random_bytes(path: Path, case: Case) -> None:
    path.write_bytes(case.rng.bytes(int(case.rng.integers(1, 5000))))


def truncated(path: Path, case: Case) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: case.rng.integers(len(content))])


def bits_flipped(path: Path, case: Case) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(case.rng.integers(1, 9)):
        content[case.rng.integers(len(content))] ^= 1 << int(case.rng.integers(8))
    path.write_bytes(content)


def a_block_zeroed(path: Path, case: Case) -> None:
    """As a file system leaves it after a power failure."""
    content = bytearray(path.read_bytes())
    start = int(case.rng.integers(len(content)))
    end = min(start + 4096, len(content))
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def a_folder(path: Path, case: Case) -> None:
    path.unlink()
    path.mkdir()


def a_dangling_link(path: Path, case: Case) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def a_link_to_itself(path: Path, case: Case) -> None:
    path.unlink()
    path.symlink_to(path.name)


def a_pipe(path: Path, case: Case) -> None:
    """To open it waits for ever."""
    path.unlink()
    os.mkfifo(path)


def text(path: Path, case: Case) -> None:
    path.write_text("<html><body>404 Not Found</body></html>\n")


def unreadable(path: Path, case: Case) -> None:
    case.rights[path] = 0


DAMAGES = {
    missing: (REFUSED, 1),
    empty: (REFUSED, 1),
    random_bytes: (REFUSED, 1),
    truncated: (EITHER, 2),
    bits_flipped: (EITHER, 3),
    a_block_zeroed: (EITHER, 1),
    a_folder: (REFUSED, 1),
    a_dangling_link: (REFUSED, 1),
    a_link_to_itself: (REFUSED, 1),
    a_pipe: (REFUSED, 1),
    text: (REFUSED, 1),
    unreadable: (REFUSED, 1),
}
# Kind, file, programs that read it, and words that make them read it. Where a program can do
# without the file, it may accept any damage to it.
FILES = (
    ("config file", CONFIG, ("train", "convert"), (), REFUSED),
    ("class file", "mine/classes.txt", ("train", "check_dataset"), (), REFUSED),
    ("label map", "mine/labels/train/2.png", ("train", "check_dataset"), (), REFUSED),
    ("label map", "mine/labels/val/1.png", ("evaluate", "visualize"), (), REFUSED),
    ("image", "mine/images/train/2.png", ("train", "check_dataset"), (), REFUSED),
    ("image", "mine/images/val/1.png", ("evaluate", "visualize"), (), REFUSED),
    ("image", "mine/images/val/1.png", ("predict",), (), EITHER),
    ("checkpoint", "weights.pth", ("evaluate", "predict", "export"), (), REFUSED),
    ("checkpoint", "weights.pth", ("train",), ("MODEL.WEIGHTS", "weights.pth"), REFUSED),
    ("checkpoint", "weights.pkl", ("evaluate",), ("MODEL.WEIGHTS", "weights.pkl"), REFUSED),
    ("checkpoint", "torchvision.pth", ("convert",), (), REFUSED),
    ("checkpoint", "output/model_final.pth", ("resume", "report"), (), EITHER),
    ("class frequencies", "frequency.json", ("train",), ("DATASETS.CLASS_FREQUENCY",), REFUSED),
    ("class frequencies", "output/class_frequency.json", ("evaluate", "resume"), (), EITHER),
    ("class frequencies", "output/class_frequency.json", ("report",), (), EITHER),
    ("OUTPUT_DIR", "output/last_checkpoint", ("resume",), (), EITHER),
    ("OUTPUT_DIR", "output/metrics.json", ("resume", "report"), (), EITHER),
    ("config file", "output/config.yaml", ("report",), (), EITHER),
    ("OUTPUT_DIR", "output/inference/folder_mine_val/sem_seg_evaluation.json", ("report",), ())
    + (REFUSED,),
)


def _register() -> None:
    for kind, file, programs, words, refusal in FILES:
        if words == ("DATASETS.CLASS_FREQUENCY",):
            words = (*words, file)
        for damage, (expected, repeats) in DAMAGES.items():
            # A pipe is a fine config file: train_net.py --config-file <(...)
            if damage is a_pipe and file == CONFIG:
                continue
            # Any text is a class name, and so is no text at all for a config with its defaults.
            if damage in (text, random_bytes) and kind == "class file":
                expected = EITHER
            # A label without image is not used.
            if damage in (missing, a_folder) and kind == "image":
                expected = EITHER
            mutation(
                kind,
                *programs,
                expected=refusal if refusal == EITHER else expected,
                repeats=repeats,
                name=f"{Path(file).name}: {damage.__name__.replace('_', ' ')}",
            )(partial(_apply, file, damage, words))


def _apply(file: str, damage, words: tuple[str, ...], case: Case) -> None:
    case.words += words
    if file.endswith("classes.txt"):
        case.names.append("classes")
    if file == CONFIG:  # what is left may be a config that lacks something
        case.names += GROUPS
    damage(case.path(file), case)


_register()
