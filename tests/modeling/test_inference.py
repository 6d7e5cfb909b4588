"""Inference modes against computations of their own, and against the plain model."""

import copy
import math
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sar.config import load_config
from sar.errors import InputError
from sar.modeling import inference
from sar.modeling.inference import (
    check_inference,
    check_pooling,
    inference_model,
    memory_remedy,
    window_starts,
)
from sar.prediction.export import check_exportable
from sar.training.trainer import Trainer

from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, SemanticSegmentor, build_model

K = 4
MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)


class Identity(Backbone):
    """Gives the padded images, and remembers how many came and of what size."""

    size_divisibility = 8

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, images):
        self.calls.append(tuple(images.shape))
        return {"pixels": images}

    def output_shape(self):
        return {"pixels": ShapeSpec(channels=3, stride=1)}


class PixelHead(nn.Module):
    """Logits of a pixel alone, so that flips and windows make no difference."""

    ignore_value = 255

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(K, 3, generator=generator))

    def forward(self, features, targets=None):
        return torch.einsum("kc,nchw->nkhw", self.weight, features["pixels"]), {}


class PositionHead(PixelHead):
    """Adds to class k a number that depends on where in the window the pixel is."""

    def forward(self, features, targets=None):
        logits, losses = super().forward(features)
        _, _, h, w = logits.shape
        rows, columns = torch.arange(h)[:, None], torch.arange(w)
        position = 0.03 * rows * rows - 0.05 * columns + 0.01 * rows * columns
        return logits + torch.arange(K)[:, None, None] * position, losses


def toy_model(head=PixelHead):
    backbone = Identity()
    model = SemanticSegmentor(
        backbone=backbone, sem_seg_head=head(), pixel_mean=MEAN, pixel_std=STD
    )
    return model.eval()


def toy_sample(height=37, width=53, /, **extra):
    generator = torch.Generator().manual_seed(height)
    image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": image, **extra}


def config(*overrides):
    return load_config("", [str(word) for word in overrides])


SLIDE = ["TEST.MODE", "slide", "TEST.CROP_SIZE", "(16, 24)", "TEST.CROP_STRIDE", "(11, 7)"]
FLIP = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(0,)"]


# -- Independent computations, in numpy and float64


def numpy_position_logits(window):
    """What PositionHead gives for an (h, w, 3) uint8 window."""
    normalized = (window - np.array(MEAN)) / np.array(STD)
    logits = np.einsum("kc,hwc->khw", PixelHead().weight.double().numpy(), normalized)
    for k in range(K):
        for i in range(window.shape[0]):
            for j in range(window.shape[1]):
                logits[k, i, j] += k * (0.03 * i * i - 0.05 * j + 0.01 * i * j)
    return logits


def numpy_slide(image, crop, stride):
    """Windows on a grid of ceil((edge - crop) / stride) + 1, moved back into the image."""
    height, width = image.shape[:2]
    sums, counts = np.zeros((K, height, width)), np.zeros((height, width))
    for i in range(max(math.ceil((height - crop[0]) / stride[0]), 0) + 1):
        for j in range(max(math.ceil((width - crop[1]) / stride[1]), 0) + 1):
            bottom = min(i * stride[0] + crop[0], height)
            right = min(j * stride[1] + crop[1], width)
            place = np.s_[max(bottom - crop[0], 0) : bottom, max(right - crop[1], 0) : right]
            sums[:, place[0], place[1]] += numpy_position_logits(image[place])
            counts[place] += 1
    return sums / counts


def numpy_softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=0))
    return exponentials / exponentials.sum(axis=0)


def as_image(sample):
    return sample["image"].permute(1, 2, 0).numpy()


# -- Whole images


def test_whole_images_are_the_model_itself():
    model = toy_model()
    assert inference_model(config(), model) is model
    assert inference_model(config("TEST.AUG.FLIP", False), model) is model


# -- Sliding windows


@pytest.mark.parametrize(
    "length, crop, stride, expected",
    [
        (10, 10, 5, [0]),
        (7, 10, 5, [0]),
        (20, 10, 5, [0, 5, 10]),
        (21, 10, 5, [0, 5, 10, 11]),
        (2048, 512, 341, [0, 341, 682, 1023, 1364, 1536]),
        (5, 1, 1, [0, 1, 2, 3, 4]),
    ],
)
def test_window_starts(length, crop, stride, expected):
    assert window_starts(length, crop, stride) == expected


@pytest.mark.parametrize("windows_per_batch", [1, 4, 100])
@pytest.mark.parametrize(
    "crop, stride",
    [((16, 24), (11, 7)), ((16, 24), (16, 24)), ((50, 9), (3, 5)), ((37, 20), (37, 1))],
)
def test_sliding_windows_are_those_of_numpy(crop, stride, windows_per_batch):
    model, sample = toy_model(PositionHead), toy_sample()
    cfg = config(
        "TEST.MODE", "slide", "TEST.CROP_SIZE", crop, "TEST.CROP_STRIDE", stride,
        "TEST.WINDOWS_PER_BATCH", windows_per_batch,
    )  # fmt: skip
    (output,) = inference_model(cfg, model)([sample])
    assert output["sem_seg"].dtype == torch.float32
    expected = numpy_slide(as_image(sample), crop, stride)
    np.testing.assert_allclose(output["sem_seg"].numpy(), expected, rtol=1e-4, atol=1e-4)
    # Every window is padded to the backbone's multiple of 8, and no batch is larger than allowed.
    shapes = model.backbone.calls
    padded = tuple(-(-min(c, e) // 8) * 8 for c, e in zip(crop, (37, 53), strict=True))
    assert all(shape[2:] == padded for shape in shapes)
    assert max(shape[0] for shape in shapes) <= windows_per_batch
    assert sum(shape[0] for shape in shapes) == len(window_starts(37, crop[0], stride[0])) * len(
        window_starts(53, crop[1], stride[1])
    )


@pytest.mark.parametrize("config_file", ["CamVid/sar_sem_fpn", "Folder/baseline_sem_fpn"])
@pytest.mark.parametrize("crop", [(61, 75), (64, 1000), (512, 512)])
@pytest.mark.parametrize("output_size", [{}, {"height": 100, "width": 90}])
def test_a_crop_as_large_as_the_image_is_the_whole_bit_for_bit(
    config_file, crop, output_size, small_config
):
    crops = ["TEST.CROP_SIZE", str(crop), "TEST.CROP_STRIDE", "(10, 20)"]
    cfg = small_config(f"configs/{config_file}_R_18.yaml", "TEST.MODE", "slide", *crops)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    samples = [toy_sample(61, 75, **output_size)]
    with torch.no_grad():
        (expected,) = model(samples)
    (output,) = inference_model(cfg, model)(samples)
    assert output.keys() == expected.keys() == {"sem_seg"}
    assert torch.equal(output["sem_seg"], expected["sem_seg"])


def test_sliding_brings_the_average_to_the_output_size():
    model, cfg = toy_model(PositionHead), config(*SLIDE)
    sample = toy_sample()
    (at_input_size,) = inference_model(cfg, model)([sample])
    (output,) = inference_model(cfg, model)([{**sample, "height": 80, "width": 30}])
    expected = nn.functional.interpolate(
        at_input_size["sem_seg"][None], (80, 30), mode="bilinear", align_corners=False
    )[0]
    assert torch.equal(output["sem_seg"], expected)


def test_images_of_a_batch_are_independent():
    predict = inference_model(config(*SLIDE), toy_model(PositionHead))
    samples = [toy_sample(), toy_sample(20, 70, height=10, width=35)]
    together = predict(samples)
    assert [tuple(output["sem_seg"].shape) for output in together] == [(K, 37, 53), (K, 10, 35)]
    for sample, output in zip(samples, together, strict=True):
        assert torch.equal(predict([sample])[0]["sem_seg"], output["sem_seg"])


@pytest.mark.parametrize("mode", [SLIDE, FLIP, [*SLIDE, *FLIP]])
def test_logits_of_a_pass_are_gone_before_the_next(mode):
    """So that memory does not grow with the number of windows, or of passes."""
    alive = []

    class WatchedHead(PixelHead):
        def forward(self, features, targets=None):
            assert not any(logits() is not None for logits in alive)
            logits, losses = super().forward(features)
            alive.append(weakref.ref(logits.untyped_storage()))
            return logits, losses

    tensor = torch.zeros(3)
    storage = weakref.ref(tensor.untyped_storage())
    assert storage() is not None
    del tensor
    assert storage() is None  # so storages can be watched
    cfg = config(*mode, "TEST.WINDOWS_PER_BATCH", 3)
    inference_model(cfg, toy_model(WatchedHead))([toy_sample()])
    assert len(alive) > 1


def test_sums_of_large_images_are_in_main_memory():
    """With the device "meta", since tests may have no other than the CPU."""
    logits = torch.empty(150, 8, 8, device="meta")
    place = inference._device_of_sums
    assert place(logits, (683, 1024)).type == "meta"
    assert place(logits, (1024, 1024)).type == "cpu"
    assert place(logits, (8, 8), (1024, 1024)).type == "cpu"  # the output is larger than the image
    assert place(torch.empty(19, 8, 8, device="meta"), (1024, 2048)).type == "meta"
    assert place(torch.empty(2, 8, 8), (30_000, 30_000)).type == "cpu"


class ManyClassesHead(PixelHead):
    def __init__(self):
        super().__init__()
        self.weight = self.weight.repeat(25, 1)


@pytest.mark.parametrize("augmentation", [[], FLIP])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_main_memory_changes_nothing_and_frees_the_device(augmentation, monkeypatch):
    crops = ["TEST.MODE", "slide", "TEST.CROP_SIZE", "128", "TEST.CROP_STRIDE", "100"]
    model, sample = toy_model(ManyClassesHead).cuda(), toy_sample(700, 900)
    predict = inference_model(config(*crops, *augmentation), model)
    (expected,) = predict([sample])
    assert expected["sem_seg"].is_cuda
    monkeypatch.setattr(inference, "_MOST_ON_DEVICE", 2**20)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    (output,) = predict([sample])
    assert torch.cuda.max_memory_allocated() - before < expected["sem_seg"].nbytes / 2
    assert not output["sem_seg"].is_cuda
    torch.testing.assert_close(output["sem_seg"], expected["sem_seg"].cpu())


MEASURE = """
import re, torch
from torch import nn
from sar.config import load_config
from sar.modeling.inference import inference_model
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, SemanticSegmentor

class Stride4(Backbone):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
    def forward(self, images):
        return {"res2": self.conv(images)}
    def output_shape(self):
        return {"res2": ShapeSpec(channels=8, stride=4)}

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.predictor = nn.Conv2d(8, 150, 1)
    def forward(self, features, targets=None):
        logits = self.predictor(features["res2"])
        return nn.functional.interpolate(logits, scale_factor=4, mode="bilinear"), {}

torch.set_num_threads(1)
cfg = load_config("", ["TEST.MODE", "slide"])
model = SemanticSegmentor(
    backbone=Stride4(), sem_seg_head=Head(), pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3
).eval()
sample = {"image": torch.zeros(3, 1024, 2048, dtype=torch.uint8), "height": 1024, "width": 2048}
(output,) = inference_model(cfg, model)([sample])
assert output["sem_seg"].shape == (150, 1024, 2048)
output["sem_seg"].max(dim=0)
# Not ru_maxrss, which begins with that of the process that started this one.
status = open("/proc/self/status").read()
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_2048_x_1024_pixels_of_150_classes_stay_under_3_gib():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3.0


# -- Test-time augmentation


def test_of_a_network_that_sees_pixels_flips_change_nothing():
    model, sample = toy_model(), toy_sample()
    with torch.no_grad():
        plain = model([sample])[0]["sem_seg"]
    (output,) = inference_model(config(*FLIP), model)([sample])
    torch.testing.assert_close(output["sem_seg"], plain.softmax(dim=0))
    assert len(model.backbone.calls) == 3


def test_flips_are_averaged_as_probabilities():
    model, sample = toy_model(PositionHead), toy_sample(80, 53)  # more rows than a strip
    (output,) = inference_model(config(*FLIP), model)([sample])
    image = as_image(sample)
    expected = numpy_softmax(numpy_position_logits(image))
    expected += numpy_softmax(numpy_position_logits(image[:, ::-1]))[:, :, ::-1]
    np.testing.assert_allclose(output["sem_seg"].numpy(), expected / 2, rtol=1e-3, atol=1e-5)


def test_one_scale_is_what_the_mapper_does_there():
    """Softmax of the plain model's output, for an image resized by Pillow."""
    model, sample = toy_model(PositionHead), toy_sample(30, 40)
    cfg = config(
        "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (45,), "TEST.AUG.FLIP", False,
        "TEST.AUG.MAX_SIZE", 56,
    )  # fmt: skip
    (output,) = inference_model(cfg, model)([sample])
    assert model.backbone.calls == [(1, 3, 48, 56)]  # 42 x 56, padded to multiples of 8
    resized = np.asarray(
        Image.fromarray(as_image(sample)).resize((56, 42), Image.Resampling.BILINEAR)
    )
    with torch.no_grad():
        resized_image = torch.tensor(resized).permute(2, 0, 1)
        (plain,) = model([{"image": resized_image, "height": 30, "width": 40}])
    torch.testing.assert_close(output["sem_seg"], plain["sem_seg"].softmax(dim=0))


@pytest.mark.parametrize("flip", [False, True])
def test_scales_flips_and_windows_together(flip):
    model, sample = toy_model(PositionHead), toy_sample(30, 40, height=30, width=40)
    augmentation = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (0, 21, 45)]
    cfg = config(*SLIDE, *augmentation, "TEST.AUG.FLIP", flip)
    (output,) = inference_model(cfg, model)([sample])

    expected, passes = np.zeros((K, 30, 40)), 0
    for size in ((40, 30), (28, 21), (60, 45)):
        image = Image.fromarray(as_image(sample)).resize(size, Image.Resampling.BILINEAR)
        for step in (1, -1) if flip else (1,):
            logits = numpy_slide(np.asarray(image)[:, ::step], (16, 24), (11, 7))
            at_output_size = nn.functional.interpolate(
                torch.tensor(logits)[None], (30, 40), mode="bilinear", align_corners=False
            )[0].numpy()
            expected += numpy_softmax(at_output_size)[:, :, ::step]
            passes += 1
    np.testing.assert_allclose(output["sem_seg"].numpy(), expected / passes, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(output["sem_seg"].sum(dim=0).numpy(), 1, rtol=1e-5)


@pytest.mark.parametrize("mode", [SLIDE, FLIP, [*SLIDE, *FLIP]])
def test_the_model_stays_as_it_is(mode, small_config):
    cfg = small_config("configs/CamVid/sar_sem_fpn_R_18.yaml", *mode)
    model = build_model(cfg).train()
    model.backbone.bottom_up.stem.eval()  # as frozen parts are
    state, flags = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    predict = inference_model(cfg, model)
    assert predict.training and [m.training for m in model.modules()] == flags
    sample = toy_sample()
    before = sample["image"].clone()
    predict.eval()
    (output,) = predict([sample])
    assert not model.training and not output["sem_seg"].requires_grad
    predict.train()
    assert model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(sample["image"], before)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_model_in_evaluation_mode_stays_there():
    """detectron2 sets what it evaluates back to the mode that it had."""
    model = toy_model()
    predict = inference_model(config(*SLIDE), model)
    assert not predict.training


def test_of_a_distributed_model_the_module_is_taken(monkeypatch):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert issubclass(DistributedDataParallel, nn.Module)
    monkeypatch.setattr("sar.modeling.inference.DistributedDataParallel", Wrapper)
    model, sample = toy_model(PositionHead), toy_sample()
    (expected,) = inference_model(config(*SLIDE), model)([sample])
    (output,) = inference_model(config(*SLIDE), Wrapper(model))([sample])
    assert torch.equal(output["sem_seg"], expected["sem_seg"])
    plain = Wrapper(model)
    assert inference_model(config(), plain) is plain


# -- What is refused


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["TEST.MODE", "slid"], 'unknown TEST.MODE "slid".*mean "slide"'),
        (["TEST.CROP_STRIDE", "(17, 7)"], r"TEST.CROP_STRIDE \(17, 7\) is larger than TEST.CROP_S"),
        (["TEST.CROP_STRIDE", "(0, 7)"], r"TEST.CROP_STRIDE is \(0, 7\), expected 2 whole numbers"),
        (["TEST.CROP_SIZE", "(-16, 24)"], r"TEST.CROP_SIZE is \(-16, 24\)"),
        (["TEST.CROP_SIZE", "('a', '24')"], "TEST.CROP_SIZE is"),
        (["TEST.CROP_SIZE", "(16.5, 24)"], "TEST.CROP_SIZE is"),
        (["TEST.CROP_SIZE", "(True, 24)"], "TEST.CROP_SIZE is"),
        (["TEST.CROP_SIZE", "(16,)"], "TEST.CROP_SIZE is"),
        (["TEST.CROP_SIZE", "(16, 24, 24)"], "TEST.CROP_SIZE is"),
        (["TEST.CROP_SIZE", "()"], "TEST.CROP_SIZE is"),
        (["TEST.CROP_SIZE", "6"], r"TEST.CROP_STRIDE \(11, 7\) is larger than .* \(6, 6\)"),
        (["TEST.WINDOWS_PER_BATCH", "0"], "TEST.WINDOWS_PER_BATCH is"),
        ([*FLIP, "TEST.AUG.MIN_SIZES", "()"], "TEST.AUG.MIN_SIZES is"),
        ([*FLIP, "TEST.AUG.MIN_SIZES", "(512, -1)"], "TEST.AUG.MIN_SIZES is"),
        ([*FLIP, "TEST.AUG.MIN_SIZES", "(512, 'a')"], "TEST.AUG.MIN_SIZES is"),
        ([*FLIP, "TEST.AUG.MAX_SIZE", "0"], "TEST.AUG.MAX_SIZE is"),
        (["TEST.GEOMETRY", "True"], "TEST.MODE slide: TEST.GEOMETRY needs"),
        ([*FLIP, "TEST.MODE", "whole", "TEST.GEOMETRY", "True"], "TEST.AUG.ENABLED: TEST.GEOMETRY"),
        ([*FLIP, "TEST.LOSS", "True"], "TEST.AUG.ENABLED: .*TEST.LOSS needs logits"),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "TEST.MODE slide: .*PanopticFPN is no"),
        (
            [*FLIP, "TEST.MODE", "whole", "MODEL.META_ARCHITECTURE", "RegularizedPanopticFPN"],
            "TEST.AUG.ENABLED: .*RegularizedPanopticFPN is no",
        ),
    ],
)
def test_what_is_refused(overrides, message):
    with pytest.raises(InputError, match=message):
        check_inference(config(*SLIDE, *overrides))


def test_a_forward_of_ones_own_is_not_passed_over(monkeypatch):
    class Brighter(SemanticSegmentor):
        def forward(self, batched_inputs):
            return super().forward([x | {"image": x["image"] * 2} for x in batched_inputs])

    monkeypatch.setattr(META_ARCH_REGISTRY, "_obj_map", dict(META_ARCH_REGISTRY._obj_map))
    META_ARCH_REGISTRY.register(Brighter)
    words = ["MODEL.META_ARCHITECTURE", "Brighter"]
    for mode in (SLIDE, FLIP):
        with pytest.raises(InputError, match="Brighter has a forward of its own, which windows"):
            check_inference(load_config("", [*words, *mode]))
    check_inference(load_config("", words))
    with pytest.raises(InputError, match="Brighter cannot be exported, since it has a forward"):
        check_exportable(load_config("", words))


def test_what_is_not_used_is_not_looked_at():
    check_inference(config("TEST.CROP_SIZE", "(0, 0)", "TEST.AUG.MIN_SIZES", "()"))
    check_inference(config("TEST.GEOMETRY", "True", "MODEL.META_ARCHITECTURE", "PanopticFPN"))


@pytest.mark.parametrize(
    "overrides, expected",
    [
        ([], "set TEST.MODE slide, or set INPUT.MIN_SIZE_TEST lower, or "),
        (["INPUT.MIN_SIZE_TEST", "0"], "set TEST.MODE slide, or "),
        (FLIP, "set TEST.MODE slide, or set TEST.AUG.ENABLED False, or "),
        (SLIDE, "set TEST.CROP_SIZE lower, or "),
        ([*SLIDE, "TEST.WINDOWS_PER_BATCH", "4"], "set TEST.WINDOWS_PER_BATCH 1, or "),
        (["MODEL.META_ARCHITECTURE", "PanopticFPN"], "set INPUT.MIN_SIZE_TEST lower, or "),
        (["MODEL.META_ARCHITECTURE", "PointSegmentor"], ""),
    ],
)
def test_what_helps_if_the_memory_is_too_small(overrides, expected):
    assert memory_remedy(config(*overrides)) == f"{expected}cut it into parts"


DEEPLAB = [
    "MODEL.DEVICE", "cpu", "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN",
    "INPUT.CROP.SIZE", "(32, 64)", "INPUT.MIN_SIZE_TEST", "0",
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("head", ["deeplab_v3_R_103", "deeplab_v3_plus_R_50"])
def test_what_deeplabs_pooling_cannot_take_is_said_before(head):
    """Exactly what it refuses when it is given it."""
    config_file = f"configs/Cityscapes/baseline_{head}.yaml"
    model = build_model(load_config(config_file, DEEPLAB)).eval()
    slide = ["TEST.MODE", "slide", "TEST.CROP_STRIDE", (32, 32), "TEST.CROP_SIZE"]
    augment = [*FLIP, "TEST.AUG.MIN_SIZES"]
    for words, shape, wrong_key in (
        ([], (32, 64), None),
        ([], (64, 128), None),
        ([], (60, 50), None),  # 4 x 4 places at stride 16
        ([], (48, 64), "INPUT.MIN_SIZE_TEST"),
        ([], (16, 64), "INPUT.MIN_SIZE_TEST"),
        (["INPUT.MIN_SIZE_TEST", 32], (64, 128), None),
        (["INPUT.MIN_SIZE_TEST", 48], (64, 128), "INPUT.MIN_SIZE_TEST"),
        ([*slide, (32, 64)], (70, 90), None),
        ([*slide, (32, 32)], (64, 128), "TEST.CROP_SIZE"),
        ([*slide, (32, 64)], (64, 40), "TEST.CROP_SIZE"),
        ([*augment, (32, 64)], (64, 128), None),
        ([*augment, (32, 48)], (64, 128), "TEST.AUG.MIN_SIZES"),
    ):
        cfg = load_config(config_file, [*DEEPLAB, *map(str, words)])
        mapper = Trainer.build_test_mapper(cfg)
        sample = mapper.map_pixels(np.zeros((*shape, 3), np.uint8))
        predict = inference_model(cfg, model)
        if wrong_key is None:
            check_pooling(cfg, model, [shape])
            predict([sample])
            continue
        message = f"of {shape[0]} x {shape[1]} pixels.*ASPP_GLOBAL_POOLING True, or .*{wrong_key}"
        with pytest.raises(InputError, match=message):
            check_pooling(cfg, model, [shape])
        with pytest.raises(ValueError, match="pool_kernel_size"):
            predict([sample])
    check_pooling(config(), toy_model(), None)


def test_global_pooling_takes_all_sizes():
    words = [*DEEPLAB, "MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING", "True"]
    cfg = load_config("configs/Cityscapes/baseline_deeplab_v3_plus_R_50.yaml", words)
    check_pooling(cfg, build_model(cfg), [(45, 67)])
