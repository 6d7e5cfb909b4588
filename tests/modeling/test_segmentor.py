"""The meta-architecture against detectron2's own, and what its branch may and may not touch."""

import pytest
import torch
from torch import nn

from sar.errors import InputError
from sar.modeling import build
from sar.regularizers.labels import match_labels

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.solver import build_optimizer

SAR = "configs/CamVid/sar_sem_fpn_R_18.yaml"
HEADS = {
    "SemSegFPNHead": SAR,
    "DeepLabV3Head": "configs/Cityscapes/sar_deeplab_v3_R_103.yaml",
    "DeepLabV3PlusHead": "configs/CamVid/sar_deeplab_v3_plus_R_50.yaml",
}


def train(cfg, batch, steps=3):
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    for _ in range(steps):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    return model, losses


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_without_regularizers_training_is_detectron2s_bit_for_bit(small_config, batch):
    cfg = small_config("configs/CamVid/baseline_sem_fpn_R_18.yaml", "MODEL.LOSS.FUSED", "False")
    ours, our_losses = train(cfg, batch)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    theirs, their_losses = train(cfg, batch)
    assert our_losses == their_losses
    assert_same_state(ours.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("head", HEADS)
def test_every_head_trains_with_both_losses(head, small_config, batch):
    cfg = small_config(HEADS[head], "MODEL.RESNETS.DEPTH", "50")
    if head == "SemSegFPNHead":
        cfg = small_config(HEADS[head])
    assert cfg.MODEL.SEM_SEG_HEAD.NAME == head
    model, losses = train(cfg, batch, steps=1)
    assert set(losses) == {"loss_sem_seg", "loss_sar_anchor", "loss_sar_pull"}
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_evaluation_is_the_plain_model_bit_for_bit(small_config, batch):
    regularized, _ = train(small_config(), batch)
    plain = build_model(small_config("configs/CamVid/baseline_sem_fpn_R_18.yaml"))
    missing = plain.load_state_dict(regularized.state_dict(), strict=False)
    assert not missing.missing_keys
    assert all(key.startswith("regularizers.") for key in missing.unexpected_keys)

    called = []
    for module in regularized.regularizers.modules():
        module.register_forward_hook(lambda module, *_: called.append(module))
    with torch.no_grad():
        found, expected = regularized.eval()(batch), plain.eval()(batch)
    for one, other in zip(found, expected, strict=True):
        assert one["sem_seg"].shape == (5, 50, 70)
        assert torch.equal(one["sem_seg"], other["sem_seg"])
    assert not called


def test_the_tap_leaves_nothing_behind(small_config, batch):
    torch.manual_seed(0)
    model = build_model(small_config())
    model(batch)
    assert all(not module._forward_pre_hooks for module in model.modules())
    with pytest.raises(KeyError):
        model([{"image": batch[0]["image"], "sem_seg": batch[0]["sem_seg"]}, {}])
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_embeddings_and_labels_are_what_the_classifier_and_the_loss_see(small_config, batch):
    torch.manual_seed(0)
    model = build_model(small_config())
    seen = {}
    predictor = model.sem_seg_head.predictor
    predictor.register_forward_hook(lambda module, args, output: seen.update(embedding=args[0]))
    regularizer = model.regularizers["SemanticAnchorRegularizer"]
    regularizer.register_forward_pre_hook(lambda module, args: seen.update(args=args))
    model(batch)
    embeddings, labels, classifier = seen["args"]
    assert embeddings.shape == (2, 64, 16, 16) and classifier is predictor
    full_size = torch.stack([sample["sem_seg"] for sample in batch])
    assert torch.equal(labels, match_labels(embeddings, full_size))


def test_images_of_different_sizes_are_padded_with_ignore(small_config, batch):
    batch[1] = {"image": batch[1]["image"][:, :40], "sem_seg": batch[1]["sem_seg"][:40]}
    torch.manual_seed(0)
    model = build_model(small_config())
    seen = {}
    regularizer = model.regularizers["SemanticAnchorRegularizer"]
    regularizer.register_forward_pre_hook(lambda module, args: seen.update(labels=args[1]))
    model(batch)
    assert (seen["labels"][1, 10:] == 255).all()  # at the stride of 4


@pytest.mark.parametrize("kind", ["baseline", "sar_ceco"])
def test_a_batch_of_ignored_pixels_alone_changes_no_weight(kind, small_config, batch):
    cfg = small_config(f"configs/CamVid/{kind}_sem_fpn_R_18.yaml")
    torch.manual_seed(0)
    model = build_model(cfg)
    for sample in batch:
        sample["sem_seg"].fill_(255)
    losses = model(batch)
    assert losses["loss_sem_seg"].item() == 0
    losses["loss_sem_seg"].backward()
    assert all((p.grad == 0).all() for p in model.sem_seg_head.parameters())


def test_plain_detectron2_checkpoints_load_both_ways(small_config, batch, tmp_path):
    cfg = small_config("configs/CamVid/baseline_sem_fpn_R_18.yaml")
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    plain, _ = train(cfg, batch, steps=1)
    DetectionCheckpointer(plain, str(tmp_path)).save("plain")
    regularized = build_model(small_config())
    DetectionCheckpointer(regularized).load(str(tmp_path / "plain.pth"))
    state = regularized.state_dict()
    assert_same_state({key: state[key] for key in plain.state_dict()}, plain.state_dict())

    other = build_model(cfg)
    DetectionCheckpointer(regularized, str(tmp_path)).save("regularized")
    DetectionCheckpointer(other).load(str(tmp_path / "regularized.pth"))
    assert_same_state(other.state_dict(), plain.state_dict())


def test_a_classifier_path_that_leads_nowhere_lists_the_candidates(small_config):
    with pytest.raises(InputError, match=r"leads nowhere.*: sem_seg_head\.predictor$"):
        build_model(small_config(SAR, "MODEL.CLASSIFIER", "sem_seg_head.fc"))
    with pytest.raises(InputError, match="is a Sequential.*sem_seg_head.predictor"):
        build_model(small_config(SAR, "MODEL.CLASSIFIER", "sem_seg_head.p2"))
    with pytest.raises(InputError, match="kernel of 3x3"):
        build_model(small_config(SAR, "MODEL.CLASSIFIER", "sem_seg_head.p2.0"))


class HeadEndingInActivation(SemSegFPNHead):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.predictor.activation = torch.relu


def test_a_classifier_that_is_not_linear_is_refused_before_training(small_config):
    SEM_SEG_HEADS_REGISTRY._obj_map["HeadEndingInActivation"] = HeadEndingInActivation
    try:
        with pytest.raises(InputError, match='CLASSIFIER "sem_seg_head.predictor" is not linear'):
            build_model(small_config(SAR, "MODEL.SEM_SEG_HEAD.NAME", "HeadEndingInActivation"))
    finally:
        del SEM_SEG_HEADS_REGISTRY._obj_map["HeadEndingInActivation"]


class HeadEndingInLinear(nn.Module):
    """A third-party head: features last, a linear layer at the end, as transformers have it."""

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.ignore_value = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        self.classify = nn.Linear(input_shape["p2"].channels, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)

    def forward(self, features, targets=None):
        tokens = features["p2"].flatten(2).transpose(1, 2)
        logits = self.classify(tokens).transpose(1, 2).unflatten(2, features["p2"].shape[2:])
        logits = nn.functional.interpolate(logits, scale_factor=4)
        if self.training:
            return None, {
                "loss_sem_seg": nn.functional.cross_entropy(logits, targets, ignore_index=255)
            }
        return logits, {}


def test_a_third_party_head_that_ends_in_a_linear_layer(small_config, batch):
    if "HeadEndingInLinear" not in SEM_SEG_HEADS_REGISTRY:
        SEM_SEG_HEADS_REGISTRY.register(HeadEndingInLinear)
    cfg = small_config(
        SAR,
        "MODEL.SEM_SEG_HEAD.NAME", "HeadEndingInLinear",
        "MODEL.CLASSIFIER", "sem_seg_head.classify",
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg)
    seen = {}
    regularizer = model.regularizers["SemanticAnchorRegularizer"]
    regularizer.register_forward_pre_hook(lambda module, args: seen.update(args=args))
    wide = [
        {"image": s["image"].repeat(1, 1, 2), "sem_seg": s["sem_seg"].repeat(1, 2)} for s in batch
    ]
    losses = model(wide)
    assert seen["args"][0].shape == (2, 128, 16, 32)
    sum(losses.values()).backward()


def test_a_third_partys_loss_of_ignored_pixels_alone_is_zero(small_config, batch):
    if "HeadEndingInLinear" not in SEM_SEG_HEADS_REGISTRY:
        SEM_SEG_HEADS_REGISTRY.register(HeadEndingInLinear)
    cfg = small_config(
        "configs/CamVid/baseline_sem_fpn_R_18.yaml",
        "MODEL.SEM_SEG_HEAD.NAME", "HeadEndingInLinear",
        "MODEL.AUXILIARY_HEAD.IN_FEATURE", "p3",
    )  # fmt: skip
    torch.manual_seed(0)
    model = build_model(cfg)
    assert model(batch)["loss_sem_seg"] > 0
    for sample in batch:
        sample["sem_seg"].fill_(255)
    losses = model(batch)
    assert losses == {"loss_sem_seg": 0, "loss_sem_seg_aux": 0}
    sum(losses.values()).backward()
    assert all((p.grad == 0).all() for p in model.sem_seg_head.parameters())
    assert not model.sem_seg_head._forward_hooks


def test_deeplab_pools_over_images_of_any_size_where_asked(small_config, batch):
    name = "configs/CamVid/sar_deeplab_v3_plus_R_50.yaml"
    batch = [{"image": sample["image"][:, :50, :38]} for sample in batch[:1]]
    with torch.no_grad():
        assert build_model(small_config(name)).eval()(batch)[0]["sem_seg"].shape == (5, 50, 38)
        window = small_config(name, "MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING", "False")
        with pytest.raises(ValueError, match="pool"):
            build_model(window).eval()(batch)
        plain = small_config(name, "MODEL.META_ARCHITECTURE", "SemanticSegmentor")
        assert build.build_model(plain).eval()(batch)[0]["sem_seg"].shape == (5, 50, 38)
