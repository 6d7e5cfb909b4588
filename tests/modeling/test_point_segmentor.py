"""PointSegmentor: the plain model with a branch that only training has."""

import copy

import pytest
import torch
import torch.nn.functional as F

from sar.errors import InputError
from sar.modeling.build import build_model
from sar.points.sites import Sites

K = 4
WORDS = [
    "MODEL.META_ARCHITECTURE", "PointSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(K),
    "INPUT.POINTS.VOXEL_SIZE", "0.5", "INPUT.POINTS.FEATURES", "('xyz', 'intensity')",
    "MODEL.SPARSE_UNET.STEM", "4", "MODEL.SPARSE_UNET.CHANNELS", "(6, 5)",
    "MODEL.SPARSE_UNET.BLOCKS", "(1, 1)", "MODEL.DEVICE", "cpu",
]  # fmt: skip
BOTH = ["MODEL.REGULARIZERS", "('SemanticAnchorRegularizer', 'CenterCollapseRegularizer')"]


def build(*words):
    from sar.config import load_config

    torch.manual_seed(0)
    return build_model(load_config("", [*WORDS, *words])).double()


def samples(sizes=(50, 30)):
    generator = torch.Generator().manual_seed(0)
    result = []
    for size in sizes:
        labels = torch.randint(K, (1, size), generator=generator)
        labels[0, :5] = 255
        result.append(
            {
                "image": torch.randn(4, 1, size, generator=generator, dtype=torch.float64),
                "coordinates": torch.randint(-3, 3, (size, 3), generator=generator),
                "sem_seg": labels,
            }
        )
    return result


def test_each_point_gets_the_logits_of_its_voxel():
    model = build().eval()
    with torch.no_grad():
        outputs = model(samples())
    for sample, output in zip(samples(), outputs, strict=True):
        logits = output["sem_seg"]
        assert logits.shape == (K, 1, sample["coordinates"].shape[0])
        of_voxel = {}
        for row, column in zip(sample["coordinates"].tolist(), logits[:, 0].T, strict=True):
            torch.testing.assert_close(of_voxel.setdefault(tuple(row), column), column)
        assert len(of_voxel) > 10


def test_a_cloud_of_one_voxel_on_the_coarsest_level_cannot_be_trained_alone():
    model = build()
    (sample,) = samples([50])
    sample |= {"coordinates": 5 + sample["coordinates"] % 2, "file_name": "small.npz"}
    with pytest.raises(InputError, match="small.npz is alone in .* at most 2 voxels"):
        model([sample])
    assert model([sample, sample])["loss_sem_seg"].isfinite()
    assert model.eval()([sample])[0]["sem_seg"].shape == (K, 1, 50)
    sample["coordinates"][0] += 2
    assert model.train()([sample])["loss_sem_seg"].isfinite()


def test_the_loss_is_a_mean_over_the_voxels_of_the_batch():
    model = build()
    losses = model(samples())
    assert list(losses) == ["loss_sem_seg"]
    rows = [
        torch.cat([torch.full((len(s["coordinates"]), 1), n), s["coordinates"]], dim=1)
        for n, s in enumerate(samples())
    ]
    rows = torch.cat(rows)
    sites, voxel_of = Sites.of_voxels(rows[:, 0], rows[:, 1:])
    features = torch.cat([s["image"][:, 0].T for s in samples()])
    labels = torch.cat([s["sem_seg"][0] for s in samples()])
    means, targets = [], []
    for v in range(len(sites)):
        inside = voxel_of == v
        means.append(features[inside].mean(dim=0))
        votes = torch.bincount(labels[inside & (labels != 255)], minlength=K)
        targets.append(int(votes.argmax()) if votes.any() else 255)
    from sar.points.layers import SparseTensor

    embeddings = model.backbone.unet(SparseTensor(torch.stack(means), sites)).features
    logits = model.sem_seg_head.predictor(embeddings)
    expected = F.cross_entropy(logits, torch.tensor(targets), ignore_index=255)
    torch.testing.assert_close(losses["loss_sem_seg"], expected, rtol=1e-9, atol=1e-12)


def test_without_regularizers_it_is_the_plain_model_bit_for_bit():
    plain, regularized = build(), build(*BOTH)
    state = {k: v for k, v in regularized.state_dict().items() if not k.startswith("regularizers")}
    assert state.keys() == plain.state_dict().keys()
    for key, value in plain.state_dict().items():
        assert torch.equal(value, state[key]), key
    again = build("MODEL.REGULARIZERS", "[]")
    expected, found = plain(samples()), again(samples())
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name])
    plain.eval(), again.eval()
    for one, other in zip(plain(samples()), again(samples()), strict=True):
        assert torch.equal(one["sem_seg"], other["sem_seg"])


def test_regularizers_read_voxels_and_train_the_network():
    model = build(*BOTH, "MODEL.SEMANTIC_ANCHOR.GATE_CONFIDENCE", "0.0")
    losses = model(samples())
    assert set(losses) == {"loss_sem_seg", "loss_sar_anchor", "loss_sar_pull", "loss_ceco"}
    for name in ("loss_sar_pull", "loss_ceco"):
        model.zero_grad()
        model(samples())[name].backward()
        assert model.backbone.unet.stem.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["dice", "lovasz", "focal", "seesaw", "hard_pixel_mining"])
def test_any_loss_of_the_config(name):
    model = build("MODEL.LOSS.NAME", name)
    sum(model(samples()).values()).backward()
    assert model.backbone.unet.stem.weight.grad.isfinite().all()


def test_a_cloud_alone_and_in_a_batch_are_equal_in_evaluation():
    model = build().eval()
    with torch.no_grad():
        together = model(samples())
        for sample, expected in zip(samples(), together, strict=True):
            alone = model([copy.deepcopy(sample)])[0]["sem_seg"]
            torch.testing.assert_close(alone, expected["sem_seg"], rtol=1e-9, atol=1e-12)
