"""Spoilt checkpoints, class frequencies and output folders."""

import json
import os
import pickle
import shutil
import zipfile

import torch

from .case import EITHER, REFUSED, Case, mutation
from .configs import PLANTED
from .sandbox import load_weights


class Exploit:
    """What would run a command when it is unpickled."""

    def __reduce__(self):
        return os.system, (f"touch {PLANTED}",)


def _weights(case: Case) -> dict[str, torch.Tensor]:
    return load_weights(case.folder / "weights.pth")


def _zip_bomb(path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))
        file.writestr("archive/version", "3")


CONTENTS = {
    "an exploit": (lambda w: Exploit(), REFUSED),
    "an exploit among weights": (lambda w: {"model": w | {"x": Exploit()}}, REFUSED),
    "an exploit beside weights": (lambda w: {"model": w, "args": Exploit()}, REFUSED),
    "nothing": (lambda w: {}, REFUSED),
    "an empty model": (lambda w: {"model": {}}, REFUSED),
    "a list": (lambda w: [1, 2], REFUSED),
    "a tensor": (lambda w: torch.zeros(3), REFUSED),
    "a model that is no mapping": (lambda w: {"model": [1]}, REFUSED),
    "a model of texts": (lambda w: {"model": dict.fromkeys(w, "x")}, REFUSED),
    "a model of numbers": (lambda w: {"model": dict.fromkeys(w, 1.0)}, REFUSED),
    "names that are numbers": (lambda w: {"model": dict(enumerate(w.values()))}, REFUSED),
    "another model's names": (lambda w: {"model": {f"x.{k}": v for k, v in w.items()}}, REFUSED),
    "another model's shapes": (
        lambda w: {"model": {k: torch.cat([v, v]) if v.dim() else v for k, v in w.items()}},
        REFUSED,
    ),
    "sparse weights": (lambda w: {"model": {k: v.to_sparse() for k, v in w.items()}}, EITHER),
    "complex weights": (lambda w: {"model": {k: v * 1j for k, v in w.items()}}, EITHER),
    "integer weights": (lambda w: {"model": {k: v.long() for k, v in w.items()}}, EITHER),
    "meta weights": (lambda w: {"model": {k: v.to("meta") for k, v in w.items()}}, REFUSED),
    "weights that are not finite": (
        lambda w: {"model": {k: v / 0 if v.dtype.is_floating_point else v for k, v in w.items()}},
        EITHER,
    ),
}
for _name, (_make, _expected) in CONTENTS.items():

    @mutation("checkpoint", "evaluate", "train", "predict", expected=_expected, name=_name)
    def _(case: Case, make=_make) -> None:
        content = make(_weights(case))
        case.names.append("not finite")
        path = case.path("weights.pth")
        path.unlink()
        torch.save(content, path)
        if case.program == "train":
            case.words += ["MODEL.WEIGHTS", "weights.pth"]

    @mutation("checkpoint", "convert", expected=EITHER, name=_name)
    def _(case: Case, make=_make) -> None:
        content = make(torch.load(case.folder / "torchvision.pth", weights_only=True))
        torch.save(content, case.path("torchvision.pth"))


@mutation("checkpoint", "evaluate", "train", name="an exploit in the old format")
def _(case: Case) -> None:
    path = case.path("weights.pth")
    torch.save({"model": Exploit()}, path, _use_new_zipfile_serialization=False)
    case.words += ["MODEL.WEIGHTS", "weights.pth"]


@mutation("checkpoint", "evaluate", name="a zip of zeros")
def _(case: Case) -> None:
    _zip_bomb(case.path("weights.pth"))


@mutation("checkpoint", "evaluate", "train", name="pickle: a count of exabytes")
def _(case: Case) -> None:
    case.path("weights.pkl").write_bytes(b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f" + b"x.")
    case.words += ["MODEL.WEIGHTS", "weights.pkl"]


PICKLES = {
    "exploit": lambda w: {"model": Exploit(), "__author__": "x"},
    "exploit beside": lambda w: {"model": w, "__author__": Exploit()},
    "a list": lambda w: [1],
    "no arrays": lambda w: {"model": dict.fromkeys(w, "x"), "__author__": "x"},
    "arrays of objects": lambda w: {"model": {k: v.astype(object) for k, v in w.items()}},
}
for _name, _make in PICKLES.items():

    @mutation("checkpoint", "evaluate", "train", name=f"pickle: {_name}")
    def _(case: Case, make=_make) -> None:
        content = make({name: value.numpy() for name, value in _weights(case).items()})
        case.path("weights.pkl").write_bytes(pickle.dumps(content))
        case.words += ["MODEL.WEIGHTS", "weights.pkl"]


WEIGHTS = {
    "not there": "nowhere.pth",
    "a folder": "mine",
    "an address that nobody answers": "http://127.0.0.1:9/weights.pth",
    "an unknown place": "s3://bucket/weights.pth",
    "not in the model zoo": "detectron2://nowhere/model.pkl",
    "a path up": "../../../../nowhere/weights.pth",
}
for _name, _path in WEIGHTS.items():

    @mutation("checkpoint", "evaluate", "train", name=f"MODEL.WEIGHTS: {_name}")
    def _(case: Case, path: str = _path) -> None:
        case.words += ["MODEL.WEIGHTS", path]
        case.names.append(path)


@mutation("checkpoint", "resume", name="all of them damaged", repeats=3)
def _(case: Case) -> None:
    for path in (case.folder / "output").glob("*.pth"):
        content = path.read_bytes()
        path.write_bytes(content[: case.rng.integers(len(content))])
    case.names.append("output")


@mutation("checkpoint", "resume", name="all of them exploits")
def _(case: Case) -> None:
    for path in (case.folder / "output").glob("*.pth"):
        torch.save({"model": Exploit(), "iteration": 1}, path)
    case.names.append("output")


@mutation("checkpoint", "resume", expected=EITHER, name="an exploit is the newest")
def _(case: Case) -> None:
    torch.save({"model": Exploit(), "iteration": 1}, case.path("output/model_final.pth"))


@mutation("checkpoint", "resume", expected=EITHER, name="weights alone are the newest")
def _(case: Case) -> None:
    weights = _weights(case)
    torch.save({"model": weights}, case.path("output/model_final.pth"))


@mutation("checkpoint", "resume", name="of another number of classes")
def _(case: Case) -> None:
    classes = case.path("mine/classes.txt")
    classes.write_text(classes.read_text() + "unicorn\n")
    case.names.append("MODEL.SEM_SEG_HEAD.NUM_CLASSES")


@mutation("checkpoint", "resume", expected=EITHER, name="of another optimizer")
def _(case: Case) -> None:
    case.words += ["SOLVER.OPTIMIZER", "ADAMW"]
    case.names.append("SOLVER.OPTIMIZER")


@mutation("checkpoint", "resume", name="of another model")
def _(case: Case) -> None:
    case.words += ["MODEL.FPN.OUT_CHANNELS", "32"]
    case.names += ["model_final.pth"]


FREQUENCIES = {
    "a list": [], "null": None, "a text": "x", "other classes": {"class_names": ["a", "b", "c"]},
    "a class fewer": {"class_names": ["ground", "block"]}, "negative": {"pixels": [-1, 2, 3]},
    "not a number": {"pixels": [float("nan"), 2, 3]}, "infinite": {"images": [float("inf"), 1, 1]},
    "texts": {"images": ["1", "2", "3"]}, "more than images": {"images": [99, 1, 1]},
    "a number of 400 digits": {"pixels": [10**400, 1, 1]}, "all zeros": {"pixels": [0, 0, 0]},
    "no names": {"class_names": []}, "names that are none": {"class_names": [1, 2, 3]},
    "booleans": {"images": [True, True, True]},
}  # fmt: skip
for _name, _change in FREQUENCIES.items():

    def _spoil(case: Case, file: str, change) -> None:
        path = case.path(file)
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, **change} if isinstance(change, dict) else change))

    @mutation("class frequencies", "train", name=_name)
    def _(case: Case, change=_change, spoil=_spoil) -> None:
        spoil(case, "frequency.json", change)
        case.words += ["DATASETS.CLASS_FREQUENCY", "frequency.json"]

    @mutation(
        "class frequencies", "evaluate", "report", expected=EITHER, name=f"of OUTPUT_DIR: {_name}"
    )
    def _(case: Case, change=_change, spoil=_spoil) -> None:
        spoil(case, "output/class_frequency.json", change)


@mutation("class frequencies", "train", name="nested too deeply")
def _(case: Case) -> None:
    case.path("frequency.json").write_text("[" * 200_000)
    case.words += ["DATASETS.CLASS_FREQUENCY", "frequency.json"]


LAST_CHECKPOINTS = {
    "a file that is not there": b"model_0009999.pth", "a path up": b"../weights.pth",
    "an absolute path": b"/etc/passwd", "two lines": b"model_final.pth\nmodel_0000001.pth\n",
    "zero bytes": b"model_final\0.pth", "no UTF-8": b"\xff\xfe\xff",
    "an address": b"http://127.0.0.1:9/model.pth", "the name of a folder": b"inference",
    "a line end": b"model_final.pth\n", "another checkpoint": b"model_0000000.pth",
}  # fmt: skip
for _name, _content in LAST_CHECKPOINTS.items():

    @mutation("OUTPUT_DIR", "resume", expected=EITHER, name=f"last_checkpoint: {_name}")
    def _(case: Case, content: bytes = _content) -> None:
        case.path("output/last_checkpoint").write_bytes(content)
        case.names += ["output", content.decode(errors="replace").strip()]


METRICS = {
    "half a line at the end": b'{"iteration": 1, "total_l',
    "rubbish at the end": b"\x00\xff\xfe rubbish\n",
    "a line without iteration": b'{"total_loss": 1.0}\n',
    "a line that is a list": b"[1, 2]\n",
    "an iteration that is a text": b'{"iteration": "x"}\n',
    "blank lines": b"\n\n\n",
}
for _name, _content in METRICS.items():

    @mutation(
        "OUTPUT_DIR", "resume", "train", "report", expected=EITHER, name=f"metrics.json: {_name}"
    )
    def _(case: Case, content: bytes = _content) -> None:
        path = case.path("output/metrics.json")
        path.write_bytes(path.read_bytes() + content)


IN_THE_WAY = {
    "config.yaml": "a folder", "log.txt": "a folder", "inference": "a file",
    "class_frequency.json": "a folder", "model_final.pth": "a folder",
}  # fmt: skip
for _name, _thing in IN_THE_WAY.items():

    @mutation("OUTPUT_DIR", "resume", "train", "report", expected=EITHER, name=f"{_name}: {_thing}")
    def _(case: Case, name: str = _name, thing: str = _thing) -> None:
        path = case.path(f"output/{name}")
        if thing == "a file":
            shutil.rmtree(path)
            path.touch()
        else:
            path.unlink()
            path.mkdir()
        case.names.append("OUTPUT_DIR")


@mutation("OUTPUT_DIR", "resume", expected=EITHER, name="checkpoints of odd names")
def _(case: Case) -> None:
    for name in ("model_abc.pth", "model_-1.pth", "model_.pth", "model_0000009.pth", ".model.pth"):
        (case.folder / "output" / name).write_bytes(b"rubbish")
    case.names.append("output")


@mutation("OUTPUT_DIR", "train", "evaluate", name="a file")
def _(case: Case) -> None:
    case.words += ["OUTPUT_DIR", "tiny.yaml"]
    case.names.append("OUTPUT_DIR")


@mutation("OUTPUT_DIR", "train", "evaluate", "resume", name="may not be written")
def _(case: Case) -> None:
    case.rights[case.path("output")] = 0o555
    case.names.append("OUTPUT_DIR")


@mutation("OUTPUT_DIR", "train", name="a link to itself")
def _(case: Case) -> None:
    (case.folder / "loop").symlink_to("loop")
    case.words += ["OUTPUT_DIR", "loop"]
    case.names.append("OUTPUT_DIR")
