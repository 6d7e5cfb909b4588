"""Plan a comparison of methods on the user's data: a study that needs no file."""

import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from sar.checkpoints.checkpointer import Checkpointer
from sar.config import load_config, lookup
from sar.config_file import BASE_KEY, flattened, locate, read_config_file
from sar.data.class_frequency import ClassFrequency, note_class_frequency
from sar.data.datasets import load_dataset, metadata_of
from sar.data.datasets.folder import register_folder
from sar.data.mapper import build_train_mapper
from sar.data.scan import scan_dataset
from sar.errors import InputError, listed
from sar.modeling.build import build_model
from sar.preflight.checks import check_batch
from sar.preflight.class_counts import count_classes
from sar.preflight.prepare import complete_config
from sar.solver import build_lr_scheduler, build_optimizer, longest_warmup
from sar.study.matrix import ITERATIONS, Cell, Settings, Study

from detectron2.config import CfgNode

EPOCHS = 30
LEAST_ITERATIONS = 1000
METRICS = ("mIoU", "mIoU@f", "mIoU@c", "mIoU@r", "mIoU@r_pixel")

# Settings of a comparison that a training on its own does not need.
CHECKPOINT_PERIOD = "SOLVER.CHECKPOINT_PERIOD"
OWN_SETTINGS = {
    "SOLVER.CHECKPOINTS_KEPT": 2,
    "TEST.EVAL_PERIOD": 0,
    "TEST.PICTURES": 0,
    "TEST.GEOMETRY": False,
}
# Keys that the plan sets for all methods alike, and what to use instead.
INSTEAD = {
    "SEED": "use --seeds",
    "OUTPUT_DIR": "use --output",
    "DATASETS.FOLDER": "use --folder",
    "DATASETS.TEST": "methods are compared on the validation split",
    ITERATIONS: "use --iterations",
}
_DEVICE = "MODEL.DEVICE"
DEVICES = ("cuda", "cpu")


def read_methods(path: str | os.PathLike) -> dict[str, Settings]:
    """Read methods from a YAML file: config keys by the name of the method.

    `_BASE_` adds the keys of a config file, or of a list of them. The paths start from the folder
    of the YAML file.

    Raises:
        InputError: a file cannot be read; there are fewer than two methods; a method is not a group
            of keys.
    """
    methods = {}
    for name, tree in read_config_file(str(path), has_names=True).items():
        tree = tree or {}
        if not isinstance(tree, dict):
            raise InputError(f"{path}: expected config keys below the method {name}, found {tree}")
        bases = tree.pop(BASE_KEY, [])
        settings = {}
        for base in bases if isinstance(bases, list) else [bases]:
            base = locate(os.path.expanduser(str(base)), str(Path(path).parent))
            settings |= dict(flattened(read_config_file(base)))
        methods[str(name)] = settings | dict(flattened(tree))
    if len(methods) < 2:
        raise InputError(f"{path}: expected two methods or more, found {len(methods)}")
    return methods


def plan_comparison(
    methods: Mapping[str, Settings],
    config: str,
    overrides: Sequence[str] = (),
    *,
    folder: str | os.PathLike = "",
    num_seeds: int = 3,
    iterations: int = 0,
) -> Study:
    """Return the study that compares methods, after all checks that read no image and no label.

    The methods are compared on the validation split, with their final weights. If a folder has a
    test split, the final weights are also evaluated on it.

    Args:
        methods: from `read_methods`. The others are compared with the first.
        config: the config of the plain model.
        overrides: KEY VALUE pairs for all methods.
        folder: DATASETS.FOLDER; "" if the config names data sets.
        num_seeds: the seeds are 0, 1, ...
        iterations: length of each training. 0: 30 epochs, but at least 1,000 iterations, and at
            most SOLVER.MAX_ITER of the config.

    Raises:
        InputError: a problem in a config, a method or the data set; the validation split is
            missing; the plain model has regularizers.
    """
    given = [(key, "a comparison") for key in overrides[::2]]
    given += [(key, f"the method {name}") for name, found in methods.items() for key in found]
    for key, what in given:
        if key in INSTEAD:
            raise InputError(f"{key} cannot be set for {what}: {INSTEAD[key]}")
    # Absolute, because it is part of what identifies a training.
    folder = os.path.abspath(os.path.expanduser(folder)) if folder else ""
    words = [*(["DATASETS.FOLDER", folder] if folder else []), *overrides]
    reference, *others = methods
    cfg = load_config(config, [*words, *_words(methods[reference])])
    _check_overrides(config, methods, words)
    if cfg.MODEL.REGULARIZERS and not methods[reference]:
        raise InputError(
            f"{config} has MODEL.REGULARIZERS {listed(cfg.MODEL.REGULARIZERS)}, but the config of "
            "a comparison is the plain model: give a config without them, such as baseline_..."
        )
    if not (cfg.DATASETS.FOLDER or cfg.DATASETS.TRAIN):
        raise InputError(f"no data set: give --folder, or add DATASETS.TRAIN and TEST to {config}")
    _check(cfg)
    if not cfg.DATASETS.TEST:
        raise InputError(
            "a comparison needs a validation split, to evaluate the methods: move some "
            f"{'clouds' if cfg.INPUT.POINTS.VOXEL_SIZE else 'images and labels'} from "
            f"{cfg.DATASETS.FOLDER}/*/train to {cfg.DATASETS.FOLDER}/*/val"
        )
    for name in others:
        try:
            _check(load_config(config, [*words, *_words(methods[name])]))
        except InputError as error:
            raise InputError(f"method {name}: {error}") from error
    num_images = sum(len(load_dataset(name)) for name in cfg.DATASETS.TRAIN)
    iterations = iterations or default_iterations(
        num_images, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER
    )
    splits = register_folder(cfg.DATASETS.FOLDER) if cfg.DATASETS.FOLDER else ()
    test = cfg.DATASETS.TEST[0]
    held_out = [name for name in splits if name.endswith("_test") and name != test]
    own = {CHECKPOINT_PERIOD: max(1, iterations // 10), **OWN_SETTINGS}
    if cfg.SOLVER.WARMUP_ITERS > longest_warmup(iterations):
        own["SOLVER.WARMUP_ITERS"] = longest_warmup(iterations)
    return Study(
        title=os.path.basename(folder) or test,
        description="",
        config=config,
        settings={
            ITERATIONS: iterations,
            **own,
            **dict(zip(words[::2], words[1::2], strict=True)),
        },
        test=test,
        metrics=METRICS,
        seeds=range(num_seeds),
        methods=list(methods),
        candidates={name: [settings] for name, settings in methods.items()},
        held_out=held_out[0] if held_out else "",
    )


def _check_overrides(config: str, methods: Mapping[str, Settings], words: Sequence[str]) -> None:
    """Raise InputError for a key that methods and the command line set to different values."""
    overrides = dict(zip(words[::2], words[1::2], strict=True))
    for name, settings in methods.items():
        if _DEVICE in settings:
            raise InputError(
                f"the method {name} sets {_DEVICE}, but all methods use the same device: set it at "
                "the end of the command line"
            )
        for key in sorted(settings.keys() & overrides.keys()):
            own = load_config(config, [*words, key, str(settings[key])])
            if lookup(own, key) != lookup(load_config(config, words), key):
                raise InputError(
                    f"{key} is {overrides[key]} at the end of the command line, for all methods, "
                    f"but {settings[key]} in the method {name}: set it in the method, in a copy of "
                    "the file of methods that --methods gives"
                )
    if (device := overrides.get(_DEVICE, "cuda")) not in DEVICES:
        raise InputError(
            f"{_DEVICE} {device} cannot be set for a comparison: set it to cuda or cpu, and choose "
            "the GPUs with CUDA_VISIBLE_DEVICES"
        )


def _check(cfg: CfgNode) -> None:
    """Raise InputError for a problem of a training that is known without reading its data."""
    complete_config(cfg, trains=True)
    Checkpointer(nn.Module()).find(cfg.MODEL.WEIGHTS, resume=False)  # a missing file
    check_batch(cfg, num_processes=1)
    if cfg.DATASETS.CLASS_FREQUENCY:
        ClassFrequency.load(cfg.DATASETS.CLASS_FREQUENCY)


def default_iterations(num_images: int, batch_size: int, most: int) -> int:
    """Return 30 epochs in iterations, at least 1,000 and at most `most`."""
    return min(most, max(LEAST_ITERATIONS, math.ceil(EPOCHS * num_images / batch_size)))


def read_files(study: Study, *, progress: bool = False) -> ClassFrequency:
    """Read all images and labels of a comparison, and return the counts of the training set.

    The trainings do not read them again, unless a file changes.

    Args:
        progress: show a progress bar.

    Raises:
        InputError: problems in the files.
    """
    cell = study.method_cells({})[0]
    cfg = load_config(cell.config, _words(cell.settings))
    complete_config(cfg, trains=True)
    cfg.DATASETS.TEST = tuple(name for name in (cell.test, cell.held_out) if name)
    return count_classes(cfg, trains=True, is_new=True, progress=progress)


def check_methods(study: Study, frequency: ClassFrequency) -> None:
    """Build the augmentation, the model and the optimizer of each method once, on the CPU.

    Args:
        frequency: from `read_files`.

    Raises:
        InputError: a method has a value that one of them refuses.
    """
    for name, settings in study.chosen({}).items():
        cell = study.cell(settings, study.seeds[0])
        cfg = load_config(cell.config, _words(cell.settings))
        complete_config(cfg, trains=True)
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
        note_class_frequency(cfg, frequency)
        try:
            build_train_mapper(cfg)
            model = build_model(cfg)
            build_lr_scheduler(cfg, build_optimizer(cfg, model))
        except InputError as error:
            raise InputError(f"method {name}: {error}") from error


def label_pixels(name: str, *, progress: bool = False) -> list[int]:
    """Return the pixels of each class in the labels of a data set.

    Args:
        progress: show a progress bar.
    """
    metadata = metadata_of(name)
    labels = metadata.stuff_classes, metadata.ignore_label
    scan = scan_dataset(load_dataset(name), *labels, check_images=False, progress=progress)
    return list(scan.frequency.pixels)


def trainings(study: Study) -> list[tuple[str, Cell]]:
    """Return the method and the cell of each training: first all methods with the first seed.

    Methods with the same settings share their trainings, which have the name of the first method.
    """
    found: dict[str, tuple[str, Cell]] = {}
    for seed in study.seeds:
        for method, settings in study.chosen({}).items():
            cell = study.cell(settings, seed)
            found.setdefault(cell.key, (method, cell))
    return list(found.values())


def folder_name(name: str, cell: Cell) -> str:
    """Return the name of the folder of a cell. It has a part of its key, so that it is unique."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()  # á becomes a
    return f"{re.sub('[^a-z0-9]+', '_', letters.lower()).strip('_')}_{cell.key[:6]}"


def _words(settings: Settings) -> list[str]:
    return [str(word) for pair in settings.items() for word in pair]
