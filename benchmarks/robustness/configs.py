"""Spoilt config files and command lines."""

import shutil
from itertools import pairwise

from sar.config import leaves, load_config

from .case import ACCEPTED, EITHER, REFUSED, Case, mutation

CONFIG = "tiny.yaml"
GROUPS = ["OUTPUT_DIR", "DATASETS.", "MODEL.", "INPUT.", "SOLVER.", "SEED", "TEST."]
READERS = ("train", "evaluate", "visualize", "analyze_model", "predict")
# Would run a command if YAML were read as Python's objects, or the words as Python.
PLANTED = "exploit-ran"
STRANGE_VALUES = (
    "null", "-1", "0", "1.5", "nan", ".inf", "-1.0e+30", "1000000", "''", "'x'", "[]", "[0]",
    "[-1, -1]", "['a', 2]", "{}", "{A: 1}", "True", "2020-01-01", "!!binary aGVsbG8=", "[[1], [2]]",
    "'../..'", "'\\0'", "'" + "x" * 300 + "'", "[.nan, 1, 2]", "'é \U0001f600'",
)  # fmt: skip
STRANGE_WORDS = (
    "None", "-1", "0", "1.5", "nan", "inf", "-1e30", "1000000", "''", "x", "()", "(0,)", "(-1, -1)",
    "('a', 2)", "{}", "{'A': 1}", "True", "[[1], [2]]", "../..", "x" * 300, "é\U0001f600", "(", "'",
    f"__import__('os').system('touch {PLANTED}')",
)  # fmt: skip
# What cannot be laid to one key: a checkpoint of another model, one of another solver, a training
# that diverges. These are said in such words.
INSTEAD_OF_A_KEY = (
    "it is no checkpoint of this config's model",
    "as they are in the config.yaml beside it",
    "lower SOLVER.BASE_LR, or set SOLVER.CLIP_GRADIENTS.ENABLED True",
)
# Values that are right, but a run with them is not over in time or fills the disk.
LONG_RUNS = {("SOLVER.MAX_ITER", "1000000"), ("DATALOADER.NUM_WORKERS", "1000000")}


def keys_of(case: Case) -> list[str]:
    """The keys of the project's config; not OUTPUT_DIR, which may be anything."""
    return sorted(set(leaves(load_config())) - {"OUTPUT_DIR", "VERSION"})


def key_that_matters(case: Case) -> str:
    """A key; every second time one of those that most configs set."""
    often = [
        "MODEL.META_ARCHITECTURE", "MODEL.REGULARIZERS", "MODEL.CLASSIFIER", "MODEL.DEVICE",
        "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.BACKBONE.NAME", "MODEL.BACKBONE.FREEZE_AT",
        "MODEL.RESNETS.DEPTH", "MODEL.RESNETS.NORM", "MODEL.RESNETS.OUT_FEATURES",
        "MODEL.RESNETS.STEM_OUT_CHANNELS", "MODEL.RESNETS.RES5_DILATION", "MODEL.FPN.OUT_CHANNELS",
        "MODEL.FPN.IN_FEATURES", "MODEL.FPN.NORM", "MODEL.SEM_SEG_HEAD.NAME",
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE",
        "MODEL.SEM_SEG_HEAD.CONVS_DIM", "MODEL.SEM_SEG_HEAD.NORM", "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
        "MODEL.LOSS.NAME", "MODEL.LOSS.TOP_K", "MODEL.AUXILIARY_HEAD.IN_FEATURE",
        "MODEL.SEMANTIC_ANCHOR.ANCHORS", "MODEL.SEMANTIC_ANCHOR.MOMENTUM",
        "MODEL.CENTER_COLLAPSE.PROJECTION_DIM", "INPUT.CROP.SIZE", "INPUT.CROP.TYPE",
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", "INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN",
        "INPUT.MIN_SIZE_TRAIN_SAMPLING", "INPUT.FORMAT", "INPUT.RANDOM_FLIP", "INPUT.COLOR_JITTER",
        "SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.WARMUP_ITERS",
        "SOLVER.WARMUP_FACTOR", "SOLVER.STEPS", "SOLVER.LR_SCHEDULER_NAME", "SOLVER.OPTIMIZER",
        "SOLVER.CHECKPOINT_PERIOD", "SOLVER.AMP.ENABLED", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE",
        "DATALOADER.NUM_WORKERS", "DATALOADER.SAMPLER_TRAIN", "DATASETS.TRAIN", "DATASETS.TEST",
        "DATASETS.FOLDER", "DATASETS.CLASS_FREQUENCY", "TEST.EVAL_PERIOD", "TEST.MODE",
        "TEST.CROP_SIZE", "TEST.CROP_STRIDE", "TEST.WINDOWS_PER_BATCH", "SEED",
    ]  # fmt: skip
    return str(case.rng.choice(often if case.rng.random() < 0.5 else keys_of(case)))


def write(case: Case, content: str) -> None:
    case.path(CONFIG).write_text(content, encoding="utf-8")


def append(case: Case, content: str) -> None:
    path = case.path(CONFIG)
    path.write_text(path.read_text() + content, encoding="utf-8")


@mutation("config file", *READERS, "resume", expected=EITHER, repeats=10)
def a_strange_value(case: Case) -> None:
    key, value = key_that_matters(case), str(case.rng.choice(STRANGE_VALUES))
    if (key, value) in LONG_RUNS:
        value = "0"
    parts = key.split(".")
    # A file of its own, since a second MODEL in the first would replace that one's.
    lines = [f"{'  ' * depth}{part}:" for depth, part in enumerate(parts)]
    shutil.copy(case.folder / CONFIG, case.folder / "base.yaml")
    write(case, "_BASE_: base.yaml\n" + "\n".join(lines) + f" {value}\n")
    case.names = [key, *INSTEAD_OF_A_KEY]


@mutation("config file", "train", expected=EITHER, repeats=12)
def a_character_changed(case: Case) -> None:
    text = case.path(CONFIG).read_text()
    at = int(case.rng.integers(len(text)))
    new = str(case.rng.choice(list(" \n\t:-[]{}&*!|>'\"%@#,?ax0\x00\u00e9")))
    write(case, text[:at] + new + text[at + int(case.rng.integers(2)) :])
    case.names += GROUPS


EXPLOITS = {
    "apply": f'SEED: !!python/object/apply:os.system ["touch {PLANTED}"]\n',
    "new": f'SEED: !!python/object/new:os.system ["touch {PLANTED}"]\n',
    "eval": f"SEED: !!python/object/apply:eval [\"open('{PLANTED}', 'w')\"]\n",
    "name": "SEED: !!python/name:os.system\n",
    "tuple": "INPUT: {MIN_SIZE_TRAIN: !!python/tuple [32, 64]}\n",
    "merge key": f'<<: !!python/object/apply:os.system ["touch {PLANTED}"]\n',
    "base": f'_BASE_: !!python/object/apply:os.system ["touch {PLANTED}"]\n',
}
for _name, _content in EXPLOITS.items():

    @mutation("config file", "train", "evaluate", "convert", name=f"exploit: {_name}")
    def _(case: Case, content: str = _content) -> None:
        write(case, content)


@mutation("config file", "train", name="exploit in the base")
def _(case: Case) -> None:
    case.path("evil.yaml").write_text(EXPLOITS["apply"])
    write(case, "_BASE_: evil.yaml\n")


ODD_FILES = {
    "a list": "- 1\n- 2\n",
    "a number": "42\n",
    "only comments": "# nothing\n",
    "tabs": "MODEL:\n\tDEVICE: cpu\n",
    "two documents": "SEED: 1\n---\nSEED: 2\n",
    "zero bytes": "SEED: 1\0\n",
    "nested too deeply": "SEED: " + "[" * 3000 + "]" * 3000 + "\n",
    "aliases that explode": "a: &a [x, x]\n"
    + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnopqrstuvwxyz")),
    "an alias to itself": "SEED: &a [*a]\n",
    "its own base": f"_BASE_: {CONFIG}\n",
    "a base that is missing": "_BASE_: nowhere.yaml\n",
    "a base that is a folder": "_BASE_: mine\n",
    "a base that is a number": "_BASE_: 3\n",
    "bases that are numbers": "_BASE_: [1, 2]\n",
    "a base that is empty": "_BASE_:\n",
    "a base from the net": "_BASE_: http://127.0.0.1:9/base.yaml\n",
    "a base of no known place": "_BASE_: s3://bucket/base.yaml\n",
    "an unknown key": "MODEL: {DEVISE: cpu}\n",
    "an unknown group": "MODLE: {DEVICE: cpu}\n",
    "a value for a group": "MODEL: 3\n",
    "nothing for a group": "_BASE_: base.yaml\nMODEL:\n",
    "a group for a value": "SEED: {A: 1}\n",
    "keys that are numbers": "1: 2\nMODEL: {3: 4}\n",
    "a key that is null": "null: 1\n",
    "a key of blanks": "' ': 1\n",
    "a dotted key": "_BASE_: base.yaml\nMODEL.DEVICE: cpu\n",
    "a renamed key": "MODEL: {WEIGHT: x}\n",
    "another version": "_BASE_: base.yaml\nVERSION: 7\n",
}  # fmt: skip
for _name, _content in ODD_FILES.items():
    _is_harmless = _name in ("nothing for a group", "another version", "a dotted key")
    _expected = EITHER if _is_harmless else REFUSED

    @mutation("config file", "train", expected=_expected, name=_name)
    def _(case: Case, content: str = _content) -> None:
        shutil.copy(case.folder / CONFIG, case.folder / "base.yaml")
        write(case, content)


@mutation("config file", "train", "convert", "predict", "export", expected=ACCEPTED)
def windows_line_ends_and_a_byte_order_mark(case: Case) -> None:
    path = case.path(CONFIG)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


@mutation("config file", "train")
def another_encoding(case: Case) -> None:
    path = case.path(CONFIG)
    path.write_bytes("# Größe\nSEED: 1\n".encode("latin-1"))


@mutation("overrides", *READERS, "resume", expected=EITHER, repeats=12, name="a strange value")
def _(case: Case) -> None:
    key, value = key_that_matters(case), str(case.rng.choice(STRANGE_WORDS))
    if (key, value) in LONG_RUNS:
        value = "0"
    case.words += [key, value]
    case.names = [key, *INSTEAD_OF_A_KEY]


BAD_WORDS = {
    "a key without value": (["SEED"], "pairs"),
    "three words": (["SEED", "1", "MODEL.DEVICE"], "pairs"),
    "an unknown key": (["MODEL.DEVISE", "cpu"], "MODEL.DEVISE"),
    "key=value": (["SEED=1", "x"], "SEED=1"),
    "a group": (["MODEL", "x"], "MODEL"),
    "an empty key": (["", "x"], "command line"),
    "dots": (["...", "x"], "..."),
    "an attribute of Python": (["__class__.__name__", "x"], "__class__"),
    "an option at the end": (["SEED", "1", "--num-gpus", "1"], "--num-gpus"),
    "a key of another case": (["seed", "1"], "seed"),
    "a key of another script": (["SEED\u0301", "1"], "SEED"),
}
for _name, (_words, _culprit) in BAD_WORDS.items():

    @mutation("overrides", "train", "visualize", "convert", "predict", "export", name=_name)
    def _(case: Case, words: list[str] = _words, culprit: str = _culprit) -> None:
        case.words += words
        case.names.append(culprit)


OPTIONS = {
    "train": (
        ["--config-file"], ["--config-file", "tiny.yaml", "--num-gpus", "x"],
        ["--config-file", "tiny.yaml", "--num-gpus", "-1"],
        ["--config-file", "tiny.yaml", "--num-machines", "0"],
        ["--config-file", "tiny.yaml", "--num-machines", "2", "--machine-rank", "5"],
        ["--confg", "tiny.yaml"], [], ["--config-file", ""], ["--eval-only"],
        ["--config-file", "tiny.yaml", "--eval-only"],
    ),
    "check_dataset": (
        [], ["--folder"], ["--folder", "mine", "--dataset", "camvid_train"], ["--dataset", ""],
        ["--dataset", "camvid_trian"], ["--folder", ""], ["--folder", "nowhere"],
        ["--dataset", "coco_2017_train"], ["--folder", "mine", "--output", "tiny.yaml"],
        ["--folder", "mine", "--output", "/dev/null/x"],
    ),
    "visualize": (
        [], ["--config-file", "tiny.yaml"], ["--config-file", "tiny.yaml", "--output", "tiny.yaml"],
        *(["--config-file", "tiny.yaml", "--output", "pictures", "--images", images]
          for images in ("0", "-1", "x")),
        ["--config-file", "tiny.yaml", "--output", "pictures"],
        ["--config-file", "nowhere.yaml", "--output", "pictures"],
        ["--config-file", "tiny.yaml", "--output", "tiny.yaml/x", "MODEL.WEIGHTS", "weights.pth"],
    ),
    "convert": (
        [], *(["--config-file", "tiny.yaml", *words.split(), *more] for words, more in (
            ("--from keras --input weights.pth --output o.pth", []),
            ("--from timm --to mmseg --input x --output o", []),
            ("--from timm --input torchvision.pth --output o.pth", []),
            ("--from swin --input torchvision.pth --output o.pth", []),
            ("--from torchvision --input torchvision.pth --output mine/classes.txt/o",
             ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]),
            ("--to mmseg --input weights.pth --output o.pth",
             ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"]),
        )),
    ),
    "analyze_model": (
        [], ["tiny.yaml"], *(["--config-file", *line.split()] for line in (
            "tiny.yaml", "nowhere.yaml", "tiny.yaml --size 0 32", "tiny.yaml --size -5 x",
            "tiny.yaml --batch 0", "tiny.yaml --size 1 1 MODEL.SEM_SEG_HEAD.NUM_CLASSES -3",
            "tiny.yaml --batch 1 MODEL.META_ARCHITECTURE RegularizedPanopticFPN",
        )),
    ),
    "predict": (
        [], *(["--config-file", "tiny.yaml", *line.split()] for line in (
            "--input mine/images/val", "--output o", "--input nowhere.png --output o",
            "--input mine/labels/val/*.jpg --output o", "--input mine/classes.txt --output o",
            "--input mine/images/val --output o", "--input mine/images/val --output mine/images",
            "--input mine/images/val MODEL.WEIGHTS weights.pth --output o",
            "--input mine/images/val --output tiny.yaml MODEL.WEIGHTS weights.pth",
            "--input mine/images/val --output o MODEL.WEIGHTS nowhere.pth",
            "--input mine/images/val --output o --quiet --verbose",
        )),
    ),
    "export": (
        [], *(["--config-file", "tiny.yaml", *line.split()] for line in (
            "--output m.pb", "--output m.pt2", "--output m.pt2 MODEL.WEIGHTS nowhere.pth",
            "--output m.pt2 MODEL.WEIGHTS weights.pth TEST.MODE slide TEST.CROP_SIZE (32,32)",
            "--output m.pt2 MODEL.META_ARCHITECTURE RegularizedPanopticFPN",
            "--output tiny.yaml/m.pt2 MODEL.WEIGHTS weights.pth",
        )),
    ),
    "report": tuple(line.split() for line in (
        "", "output", "--output r.html", "nowhere --output r.html", "mine --output r.html",
        "a=nowhere* --output r.html", "output --output tiny.yaml/r.html",
        "output --output r.html --images -1", "output --output r.html --images x",
    )),
}  # fmt: skip
for _program, _lines in OPTIONS.items():
    for _line in _lines:

        @mutation("options", _program, name=" ".join(_line) or "none at all")
        def _(case: Case, line: list[str] = _line) -> None:
            case.command_line = line
            case.names.append("")  # whatever it says
