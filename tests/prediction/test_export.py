import pytest
import torch
from torch import nn

from sar.config import load_config
from sar.errors import InputError
from sar.prediction.export import AdaptiveAverage, SegmentationGraph, check_exportable, trace

from detectron2.modeling import build_model

CONFIG = "configs/CamVid/sar_sem_fpn_R_18.yaml"
DEEPLAB = "configs/CamVid/sar_deeplab_v3_plus_R_50.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
    "MODEL.FPN.NORM", "BN", "MODEL.RESNETS.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN",
]  # fmt: skip


def build(config, *overrides):
    torch.manual_seed(0)
    return build_model(load_config(config, [*SMALL, *overrides])).eval()


@torch.no_grad()
def differences(model, run):
    """Greatest difference of the logits, relative to the greatest, at sizes of all kinds."""
    torch.manual_seed(1)
    for size in ((64, 96), (65, 33), (200, 50), (33, 161)):
        image = torch.randint(256, (1, 3, *size), dtype=torch.uint8)
        expected = model([{"image": image[0]}])[0]["sem_seg"]
        found = run(image)
        assert found.shape == (1, *expected.shape) and found.dtype == torch.float32
        yield ((found[0] - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    "config, overrides, key",
    [
        ("configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml", [], "META_ARCHITECTURE"),
        (CONFIG, ["TEST.MODE", "slide"], "TEST.MODE slide"),
        (CONFIG, ["TEST.AUG.ENABLED", "True"], "TEST.AUG.ENABLED True"),
    ],
)
def test_what_is_no_single_graph_is_refused(config, overrides, key):
    with pytest.raises(InputError, match=f"{key}.* cannot be exported"):
        check_exportable(load_config(config, overrides))


def test_models_of_point_clouds_are_refused_with_the_file_to_use():
    cfg = load_config("configs/LongTailRooms/ceco_sparse_unet.yaml", [])
    message = "PointSegmentor cannot be exported .* yet: .* model_inference.pth is its file for pre"
    with pytest.raises(InputError, match=message):
        check_exportable(cfg)


def test_a_head_that_pools_over_windows_is_refused():
    windows = ["MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING", "False", "INPUT.CROP.SIZE", "(64, 64)"]
    with pytest.raises(InputError, match="INPUT.CROP.SIZE.*ASPP_GLOBAL_POOLING True"):
        SegmentationGraph(build(DEEPLAB, *windows))
    SegmentationGraph(build(DEEPLAB))


def test_adaptive_average_is_that_of_pytorch():
    generator = torch.Generator().manual_seed(0)
    for size in ((7, 11), (1, 5), (2, 3), (12, 6)):
        features = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
        for output_size in (1, 2, 3, (6, 4)):
            expected = nn.AdaptiveAvgPool2d(output_size)(features)
            found = AdaptiveAverage(output_size)(features)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_the_graph_is_the_model_in_inference_and_nothing_of_its_training():
    model = build(CONFIG, "MODEL.AUXILIARY_HEAD.IN_FEATURE", "p4", "MODEL.LOSS.NAME", "seesaw")
    graph = SegmentationGraph(model)
    assert set(differences(model, graph)) == {0.0}
    training = sum(p.numel() for p in model.regularizers.parameters())
    training += sum(p.numel() for p in model.auxiliary_head.parameters())
    total = sum(p.numel() for p in model.parameters())
    assert training > 0
    assert sum(p.numel() for p in graph.parameters()) == total - training
    # The model itself is left as it was, though parts of the graph may be others.
    pooling = build(CONFIG, "MODEL.SEM_SEG_HEAD.NAME", "UPerNetHead")
    before = repr(pooling)
    SegmentationGraph(pooling)
    assert repr(pooling) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["SemSegFPNHead", "FCNHead", "UPerNetHead", "OCRHead", "SegFormerHead"]
)
def test_the_traced_graph_takes_any_size(head):
    model = build(CONFIG, "MODEL.SEM_SEG_HEAD.NAME", head)
    program = trace(SegmentationGraph(model))
    assert not [name for name in program.state_dict if "regularizers" in name or "loss" in name]
    tolerance = 1e-5 if head == "UPerNetHead" else 0  # its pooling sums in another order
    assert max(differences(model, program.module())) <= tolerance


@pytest.mark.slow
def test_deeplab_can_be_traced():
    model = build(DEEPLAB, "MODEL.RESNETS.DEPTH", "50")
    assert max(differences(model, trace(SegmentationGraph(model)).module())) == 0


def test_a_network_that_cannot_be_traced_is_an_error_that_says_so():
    class Branching(nn.Module):
        size_divisibility = 0

        def forward(self, images):
            return images if images.sum() > 0 else -images

    class Model(nn.Module):
        backbone, sem_seg_head = Branching(), nn.Identity()
        pixel_mean, pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)

    with pytest.raises(InputError, match="cannot be traced.*MODEL.BACKBONE.NAME"):
        trace(SegmentationGraph(Model()))
