"""The small model of queries, and the regularizers on its queries."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sar.config import load_config
from sar.errors import InputError
from sar.modeling.build import build_model
from sar.modeling.mask_classifier import MaskCriterion, MaskMatcher, mask_losses, positions
from sar.modeling.taps import QueryTap
from sar.regularizers import SemanticAnchorRegularizer

K = 5
CONFIG = "configs/LongTailShapes/{}_mask_classifier_R_18.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(K), "MODEL.RESNETS.NORM", "BN",
    "MODEL.SEM_SEG_HEAD.NORM", "BN", "MODEL.FPN.NORM", "BN",
    "MODEL.MASK_CLASSIFIER.NUM_QUERIES", "7", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
]  # fmt: skip


def build(method="baseline", *words):
    torch.manual_seed(0)
    return build_model(load_config(CONFIG.format(method), [*SMALL, *words]))


def test_the_tap_reads_matched_queries_and_their_labels(batch):
    model = build()
    tap = QueryTap("sem_seg_head.predictor.class_embed", "criterion.matcher")
    seen = {}
    predictor, matcher = model.sem_seg_head.predictor, model.criterion.matcher
    predictor.class_embed.register_forward_hook(lambda m, args, out: seen.update(queries=args[0]))
    matcher.register_forward_hook(lambda m, args, out: seen.update(targets=args[1], indices=out))
    with tap.read(model) as samples:
        model(batch)
    vectors, labels = [], []
    for n, (queries, masks) in enumerate(seen["indices"]):
        for query, mask in zip(queries.tolist(), masks.tolist(), strict=True):
            vectors.append(seen["queries"][n, query])
            labels.append(seen["targets"][n]["labels"][mask])
    assert len(labels) == 2 * K  # all classes in both images
    assert torch.equal(samples.embeddings, torch.stack(vectors))
    assert torch.equal(samples.labels, torch.stack(labels))


def test_the_classifier_is_without_no_object():
    model = build()
    tap = QueryTap("sem_seg_head.predictor.class_embed", "criterion.matcher")
    embeddings = torch.randn(3, 16)
    logits = model.sem_seg_head.predictor.class_embed(embeddings)
    assert torch.allclose(tap.classifier_of(model)(embeddings), logits[:, :-1])
    assert tap.embed_dim(model) == 16


def test_both_methods_train_and_reach_the_model(batch):
    model = build("sar_ceco", "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "0.0")
    losses = model(batch)
    own = {"loss_ce", "loss_mask", "loss_dice"}
    assert set(losses) == own | {"loss_sar_anchor", "loss_sar_pull", "loss_ceco"}
    predictor = model.sem_seg_head.predictor
    for name, parameter, is_reached in (
        ("loss_sar_anchor", predictor.class_embed.weight, True),
        ("loss_sar_anchor", predictor.queries, False),
        ("loss_ceco", predictor.queries, True),
        ("loss_ceco", predictor.class_embed.weight, False),
    ):
        (grad,) = torch.autograd.grad(losses[name], parameter, retain_graph=True, allow_unused=True)
        assert bool(grad is not None and grad.any()) is is_reached, name
    (grad,) = torch.autograd.grad(
        losses["loss_sar_anchor"], predictor.class_embed.weight, retain_graph=True
    )
    assert not grad[-1].any()  # "no object"
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_evaluation_is_the_plain_model_bit_for_bit(batch):
    regularized, plain = build("sar_ceco"), build()
    plain.load_state_dict(regularized.state_dict(), strict=False)
    added = set(regularized.state_dict()) - set(plain.state_dict())
    assert all(name.startswith("regularizers.") for name in added)
    found, expected = regularized.eval()(batch), plain.eval()(batch)
    for one, other in zip(found, expected, strict=True):
        assert one["sem_seg"].shape == (K, 50, 70)
        assert torch.equal(one["sem_seg"], other["sem_seg"])


def test_a_batch_without_a_label(batch):
    for sample in batch:
        sample["sem_seg"].fill_(255)
    losses = build("sar_ceco")(batch)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["loss_mask"] == losses["loss_dice"] == losses["loss_ceco"] == 0


@pytest.mark.slow
def test_it_learns(batch):
    """A few steps on two images reduce the loss and find the classes."""
    labels = torch.zeros(64, 64, dtype=torch.int64)
    labels[:, 32:] = 1
    image = (labels * 200).expand(3, -1, -1).to(torch.uint8)
    batch = [
        {"image": image, "sem_seg": labels},
        {"image": image.flip(2), "sem_seg": labels.flip(1)},
    ]
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    totals = []
    for _ in range(60):
        losses = model(batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append(sum(losses.values()).item())
    assert totals[-1] < 0.3 * totals[0]
    for module in model.modules():  # the statistics of two images
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(batch)
        found = model.eval()(batch)[0]["sem_seg"].argmax(0)
    assert (found == labels).float().mean() > 0.9


def test_the_matching_has_the_smallest_cost():
    generator = torch.Generator().manual_seed(0)
    outputs = {
        "pred_logits": torch.randn(1, 4, K + 1, generator=generator),
        "pred_masks": torch.randn(1, 4, 6, 6, generator=generator),
    }
    masks = (torch.rand(3, 6, 6, generator=generator) > 0.5).float()
    target = {"labels": torch.tensor([0, 2, 4]), "masks": masks, "valid": torch.ones(6, 6)}
    ((queries, chosen),) = MaskMatcher()(outputs, [target])

    def cost(query, t):
        logits = outputs["pred_masks"][0, query]
        probability = outputs["pred_logits"][0, query].softmax(-1)[target["labels"][t]]
        entropy = F.binary_cross_entropy_with_logits(logits, masks[t])
        found = logits.sigmoid()
        dice = 1 - (2 * (found * masks[t]).sum() + 1) / (found.sum() + masks[t].sum() + 1)
        return (entropy + dice - probability).item()

    best = min(
        sum(cost(q, t) for t, q in enumerate(order))
        for order in itertools.permutations(range(4), 3)
    )
    pairs = zip(queries.tolist(), chosen.tolist(), strict=True)
    assert sum(cost(q, t) for q, t in pairs) == pytest.approx(best, rel=1e-5)


def test_numbers_that_are_not_finite_are_matched_too():
    """So the trainer sees the loss, and can name the iteration and the batch."""
    outputs = {"pred_logits": torch.full((1, 4, K + 1), torch.nan)}
    outputs["pred_masks"] = torch.full((1, 4, 6, 6), torch.inf)
    target = {"labels": torch.tensor([0, 2]), "masks": torch.ones(2, 6, 6)}
    ((queries, chosen),) = MaskMatcher()(outputs, [target | {"valid": torch.ones(6, 6)}])
    assert len(queries) == 2 and sorted(chosen.tolist()) == [0, 1]


def test_ignored_pixels_change_nothing():
    criterion = MaskCriterion(K, ignore_value=255, no_object_weight=0.1)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (1, 8, 8), generator=generator)
    labels[:, :3] = 255
    outputs = {
        "pred_logits": torch.randn(1, 6, K + 1, generator=generator),
        "pred_masks": torch.randn(1, 6, 8, 8, generator=generator),
    }
    first = criterion(outputs, criterion.targets(labels, outputs))
    outputs["pred_masks"][:, :, :3] = 7.0
    second = criterion(outputs, criterion.targets(labels, outputs))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_losses_of_a_mask_against_numpy():
    generator = np.random.default_rng(0)
    logits, mask = generator.normal(size=(1, 4, 5)), generator.integers(0, 2, (1, 4, 5))
    valid = generator.integers(0, 2, (4, 5))
    p = 1 / (1 + np.exp(-logits))
    entropy = -(mask * np.log(p) + (1 - mask) * np.log(1 - p)) * valid
    found = mask_losses(*(torch.tensor(x, dtype=torch.float32) for x in (logits, mask, valid)))
    assert found[0].item() == pytest.approx(entropy.sum() / valid.sum(), rel=1e-5)
    overlap = 2 * (p * mask * valid).sum() + 1
    dice = 1 - overlap / ((p * valid).sum() + (mask * valid).sum() + 1)
    assert found[1].item() == pytest.approx(dice, rel=1e-5)


def test_every_place_has_a_code_of_its_own():
    codes = positions(torch.zeros(1, 18, 5, 7))
    assert codes.shape == (1, 18, 5, 7)
    assert len(torch.unique(codes.flatten(2)[0].T, dim=0)) == 35


@pytest.mark.parametrize(
    "words, message",
    [
        (["MODEL.LOSS.NAME", "seesaw"], 'MODEL.LOSS.NAME "seesaw" has no effect on a model that'),
        (["MODEL.AUXILIARY_HEAD.IN_FEATURE", "p3"], "AUXILIARY_HEAD.IN_FEATURE .* has no effect"),
        (["MODEL.CLASSIFIER", "sem_seg_head.predictor.mask_embed.0"], "gives 16 classes, not 6"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        build("sar", *words)


def test_samples_may_differ_in_number_between_steps():
    sar = SemanticAnchorRegularizer(K, 16, gate_confidence=0.0)
    classifier = torch.nn.Linear(16, K)
    for number in (7, 0, 3):
        losses = sar(torch.randn(number, 16), torch.arange(number) % K, classifier)
        assert all(loss.isfinite() for loss in losses.values())
