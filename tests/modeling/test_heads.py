"""The semantic heads: shapes, gradients, losses, and their formulas as loops over pixels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sar.errors import InputError
from sar.modeling import heads
from sar.regularizers.embedding_tap import tap_embeddings

from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model

BASELINE = "configs/CamVid/baseline_sem_fpn_R_18.yaml"
DEEPLAB = "configs/CamVid/baseline_deeplab_v3_plus_R_50.yaml"
HEADS = ("FCNHead", "UPerNetHead", "OCRHead", "SegFormerHead")
K, IGNORE = 5, 255
SHAPES = {
    "fine": ShapeSpec(channels=4, stride=4),
    "middle": ShapeSpec(channels=6, stride=8),
    "coarse": ShapeSpec(channels=8, stride=32),
}


def build(name, input_shape=SHAPES, **arguments):
    torch.manual_seed(0)
    arguments = {"num_classes": K, "conv_dims": 8, "dropout": 0.0, **arguments}
    return SEM_SEG_HEADS_REGISTRY.get(name)(input_shape, **arguments)


def draw_features(size=(64, 64), shapes=SHAPES):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(
            2, shape.channels, *(math.ceil(side / shape.stride) for side in size),
            generator=generator,
        )
        for name, shape in shapes.items()
    }  # fmt: skip


def draw_labels(size=(64, 64)):
    labels = torch.randint(K, (2, *size), generator=torch.Generator().manual_seed(2))
    labels[:, :7] = IGNORE
    return labels


def randomize(module):
    """Parameters and running statistics of no special value, so that nothing cancels."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.1, 0.9).sub_(0.3 if tensor.dim() > 1 else 0.0)
    return module.double().eval()


# -- Protocol


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (33, 97)])
@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_resolution_of_the_image(name, size):
    head = build(name).eval()
    logits, losses = head(draw_features(size))
    assert logits.shape == (2, K, *(4 * math.ceil(side / 4) for side in size))
    assert losses == {}
    assert head.common_stride == 4 and head.ignore_value == IGNORE and head.loss_weight == 1.0


@pytest.mark.parametrize("name", HEADS)
def test_features_are_read_from_the_finest_to_the_coarsest(name):
    head = build(name).eval()
    other = build(name, dict(reversed(SHAPES.items()))).eval()
    assert other.in_features == ["fine", "middle", "coarse"]
    features = draw_features()
    assert torch.equal(head(features)[0], other(dict(reversed(features.items())))[0])


@pytest.mark.parametrize("name", HEADS)
def test_one_feature_is_enough(name):
    shapes = {"middle": SHAPES["middle"]}
    logits, _ = build(name, shapes).eval()(draw_features((40, 64), shapes))
    assert logits.shape == (2, K, 40, 64)


@pytest.mark.parametrize("name", HEADS)
def test_the_gradient_reaches_every_parameter(name):
    head = build(name)
    nothing, losses = head(draw_features(), draw_labels())
    assert nothing is None
    sum(losses.values()).backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
@pytest.mark.parametrize("name", HEADS)
def test_the_loss_is_the_cross_entropy_of_the_upsampled_logits(name, size):
    head = build(name, loss_weight=0.7)
    predicted = []
    head.predictor.register_forward_hook(lambda module, args, output: predicted.append(output))
    _, losses = head(draw_features(size), draw_labels(size))
    assert predicted[0].shape == (2, K, math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    logits = nn.Upsample(scale_factor=4, mode="bilinear")(predicted[0])[..., : size[0], : size[1]]
    expected = 0.7 * F.cross_entropy(logits, draw_labels(size), ignore_index=IGNORE)
    torch.testing.assert_close(losses["loss_sem_seg"], expected)
    added = {"loss_sem_seg_regions"} if name == "OCRHead" else set()
    assert losses.keys() == {"loss_sem_seg"} | added


@pytest.mark.parametrize("name", HEADS)
def test_labels_that_are_all_ignored_give_no_loss(name):
    head = build(name)
    _, losses = head(draw_features(), torch.full((2, 64, 64), IGNORE))
    assert all(loss == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_the_tap_reads_the_embedding_and_dropout_is_the_predictors(name):
    head = build(name, dropout=0.5, norm="")
    features, labels = draw_features(), draw_labels()
    with tap_embeddings(head.predictor) as step:
        first = head(features, labels)[1]["loss_sem_seg"]
    embedding = step.embeddings
    with tap_embeddings(head.predictor) as step:
        other = head(features, labels)[1]["loss_sem_seg"]
    assert first != other  # channels were dropped
    assert torch.equal(embedding, step.embeddings)  # behind the tap
    anchors = torch.randn(K, embedding.shape[1], 1, 1)
    expected = anchors.flatten(1) @ head.predictor.weight.flatten(1).T + head.predictor.bias
    torch.testing.assert_close(head.predictor(anchors).flatten(1), expected)
    head.eval()
    assert torch.equal(head(features)[0], head(features)[0])


def test_the_predictor_drops_whole_channels():
    torch.manual_seed(0)
    predictor = heads.Predictor(400, 400)
    predictor.weight.data = torch.eye(400)[:, :, None, None]
    dropped = predictor(torch.ones(1, 400, 3, 3), 0.25)[0]
    assert torch.equal(dropped, dropped[:, :1, :1].expand(-1, 3, 3))
    assert set(dropped[:, 0, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert 0.15 < (dropped[:, 0, 0] == 0).float().mean() < 0.35
    assert torch.equal(predictor.eval()(torch.ones(1, 400, 3, 3), 0.25), torch.ones(1, 400, 3, 3))


# -- Each head against its formula


def upsampled(features, size=(16, 16)):
    return [nn.Upsample(size, mode="bilinear")(feature) for feature in features]


def test_fcn_is_a_pixelwise_layer_on_all_channels():
    head = randomize(build("FCNHead", conv_dims=None, norm=""))
    features = {name: feature.double() for name, feature in draw_features().items()}
    x = torch.cat(upsampled(features.values()), dim=1).movedim(1, -1)
    (conv,) = head.convs
    x = F.relu(F.linear(x, conv.weight.flatten(1), conv.bias))
    expected = F.linear(x, head.predictor.weight.flatten(1), head.predictor.bias).movedim(-1, 1)
    torch.testing.assert_close(head.layers(features), expected)


def test_fcn_on_hrnet_w48_is_the_published_one():
    shapes = {f"b{i}": ShapeSpec(channels=48 * 2**i, stride=4 * 2**i) for i in range(4)}
    with torch.device("meta"):
        head = heads.FCNHead(shapes, num_classes=19)
    assert {name: tuple(value.shape) for name, value in head.named_parameters()} == {
        "predictor.weight": (19, 720, 1, 1),
        "predictor.bias": (19,),
        "convs.0.weight": (720, 720, 1, 1),
        "convs.0.norm.weight": (720,),
        "convs.0.norm.bias": (720,),
    }


def test_segformer_is_pixelwise_linear_layers():
    head = randomize(build("SegFormerHead", norm=""))
    features = {name: feature.double() for name, feature in draw_features().items()}
    projected = [
        F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias).movedim(-1, 1)
        for x, conv in zip(features.values(), head.convs, strict=True)
    ]
    x = torch.cat(upsampled(projected), dim=1).movedim(1, -1)
    fused = F.relu(F.linear(x, head.fusion_conv.weight.flatten(1), head.fusion_conv.bias))
    expected = F.linear(fused, head.predictor.weight.flatten(1), head.predictor.bias)
    torch.testing.assert_close(head.layers(features), expected.movedim(-1, 1))


def test_upernet_pools_at_every_scale():
    head = build("UPerNetHead").eval()
    seen = {}
    for index, module in enumerate(head.psp_modules):
        module[1].register_forward_hook(lambda m, args, out, i=index: seen.update({i: args[0]}))
    coarse = draw_features((12 * 32, 12 * 32))["coarse"]
    head.pool(coarse)
    for index, scale in enumerate((1, 2, 3, 6)):
        step = 12 // scale
        means = coarse.unfold(2, step, step).unfold(3, step, step).mean(dim=(4, 5))
        torch.testing.assert_close(seen[index], means)


def test_upernet_passes_context_down_to_the_finest():
    """The coarsest feature reaches every place; the finest is seen from near only."""
    head = build("UPerNetHead").eval()
    features = draw_features((128, 128))
    before = head.layers(features)
    features["coarse"][:, :, 0, 0] += 5.0
    change = (head.layers(features) - before).abs().amax(dim=(0, 1))
    assert (change > 0).float().mean() > 0.95  # but where every ReLU is shut
    features = draw_features((128, 128))
    features["fine"][:, :, 0, 0] += 5.0
    change = (head.layers(features) - before).abs().amax(dim=(0, 1))
    assert change[:3, :3].min() > 0 and change[3:, 3:].max() == 0


def test_ocr_gathers_regions_by_a_softmax_over_the_image():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator)
    logits = torch.randn(2, K, 4, 5, dtype=torch.float64, generator=generator)
    found = heads.gather_regions(pixels, logits)
    assert found.shape == (2, 3, K, 1)
    for n in range(2):
        for k in range(K):
            weights = logits[n, k].exp() / logits[n, k].exp().sum()
            torch.testing.assert_close(found[n, :, k, 0], (pixels[n] * weights).sum(dim=(1, 2)))


def test_ocr_attends_to_regions_pixel_by_pixel():
    attention = randomize(heads.ObjectAttention(channels=6, key_dims=4))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 6, 3, 2, dtype=torch.float64, generator=generator)
    regions = torch.randn(2, 6, K, 1, dtype=torch.float64, generator=generator)
    query, key = attention.query_project(pixels), attention.key_project(regions)
    value = attention.value_project(regions)
    context = torch.zeros(2, 4, 3, 2, dtype=torch.float64)
    for n in range(2):
        for y in range(3):
            for x in range(2):
                scores = [(query[n, :, y, x] @ key[n, :, k, 0] / 2).exp() for k in range(K)]
                for k in range(K):
                    context[n, :, y, x] += scores[k] / sum(scores) * value[n, :, k, 0]
    expected = attention.bottleneck(torch.cat([attention.out_project(context), pixels], dim=1))
    torch.testing.assert_close(attention(pixels, regions), expected)


def test_the_loss_of_ocrs_regions():
    head = build("OCRHead", region_loss_weight=0.3, loss_weight=2.0)
    predicted = []
    head.region_head.predictor.register_forward_hook(lambda *args: predicted.append(args[-1]))
    _, losses = head(draw_features(), draw_labels())
    logits = nn.Upsample(scale_factor=4, mode="bilinear")(predicted[0])
    expected = 0.3 * F.cross_entropy(logits, draw_labels(), ignore_index=IGNORE)
    torch.testing.assert_close(losses["loss_sem_seg_regions"], expected)


# -- In a model, by config


@pytest.fixture
def head_config(small_config):
    """Config of a ResNet-18 with a head on its four stages."""

    def build_config(head, *overrides):
        return small_config(
            BASELINE,
            "MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.SEM_SEG_HEAD.NAME", head,
            "MODEL.SEM_SEG_HEAD.IN_FEATURES", "('res2', 'res3', 'res4', 'res5')",
            "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16", *overrides,
        )  # fmt: skip

    return build_config


BOTH = (
    "MODEL.REGULARIZERS", "('SemanticAnchorRegularizer', 'CenterCollapseRegularizer')",
)  # fmt: skip
AUXILIARY = ("MODEL.AUXILIARY_HEAD.IN_FEATURE", "res4", "MODEL.AUXILIARY_HEAD.CONVS_DIM", "12")
REGULARIZED = {"loss_sem_seg", "loss_sar_anchor", "loss_sar_pull", "loss_ceco"}


@pytest.mark.parametrize("auxiliary", [(), AUXILIARY], ids=["alone", "auxiliary"])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_trains_with_sar_and_ceco(name, auxiliary, head_config, batch):
    torch.manual_seed(0)
    model = build_model(head_config(name, *BOTH, *auxiliary))
    assert type(model.sem_seg_head).__name__ == name
    seen = []
    regularizer = model.regularizers["SemanticAnchorRegularizer"]
    regularizer.register_forward_pre_hook(lambda module, args: seen.append(args))
    losses = model(batch)
    regions = {"loss_sem_seg_regions"} if name == "OCRHead" else set()
    assert losses.keys() == REGULARIZED | regions | ({"loss_sem_seg_aux"} if auxiliary else set())
    assert all(loss.isfinite() for loss in losses.values())
    ((embeddings, _, classifier),) = seen
    assert classifier is model.sem_seg_head.predictor
    assert embeddings.shape == (2, 16, 16, 16)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", [*HEADS, "SemSegFPNHead", "DeepLabV3PlusHead"])
def test_evaluation_knows_nothing_of_the_auxiliary_head(name, small_config, head_config, batch):
    if name == "SemSegFPNHead":

        def config(*overrides):
            return small_config(BASELINE, *overrides)

        auxiliary = ("MODEL.AUXILIARY_HEAD.IN_FEATURE", "p4")
    elif name == "DeepLabV3PlusHead":

        def config(*overrides):
            features = ("MODEL.RESNETS.OUT_FEATURES", "('res2', 'res3', 'res4', 'res5')")
            return small_config(DEEPLAB, *features, *overrides)

        auxiliary = AUXILIARY
    else:

        def config(*overrides):
            return head_config(name, *overrides)

        auxiliary = AUXILIARY
    torch.manual_seed(0)
    model, plain = build_model(config(*auxiliary)), build_model(config())
    losses = model(batch)
    assert "loss_sem_seg_aux" in losses
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.auxiliary_head.parameters())

    unused = plain.load_state_dict(model.state_dict(), strict=False)
    assert not unused.missing_keys
    assert all(key.startswith("auxiliary_head.") for key in unused.unexpected_keys)
    called = []
    model.auxiliary_head.register_forward_hook(lambda *args: called.append(args))
    with torch.no_grad():
        found, expected = model.eval()(batch), plain.eval()(batch)
    for one, other in zip(found, expected, strict=True):
        assert one["sem_seg"].shape == (K, 50, 70)
        assert torch.equal(one["sem_seg"], other["sem_seg"])
    assert not called
    assert not model.sem_seg_head._forward_hooks and not model.sem_seg_head._forward_pre_hooks


def test_the_auxiliary_loss_is_that_of_a_head_of_its_own(head_config, batch):
    weight = ("MODEL.AUXILIARY_HEAD.LOSS_WEIGHT", "0.3", "MODEL.SEM_SEG_HEAD.DROPOUT", "0.0")
    torch.manual_seed(0)
    model = build_model(head_config("FCNHead", *AUXILIARY, *weight))
    seen = []
    model.sem_seg_head.register_forward_pre_hook(lambda module, args: seen.append(args))
    losses = model(batch)
    ((features, labels),) = seen
    auxiliary = model.auxiliary_head
    x = auxiliary.convs(features["res4"])
    assert x.shape == (2, 12, 4, 4) and auxiliary.convs[0].kernel_size == (3, 3)
    logits = nn.Upsample(scale_factor=16, mode="bilinear")(auxiliary.predictor(x))
    expected = 0.3 * F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(losses["loss_sem_seg_aux"], expected)
    alone = model.sem_seg_head(features, labels)[1]
    assert alone.keys() == {"loss_sem_seg"}
    assert torch.equal(alone["loss_sem_seg"], losses["loss_sem_seg"])


def test_the_auxiliary_loss_is_gone_after_an_error():
    head, auxiliary = build("FCNHead"), build("FCNHead", {"coarse": SHAPES["coarse"]})
    with heads.auxiliary_loss(head, auxiliary):
        _, losses = head(draw_features(), targets=draw_labels())
        assert losses.keys() == {"loss_sem_seg", "loss_sem_seg_aux"}
    with pytest.raises(KeyError), heads.auxiliary_loss(head, auxiliary):
        head({}, draw_labels())
    assert not head._forward_hooks


@pytest.mark.parametrize("name", HEADS)
def test_a_loss_by_config_replaces_the_heads_own(name, head_config, batch):
    torch.manual_seed(0)
    model = build_model(head_config(name, "MODEL.LOSS.NAME", "seesaw"))
    losses = model(batch)
    regions = {"loss_sem_seg_regions"} if name == "OCRHead" else set()
    assert losses.keys() == {"loss_sem_seg"} | regions
    assert model.loss.criterion.pixels_seen.sum() == 2 * 56 * 64
    assert model.loss.stride == 4


def test_every_key_reaches_the_head(head_config):
    key = "MODEL.SEM_SEG_HEAD."
    cfg = head_config(
        "OCRHead", key + "DROPOUT", "0.25", key + "REGION_LOSS_WEIGHT", "0.2",
        key + "LOSS_WEIGHT", "3.0", key + "IGNORE_VALUE", "254", key + "NORM", "",
        *AUXILIARY,
    )  # fmt: skip
    model = build_model(cfg)
    head = model.sem_seg_head
    assert (head.dropout, head.loss_weight, head.ignore_value) == (0.25, 3.0, 254)
    assert head.loss.criterion.ignore_value == head.region_head.ignore_value == 254
    assert head.region_head.loss_weight == 0.2
    assert head.bottleneck.norm is None and head.predictor.out_channels == K
    auxiliary = model.auxiliary_head
    assert (auxiliary.dropout, auxiliary.loss_weight, auxiliary.ignore_value) == (0.25, 0.4, 254)


@pytest.mark.parametrize(
    "name, channels",
    list(zip(HEADS, (64 + 128 + 256 + 512, 512, 512, 256), strict=True)),
)
def test_convs_dim_0_is_what_was_published(name, channels, head_config):
    cfg = head_config(name, "MODEL.SEM_SEG_HEAD.CONVS_DIM", "0")
    shapes = {f"res{i + 2}": ShapeSpec(channels=64 * 2**i, stride=4 * 2**i) for i in range(4)}
    with torch.device("meta"):
        head = SEM_SEG_HEADS_REGISTRY.get(name)(cfg, shapes)
    assert head.predictor.in_channels == channels


@pytest.mark.parametrize("name", HEADS)
def test_features_that_the_backbone_does_not_give(name, head_config):
    key = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
    provided = "It has res2, res3, res4, res5$"
    with pytest.raises(InputError, match=f'{key} names "p2".*{provided}'):
        build_model(head_config(name, key, "('res2', 'p2')"))
    with pytest.raises(InputError, match=f"{key} is empty.*res2, res3, res4, res5$"):
        build_model(head_config(name, key, "()"))
    with pytest.raises(InputError, match='AUXILIARY_HEAD.IN_FEATURE names "rse4".*"res4"?'):
        build_model(head_config(name, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "rse4"))


def test_a_stride_and_norms_that_do_not_fit(head_config):
    with pytest.raises(InputError, match="COMMON_STRIDE is 8.*finest.*res2: set it to 4"):
        build_model(head_config("SegFormerHead", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "8"))
    with pytest.raises(InputError, match='NORM "GN" does not fit 16 channels'):
        build_model(head_config("FCNHead", "MODEL.SEM_SEG_HEAD.NORM", "GN"))
    with pytest.raises(InputError, match='NORM "BM" does not fit'):
        build_model(head_config("FCNHead", "MODEL.SEM_SEG_HEAD.NORM", "BM"))
