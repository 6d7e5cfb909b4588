from pathlib import Path

import pytest
import torch
from torch import nn

from sar.config import load_config

from detectron2.modeling import build_model

from ..programs import load_program

PATH = Path(__file__).parents[2] / "tools" / "analyze_model.py"
CONFIGS = [f"configs/CamVid/{name}_sem_fpn_R_18.yaml" for name in ("baseline", "sar", "ceco")]
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5",
    "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
]  # fmt: skip
SAR = 3 * 16 * 16 + 2 * 16 + 3 * 2 * 16  # three linear layers, two biases, three norms


@pytest.fixture(scope="module")
def tool():
    return load_program(PATH)


def table(text):
    """The columns of a Markdown table, by their headers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert set("".join(rows.pop(1))) <= set(":-")
    assert {len(row) for row in rows} == {5}
    return {header: cells for header, *cells in zip(*rows, strict=True)}


def numbers(columns, start):
    (header,) = [header for header in columns if header.startswith(start)]
    return [float(cell.replace(",", "")) for cell in columns[header]]


def test_regularizers_cost_nothing_in_inference(tool, capsys):
    assert tool.main(["--config-file", *CONFIGS, "--size", "64", "96", *SMALL]) == 0
    columns = table(capsys.readouterr().out)
    assert columns["model"] == [Path(config).stem for config in CONFIGS]
    parameters = numbers(columns, "inference: parameters")
    assert len(set(parameters)) == 1 and parameters[0] > 11e6
    assert len(set(numbers(columns, "inference: GFLOPs at 64x96"))) == 1

    ceco = load_config(CONFIGS[2], [*SMALL])
    ceco.MODEL.RESNETS.NORM = ceco.MODEL.FPN.NORM = ceco.MODEL.SEM_SEG_HEAD.NORM = "BN"
    branch = build_model(ceco).regularizers.parameters()
    extra = [0, SAR, sum(parameter.numel() for parameter in branch)]
    assert numbers(columns, "training: parameters") == [parameters[0] + more for more in extra]

    memory = numbers(columns, "training: saved activations, MiB, 2 images")
    assert 0 < memory[0] < memory[1] and memory[0] < memory[2]


class Model(nn.Module):
    """A convolution that runs, and a layer that runs in training only."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(7, 7)

    def forward(self, batch):
        x = torch.stack([sample["image"].float() for sample in batch])
        x = self.used(x)
        return {"loss": x.relu().square().sum()} if self.training else [{"sem_seg": x[0]}]


def test_cost_of_inference_is_counted_right(tool):
    parameters, flops = tool.inference_cost(Model(), (8, 10))
    assert parameters == 3 * 4 * 9 + 4
    assert flops == 8 * 10 * 3 * 4 * 9


def test_attention_is_counted(tool):
    class Attention(Model):
        def forward(self, batch):
            x = self.used(torch.stack([sample["image"].float() for sample in batch]))
            x = x.flatten(2).transpose(1, 2)
            return [{"sem_seg": nn.functional.scaled_dot_product_attention(x, x, x)}]

    convolution, attention = 8 * 10 * 3 * 4 * 9, 2 * 80 * 80 * 4
    assert tool.inference_cost(Attention(), (8, 10))[1] == convolution + attention


def test_saved_activations_are_counted_once(tool):
    batch = [{"image": torch.zeros(3, 8, 10, dtype=torch.uint8)}] * 2
    images, relu = 2 * 3 * 8 * 10 * 4, 2 * 4 * 8 * 10 * 4
    # The convolution saves its images, the rectifier and the square its output, both the same.
    assert tool.saved_memory(Model(), batch) == images + relu


@pytest.mark.parametrize(
    "line, expected",
    [
        (["nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["configs/Folder/sar_sem_fpn_R_18.yaml"], "NUM_CLASSES is 0"),
        (["configs/LongTailShapes/sar_panoptic_fpn_R_18.yaml"], "not a semantic segmentor"),
        (["configs/LongTailRooms/baseline_sparse_unet.yaml"], "is for point clouds"),
        (
            ["configs/Cityscapes/baseline_deeplab_v3_plus_R_50.yaml", "--size", "64", "64"],
            "its model cannot take 2 images of 64 x 64 (",
        ),
    ],
)
def test_errors_are_one_line(tool, line, expected, capsys):
    assert tool.main(["--config-file", *line, "--quiet"]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ") and expected in message
