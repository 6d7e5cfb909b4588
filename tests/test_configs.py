"""Every config: builds its model, and differs from its baseline as its name says."""

from pathlib import Path

import pytest

from sar.config import leaves, load_config, lookup
from sar.config_file import names_in, read_config_file
from sar.modeling.build import build_model
from sar.preflight.checks import warn_of_long_warmup
from sar.solver import build_lr_scheduler, build_optimizer

FILES = [
    folder / name
    for folder in sorted(path for path in Path("configs").iterdir() if path.is_dir())
    for name in names_in(folder)
    if folder.name != "methods" and not name.startswith("Base-")
]

# Folders with configs for point clouds only.
CLOUDS = ("LongTailRooms", "Oakland", "S3DIS", "ScanNet20", "ScanNet200", "SemanticKITTI")

# Keys in which a file of its own differs from the combination of method and baseline.
EXCEPTIONS = {
    # The criterion of this model cannot be replaced.
    Path("configs/LongTailShapes/recommended_mask_classifier_R_18.yaml"): {"MODEL.LOSS.NAME": ""},
}

KINDS = {
    "baseline": (),
    "sar": ("SemanticAnchorRegularizer",),
    "ceco": ("CenterCollapseRegularizer",),
    "sar_ceco": ("SemanticAnchorRegularizer", "CenterCollapseRegularizer"),
    "recommended": (),
}


def kind_and_model(path):
    kind = max((kind for kind in KINDS if path.stem.startswith(f"{kind}_")), key=len)
    return kind, path.stem.removeprefix(f"{kind}_")


def flat(cfg):
    return {key: lookup(cfg, key) for key in leaves(cfg)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_builds(path):
    classes = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "7"] if path.parent.name == "Folder" else []
    offline = ["MODEL.DEVICE", "cpu", "MODEL.TIMM.PRETRAINED", "False"]
    cfg = load_config(str(path), [*offline, *classes])
    model = build_model(cfg)
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    predictor = model.sem_seg_head.predictor
    if "mask_classifier" in path.stem:
        assert predictor.class_embed.out_features == num_classes + 1
    elif "sparse_unet" in path.stem:
        assert predictor.out_features == num_classes
    else:
        assert predictor.out_channels == num_classes
    assert list(getattr(model, "regularizers", ())) == list(cfg.MODEL.REGULARIZERS)
    build_lr_scheduler(cfg, build_optimizer(cfg, model))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_warm_up_is_too_long(path, caplog):
    warn_of_long_warmup(load_config(str(path)))
    assert not caplog.text


@pytest.mark.parametrize("path", [p for p in FILES if not p.name.startswith("baseline_")], ids=str)
def test_differs_from_its_baseline_by_the_keys_of_its_method(path):
    kind, model = kind_and_model(path)
    baseline = flat(load_config(str(path.with_name(f"baseline_{model}.yaml"))))
    found = flat(load_config(str(path)))
    method = f"configs/methods/{kind}.yaml"
    keys = leaves(read_config_file(method))
    expected = baseline | {key: lookup(load_config(method), key) for key in keys}
    expected |= EXCEPTIONS.get(path, {})
    assert {key for key in found if found[key] != expected[key]} == {"OUTPUT_DIR"}
    assert found["OUTPUT_DIR"] == f"output/{path.parent.name}/{path.stem}"
    assert baseline["MODEL.REGULARIZERS"] == ()
    assert found["MODEL.REGULARIZERS"] == KINDS[kind]


def test_every_method_combines_with_every_baseline():
    assert {path.stem for path in Path("configs/methods").iterdir()} | {"baseline"} == set(KINDS)
    files = {path for path in FILES if path.exists() and not path.name.startswith("baseline_")}
    assert files == set(EXCEPTIONS)


def test_there_is_a_config_of_every_kind_for_each_model():
    names = {(path.parent.name, *kind_and_model(path)) for path in FILES}
    expected = {
        "LongTailShapes": ["sem_fpn_R_18", "ocr_R_18", "panoptic_fpn_R_18", "mask_classifier_R_18"]
        + ["sem_fpn_efficientnet_lite0"],
        "Folder": ["sem_fpn_R_18", "sem_fpn_R_50", "deeplab_v3_plus_R_50"]
        + ["sem_fpn_efficientnet_lite0", "deeplab_v3_plus_efficientnet_lite0"]
        + ["sparse_unet", "sparse_unet_small"],
        "CamVid": ["sem_fpn_R_18", "deeplab_v3_plus_R_50"]
        + ["sem_fpn_efficientnet_lite0", "deeplab_v3_plus_efficientnet_lite0"],
        "Cityscapes": ["sem_fpn_R_50", "deeplab_v3_R_103", "deeplab_v3_plus_R_50"]
        + ["fcn_hrnet_w48"],
        "ADE20K": ["sem_fpn_R_50", "deeplab_v3_R_103", "deeplab_v3_plus_R_50"]
        + ["fcn_hrnet_w48", "upernet_swin_t"],
        "PascalContext": ["fcn_hrnet_w48"],
        "COCOStuffLT": ["deeplab_v3_plus_R_50"],
        **dict.fromkeys(CLOUDS, ["sparse_unet"]),
    }
    assert names == {
        (folder, kind, model)
        for folder, models in expected.items()
        for model in models
        for kind in KINDS
    }


@pytest.mark.parametrize(
    "folder, max_iter, crop, rate, decay",
    [
        ("Cityscapes", 80000, (512, 1024), 0.01, 5e-4),
        ("ADE20K", 160000, (512, 512), 0.01, 5e-4),
        ("PascalContext", 40000, (480, 480), 0.004, 1e-4),
    ],
)
def test_schedules_are_those_of_the_paper(folder, max_iter, crop, rate, decay):
    cfg = load_config(f"configs/{folder}/sar_fcn_hrnet_w48.yaml")
    solver = cfg.SOLVER
    assert (solver.MAX_ITER, solver.IMS_PER_BATCH) == (max_iter, 16)
    assert tuple(cfg.INPUT.CROP.SIZE) == crop and cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA == 0.75
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.MOMENTUM) == ("SGD", rate, 0.9)
    assert (solver.WEIGHT_DECAY, solver.POLY_LR_POWER) == (decay, 0.9)
    assert solver.POLY_LR_CONSTANT_ENDING * solver.BASE_LR == pytest.approx(1e-4)
    shortest, longest = cfg.INPUT.MIN_SIZE_TRAIN
    assert longest == 4 * shortest and cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
