"""`regularize` on models that are not ours: other heads, other meta-architectures, queries."""

import copy
import importlib.util
import pickle
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sar import regularizers
from sar.config import load_config
from sar.errors import InputError
from sar.modeling import PixelTap, QueryTap, regularize
from sar.modeling.build import build_model
from sar.regularizers import CenterCollapseRegularizer, SemanticAnchorRegularizer

from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.projects.point_rend import add_pointrend_config

K, C = 5, 8
FPN = "configs/LongTailShapes/baseline_sem_fpn_R_18.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(K),
    "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.FPN.NORM", "BN",
]  # fmt: skip
BOTH = ["MODEL.REGULARIZERS", "('SemanticAnchorRegularizer', 'CenterCollapseRegularizer')"]
SAR_LOSSES = {"loss_sar_anchor", "loss_sar_pull"}


@pytest.fixture(autouse=True)
def no_other_keys(monkeypatch):
    """Config keys of a test's project do not stay."""
    monkeypatch.setattr("sar.user_code.config_functions", (kept := []))
    monkeypatch.setattr("sar.config.config_functions", kept)


class Net(nn.Module):
    """A meta-architecture with its own names, no `from_config`, and labels by another name."""

    def __init__(self, cfg=None, *, head=None):
        super().__init__()
        self.body = nn.Conv2d(3, C, 3, stride=4, padding=1)
        self.decoder = head or Decoder()

    def forward(self, batch):
        images = torch.stack([sample["image"].float() for sample in batch]) / 255
        features = self.body(images).relu()
        if not self.training:
            return self.decoder(features)
        labels = torch.stack([sample["sem_seg"] for sample in batch])
        return self.decoder(features, extra=None, truth=labels)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Conv2d(C, K, 1)

    def logits(self, features):
        return self.score(features)

    def forward(self, features, truth=None, extra=None):
        logits = F.interpolate(self.logits(features), scale_factor=4)
        if truth is None:
            return logits
        return {"loss": F.cross_entropy(logits, truth, ignore_index=255)}


class DotProductDecoder(Decoder):
    """Logits are dot products of each pixel's embedding with a vector for each class."""

    def __init__(self):
        super().__init__()
        self.score = None
        self.embed = nn.Sequential(nn.Conv2d(C, C, 1), nn.ReLU())
        self.classes = nn.Parameter(torch.randn(K, C))

    def logits(self, features):
        return torch.einsum("nchw,kc->nkhw", self.embed(features), self.classes)


NET = PixelTap(head="decoder", classifier="decoder.score", labels="truth")
DOT = PixelTap(head="decoder", classifier="", embedding="decoder.embed", labels="truth")


def sar():
    return {"sar": SemanticAnchorRegularizer(K, C, gate_confidence=0.0)}


def ceco():
    return {"ceco": CenterCollapseRegularizer(K, C, projection_dim=16)}


def train(model, batch, steps=2):
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(steps):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(value.isfinite() for value in losses.values())
    return losses


def test_a_model_with_names_of_its_own(batch):
    torch.manual_seed(0)
    model = Net()
    plain, before = copy.deepcopy(model), set(model.state_dict())
    assert regularize(model, sar(), NET) is model and isinstance(model, Net)
    added = set(model.state_dict()) - before
    assert before <= set(model.state_dict()) and all(k.startswith("regularizers.") for k in added)
    assert torch.equal(model.eval()(batch), plain.eval()(batch))
    assert set(model.train()(batch)) == {"loss"} | SAR_LOSSES
    train(model, batch)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_loss_is_the_regularizers_own(batch):
    torch.manual_seed(0)
    model = Net()
    regularizers = ceco()
    regularizers["ceco"].dropout.p = 0.0
    regularize(model, regularizers, NET)
    images = torch.stack([sample["image"].float() for sample in batch]) / 255
    labels = torch.stack([sample["sem_seg"] for sample in batch])
    embeddings = model.body(images).relu()
    expected = regularizers["ceco"](embeddings, labels)["loss_ceco"]
    assert torch.equal(model(batch)["loss_ceco"], expected)


def test_a_head_without_a_classifier(batch):
    model = regularize(Net(head=DotProductDecoder()), ceco(), DOT)
    before = model.decoder.embed[0].weight.clone()
    assert set(train(model, batch)) == {"loss", "loss_ceco"}
    assert not torch.equal(model.decoder.embed[0].weight, before)


def test_sar_needs_a_classifier(batch):
    model = regularize(Net(head=DotProductDecoder()), sar(), DOT)
    with pytest.raises(ValueError, match="the classifier is None, which cannot be called"):
        model(batch)


def test_copies_and_pickles(batch):
    model = regularize(Net(), sar(), NET)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.load_state_dict(model.state_dict())
        torch.manual_seed(0)
        expected = model(batch)
        torch.manual_seed(0)
        assert {k: v.item() for k, v in other(batch).items()} == {
            k: v.item() for k, v in expected.items()
        }
        assert other.decoder is not model.decoder
        loss = other(batch)["loss_sar_anchor"]
        assert torch.autograd.grad(loss, other.decoder.score.weight)[0].any()  # its own classifier


@pytest.mark.parametrize(
    "tap, message",
    [
        (PixelTap(), 'MODEL.TAP.HEAD "sem_seg_head" leads nowhere in Net'),
        (PixelTap("decoder", "decoder.scores"), r'"decoder.scores" leads nowhere.*decoder.score$'),
        (PixelTap("decoder", "body"), '"body" has a kernel of 3x3'),
        (PixelTap("decoder", "", "decoder.embed"), 'EMBEDDING "decoder.embed" leads nowhere'),
        (PixelTap("decoder", ""), "MODEL.CLASSIFIER and MODEL.TAP.EMBEDDING are empty"),
        (QueryTap("decoder.score", "matcher"), 'MODEL.TAP.MATCHER "matcher" leads nowhere'),
    ],
)
def test_paths_that_are_wrong(tap, message):
    with pytest.raises(InputError, match=message):
        regularize(Net(), sar(), tap)


def test_a_head_that_gets_no_labels(batch):
    model = regularize(Net(), sar(), PixelTap("decoder", "decoder.score", labels="targets"))
    with pytest.raises(InputError, match='did not call "decoder" .* with labels'):
        model(batch)


def test_a_model_is_regularized_once():
    with pytest.raises(InputError, match="Net is regularized already"):
        regularize(regularize(Net(), sar(), NET), sar(), NET)


class Own(nn.Module):
    """A regularizer with a loss of the model's name."""

    def forward(self, embeddings, labels, classifier):
        return {"loss": embeddings.mean()}


def test_no_loss_replaces_another(batch):
    model = regularize(Net(), {"own": Own()}, NET)
    with pytest.raises(InputError, match="own returns loss, but the model or another"):
        model(batch)


@pytest.mark.parametrize("name", ["loss", "auxiliary_head", "regularizers", "tap"])
def test_no_attribute_of_the_model_is_replaced(name, batch):
    model = Net()
    setattr(model, name, nn.Conv2d(1, 1, 1))
    with pytest.raises(InputError, match=f"Net has the attribute {name}, a name that the"):
        regularize(model, sar(), NET)
    assert isinstance(getattr(model, name), nn.Conv2d)


def test_the_losses_of_all_regularizers_have_names_of_their_own(batch):
    names = [name for name in dir(regularizers) if name.endswith("Regularizer")]
    words = [*SMALL, "MODEL.REGULARIZERS", str(names)]
    model = build_model(
        load_config(FPN, [*words, "MODEL.CENTER_COLLAPSE.LOGIT_ADJUSTMENT", "False"])
    )
    assert len(train(model, batch, steps=1)) > len(names) > 5


def test_any_registered_meta_architecture_by_config(batch, monkeypatch):
    monkeypatch.setattr(META_ARCH_REGISTRY, "_obj_map", dict(META_ARCH_REGISTRY._obj_map))
    META_ARCH_REGISTRY.register(Net)
    words = [*SMALL, *BOTH, "MODEL.META_ARCHITECTURE", "Net", "MODEL.TAP.HEAD", "decoder"]
    words += ["MODEL.CLASSIFIER", "decoder.score", "MODEL.TAP.LABELS", "truth"]
    model = build_model(load_config(FPN, words))
    assert set(train(model, batch)) == {"loss", "loss_ceco"} | SAR_LOSSES


# -- Projects of detectron2

POINT_REND = [
    "MODEL.SEM_SEG_HEAD.NAME", "PointRendSemSegHead", "MODEL.POINT_HEAD.NUM_CLASSES", str(K),
    "MODEL.POINT_HEAD.IN_FEATURES", "['p2']", "MODEL.POINT_HEAD.TRAIN_NUM_POINTS", "64",
    "MODEL.POINT_HEAD.COARSE_SEM_SEG_HEAD_NAME", "SemSegFPNHead",
    "MODEL.POINT_HEAD.SUBDIVISION_NUM_POINTS", "64",
]  # fmt: skip


def point_rend(*words):
    return load_config(FPN, [*SMALL, *POINT_REND, *words], add_config=add_pointrend_config)


def test_point_rend(batch):
    coarse = ["MODEL.CLASSIFIER", "sem_seg_head.coarse_sem_seg_head.predictor"]
    model = build_model(point_rend(*BOTH, *coarse))
    losses = train(model, batch)
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_point", "loss_ceco"} | SAR_LOSSES
    plain = build_model(point_rend())
    plain.load_state_dict(model.state_dict(), strict=False)
    for found, expected in zip(model.eval()(batch), plain.eval()(batch), strict=True):
        assert torch.equal(found["sem_seg"], expected["sem_seg"])


def test_the_predictor_of_points_is_no_candidate():
    with pytest.raises(
        InputError, match="with 5 outputs: sem_seg_head.coarse_sem_seg_head.predictor$"
    ):
        build_model(point_rend(*BOTH))
    points = ["MODEL.CLASSIFIER", "sem_seg_head.point_head.predictor"]
    with pytest.raises(InputError, match="is a Conv1d, which reads no map"):
        build_model(point_rend(*BOTH, *points))


def panoptic_deeplab(*words):
    features = "['res2', 'res3', 'res5']"
    words = [
        *SMALL, "MODEL.META_ARCHITECTURE", "PanopticDeepLab",
        "MODEL.BACKBONE.NAME", "build_resnet_deeplab_backbone", "MODEL.RESNETS.DEPTH", "50",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16",
        "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.OUT_FEATURES", features,
        "MODEL.RESNETS.RES5_DILATION", "2", "MODEL.RESNETS.STEM_TYPE", "deeplab",
        "MODEL.SEM_SEG_HEAD.NAME", "PanopticDeepLabSemSegHead",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", features,
        "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES", "['res2', 'res3']",
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS", "[16, 16]",
        "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
        "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS", "32", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "4",
        "MODEL.SEM_SEG_HEAD.LOSS_TYPE", "hard_pixel_mining",
        "MODEL.INS_EMBED_HEAD.IN_FEATURES", features,
        "MODEL.INS_EMBED_HEAD.PROJECT_FEATURES", "['res2', 'res3']",
        "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS", "[16, 16]",
        "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS", "32", "MODEL.INS_EMBED_HEAD.CONVS_DIM", "32",
        "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS", "32", "MODEL.INS_EMBED_HEAD.NORM", "BN",
        "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY", "64",
        "DATASETS.TRAIN", "('toy_panoptic',)", *words,
    ]  # fmt: skip
    return load_config("", words, add_config=import_panoptic_deeplab())


def import_panoptic_deeplab():
    """Register Panoptic-DeepLab, without panopticapi, which only its mapper needs."""
    if importlib.util.find_spec("panopticapi") is None:
        for name in ("panopticapi", "panopticapi.utils"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["panopticapi.utils"].rgb2id = None
    from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config

    for name in ("panopticapi", "panopticapi.utils"):
        if getattr(sys.modules.get(name), "__file__", None) is None:
            sys.modules.pop(name, None)
    return add_panoptic_deeplab_config


def panoptic(batch):
    for sample in batch:
        zeros = torch.zeros(64, 64)
        sample |= {"sem_seg_weights": zeros + 2, "center": zeros, "center_weights": zeros + 1}
        sample |= {"offset": torch.zeros(2, 64, 64), "offset_weights": zeros[None] + 1}
    return batch


def test_panoptic_deeplab(batch, monkeypatch):
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    MetadataCatalog.get("toy_panoptic").set(
        thing_dataset_id_to_contiguous_id={}, label_divisor=1000
    )
    batch = panoptic(batch)
    model = build_model(panoptic_deeplab(*BOTH))
    losses = train(model, batch)
    own = {"loss_sem_seg", "loss_center", "loss_offset"}
    center = ["MODEL.REGULARIZERS", "('CenterLossRegularizer',)"]
    auxiliary = ["MODEL.AUXILIARY_HEAD.IN_FEATURE", "res3"]
    losses_of_all = build_model(panoptic_deeplab(*center, *auxiliary))(batch)
    assert set(losses_of_all) == own | {"loss_class_center", "loss_sem_seg_aux"}
    assert set(losses) == own | {"loss_ceco"} | SAR_LOSSES
    plain = build_model(panoptic_deeplab())
    assert set(plain(batch)) == own
    plain.load_state_dict(model.state_dict(), strict=False)
    for sample in batch:
        (found,), (expected,) = model.eval()([sample]), plain.eval()([sample])
        assert torch.equal(found["sem_seg"], expected["sem_seg"])


def test_a_loss_of_ours_takes_the_pixel_weights_of_panoptic_deeplab(batch):
    """hard_pixel_mining of ours is theirs; cross_entropy weights its mean."""
    batch = panoptic(batch)
    torch.manual_seed(0)
    plain = build_model(panoptic_deeplab())
    loss = ["MODEL.LOSS.NAME", "hard_pixel_mining", "MODEL.LOSS.TOP_K", "0.2"]
    ours = build_model(panoptic_deeplab(*loss))
    ours.load_state_dict(plain.state_dict())
    assert set(ours.state_dict()) == set(plain.state_dict())
    for sample in batch:
        sample["sem_seg_weights"] = torch.rand(64, 64) + 0.5
    torch.manual_seed(0)
    expected = plain(batch)["loss_sem_seg"]
    torch.manual_seed(0)
    torch.testing.assert_close(ours(batch)["loss_sem_seg"], expected)

    refused = build_model(panoptic_deeplab("MODEL.LOSS.NAME", "seesaw"))
    with pytest.raises(InputError, match="the head weights its pixels, which Seesaw cannot do"):
        refused(batch)
