"""Every config key that the project adds to detectron2, each with a comment that explains it."""

import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

# Registers what the keys name: meta-architecture, heads, data sets.
from sar import data, modeling  # noqa: F401
from sar.checkpoints import inference_file
from sar.config_file import flattened, parse_config, read_config_file
from sar.config_value import typed_value
from sar.errors import InputError, describe_exception, listed, nearest, printable
from sar.files.dataset_root import root
from sar.user_code import add_config_function, config_functions

from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config


def add_sar_config(cfg: CfgNode) -> None:
    """Add the keys of the project, and of detectron2's DeepLab project, to a detectron2 config."""
    add_deeplab_config(cfg)

    # -- Model
    # Any registered meta-architecture. RegularizedSemanticSegmentor and RegularizedPanopticFPN are
    # detectron2's SemanticSegmentor and PanopticFPN.
    cfg.MODEL.META_ARCHITECTURE = "RegularizedSemanticSegmentor"
    # Names of the regularizers in the training-only branch; () for the plain model.
    cfg.MODEL.REGULARIZERS = ()
    # Dotted path of the layer that computes logits from the embedding; "" if there is none, with
    # MODEL.TAP.EMBEDDING. With MODEL.TAP.MATCHER: the layer that classifies queries.
    cfg.MODEL.CLASSIFIER = "sem_seg_head.predictor"
    # True: DeepLab's heads pool over the whole image, as published. False: they pool over windows
    # of INPUT.CROP.SIZE, as in detectron2, and refuse images whose sides are not multiples of it.
    cfg.MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING = False
    # Store tensors with channels last, which is faster for convolutions on GPUs in half precision.
    cfg.MODEL.CHANNELS_LAST = False
    # Load the weights that fit from a checkpoint with another number of classes. False: refuse it.
    cfg.MODEL.WEIGHTS_SKIP_MISMATCHED = False
    # Where the regularizers read embeddings and labels in a meta-architecture with other names.
    cfg.MODEL.TAP = CfgNode()
    # Dotted path of the head that is called with the labels in training.
    cfg.MODEL.TAP.HEAD = "sem_seg_head"
    # Name of the head's argument that holds the labels.
    cfg.MODEL.TAP.LABELS = "targets"
    # Dotted path of a layer whose output is the embedding; "" for the input of MODEL.CLASSIFIER.
    cfg.MODEL.TAP.EMBEDDING = ""
    # For models that classify queries, such as MaskFormer and Mask2Former: dotted path of the
    # module that matches queries and masks, criterion.matcher. The embeddings are then the matched
    # queries.
    cfg.MODEL.TAP.MATCHER = ""

    # -- FCNHead, UPerNetHead, OCRHead and SegFormerHead
    # These heads also use detectron2's keys. COMMON_STRIDE is the stride of the finest feature in
    # IN_FEATURES. CONVS_DIM 0 means the published number of channels: the sum over the features in
    # FCNHead, 256 in SegFormerHead, 512 in the others.

    # Dropout: share of the embedding's channels that the predictor does not see in training.
    cfg.MODEL.SEM_SEG_HEAD.DROPOUT = 0.1
    # OCRHead: factor of the loss on its object regions.
    cfg.MODEL.SEM_SEG_HEAD.REGION_LOSS_WEIGHT = 0.4

    # -- Auxiliary FCN head for any semantic head, in training only
    cfg.MODEL.AUXILIARY_HEAD = CfgNode()
    # Input: a feature of the backbone, such as res4; "" for no auxiliary head.
    cfg.MODEL.AUXILIARY_HEAD.IN_FEATURE = ""
    # Channels of its 3x3 convolution.
    cfg.MODEL.AUXILIARY_HEAD.CONVS_DIM = 256
    # Factor of its loss, loss_sem_seg_aux.
    cfg.MODEL.AUXILIARY_HEAD.LOSS_WEIGHT = 0.4

    # -- Backbones of timm
    # MODEL.BACKBONE.NAME build_timm_backbone gives features res2 (stride 4) to res5 (stride 32) of
    # any feature pyramid of timm. build_timm_fpn_backbone adds the pyramid of MODEL.FPN, with
    # features p2 to p6. MODEL.BACKBONE.FREEZE_AT stages are frozen; the stem is the first.
    cfg.MODEL.TIMM = CfgNode()
    # timm's name of the model: hrnet_w48, swin_tiny_patch4_window7_224, ... A tag selects weights.
    cfg.MODEL.TIMM.NAME = "hrnet_w48"
    # Features that the backbone returns.
    cfg.MODEL.TIMM.OUT_FEATURES = ("res2", "res3", "res4", "res5")
    # Start from ImageNet weights: PRETRAINED downloads timm's; CHECKPOINT is a file of weights, or
    # package://PACKAGE/PATH for a file of an installed package. Both are ignored if MODEL.WEIGHTS
    # is set.
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.TIMM.CHECKPOINT = ""
    # Replaces the batch norms of the model: BN, SyncBN, FrozenBN or GN. Layer norms stay.
    cfg.MODEL.TIMM.NORM = "BN"
    # Add a layer norm after each feature, as published for Swin in segmentation.
    cfg.MODEL.TIMM.OUTPUT_NORM = False
    # Highest rate of stochastic depth.
    cfg.MODEL.TIMM.DROP_PATH = 0.0
    # A value below 32 dilates the last stages, if the model supports it.
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 32

    # -- MaskClassifier, a small MaskFormer
    # MODEL.META_ARCHITECTURE MaskClassifier also uses IN_FEATURES, CONVS_DIM (the channels of its
    # queries) and NORM of MODEL.SEM_SEG_HEAD.
    cfg.MODEL.MASK_CLASSIFIER = CfgNode()
    # Number of queries of an image: at least the number of classes in it.
    cfg.MODEL.MASK_CLASSIFIER.NUM_QUERIES = 20
    # Number of layers of the transformer decoder.
    cfg.MODEL.MASK_CLASSIFIER.NUM_LAYERS = 2
    # Weight of queries without a mask in the classification loss.
    cfg.MODEL.MASK_CLASSIFIER.NO_OBJECT_WEIGHT = 0.1

    # -- The head's loss
    cfg.MODEL.LOSS = CfgNode()
    # Replaces the loss of the head: cross_entropy, hard_pixel_mining, focal (Lin et al., ICCV
    # 2017), logit_adjustment (Menon et al., ICLR 2021), seesaw (Wang et al., CVPR 2021), dice
    # (Milletari et al., 3DV 2016) or lovasz (Berman et al., CVPR 2018). "cross_entropy + 0.5 *
    # dice" is a weighted sum. "" keeps the loss of the head.
    cfg.MODEL.LOSS.NAME = ""
    # Upsample logits and compute the cross-entropy in one step, with less memory and time. The loss
    # is equal up to rounding; with False, it equals detectron2's bit for bit. This key has no
    # effect on seesaw, dice, lovasz and losses of third-party heads.
    cfg.MODEL.LOSS.FUSED = True
    # Class weights for cross_entropy, hard_pixel_mining and focal: inverse_frequency, enet,
    # median_frequency, effective_number (Cui et al., CVPR 2019), or "" for none. They follow the
    # class counts of the training set.
    cfg.MODEL.LOSS.CLASS_WEIGHTS = ""
    # Class weights of your own for the same losses: one number for each class, 0 or more, in the
    # order of the class ids; () for none.
    cfg.MODEL.LOSS.OWN_CLASS_WEIGHTS = ()
    # effective_number: in [0, 1). 0 gives equal weights. Near 1, a weight is inverse to the number
    # of images that show the class.
    cfg.MODEL.LOSS.BETA = 0.999
    # focal: 0 is cross-entropy. The larger it is, the less do easy pixels count.
    cfg.MODEL.LOSS.GAMMA = 2.0
    # logit_adjustment: factor of the log-priors that are added to the logits.
    cfg.MODEL.LOSS.TAU = 1.0
    # hard_pixel_mining: share of the pixels that count, from the highest loss down.
    cfg.MODEL.LOSS.TOP_K = 0.2
    # seesaw: exponents of the mitigation and compensation factors; 0 turns one off.
    cfg.MODEL.LOSS.SEESAW_P = 0.8
    cfg.MODEL.LOSS.SEESAW_Q = 2.0

    # -- SemanticAnchorRegularizer (SAR, Ge et al., AAAI 2024)
    cfg.MODEL.SEMANTIC_ANCHOR = CfgNode()
    # Weights of the classification loss of the anchors and of the pull on the embeddings.
    cfg.MODEL.SEMANTIC_ANCHOR.ANCHOR_WEIGHT = 1.0
    cfg.MODEL.SEMANTIC_ANCHOR.PULL_WEIGHT = 0.1
    # "pixels": the pull is a mean over pixels, as in the paper. "classes": a mean over classes,
    # each with the mean over its pixels, so that rare classes are pulled as much as frequent ones.
    cfg.MODEL.SEMANTIC_ANCHOR.PULL_OVER = "pixels"
    # Anchors that are classified with a higher probability do not enter the anchor loss.
    cfg.MODEL.SEMANTIC_ANCHOR.HARD_ANCHOR_CONFIDENCE = 0.9
    # The pull is active in steps in which all anchors have a higher probability; 0: in all steps.
    cfg.MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE = 0.8
    # Momentum of the moving average of semantic anchors, the target of the pull.
    cfg.MODEL.SEMANTIC_ANCHOR.MOMENTUM = 0.999
    # The fixed anchors: gaussian, orthogonal, simplex_etf, or a .npy file with K x C numbers.
    cfg.MODEL.SEMANTIC_ANCHOR.ANCHORS = "gaussian"

    # -- CenterCollapseRegularizer (CeCo, Zhong et al., CVPR 2023)
    cfg.MODEL.CENTER_COLLAPSE = CfgNode()
    # Weight of the loss. The authors use 0.8 with Swin-T and 0.2 with Swin-B.
    cfg.MODEL.CENTER_COLLAPSE.WEIGHT = 0.4
    # Factor of the logits of the class centres (an inverse temperature).
    cfg.MODEL.CENTER_COLLAPSE.SCALE = 5.0
    # Dimensions of the simplex ETF, at least the number of classes. 0: the direct form of the
    # paper, which classifies the means of the embeddings without projections.
    cfg.MODEL.CENTER_COLLAPSE.PROJECTION_DIM = 512
    # Dropout on the projected class centres; not used in the direct form.
    cfg.MODEL.CENTER_COLLAPSE.DROPOUT = 0.1
    # Add to the logits the log of the share of training images that show each class.
    cfg.MODEL.CENTER_COLLAPSE.LOGIT_ADJUSTMENT = True

    # -- Prototype methods
    # PrototypeRegularizer has SAR's pull and gate, with the moving average of the class means
    # instead of semantic anchors.
    cfg.MODEL.PROTOTYPE = CfgNode()
    # Weight of the pull on the embeddings.
    cfg.MODEL.PROTOTYPE.PULL_WEIGHT = 0.1
    # "pixels" or "classes": the pull is a mean over these.
    cfg.MODEL.PROTOTYPE.PULL_OVER = "pixels"
    # The pull is active if the classifier predicts all prototypes with a higher probability; 0: in
    # all steps.
    cfg.MODEL.PROTOTYPE.GATE_CONFIDENCE = 0.8
    # Momentum of the moving average of the class means.
    cfg.MODEL.PROTOTYPE.MOMENTUM = 0.999

    # PrototypeContrastRegularizer: ProtoSeg (Zhou et al., CVPR 2022).
    cfg.MODEL.PROTOTYPE_CONTRAST = CfgNode()
    # Weights of the contrast with all prototypes and of the distance to the own prototype.
    cfg.MODEL.PROTOTYPE_CONTRAST.WEIGHT = 0.01
    cfg.MODEL.PROTOTYPE_CONTRAST.DISTANCE_WEIGHT = 0.001
    # Temperature of the contrast.
    cfg.MODEL.PROTOTYPE_CONTRAST.TEMPERATURE = 0.1
    # Momentum of the moving average of the class means.
    cfg.MODEL.PROTOTYPE_CONTRAST.MOMENTUM = 0.999

    # CenterLossRegularizer: center loss (Wen et al., ECCV 2016).
    cfg.MODEL.CENTER_LOSS = CfgNode()
    # Weight of the loss.
    cfg.MODEL.CENTER_LOSS.WEIGHT = 0.003
    # Step size of the centres, from 0 to 1.
    cfg.MODEL.CENTER_LOSS.ALPHA = 0.5

    # ClassAwareRegularizer: CAR (Huang et al., ECCV 2022).
    cfg.MODEL.CLASS_AWARE = CfgNode()
    # Weights of the losses within and between classes.
    cfg.MODEL.CLASS_AWARE.INTRA_WEIGHT = 1.0
    cfg.MODEL.CLASS_AWARE.INTER_WEIGHT = 1.0

    # -- Data
    # Folder of your own data set (images/, labels/, classes.txt). "~" and "$VARIABLE" are expanded,
    # here and in the other paths. Its training split replaces
    # DATASETS.TRAIN, and its validation split DATASETS.TEST. Set DATASETS.TEST to evaluate other
    # data sets, such as ("folder_NAME_test",), or to () for no evaluation.
    cfg.DATASETS.FOLDER = ""
    # class_frequency.json of the training set, as tools/check_dataset.py writes it. Class groups,
    # CeCo and MODEL.LOSS use its counts. "": the run counts the classes itself.
    cfg.DATASETS.CLASS_FREQUENCY = ""
    # Before a new training, read all images and labels of the training and test sets, to find bad
    # files early. While no file changes, later runs do not read them again: the result is kept
    # below ~/.torch/iopath_cache, or $FVCORE_CACHE.
    cfg.DATASETS.CHECK = True
    # Add "instances" to training samples: a mask for each class in the labels, as MaskFormer and
    # Mask2Former expect them in semantic segmentation.
    cfg.INPUT.CLASS_MASKS = False
    # Share of the crops that contain a random pixel of a random class of their image (class-uniform
    # sampling), so that small classes are seen more often; 0 for none. In such a crop,
    # INPUT.CROP.SINGLE_CATEGORY_MAX_AREA limits this class only.
    cfg.INPUT.CROP.CLASS_UNIFORM = 0.0
    # Largest relative change of brightness, contrast and saturation; 0 for none.
    cfg.INPUT.COLOR_JITTER = 0.0
    # Values of 16-bit grey images that become 0 and 255; values outside are clipped. Set them if
    # the images use a small part of the range (thermal or 12-bit cameras). The check suggests
    # values.
    cfg.INPUT.BLACK_POINT = 0
    cfg.INPUT.WHITE_POINT = 65535
    # Largest number of pixels of an image or label. Raise it for larger images that you trust;
    # lower values than the default have no effect.
    cfg.INPUT.MAX_PIXELS = 178956970
    # Number of unreadable training images that each process replaces by others, with a warning that
    # names the file. One more stops the run.
    cfg.DATALOADER.MAX_SKIPPED_SAMPLES = 0

    # DATALOADER.SAMPLER_TRAIN "RepeatFactorTrainingSampler" (of detectron2) repeats images with
    # rare classes: classes that a smaller share of the images shows than
    # DATALOADER.REPEAT_THRESHOLD.

    # -- Point clouds
    cfg.INPUT.POINTS = CfgNode()
    # Length of a voxel's edge, in the unit of the files. Above 0, the data are point clouds, for
    # MODEL.META_ARCHITECTURE PointSegmentor; 0: images.
    cfg.INPUT.POINTS.VOXEL_SIZE = 0.0
    # Features of a point: xyz (from the middle of the cloud and its lowest point), color, normal,
    # intensity.
    cfg.INPUT.POINTS.FEATURES = ("xyz",)

    # Augmentation of clouds in training. Lengths are in the unit of the files; the defaults suit
    # rooms in metres.

    # Number of points to which larger clouds are cropped, before they become voxels: the points
    # nearest to a random one in x and y. 0 for whole clouds.
    cfg.INPUT.POINTS.MAX_POINTS = 100_000
    # Share of these crops whose middle is a random point of a random class of the cloud
    # (class-uniform sampling), so that small classes are seen more often; 0 for none.
    cfg.INPUT.POINTS.CLASS_UNIFORM = 0.0
    # Greatest share of the points that is dropped at random; 0 for none.
    cfg.INPUT.POINTS.DROP = 0.2
    # Rotate about the vertical axis by any angle.
    cfg.INPUT.POINTS.ROTATE = True
    # Greatest angle in radians of the rotations about the x and y axes; 0 for none.
    cfg.INPUT.POINTS.TILT = 0.05
    # Smallest and greatest factor of the size.
    cfg.INPUT.POINTS.SCALE = (0.9, 1.1)
    # Mirror x, and independently y, with a probability of one half.
    cfg.INPUT.POINTS.FLIP = True
    # Elastic distortions: pairs of granularity (distance between the nodes of a grid of noise) and
    # magnitude (factor of the noise). Points move by about a tenth of the magnitude. () for none.
    cfg.INPUT.POINTS.ELASTIC = ([0.2, 0.4], [0.8, 1.6])
    # Standard deviation of the noise on coordinates; 0 for none.
    cfg.INPUT.POINTS.JITTER = 0.005
    # Change contrast and colours, if the clouds have colours.
    cfg.INPUT.POINTS.COLOR = True
    # Probability of uniting a cloud with another one (Mix3D, Nekrasov et al., 3DV 2021). The scene
    # then shows the classes of both, but class frequencies count scenes before Mix3D.
    cfg.INPUT.POINTS.MIX3D = 0.0

    # The sparse U-Net of PointSegmentor (Choy et al., CVPR 2019).
    cfg.MODEL.SPARSE_UNET = CfgNode()
    # Channels of its stem.
    cfg.MODEL.SPARSE_UNET.STEM = 32
    # Channels and numbers of residual blocks of its stages: first the encoder, where each stage
    # halves the resolution, then the decoder. The defaults are Pointcept's SpUNet.
    cfg.MODEL.SPARSE_UNET.CHANNELS = (32, 64, 128, 256, 256, 128, 96, 96)
    cfg.MODEL.SPARSE_UNET.BLOCKS = (2, 3, 4, 6, 2, 2, 2, 2)
    # Implementation of its convolutions on a GPU: pytorch, or the package spconv-triton. Both use
    # the same weights. On a CPU, PyTorch always computes them.
    cfg.MODEL.SPARSE_UNET.BACKEND = "pytorch"

    # -- Solver
    # SGD or ADAMW.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Number of numbered checkpoints that stay in OUTPUT_DIR: at least 2, because the newest can be
    # broken; 0 for all. model_final.pth and model_best.pth always stay. Give the same number with
    # --resume: a smaller one also deletes checkpoints from before.
    cfg.SOLVER.CHECKPOINTS_KEPT = 5
    # Factor of the learning rate of the backbone, for a smaller rate where weights are pretrained.
    # Layers of a feature pyramid on top of the backbone keep BASE_LR.
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Precision if SOLVER.AMP.ENABLED: float16 (GPUs only, with scaled gradients) or bfloat16.
    cfg.SOLVER.AMP.DTYPE = "float16"

    # -- Evaluation
    # Metric that selects model_best.pth (higher is better; lower for sem_seg/Loss). With several
    # data sets in DATASETS.TEST: "DATA_SET/sem_seg/mIoU". "" for no model_best.pth.
    cfg.TEST.BEST_METRIC = "sem_seg/mIoU"
    # "whole" evaluates whole images. "slide" evaluates overlapping windows and averages their
    # logits: the device then holds one batch of windows, and the sums of an image (classes x height
    # x width x 4 bytes) up to 512 MiB. Larger sums stay in main memory.
    cfg.TEST.MODE = "whole"
    # Size of the windows, and steps between them: (height, width) in pixels of the resized image.
    cfg.TEST.CROP_SIZE = (512, 512)
    cfg.TEST.CROP_STRIDE = (341, 341)
    # Windows per batch. Each needs the memory of a training crop, without gradients. For point
    # clouds: passes of TEST.AUG per batch.
    cfg.TEST.WINDOWS_PER_BATCH = 1
    # Number of images of the first test set that TensorBoard shows after each evaluation, with
    # ground truth, prediction and the cosines between class vectors; 0 for none.
    cfg.TEST.PICTURES = 4
    # Also measure the validation loss, sem_seg/Loss: the loss of the semantic head on the evaluated
    # data, without regularizers and auxiliary heads.
    cfg.TEST.LOSS = False
    # Also measure the IoU of the bands along class boundaries (boundary IoU), 2% of the image
    # diagonal wide.
    cfg.TEST.BOUNDARY_IOU = False
    # Also count objects (connected components): recall and precision of each class. An object is
    # found if a predicted object has an IoU of OBJECT_IOU or more with it. Lower this number for
    # small objects, or if any overlap counts as a hit.
    cfg.TEST.OBJECTS = False
    cfg.TEST.OBJECT_IOU = 0.5
    # Also write predictions as run-length JSON (COCO's format), as detectron2 does.
    cfg.TEST.SAVE_JSON = False
    # Also measure the geometry of the feature space (neural collapse: NC1, NC2, NC3). The names of
    # these metrics start with "geometry/".
    cfg.TEST.GEOMETRY = False

    # TEST.AUG (of detectron2) works in both modes. With ENABLED, probabilities are averaged over
    # the sizes in MIN_SIZES, and with FLIP also over flipped images. A size is the shorter edge; 0
    # means the original size. The longer edge is at most MAX_SIZE. INPUT.MIN_SIZE_TEST is then not
    # used.

    # For point clouds, ENABLED averages probabilities over all combinations of ANGLES and SCALES,
    # and with FLIP also over mirrored clouds: eight passes by default. Each pass has another voxel
    # grid. ANGLES are rotations about the vertical axis, in degrees.
    cfg.TEST.AUG.ANGLES = (0.0, 90.0, 180.0, 270.0)
    # Factors of the size.
    cfg.TEST.AUG.SCALES = (1.0,)


def load_config(
    config_file: str | os.PathLike = "",
    overrides: Sequence[str] = (),
    *,
    add_config: Callable[[CfgNode], None] | None = None,
) -> CfgNode:
    """Load a config: the defaults, then a YAML file (with its _BASE_), then KEY VALUE pairs.

    Nothing in the file is executed (see `read_config_file`). Values get the type of their keys (see
    `typed_value`).

    Args:
        config_file: a YAML file; or model_inference.pth of a training, which holds a config and is
            also its MODEL.WEIGHTS.
        add_config: adds keys of your own to the defaults, as detectron2's projects do. It is kept
            for later configs of this process. See also --import (`sar.user_code`).

    Raises:
        InputError: the file is missing or malformed, a key is unknown, or a value has another type.
    """
    if add_config is not None:
        add_config_function(add_config)
    cfg = get_cfg()
    add_sar_config(cfg)
    for add_keys in config_functions:
        add_keys(cfg)
    defaults = cfg.clone()
    if config_file:
        _set(cfg, defaults, _read(config_file), f"config {config_file}")
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
    for key in (*_PATHS, _ANCHORS):
        parent, _, last = key.rpartition(".")
        group = lookup(cfg, parent) if parent else cfg
        group[last] = _expanded(group[last])
    return cfg


def _expanded(path: str) -> str:
    # Configs of data sets name them below $DETECTRON2_DATASETS, which has a default.
    name = r"\$(DETECTRON2_DATASETS\b|\{DETECTRON2_DATASETS\})"
    path = re.sub(name, lambda _: root(), path)
    return os.path.expanduser(os.path.expandvars(path))


# In these keys, "~" and "$VARIABLE" are expanded. A shell expands `~` only at the start of a word,
# and YAML expands nothing.
_PATHS = (
    "OUTPUT_DIR",
    "MODEL.WEIGHTS",
    "MODEL.TIMM.CHECKPOINT",
    "DATASETS.FOLDER",
    "DATASETS.CLASS_FREQUENCY",
)
# A name, or the path of a .npy file.
_ANCHORS = "MODEL.SEMANTIC_ANCHOR.ANCHORS"
# Suffixes of files of models that hold no config.
_OTHER_MODELS = (".pt", ".pt2", ".onnx", ".pkl", ".safetensors")


def sets_key(key: str, config_file: str | os.PathLike = "", overrides: Sequence[str] = ()) -> bool:
    """Return True if a config file or the command line sets a key, even to its default."""
    values = _read(config_file) if config_file else []
    return key in dict(values) or key in overrides[::2]


def _read(config_file: str | os.PathLike) -> list[tuple[str, object]]:
    """Return the dotted keys of a file and their values."""
    config_file = os.fspath(config_file)
    if config_file.endswith(_OTHER_MODELS):
        raise InputError(
            f"{config_file} holds no config: expected a YAML file, or model_inference.pth of a "
            "training"
        )
    if not config_file.endswith(inference_file.SUFFIX):
        return list(flattened(read_config_file(config_file)))
    tree = parse_config(inference_file.config_in(config_file), f"the config in {config_file}")
    return [*flattened(tree), ("MODEL.WEIGHTS", config_file)]


# What a model does not need, and another machine may not have: paths, packages, the device and the
# data.
_LOCAL = (
    *_PATHS,
    "MODEL.DEVICE",
    "MODEL.TIMM.PRETRAINED",
    "MODEL.SPARSE_UNET.BACKEND",
    "DATASETS",
)


def portable_config(cfg: CfgNode) -> str:
    """Return the keys of a config that differ from the defaults, as YAML.

    Keys of this machine and its data are left out, so that the text describes the model and its
    training only: it goes into the file of `sar.checkpoints.inference_file`.
    """
    tree = CfgNode()
    has_anchors_file = lookup(cfg, _ANCHORS).endswith(".npy")
    local_keys = (*_LOCAL, _ANCHORS) if has_anchors_file else _LOCAL
    for key in changed_keys(cfg):
        if any(f"{key}.".startswith(f"{local}.") for local in local_keys):
            continue
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, CfgNode())
        node[name] = lookup(cfg, key)
    return tree.dump()


def changed_keys(cfg: CfgNode) -> list[str]:
    """Return the dotted keys of a config that differ from the defaults, or are not among them."""
    defaults = load_config()
    known = set(leaves(defaults))
    return [
        key
        for key in leaves(cfg)
        if key not in known or _as_list(lookup(cfg, key)) != _as_list(lookup(defaults, key))
    ]


def _as_list(value: object) -> object:
    """Return a value with lists instead of tuples, because YAML makes lists of nested tuples."""
    return list(map(_as_list, value)) if isinstance(value, (tuple, list)) else value


@contextmanager
def building(cfg: CfgNode, what: str, *groups: str, **parts: tuple[str, ...]) -> Iterator[None]:
    """Turn any error while something is built from a config into an InputError.

    Args:
        what: such as "model".
        groups: of the keys that describe it.
        parts: by the name of a function that builds a part, the groups that describe this part.

    Raises:
        InputError: with the error, where it was raised, and the keys that the config sets in the
            groups of the part that failed.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # detectron2 and torch assert and raise what they like
        called = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        groups = next((keys for name, keys in parts.items() if name in called), groups)
        prefixes = tuple(f"{group}." for group in groups)
        changed = [key for key in changed_keys(cfg) if key.startswith(prefixes)]
        raise InputError(
            f"no {what} can be built from {', '.join(groups)}: {describe_exception(error)}. Of "
            f"these keys, the config sets {listed(changed, 30) or 'none'}"
        ) from error


def lookup(cfg: CfgNode, key: str):
    """Return the value, or the group, of a dotted key."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _set(cfg: CfgNode, defaults: CfgNode, values: Sequence[tuple[str, object]], place: str) -> None:
    _refuse_unknown_keys((key for key, _ in values), cfg, place)
    for key, value in values:
        group, _, name = key.rpartition(".")
        parent = lookup(cfg, group) if group else cfg
        parent[name] = typed_value(key, value, lookup(defaults, key), place)


def leaves(tree: dict, prefix: str = "") -> list[str]:
    """Return the dotted keys of a config that have values, each with the prefix."""
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
    """Return at most 80 characters of a word that a user gave, with control characters escaped."""
    return printable(word if len(word) <= 80 else word[:77] + "...")
