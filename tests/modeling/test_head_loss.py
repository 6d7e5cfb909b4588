"""Each loss against its paper's formula, written down pixel by pixel in float64."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.modeling.losses import (
    CLASS_WEIGHTS,
    LOSSES,
    CrossEntropy,
    HardPixelMining,
    LogitAdjustment,
    Seesaw,
    SegmentationLoss,
    build_loss,
)

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
PIXELS = (70_000, 900, 29_000, 0, 100)
FREQUENCY = ClassFrequency(tuple("abcde"), 10, (10, 3, 9, 0, 1), PIXELS, 500)
WEIGHTS = torch.tensor([0.2, 1.5, 0.7, 3.0, 9.0], dtype=torch.float64)


def pixels(seed=0, num_ignored=5):
    """Logits (2, K, 3, 4) and labels, in float64."""
    torch.manual_seed(seed)
    logits = (3 * torch.randn(2, K, 3, 4, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(K, (2, 3, 4))
    labels.view(-1)[torch.randperm(24)[:num_ignored]] = IGNORE
    return logits, labels


def in_numpy(logits, labels):
    """Logits (P, K) and labels (P,) of the pixels that count, and where they lie."""
    flat = logits.detach().movedim(1, -1).reshape(-1, K).numpy()
    labels = labels.flatten().numpy()
    valid = labels != IGNORE
    return flat[valid], labels[valid], valid


def weighted_softmax_loss(logits, labels, factors, weights):
    """Mean over the pixels of -log(e^z_i / sum_j S_ij e^z_j), S_ii = 1, and its gradient
    S_ij e^z_j / sum - [i = j]; for factors S (P, K) and weights (P,) of the pixels."""
    logits, labels, valid = in_numpy(logits, labels)
    value, gradient = 0.0, np.zeros((len(valid), K))
    for row, z, i, s, w in zip(
        np.flatnonzero(valid), logits, labels, factors, weights, strict=True
    ):
        scores = s * np.exp(z)
        value -= w * np.log(np.exp(z[i]) / scores.sum())
        gradient[row] = w * (scores / scores.sum() - np.eye(K)[i])
    gradient = gradient.reshape(2, 3, 4, K).transpose(0, 3, 1, 2)
    return value / sum(weights), torch.from_numpy(gradient / sum(weights))


def assert_value_and_gradient(loss, logits, labels, expected, tolerance=1e-12):
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert abs(value.item() / expected[0] - 1) < tolerance
    torch.testing.assert_close(gradient, expected[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy(weights):
    logits, labels = pixels()
    _, classes, _ = in_numpy(logits, labels)
    per_pixel = np.ones(len(classes)) if weights is None else weights.numpy()[classes]
    expected = weighted_softmax_loss(logits, labels, np.ones((len(classes), K)), per_pixel)
    assert_value_and_gradient(CrossEntropy(IGNORE, weights), logits, labels, expected)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.7])
def test_logit_adjustment(tau):
    logits, labels = pixels()
    labels[labels == 3] = IGNORE  # the class that never occurs
    _, classes, _ = in_numpy(logits, labels)
    priors = np.maximum(np.array(PIXELS, float), 1) / (sum(PIXELS) + 1)
    # e^(z_i + tau log pi_i) / sum_j e^(z_j + tau log pi_j)
    factors = (priors[None, :] / priors[classes][:, None]) ** tau
    expected = weighted_softmax_loss(logits, labels, factors, np.ones(len(classes)))
    loss = LogitAdjustment(torch.tensor(PIXELS), IGNORE, tau)
    assert_value_and_gradient(loss, logits, labels, expected, tolerance=1e-6)


def seesaw_factors(logits, labels, seen, p, q):
    logits, labels, _ = in_numpy(logits, labels)
    seen = np.maximum(seen, 1)
    factors = np.ones((len(labels), K))
    for row, (z, i) in enumerate(zip(logits, labels, strict=True)):
        scores = np.exp(z) / np.exp(z).sum()
        for j in range(K):
            if j == i:
                continue
            if seen[i] > seen[j]:
                factors[row, j] *= (seen[j] / seen[i]) ** p
            if scores[j] > max(scores[i], 0.01):
                factors[row, j] *= (scores[j] / max(scores[i], 0.01)) ** q
    return factors


@pytest.mark.parametrize("p, q", [(0.8, 2.0), (0.0, 2.0), (0.8, 0.0), (0.5, 1.0)])
def test_seesaw(p, q):
    loss = Seesaw(K, IGNORE, p=p, q=q)
    seen = np.zeros(K)
    for step in range(3):
        logits, labels = pixels(seed=step)
        labels[labels == 3 - step] = 0
        _, classes, _ = in_numpy(logits, labels)
        seen += np.bincount(classes, minlength=K)
        factors = seesaw_factors(logits, labels, seen, p, q)
        expected = weighted_softmax_loss(logits, labels, factors, np.ones(len(classes)))
        assert_value_and_gradient(loss, logits, labels, expected)
        assert loss.pixels_seen.tolist() == seen.tolist()


def test_seesaw_without_its_factors_is_cross_entropy():
    logits, labels = pixels()
    expected = F.cross_entropy(logits, labels, ignore_index=IGNORE)
    torch.testing.assert_close(Seesaw(K, IGNORE, p=0, q=0)(logits, labels), expected)


def test_seesaw_counts_on_where_float32_would_stop():
    loss = Seesaw(K, IGNORE)
    loss.pixels_seen += 2**40
    logits, labels = pixels(num_ignored=0)
    loss(logits, labels)
    assert (loss.pixels_seen - 2**40).sum() == labels.numel()


@pytest.mark.parametrize("weights", ["", "enet"])
def test_hard_pixel_mining(weights, small_config, frequency_file):
    cfg = small_config(
        BASELINE, "MODEL.LOSS.NAME", "hard_pixel_mining", "MODEL.LOSS.TOP_K", "0.25",
        "MODEL.LOSS.CLASS_WEIGHTS", weights, "DATASETS.CLASS_FREQUENCY", frequency_file,
    )  # fmt: skip
    loss = build_loss(cfg, plain_head()).criterion.double()
    assert isinstance(loss, HardPixelMining)
    logits, labels = pixels()
    of_classes = CLASS_WEIGHTS["enet"](FREQUENCY).numpy() if weights else np.ones(K)
    z, classes, valid = in_numpy(logits, labels)
    per_pixel = np.zeros(24)
    log_sum = np.log(np.exp(z).sum(axis=1))
    own = z[np.arange(len(z)), classes]
    per_pixel[valid] = of_classes[classes] * (log_sum - own)
    expected = np.sort(per_pixel)[-6:].mean()  # a quarter of 24
    assert abs(loss(logits, labels).item() / expected - 1) < 1e-6


def test_inverse_frequency():
    n = sum(PIXELS)
    expected = [n / (4 * count) if count else 1.0 for count in PIXELS]
    found = CLASS_WEIGHTS["inverse_frequency"](FREQUENCY)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    mean = (found * torch.tensor(PIXELS)).sum() / n
    assert abs(mean - 1) < 1e-12


def test_enet():
    expected = [1 / np.log(1.02 + count / sum(PIXELS)) for count in PIXELS]
    found = CLASS_WEIGHTS["enet"](FREQUENCY)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[3] == found.max() and 50 < found[3] < 51


@pytest.mark.parametrize("num_present", [3, 4])
def test_median_frequency(num_present):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 0, 0, 0, 0, 0, 255], (12, 6, 7))
    for k in range(1, num_present):
        labels[: 12 // k, :k, : 5 - k] = k
    present = list(range(num_present))
    shows = {k: (labels == k).any(axis=(1, 2)) for k in present}
    # The paper's words: pixels of c, divided by the pixels of the images where c is present.
    shares = {k: (labels == k).sum() / labels[shows[k]].size for k in present}
    median = np.median(list(shares.values()))
    expected = [median / shares[k] if k in shares else 1.0 for k in range(K)]

    frequency = ClassFrequency(
        tuple("abcde"),
        12,
        tuple(int(shows[k].sum()) if k in shows else 0 for k in range(K)),
        tuple(int((labels == k).sum()) for k in range(K)),
        int((labels == 255).sum()),
    )
    found = CLASS_WEIGHTS["median_frequency"](frequency)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# -- What holds of every loss


@pytest.fixture
def frequency_file(tmp_path):
    path = tmp_path / "frequency.json"
    FREQUENCY.save(path)
    return str(path)


CASES = {
    "cross_entropy": ("cross_entropy", "", False),
    "weighted cross_entropy": ("cross_entropy", "median_frequency", False),
    "hard_pixel_mining": ("hard_pixel_mining", "", False),
    "weighted hard_pixel_mining": ("hard_pixel_mining", "inverse_frequency", False),
    "logit_adjustment": ("logit_adjustment", "", False),
    "seesaw": ("seesaw", "", False),
    "fused cross_entropy": ("cross_entropy", "", True),
    "fused weighted cross_entropy": ("cross_entropy", "median_frequency", True),
    "fused hard_pixel_mining": ("hard_pixel_mining", "", True),
    "fused weighted hard_pixel_mining": ("hard_pixel_mining", "inverse_frequency", True),
    "fused logit_adjustment": ("logit_adjustment", "", True),
}


def plain_head(**attributes):
    """What a loss asks of a head."""
    defaults = dict(losses=None, common_stride=4, loss_weight=0.5, ignore_value=IGNORE)
    head = nn.Module()
    for name, value in (defaults | attributes).items():
        setattr(head, name, value)
    return head


@pytest.fixture(params=CASES.values(), ids=CASES)
def case_config(request, small_config, frequency_file):
    name, weights, fused = request.param
    return small_config(
        BASELINE, "MODEL.LOSS.NAME", name, "MODEL.LOSS.CLASS_WEIGHTS", weights,
        "MODEL.LOSS.FUSED", str(fused), "DATASETS.CLASS_FREQUENCY", frequency_file,
    )  # fmt: skip


def predictions_and_targets(device="cpu"):
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(2, K, 4, 6, generator=generator).to(device).requires_grad_()
    targets = torch.randint(K, (2, 16, 24), generator=generator)
    targets[:, :8] = IGNORE
    return predictions, targets.to(device)


def test_every_case_is_tested():
    assert {name for name, *_ in CASES.values()} == set(LOSSES)


def test_fused_is_the_plain_way_to_rounding(case_config):
    predictions, targets = predictions_and_targets()
    found = build_loss(case_config, plain_head())(predictions, targets)["loss_sem_seg"]
    case_config.MODEL.LOSS.FUSED = False
    wanted = build_loss(case_config, plain_head())(predictions, targets)["loss_sem_seg"]
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=0)
    gradients = (torch.autograd.grad(value, predictions)[0] for value in (found, wanted))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)


def test_logits_of_ignored_pixels_change_nothing(case_config):
    criterion = build_loss(case_config, plain_head()).criterion
    logits, labels = pixels(num_ignored=12)
    logits = logits.detach().float()
    other = torch.where((labels == IGNORE)[:, None], 50 * torch.randn_like(logits), logits)
    values, gradients = [], []
    for z in (logits.requires_grad_(), other.requires_grad_()):
        value = copy.deepcopy(criterion)(z, labels)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, z)[0])
    assert torch.equal(*values) and torch.equal(*gradients)
    assert (gradients[0].movedim(1, -1)[labels == IGNORE] == 0).all()
    assert (gradients[0].movedim(1, -1)[labels != IGNORE] != 0).any()


def test_a_batch_without_valid_pixels_gives_zero(case_config):
    loss = build_loss(case_config, plain_head())
    predictions, targets = predictions_and_targets()
    targets.fill_(IGNORE)
    value = loss(predictions, targets)["loss_sem_seg"]
    value.backward()
    assert value == 0 and (predictions.grad == 0).all()
    assert F.cross_entropy(
        torch.randn(1, K, 2), torch.full((1, 2), IGNORE), ignore_index=IGNORE
    ).isnan()


def test_a_training_that_diverges_is_seen(case_config):
    loss = build_loss(case_config, plain_head())
    predictions, targets = predictions_and_targets()
    assert not loss(predictions * float("nan"), targets)["loss_sem_seg"].isfinite()


def test_half_precision_is_left_before_the_upsampling(case_config):
    predictions, targets = predictions_and_targets()
    predictions = predictions.detach().bfloat16()
    loss = build_loss(case_config, plain_head())
    found = copy.deepcopy(loss)(predictions, targets)["loss_sem_seg"]
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(predictions.float(), targets)["loss_sem_seg"])


def test_nothing_asks_a_tensor_for_its_value(case_config):
    # Tensors on this device have none, so that whatever would synchronise fails.
    loss = build_loss(case_config, plain_head()).to("meta")
    predictions, targets = predictions_and_targets("meta")
    loss(predictions, targets)["loss_sem_seg"].backward()
    assert predictions.grad.shape == predictions.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="host synchronisation needs a GPU")
def test_no_host_synchronisation(case_config):
    loss = build_loss(case_config, plain_head()).cuda()
    predictions, targets = predictions_and_targets("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss(predictions, targets)["loss_sem_seg"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- In a model


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
    expected = type(head).losses(head, predictions, targets)
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
        ("SemSegFPNHead", "hard_pixel_mining", CrossEntropy),  # it knows no loss type
        ("DeepLabV3Head", "cross_entropy", CrossEntropy),
        ("DeepLabV3Head", "hard_pixel_mining", HardPixelMining),
        ("DeepLabV3PlusHead", "cross_entropy", CrossEntropy),
        ("DeepLabV3PlusHead", "hard_pixel_mining", HardPixelMining),
    ],
)
def test_without_a_name_it_is_the_heads_own(head, loss_type, criterion, fused, small_config):
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


def test_a_head_with_a_loss_that_is_not_known_keeps_it():
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


@pytest.mark.parametrize("fused", [False, True])
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
    logit_size, label_size, stride, size_divisibility, fused
):
    loss = SegmentationLoss(
        CrossEntropy(IGNORE, fused=fused), stride=stride, size_divisibility=size_divisibility
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
def test_no_padding_is_taken_for_granted(logit_size, label_size, stride):
    loss = SegmentationLoss(CrossEntropy(IGNORE), stride=stride)
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, *label_size, dtype=torch.int64)
    with pytest.raises(InputError, match=f"COMMON_STRIDE is {stride}, but"):
        loss(logits, labels)


def test_the_padding_is_that_of_the_backbone(small_config):
    model = build_model(small_config(BASELINE))
    assert model.loss.size_divisibility == model.backbone.size_divisibility == 32


@pytest.mark.parametrize("fused", [False, True])
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
def test_logits_of_another_stride_are_refused(logit_size, stride, remedy, fused):
    loss = SegmentationLoss(CrossEntropy(IGNORE, fused=fused), stride=stride)
    logits, labels = torch.zeros(1, K, *logit_size), torch.zeros(1, 64, 96, dtype=torch.int64)
    message = (
        rf"COMMON_STRIDE is {stride}, .*{logit_size[0]}x{logit_size[1]} pixels.*64x96.*{remedy}"
    )
    with pytest.raises(InputError, match=message):
        loss(logits, labels)


def test_every_loss_trains(case_config, batch):
    torch.manual_seed(0)
    model = build_model(case_config)
    losses = model(batch)
    assert losses.keys() == {"loss_sem_seg"}
    losses["loss_sem_seg"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_checkpoint_holds_what_seesaw_has_seen_and_no_weights(case_config, batch):
    model = build_model(case_config)
    model(batch)
    state = {key: value for key, value in model.state_dict().items() if key.startswith("loss")}
    if case_config.MODEL.LOSS.NAME != "seesaw":
        assert not state
        return
    assert list(state) == ["loss.criterion.pixels_seen"]
    labels = torch.stack([sample["sem_seg"] for sample in batch])
    expected = torch.bincount(labels[labels != IGNORE], minlength=K)
    assert torch.equal(state["loss.criterion.pixels_seen"], expected)
    resumed = build_model(case_config)
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(resumed.loss.criterion.pixels_seen, expected)


def test_a_copied_model_has_a_loss_of_its_own(small_config, batch):
    model = build_model(small_config(BASELINE, "MODEL.LOSS.NAME", "seesaw"))
    copied = copy.deepcopy(model)
    copied(batch)
    assert copied.loss.criterion.pixels_seen.sum() > 0 == model.loss.criterion.pixels_seen.sum()


def test_inference_needs_no_class_frequencies_and_training_says_so(small_config, batch):
    cfg = small_config(BASELINE, "MODEL.LOSS.NAME", "logit_adjustment")
    model = build_model(cfg)
    with torch.no_grad():
        assert model.eval()(batch)[0]["sem_seg"].shape == (K, 50, 70)
    with pytest.raises(InputError, match="pixels of each class .* set DATASETS.CLASS_FREQ"):
        model.train()(batch)


@pytest.mark.parametrize(
    "path, message",
    [("nowhere.json", "nowhere.json"), (None, r"expected 3 classes .*NUM_CLASSES\), found 5")],
)
def test_class_frequencies_that_do_not_go_with_the_model(
    path, message, small_config, frequency_file
):
    cfg = small_config(
        BASELINE, "MODEL.LOSS.NAME", "cross_entropy", "MODEL.LOSS.CLASS_WEIGHTS", "enet",
        "DATASETS.CLASS_FREQUENCY", path or frequency_file, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
    )  # fmt: skip
    with pytest.raises(InputError, match=message):
        build_loss(cfg, plain_head())(*predictions_and_targets())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"NAME": "seasaw"}, 'unknown MODEL.LOSS.NAME "seasaw". Did you mean "seesaw"'),
        ({"NAME": "cross_entropy", "CLASS_WEIGHTS": "e-net"}, 'CLASS_WEIGHTS.*mean "enet"'),
        ({"CLASS_WEIGHTS": "enet"}, "set that to cross_entropy or hard_pixel_mining"),
        ({"NAME": "seesaw", "CLASS_WEIGHTS": "enet"}, 'no use with MODEL.LOSS.NAME "seesaw"'),
        ({"NAME": "logit_adjustment", "TAU": "-1.0"}, "TAU is -1.0, expected 0 or more"),
        ({"NAME": "hard_pixel_mining", "TOP_K": "20.0"}, "TOP_K is 20.0, expected above 0"),
        ({"NAME": "seesaw", "SEESAW_P": "1e999"}, "SEESAW_P is inf"),
        ({"NAME": "seesaw", "SEESAW_Q": "-2.0"}, "SEESAW_Q is -2.0"),
    ],
)
def test_settings_that_are_refused(settings, message, small_config):
    words = [word for key, value in settings.items() for word in (f"MODEL.LOSS.{key}", value)]
    with pytest.raises(InputError, match=message):
        build_loss(small_config(BASELINE, *words), plain_head())


def test_a_head_that_has_no_loss_to_replace(small_config):
    cfg = small_config(BASELINE, "MODEL.LOSS.NAME", "seesaw")
    with pytest.raises(InputError, match="MODEL.LOSS.NAME.*Linear.*lacks losses, common_stride"):
        build_loss(cfg, nn.Linear(1, 1))
