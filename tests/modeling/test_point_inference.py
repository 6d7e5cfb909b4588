"""Test-time augmentation of point clouds, against passes of the plain model."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sar.config import load_config
from sar.data.cloud_mapper import CloudMapper
from sar.data.clouds import Cloud
from sar.errors import InputError
from sar.modeling.build import build_model
from sar.modeling.inference import check_inference, inference_model
from sar.modeling.point_inference import passes
from sar.training.trainer import Trainer

K, VOXEL = 4, 0.5
WORDS = [
    "MODEL.META_ARCHITECTURE", "PointSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(K),
    "INPUT.POINTS.VOXEL_SIZE", str(VOXEL), "INPUT.POINTS.FEATURES", "('xyz', 'normal')",
    "MODEL.SPARSE_UNET.STEM", "4", "MODEL.SPARSE_UNET.CHANNELS", "(6, 5)",
    "MODEL.SPARSE_UNET.BLOCKS", "(1, 1)", "MODEL.DEVICE", "cpu", "TEST.AUG.ENABLED", "True",
]  # fmt: skip
ONE_PASS = ["TEST.AUG.ANGLES", "(0,)", "TEST.AUG.FLIP", "False"]


def config(*words):
    return load_config("", [*WORDS, *words])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model(config())
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):  # as a trained model
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.1, 1, generator=generator)
    model.sem_seg_head.predictor.weight.data.mul_(10)
    return model.eval()


def cloud_of(number, seed=0):
    rng = np.random.default_rng(seed)
    normal = rng.normal(size=(number, 3)).astype(np.float32)
    return Cloud(rng.uniform(-2, 3, (number, 3)), normal=normal)


def predict(model, cloud, *words):
    cfg = config(*words)
    mapper = Trainer.build_test_mapper(cfg)
    (output,) = inference_model(cfg, model)([mapper.map_points(cloud)])
    return output["sem_seg"]


@torch.no_grad()
def softmax_of_plain_model(model, cloud):
    (output,) = model([CloudMapper(config("TEST.AUG.ENABLED", "False"), False).map_points(cloud)])
    return output["sem_seg"].softmax(dim=0)


def test_without_augmentation_it_is_the_model(model):
    cfg = config("TEST.AUG.ENABLED", "False")
    assert inference_model(cfg, model) is model
    assert "cloud" not in Trainer.build_test_mapper(cfg).map_points(cloud_of(3))
    assert "cloud" not in CloudMapper(config(), True).map_points(cloud_of(3))


def test_one_pass_is_the_softmax_of_the_model_bit_for_bit(model):
    cloud = cloud_of(60)
    cloud = replace(cloud, xyz=cloud.xyz + [1e6, -5e6, 100])  # map coordinates
    expected = softmax_of_plain_model(model, cloud)
    assert torch.equal(predict(model, cloud, *ONE_PASS), expected)
    assert expected.shape == (K, 1, 60) and expected.std(dim=2).min() > 1e-3


def test_the_mean_over_passes_that_a_loop_computes(model):
    cloud = cloud_of(60)
    words = ["TEST.AUG.ANGLES", "(0, 30)", "TEST.AUG.SCALES", "(1, 1.1)"]
    total, number = 0, 0
    for mirror in (1, -1):
        for scale in (1, 1.1):
            for angle in (0, math.pi / 6):
                xyz, normal = [], []
                for source, target in ((cloud.xyz, xyz), (cloud.normal.astype(float), normal)):
                    for x, y, z in source:
                        x *= mirror
                        turned_x = x * math.cos(angle) - y * math.sin(angle)
                        target.append((turned_x, x * math.sin(angle) + y * math.cos(angle), z))
                shift = [number * math.sqrt(prime) % 1 for prime in (2, 3, 5)]
                changed = Cloud(
                    scale * np.array(xyz) + VOXEL * np.array(shift),
                    normal=np.array(normal, np.float32),
                )
                total = total + softmax_of_plain_model(model, changed)
                number += 1
    torch.testing.assert_close(predict(model, cloud, *words), total / 8, rtol=1e-5, atol=1e-6)


def test_the_grids_of_the_passes_differ(model):
    shifts = np.array([change.shift for change in passes([0, 90, 180, 270], [1], flip=True)])
    assert (shifts[0] == 0).all() and ((shifts >= 0) & (shifts < 1)).all()
    for column in shifts.T:
        assert np.diff(np.sort(column)).min() > 0.05
    # Points of one voxel can get different predictions.
    cloud = cloud_of(200)
    scores = {"one": predict(model, cloud, *ONE_PASS), "all": predict(model, cloud)}
    number = {name: len(torch.unique(found, dim=2)[0, 0]) for name, found in scores.items()}
    voxels = np.unique(np.floor(cloud.xyz / VOXEL), axis=0)
    assert number["one"] <= len(voxels) < 0.95 * number["all"]


def test_a_permutation_of_the_points_permutes_the_result(model):
    cloud, order = cloud_of(80), np.random.default_rng(3).permutation(80)
    permuted = replace(cloud, xyz=cloud.xyz[order], normal=cloud.normal[order])
    expected = predict(model, cloud)[:, :, order]
    torch.testing.assert_close(predict(model, permuted), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", [3, 100])
def test_the_result_does_not_depend_on_the_passes_per_batch(model, number):
    cloud, calls = cloud_of(80), []
    handle = model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    try:
        found = predict(model, cloud, "TEST.WINDOWS_PER_BATCH", str(number))
    finally:
        handle.remove()
    assert calls == {3: [3, 3, 2], 100: [8]}[number]
    torch.testing.assert_close(found, predict(model, cloud), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(1, 80), rtol=0, atol=1e-5)


def test_it_evaluates_from_files(model, tmp_path):
    cloud = cloud_of(40)
    np.savez(tmp_path / "a.npz", xyz=cloud.xyz, normal=cloud.normal)
    cfg = config(*ONE_PASS)
    sample = Trainer.build_test_mapper(cfg)({"file_name": str(tmp_path / "a.npz")})
    (output,) = inference_model(cfg, model)([sample])
    assert torch.equal(output["sem_seg"], softmax_of_plain_model(model, cloud))


@pytest.mark.parametrize(
    "words, message",
    [
        (["TEST.MODE", "slide"], "TEST.MODE slide: a PointSegmentor takes whole clouds"),
        (["TEST.AUG.ANGLES", "()"], r"TEST.AUG.ANGLES is \(\), expected one or more angles"),
        (["TEST.AUG.ANGLES", "(0, 'x')"], r"TEST.AUG.ANGLES is \(0, 'x'\)"),
        (["TEST.AUG.ANGLES", "(True,)"], r"TEST.AUG.ANGLES is \(True,\)"),
        (["TEST.AUG.SCALES", "(1, 0)"], r"TEST.AUG.SCALES is \(1, 0\), .* factors above 0"),
        (["TEST.WINDOWS_PER_BATCH", "0"], "TEST.WINDOWS_PER_BATCH is 0, expected 1 or more"),
        (["TEST.GEOMETRY", "True"], "TEST.GEOMETRY needs one embedding"),
        (["TEST.LOSS", "True"], "TEST.LOSS needs logits"),
    ],
)
def test_impossible_keys_are_named(words, message):
    with pytest.raises(InputError, match=message):
        check_inference(config(*words))
