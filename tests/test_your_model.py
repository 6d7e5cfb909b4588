"""docs/your-head.md and docs/plain-pytorch.md can be followed, with models of other libraries."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sar.regularizers import (
    CenterCollapseRegularizer,
    SemanticAnchorRegularizer,
    tap_embeddings,
)

ROOT = Path(__file__).parents[1]
K = 5


def step(model, classifier, images, labels, logits_of=lambda output: output):
    """A training step with both regularizers, as in docs/plain-pytorch.md."""
    embed_dim = classifier.weight.shape[1]
    regularizers = [
        SemanticAnchorRegularizer(K, embed_dim, gate_confidence=0.0),
        CenterCollapseRegularizer(K, embed_dim),
    ]
    with tap_embeddings(classifier) as tapped:
        logits = logits_of(model(images))
    if labels.dim() == 3:
        logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    losses = {"loss_ce": F.cross_entropy(logits, labels)}
    for regularizer in regularizers:
        losses |= regularizer(tapped.embeddings, labels, classifier)
    sum(losses.values()).backward()
    assert set(losses) == {"loss_ce", "loss_sar_anchor", "loss_sar_pull", "loss_ceco"}
    assert all(loss.isfinite() for loss in losses.values())
    assert classifier.weight.grad.any()
    assert not classifier._forward_pre_hooks


@pytest.fixture
def pictures():
    torch.manual_seed(0)
    return torch.randn(2, 3, 64, 64), torch.randint(K, (2, 64, 64))


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50"])
def test_torchvision(name, pictures):
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    options = {"weights": None, "weights_backbone": None, "num_classes": K}
    model = getattr(segmentation, name)(**options)
    step(model, model.classifier[-1], *pictures, lambda output: output["out"])


def test_torchvisions_sum_of_two_layers_is_for_ceco_alone(pictures):
    segmentation = pytest.importorskip("torchvision.models.segmentation")
    options = {"weights": None, "weights_backbone": None, "num_classes": K}
    model = segmentation.lraspp_mobilenet_v3_large(**options)
    images, labels = pictures
    with tap_embeddings(model.classifier.cbr, output=True) as tapped:
        model(images)
    loss = CenterCollapseRegularizer(K, 128)(tapped.embeddings, labels)["loss_ceco"]
    loss.backward()
    assert model.classifier.cbr[0].weight.grad.any()


def test_timm_classifies_images():
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", num_classes=K)
    assert model.get_classifier().weight.shape[1] == model.num_features
    step(model, model.get_classifier(), torch.randn(6, 3, 64, 64), torch.arange(6) % K)


def test_segmentation_models_pytorch(pictures):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.FPN("resnet18", encoder_weights=None, classes=K)
    step(model, model.segmentation_head[0], *pictures)
    unet = smp.Unet("resnet18", encoder_weights=None, classes=K)
    with pytest.raises(ValueError, match="3x3"):
        step(unet, unet.segmentation_head[0], *pictures)
    channels = unet.segmentation_head[0].in_channels
    unet.segmentation_head[0] = nn.Conv2d(channels, K, 1)
    step(unet, unet.segmentation_head[0], *pictures)


def test_transformers(pictures):
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(num_labels=K)
    model = transformers.SegformerForSemanticSegmentation(config)
    step(model, model.decode_head.classifier, *pictures, lambda output: output.logits)


def test_a_3x3_convolution_is_refused(pictures):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, K, 3, padding=1))
    with pytest.raises(ValueError, match="kernel of 3x3"):
        step(model, model[-1], *pictures)


SMALL = {
    "train_net.py": "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0 "
    "INPUT.CROP.SIZE 32,32 INPUT.MIN_SIZE_TRAIN 32,64 SOLVER.CHECKPOINT_PERIOD 1",
    "tools/visualize.py": "DATALOADER.NUM_WORKERS 0",
    "tools/predict.py": "DATALOADER.NUM_WORKERS 0",
    "tools/export.py": "",
    "tools/analyze_model.py": "",
}


@pytest.mark.slow
def test_a_model_of_ones_own_works_in_every_program(folder):
    """Every command of docs/your-head.md, in its order, with few steps; then --resume."""
    work = folder.parent
    page = (ROOT / "docs" / "your-head.md").read_text()
    files = re.findall(r"^```\w+\n# ([\w.]+).*?\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for name, content in files:
        (work / name).write_text(content)
    (work / "configs").symlink_to(ROOT / "configs")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(words, *more):
        done = subprocess.run(
            [sys.executable, ROOT / words[1], *words[2:], *SMALL[words[1]].split(), *more],
            cwd=work, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    commands = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    lines = re.sub(r" *\\\n\s*", " ", "".join(commands)).splitlines()
    assert len(lines) == 6
    for line in lines:
        run(shlex.split(line))
    assert (work / "my_head.pt2").is_file() and len(list((work / "seen").iterdir())) >= 5

    metrics = work / "output/my_head/metrics.json"
    words = shlex.split(lines[0])
    run([*words[:2], "--resume", *words[2:]], "SOLVER.MAX_ITER", "4")
    iterations = [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()]
    assert {1, 3} <= set(iterations)
    processes = ["--num-gpus", "0", "--num-processes", "2"]
    run(
        [*words[:2], *processes, *words[2:]],
        "OUTPUT_DIR",
        "output/two",
        "SOLVER.IMS_PER_BATCH",
        "4",
    )
