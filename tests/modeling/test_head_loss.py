"""The loss that a head gets from the config: the same as detectron2's, or a named one."""

import copy
import pickle

import pytest
import torch
from torch import nn

from sar.config import load_config
from sar.errors import InputError
from sar.losses import CrossEntropy, Dice, Focal, HardPixelMining, WeightedSum
from sar.modeling.head_loss import SegmentationLoss, build_loss
from sar.modeling.loss_terms import LOSSES

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead

BASELINE = "configs/CamVid/baseline_sem_fpn_R_18.yaml"
HEADS = {
    "SemSegFPNHead": (BASELINE,),
    "DeepLabV3Head": ("configs/Cityscapes/baseline_deeplab_v3_R_103.yaml",),
    "DeepLabV3PlusHead": ("configs/CamVid/baseline_deeplab_v3_plus_R_50.yaml",),
}
K, IGNORE = 5, 255


@pytest.fixture(params=LOSSES)
def named_config(request, small_config, frequency_file):
    return small_config(
        BASELINE, "MODEL.LOSS.NAME", request.param, "DATASETS.CLASS_FREQUENCY", frequency_file
    )


def plain_head():
    """The attributes of a head that a loss needs."""
    head = nn.Module()
    head.losses, head.common_stride, head.loss_weight, head.ignore_value = None, 4, 0.5, IGNORE
    return head


def test_a_sum_has_an_entry_for_each_term():
    terms = {"cross_entropy": (1.0, CrossEntropy(IGNORE)), "dice": (0.5, Dice(IGNORE))}
    predictions, targets = torch.randn(2, K, 4, 6), torch.randint(K, (2, 16, 24))
    loss = SegmentationLoss(WeightedSum(terms), stride=4, loss_weight=3.0)
    found = loss(predictions, targets)
    assert list(found) == ["loss_sem_seg_cross_entropy", "loss_sem_seg_dice"]
    for name, (factor, criterion) in terms.items():
        expected = 3 * factor * criterion(predictions, targets, 4)
        torch.testing.assert_close(found[f"loss_sem_seg_{name}"], expected)


def test_pixel_weights_reach_the_losses_that_take_them():
    predictions, targets = torch.randn(2, K, 4, 6), torch.randint(K, (2, 16, 24))
    weights = torch.rand(targets.shape)
    terms = {"focal": (1.0, Focal(IGNORE)), "hard": (1.0, HardPixelMining(IGNORE, 0.2))}
    found = SegmentationLoss(WeightedSum(terms), stride=4)(predictions, targets, weights)
    for name, (_, criterion) in terms.items():
        expected = criterion(predictions, targets, 4, pixel_weights=weights)
        assert found[f"loss_sem_seg_{name}"] == expected != criterion(predictions, targets, 4)
    terms["dice"] = (1.0, Dice(IGNORE))
    for criterion in (Dice(IGNORE), WeightedSum(terms)):
        with pytest.raises(InputError, match="weights its pixels, which Dice cannot do. Set it to"):
            SegmentationLoss(criterion, stride=4)(predictions, targets, weights)


def test_half_precision_ends_before_the_upsampling():
    criterion = CrossEntropy(IGNORE)
    predictions, targets = torch.randn(2, K, 4, 6).bfloat16(), torch.randint(K, (2, 16, 24))
    found = SegmentationLoss(criterion, stride=4, loss_weight=0.5)(predictions, targets)
    expected = 0.5 * criterion(predictions.float(), targets, 4)
    assert torch.equal(found["loss_sem_seg"], expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["cross_entropy", "hard_pixel_mining"])
@pytest.mark.parametrize("fused", [False, True])
def test_the_same_loss_as_the_heads_own(head, name, fused, small_config):
    if (head, name) == ("SemSegFPNHead", "hard_pixel_mining"):
        pytest.skip("it has none")
    cfg = small_config(
        *HEADS[head],
        "MODEL.RESNETS.DEPTH", "18" if head == "SemSegFPNHead" else "50",
        "MODEL.LOSS.NAME", name, "MODEL.SEM_SEG_HEAD.LOSS_TYPE", name,
        "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "0.3", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "254",
        "MODEL.LOSS.FUSED", str(fused),
    )  # fmt: skip
    assert_same_as_own_loss(build_model(cfg).sem_seg_head, fused)


def assert_same_as_own_loss(head, fused):
    predictions = torch.randn(2, K, 16, 16, requires_grad=True)
    targets = torch.randint(K, (2, 16 * head.common_stride, 16 * head.common_stride))
    targets[:, 3:9] = 254
    found = head.losses(predictions, targets)
    expected = super(type(head), head).losses(predictions, targets)
    assert found.keys() == expected.keys() == {"loss_sem_seg"}
    rounding = dict(rtol=3e-6, atol=1e-9) if fused else dict(rtol=0, atol=0)
    torch.testing.assert_close(found, expected, **rounding)
    (gradient,) = torch.autograd.grad(found["loss_sem_seg"], predictions)
    (wanted,) = torch.autograd.grad(expected["loss_sem_seg"], predictions)
    torch.testing.assert_close(gradient, wanted, **rounding)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "head, loss_type, criterion",
    [
        ("SemSegFPNHead", "hard_pixel_mining", CrossEntropy),  # it has no loss type
        ("DeepLabV3Head", "cross_entropy", CrossEntropy),
        ("DeepLabV3Head", "hard_pixel_mining", HardPixelMining),
        ("DeepLabV3PlusHead", "cross_entropy", CrossEntropy),
        ("DeepLabV3PlusHead", "hard_pixel_mining", HardPixelMining),
    ],
)
def test_without_a_name_the_head_has_its_own_loss(head, loss_type, criterion, fused, small_config):
    key = "MODEL.SEM_SEG_HEAD."
    cfg = small_config(
        *HEADS[head],
        "MODEL.RESNETS.DEPTH", "18" if head == "SemSegFPNHead" else "50",
        key + "LOSS_TYPE", loss_type, key + "LOSS_WEIGHT", "0.3", key + "IGNORE_VALUE", "254",
        "MODEL.LOSS.FUSED", str(fused),
    )  # fmt: skip
    model = build_model(cfg)
    assert type(model.loss.criterion) is criterion
    assert not any(key.startswith("loss") for key in model.state_dict())
    assert_same_as_own_loss(model.sem_seg_head, fused)


def test_a_head_with_an_unknown_loss_keeps_it():
    class MyHead(SemSegFPNHead):
        def losses(self, predictions, targets):
            return {"loss_mine": predictions.mean()}

    cfg = load_config(BASELINE)
    head = MyHead({"p2": ShapeSpec(channels=8, stride=4)}, num_classes=K, conv_dims=8,
                  common_stride=4)  # fmt: skip
    assert build_loss(cfg, head) is None


@pytest.mark.parametrize(
    "logit_size, label_size, stride",
    [
        ((16, 16), (64, 64), 4),
        ((129, 129), (513, 513), 4),  # rounded up at each stride
        ((17, 17), (64, 64), 4),  # rounded up although 64 is a multiple of 4
        ((2, 2), (5, 8), 4),
        ((1, 1), (4, 1), 32),
        ((3, 5), (37, 70), 14),
        ((8, 8), (8, 8), 1),
    ],
)
def test_logits_that_the_stride_brings_to_the_labels(logit_size, label_size, stride):
    loss = SegmentationLoss(CrossEntropy(IGNORE), stride=stride)
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, *label_size, dtype=torch.int64)
    assert loss(logits, labels)["loss_sem_seg"].isfinite()


@pytest.mark.parametrize(
    "logit_size, label_size, stride",
    [
        ((24, 24), (65, 70), 4),
        ((16, 16), (33, 64), 4),
        ((8, 17), (32, 65), 4),  # one edge is padded, the other rounded up
        ((3, 5), (70, 150), 32),
    ],
)
def test_logits_of_padded_images_for_labels_as_they_are(logit_size, label_size, stride):
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, *label_size, dtype=torch.int64)
    loss = SegmentationLoss(CrossEntropy(IGNORE), stride=stride, size_divisibility=32)
    assert loss(logits, labels)["loss_sem_seg"].isfinite()


@pytest.mark.parametrize("size_divisibility", [0, 8, 32])
@pytest.mark.parametrize(
    "logit_size, label_size, stride",
    [
        ((64, 64), (64, 64), 2),
        ((40, 40), (40, 40), 2),
        ((31, 31), (31, 31), 4),
        ((8, 8), (8, 8), 8),
        ((24, 24), (64, 64), 4),
        ((12, 16), (33, 64), 4),
        ((4, 4), (32, 32), 16),
    ],
)
def test_full_size_logits_are_refused_for_small_labels(
    logit_size, label_size, stride, size_divisibility
):
    loss = SegmentationLoss(
        CrossEntropy(IGNORE), stride=stride, size_divisibility=size_divisibility
    )
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, *label_size, dtype=torch.int64)
    with pytest.raises(InputError, match=f"COMMON_STRIDE is {stride}, but"):
        loss(logits, labels)


@pytest.mark.parametrize(
    "logit_size, label_size, stride",
    [
        ((16, 16), (16, 16), 2),
        ((31, 31), (31, 31), 2),
        ((8, 8), (8, 8), 4),
        ((4, 4), (16, 16), 8),
        ((16, 16), (33, 64), 4),
    ],
)
def test_images_are_not_assumed_to_be_padded(logit_size, label_size, stride):
    loss = SegmentationLoss(CrossEntropy(IGNORE), stride=stride)
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, *label_size, dtype=torch.int64)
    with pytest.raises(InputError, match=f"COMMON_STRIDE is {stride}, but"):
        loss(logits, labels)


def test_the_padding_follows_the_backbone(small_config):
    model = build_model(small_config(BASELINE))
    assert model.loss.size_divisibility == model.backbone.size_divisibility == 32


@pytest.mark.parametrize(
    "logit_size, stride, remedy",
    [
        ((64, 96), 4, "set it to 1"),  # full size
        ((16, 24), 8, "set it to 4"),
        ((16, 24), 2, "set it to 4"),
        ((16, 96), 4, "correct the head"),
        ((15, 23), 4, "set it to 5"),
    ],
)
def test_logits_of_another_stride_are_refused(logit_size, stride, remedy):
    loss = SegmentationLoss(CrossEntropy(IGNORE), stride=stride)
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, 64, 96, dtype=torch.int64)
    message = (
        rf"COMMON_STRIDE is {stride}, .*{logit_size[0]}x{logit_size[1]} pixels.*64x96.*{remedy}"
    )
    with pytest.raises(InputError, match=message):
        loss(logits, labels)


def test_every_loss_trains(named_config, batch):
    torch.manual_seed(0)
    model = build_model(named_config)
    losses = model(batch)
    assert losses.keys() == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_a_sum_trains_and_keeps_what_its_losses_count(small_config, batch):
    text = "0.5 * seesaw + lovasz"
    cfg = small_config(
        BASELINE, "MODEL.LOSS.NAME", text, "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT", "2.0"
    )  # fmt: skip
    model = build_model(cfg)
    losses = model(batch)
    assert list(losses) == ["loss_sem_seg_seesaw", "loss_sem_seg_lovasz"]
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    counted = model.state_dict()["loss.criterion.criteria.seesaw.pixels_seen"]
    assert counted.sum() == sum((sample["sem_seg"] != IGNORE).sum() for sample in batch)


def test_the_factor_of_a_single_loss(small_config):
    cfg = small_config(BASELINE, "MODEL.LOSS.NAME", "0.5 * dice")
    loss = build_loss(cfg, plain_head())
    assert isinstance(loss.criterion, Dice) and loss.loss_weight == 0.25  # 0.5 of the head
    assert build_loss(small_config(BASELINE), plain_head()) is None


def test_the_checkpoint_holds_the_counts_of_seesaw_and_no_class_weights(named_config, batch):
    model = build_model(named_config)
    model(batch)
    state = {key: value for key, value in model.state_dict().items() if key.startswith("loss")}
    if named_config.MODEL.LOSS.NAME != "seesaw":
        assert not state
        return
    assert list(state) == ["loss.criterion.pixels_seen"]
    labels = torch.stack([sample["sem_seg"] for sample in batch])
    expected = torch.bincount(labels[labels != IGNORE], minlength=K)
    assert torch.equal(state["loss.criterion.pixels_seen"], expected)
    resumed = build_model(named_config)
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(resumed.loss.criterion.pixels_seen, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_model_has_a_loss_of_its_own(copied, small_config, batch):
    model = build_model(small_config(BASELINE, "MODEL.LOSS.NAME", "seesaw"))
    copied = copied(model)
    assert type(copied.sem_seg_head) is type(model.sem_seg_head)
    copied(batch)
    assert copied.loss.criterion.pixels_seen.sum() > 0 == model.loss.criterion.pixels_seen.sum()


def test_inference_needs_no_class_frequencies_and_training_says_so(small_config, batch):
    cfg = small_config(BASELINE, "MODEL.LOSS.NAME", "logit_adjustment")
    model = build_model(cfg)
    with torch.no_grad():
        assert model.eval()(batch)[0]["sem_seg"].shape == (K, 50, 70)
    with pytest.raises(InputError, match="pixels of each class .* set DATASETS.CLASS_FREQ"):
        model.train()(batch)


def test_a_head_that_has_no_loss_to_replace(small_config):
    cfg = small_config(BASELINE, "MODEL.LOSS.NAME", "seesaw")
    with pytest.raises(InputError, match="MODEL.LOSS.NAME.*Linear.*lacks losses, common_stride"):
        build_loss(cfg, nn.Linear(1, 1))
