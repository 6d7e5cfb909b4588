import pytest
import torch

from sar.evaluation import argmax
from sar.evaluation.argmax import argmax_over_classes


@pytest.mark.parametrize("num_classes", [1, 2, 19, 255, 256, 257, 600])
@pytest.mark.parametrize("tile", [1, 100, 2**17])
def test_equals_numpys(num_classes, tile, monkeypatch):
    monkeypatch.setattr(argmax, "_TILE", tile)
    generator = torch.Generator().manual_seed(num_classes)
    scores = torch.randn(num_classes, 13, 17, generator=generator)
    ids = argmax_over_classes(scores)
    assert ids.dtype == torch.int64
    assert (ids.numpy() == scores.numpy().argmax(0)).all()


@pytest.mark.parametrize("num_classes", [5, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_of_equals_the_first(num_classes, dtype):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-2, 3, (num_classes, 20, 30), generator=generator).to(dtype)
    scores[:, 0, 0] = -torch.inf
    scores[-1, 0, 1] = torch.inf
    ids = argmax_over_classes(scores)
    assert (ids.numpy() == scores.double().numpy().argmax(0)).all()
    assert ids[0, 0] == 0 and ids[0, 1] == num_classes - 1


def test_scores_that_are_a_part_of_a_larger_map_stay_as_they_are():
    whole = torch.randn(6, 20, 30, requires_grad=True)
    part = whole[:, 3:17, 2:25]
    before = part.detach().clone()
    assert (argmax_over_classes(part).numpy() == before.numpy().argmax(0)).all()
    assert torch.equal(part, before)
    by_channel = before.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(argmax_over_classes(by_channel), argmax_over_classes(part))


def test_image_without_pixels():
    assert argmax_over_classes(torch.zeros(3, 0, 5)).shape == (0, 5)
    assert argmax_over_classes(torch.zeros(3, 5, 0)).shape == (5, 0)
