from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sar.config import load_config
from sar.data.grey_range import GreyRange
from sar.errors import InputError
from sar.report import views

from ..stub_model import StubModel


def test_images_of_16_bits_are_shown_as_the_model_sees_them(tmp_path, monkeypatch):
    path = str(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 2048, 4095]], np.uint16)).save(path)
    records = [{"file_name": path, "sem_seg_file_name": path}]
    monkeypatch.setattr(views, "load_dataset", lambda name: records)
    images = views.Images("any", 1, GreyRange(0, 4095))
    assert images.picture(path)[0, :, 0].tolist() == [0, 128, 255]


def shown(model, tmp_path, monkeypatch):
    """Let the model predict an image of 2 x 3 pixels."""
    path = str(tmp_path / "a.png")
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(path)
    images = SimpleNamespace(
        records=[{"file_name": path, "sem_seg_file_name": path}],
        metadata=SimpleNamespace(ignore_label=255),
        shown=lambda name, labels: labels,
    )
    batch = [{"file_name": path, "image": torch.zeros(3, 2, 3)}]
    monkeypatch.setattr(views.loader, "build_test_loader", lambda *_: [batch])
    view = views.View(colors=np.zeros((2, 3), np.uint8))
    views._show(images, model, load_config(), view, lambda items: items)
    return view


def test_a_model_without_a_backbone_predicts_but_has_no_embeddings(tmp_path, monkeypatch):
    view = shown(StubModel(torch.eye(2)[:, :, None].expand(2, 2, 3)), tmp_path, monkeypatch)
    (labels,) = view.predictions.values()
    assert labels.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert view.centres is None and view.points is None
    assert "StubModel has no module `backbone`" in view.reasons["images"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("[enforce fail] not enough memory\nFrame 1"),
            "enforce fail. not enough memory.[.]$",
        ),
        (ValueError("`pool_kernel_size` must be divisible"), "a.png in one pass .`pool_kernel"),
        (InputError("known"), "^known$"),
    ],
)
def test_a_model_that_cannot_predict_whole_images_is_a_reason(tmp_path, monkeypatch, error, reason):
    with pytest.raises(InputError, match=reason):
        shown(StubModel(error), tmp_path, monkeypatch)
