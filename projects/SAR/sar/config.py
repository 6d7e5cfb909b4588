"""Every config key that the project adds to detectron2's, with its meaning beside it."""

import os
from collections.abc import Iterable, Iterator, Sequence

# Registers what the keys name: meta-architecture, heads, data sets.
from sar import data, modeling  # noqa: F401
from sar.config_file import read_config_file
from sar.config_value import typed_value
from sar.errors import InputError, listed, nearest, printable

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config


def add_sar_config(cfg: CfgNode) -> None:
    """Adds the project's keys, and those of detectron2's DeepLab, to a detectron2 config."""
    add_deeplab_config(cfg)

    # -- Model
    # RegularizedSemanticSegmentor, or RegularizedPanopticFPN in the place of PanopticFPN.
    cfg.MODEL.META_ARCHITECTURE = "RegularizedSemanticSegmentor"
    # Names of the regularizers of the training-only branch; () is the plain model.
    cfg.MODEL.REGULARIZERS = ()
    # Dotted path of the layer that turns the head's embedding into logits.
    cfg.MODEL.CLASSIFIER = "sem_seg_head.predictor"
    # DeepLab's heads pool over the whole image, as published. detectron2 pools over windows of
    # INPUT.CROP.SIZE, and refuses images whose sides are no multiples of them.
    cfg.MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING = False
    # Keep channels last in memory, as the convolutions of GPUs want it in half precision.
    cfg.MODEL.CHANNELS_LAST = False
    # Load what fits from a checkpoint of another number of classes, instead of refusing it.
    cfg.MODEL.WEIGHTS_SKIP_MISMATCHED = False

    # -- FCNHead, UPerNetHead, OCRHead and SegFormerHead
    # Beside detectron2's keys, of which COMMON_STRIDE is the stride of the finest of IN_FEATURES,
    # and CONVS_DIM 0 what was published (FCNHead: as many channels as all features have;
    # SegFormerHead: 256; the others: 512).

    # Share of the embedding's channels that the predictor does not see in training.
    cfg.MODEL.SEM_SEG_HEAD.DROPOUT = 0.1
    # Of OCRHead: factor of the loss of its object regions.
    cfg.MODEL.SEM_SEG_HEAD.REGION_LOSS_WEIGHT = 0.4

    # -- An auxiliary FCN head beside any semantic head, in training only
    cfg.MODEL.AUXILIARY_HEAD = CfgNode()
    # A feature of the backbone, such as res4; "" for no auxiliary head.
    cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE = ""
    # Channels of its 3x3 convolution.
    cfg.MODEL.AUXILIARY_HEAD.CONVS_DIM = 256
    # Factor of its loss, loss_sem_seg_aux.
    cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT = 0.4

    # -- Backbones of timm
    # build_timm_backbone: features res2 (stride 4) to res5 (stride 32) of any pyramid of timm, of
    # which MODEL.BACKBONE.FREEZE_AT stages are frozen, the stem being the first.
    cfg.MODEL.TIMM = CfgNode()
    # As timm names it: hrnet_w48, swin_tiny_patch4_window7_224, ...; with a tag, certain weights.
    cfg.MODEL.TIMM.NAME = "hrnet_w48"
    # Those of the features that heads are given.
    cfg.MODEL.TIMM.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    # Start from timm's weights, downloaded, or from a file of them. Neither is read where
    # MODEL.WEIGHTS is given.
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # What becomes of the model's batch norms: BN, SyncBN, FrozenBN or GN. Layer norms stay.
    cfg.MODEL.TIMM.NORM = "BN"
    # Add a layer norm on each feature, as published for Swin in segmentation.
    cfg.MODEL.TIMM.OUTPUT_NORM = False
    # Greatest rate of stochastic depth.
    cfg.MODEL.TIMM.DROP_PATH = 0.0
    # Less than 32 dilates the last stages, where the model can.
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 32

    # -- The head's loss
    cfg.MODEL.LOSS = CfgNode()
    # cross_entropy, hard_pixel_mining, logit_adjustment (Menon et al., ICLR 2021) or seesaw (Wang
    # et al., CVPR 2021), in the place of the head's own; "" leaves that alone.
    cfg.MODEL.LOSS.NAME = ""
    # Never hold the logits at the labels' resolution, for less memory and time; equal to rounding.
    # Not in seesaw, nor in a third party's own loss. False is detectron2's way, bit for bit.
    cfg.MODEL.LOSS.FUSED = True
    # For cross_entropy and hard_pixel_mining: inverse_frequency, enet, median_frequency, or "" for
    # none. Pixels are counted in DATASETS.CLASS_FREQUENCY; here and in logit_adjustment.
    cfg.MODEL.LOSS.CLASS_WEIGHTS = ""
    # Of logit_adjustment: factor of the log-priors that are added to the logits.
    cfg.MODEL.LOSS.TAU = 1.0
    # Of hard_pixel_mining: share of the pixels, those of the highest loss, that count.
    cfg.MODEL.LOSS.TOP_K = 0.2
    # Of seesaw: exponents of its mitigation and compensation factors; 0 turns one off.
    cfg.MODEL.LOSS.SEESAW_P = 0.8
    cfg.MODEL.LOSS.SEESAW_Q = 2.0

    # -- SemanticAnchorRegularizer (SAR, Ge et al., AAAI 2024)
    cfg.MODEL.SEMANTIC_ANCHOR = CfgNode()
    # Weights of the anchors' classification loss and of the pull on the embeddings.
    cfg.MODEL.SEMANTIC_ANCHOR.ANCHOR_WEIGHT = 1.0
    cfg.MODEL.SEMANTIC_ANCHOR.PULL_WEIGHT = 0.1
    # What the pull is the mean over: pixels, as in the paper; or classes, of the means over their
    # pixels, so that rare classes are pulled as much as frequent ones.
    cfg.MODEL.SEMANTIC_ANCHOR.PULL_OVER = "pixels"
    # Anchors classified with more than this probability are left out of the anchor loss.
    cfg.MODEL.SEMANTIC_ANCHOR.HARD_ANCHOR_CONFIDENCE = 0.9
    # The pull works in steps where every anchor's probability is above this; 0: in all steps.
    cfg.MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE = 0.8
    # Of the slow average of semantic anchors that the embeddings are pulled to.
    cfg.MODEL.SEMANTIC_ANCHOR.MOMENTUM = 0.999
    # The pre-defined vectors: gaussian, orthogonal, simplex_etf, or a .npy file of (K, C).
    cfg.MODEL.SEMANTIC_ANCHOR.ANCHORS = "gaussian"

    # -- CenterCollapseRegularizer (CeCo, Zhong et al., CVPR 2023)
    cfg.MODEL.CENTER_COLLAPSE = CfgNode()
    # Of the loss. The authors use 0.8 with Swin-T and 0.2 with Swin-B.
    cfg.MODEL.CENTER_COLLAPSE.WEIGHT = 0.4
    # Of the logits of the class centres, an inverse temperature.
    cfg.MODEL.CENTER_COLLAPSE.SCALE = 5.0
    # Dimensions of the simplex ETF, at least the number of classes; 0 for the paper's direct form,
    # which classifies the means of the embeddings as they are.
    cfg.MODEL.CENTER_COLLAPSE.PROJECTION_DIM = 512
    # Of the projected class centres; not in the direct form.
    cfg.MODEL.CENTER_COLLAPSE.DROPOUT = 0.1
    # Add the log of each class's share of the training images, as counted in
    # DATASETS.CLASS_FREQUENCY, to the logits.
    cfg.MODEL.CENTER_COLLAPSE.LOGIT_ADJUSTMENT = True

    # -- Data
    # A data set of your own (images/, labels/, classes.txt). Its training split replaces TRAIN. Its
    # validation split is evaluated, unless DATASETS.TEST is set: to other data sets, such as
    # ("folder_NAME_test",), or to () for no evaluation.
    cfg.DATASETS.FOLDER = ""
    # class_frequency.json of the training set (tools/check_dataset.py writes it), for the groups
    # of frequent, common and rare classes, for CeCo and for MODEL.LOSS. Empty: found by a scan of
    # the training set.
    cfg.DATASETS.CLASS_FREQUENCY = ""
    # Read every training image and label before the first step, so that a bad one is found then.
    # A scan that found nothing is remembered in OUTPUT_DIR.
    cfg.DATASETS.CHECK = True
    # Greatest relative change of brightness, contrast and saturation; 0 for none.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Values of 16-bit grey images that become 0 and 255; values outside are clipped. Set them if
    # the images use a small part of the range (thermal, 12-bit cameras): the check says which.
    cfg.INPUT.BLACK_POINT = 0
    cfg.INPUT.WHITE_POINT = 65535
    # Greatest number of pixels of an image or a label. Raise it for larger images that you trust;
    # lower values than this one change nothing.
    cfg.INPUT.MAX_PIXELS = 178956970
    # detectron2's DATALOADER.SAMPLER_TRAIN "RepeatFactorTrainingSampler" repeats images that show a
    # class which fewer than DATALOADER.REPEAT_THRESHOLD of the images (a share) do.

    # How many images of the training set may be unreadable, as each process counts them from its
    # start: others, drawn from the seed, take their place, and a warning names the file. One more
    # stops the run; with 0, the first does.
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 0

    # -- Solver
    # SGD or ADAMW.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # How many numbered checkpoints stay in OUTPUT_DIR, at least 2, since the newest may be broken;
    # 0 for all. model_final.pth and model_best.pth always stay.
    cfg.SOLVER.CHECKPOINTS_KEPT = 5
    # Of SOLVER.AMP: float16, with scaled gradients, on GPUs; or bfloat16, on the CPU too.
    cfg.SOLVER.AMP.DTYPE = "float16"

    # -- Evaluation
    # What is highest in the evaluation that model_best.pth is of ("DATA_SET/sem_seg/mIoU" where
    # DATASETS.TEST has several); "" to keep no such checkpoint.
    cfg.TEST.BEST_METRIC = "sem_seg/mIoU"
    # How the network sees a test image: "whole", or "slide" for overlapping windows whose logits
    # are averaged. The device then holds the windows of one batch, and the sums of an image
    # (classes x height x width x 4 bytes) up to 512 MiB. Larger sums are in main memory.
    cfg.TEST.MODE = "whole"
    # Of the windows: (height, width) in pixels of the resized image, and the steps between them.
    cfg.TEST.CROP_SIZE = (512, 512)
    cfg.TEST.CROP_STRIDE = (341, 341)
    # Given to the network together; each takes the memory of a training crop, without gradients.
    cfg.TEST.WINDOWS_PER_BATCH = 1
    # Test-time augmentation, in either mode, is detectron2's TEST.AUG: with ENABLED, the image is
    # resized from its file to each of MIN_SIZES (its shorter edge; 0: not resized; the longer at
    # most MAX_SIZE), in the place of INPUT.MIN_SIZE_TEST, with FLIP also flipped from left to
    # right, and the probabilities are averaged.

    # How many images of the first test set are drawn into TensorBoard after each evaluation, beside
    # truth and prediction, with the cosines between class vectors; 0 for no pictures.
    cfg.TEST.PICTURES = 4
    # Also write predictions as COCO's run-length JSON, as detectron2 does.
    cfg.TEST.SAVE_JSON = False
    # Also measure the geometry of the feature space (neural collapse: NC1, NC2, NC3), as
    # "geometry/..." beside the "sem_seg/..." of the metrics.
    cfg.TEST.GEOMETRY = False


def load_config(config_file: str = "", overrides: Sequence[str] = ()) -> CfgNode:
    """The project's config: defaults, then a YAML file (with its _BASE_), then KEY VALUE pairs.

    The file is read without executing anything in it, see `read_config_file`. Values get the type
    of their keys, see `typed_value`.

    Raises:
        InputError: the file is missing or malformed, a key is unknown, a value of another type.
    """
    cfg = get_cfg()
    add_sar_config(cfg)
    defaults = cfg.clone()
    if config_file:
        values = list(_values(read_config_file(config_file)))
        _set(cfg, defaults, values, f"config {config_file}")
    for word in overrides:
        if word.startswith("--"):
            raise InputError(
                f"command line: {_shown(word)} comes after a KEY VALUE pair: put it before"
            )
    if len(overrides) % 2:
        raise InputError(
            f"command line: overrides are pairs of KEY VALUE, but there are {len(overrides)} "
            f"words: {listed(list(map(_shown, overrides)), 20, ' ')}"
        )
    values = list(zip(overrides[::2], overrides[1::2], strict=True))
    _set(cfg, defaults, values, "command line")
    for key in _PATHS:
        parent, _, last = key.rpartition(".")
        group = lookup(cfg, parent) if parent else cfg
        group[last] = os.path.expanduser(group[last])
    return cfg


# A shell expands `~` in the first place of a word only, and YAML does not at all.
_PATHS = ("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.TIMM.CHECKPOINT", "DATASETS.CLASS_FREQUENCY")


def lookup(cfg: CfgNode, key: str):
    """The value, or the group, of a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _values(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """The dotted keys of a tree with their values; a group without keys is a value."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _set(cfg: CfgNode, defaults: CfgNode, values: Sequence[tuple[str, object]], place: str) -> None:
    _refuse_unknown_keys((key for key, _ in values), cfg, place)
    for key, value in values:
        group, _, name = key.rpartition(".")
        parent = lookup(cfg, group) if group else cfg
        parent[name] = typed_value(key, value, lookup(defaults, key), place)


def leaves(tree: dict, prefix: str = "") -> list[str]:
    """The dotted keys of a config that have values, each after the prefix."""
    keys = []
    for key, value in tree.items():
        keys += leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
    return keys


def _refuse_unknown_keys(keys: Iterable[str], cfg: CfgNode, place: str) -> None:
    known = leaves(cfg)
    for key in keys:
        if any(name.startswith(f"{key}.") for name in known):
            raise InputError(
                f"{place}: {key} is a group of keys, such as {key}.X: give one of them"
            )
        if key not in known:
            raise InputError(f"{place}: unknown key {_shown(key)}.{nearest(key, known)}")


def _shown(word: str) -> str:
    """A word of others, of which 80 characters at most."""
    return printable(word if len(word) <= 80 else word[:77] + "...")
