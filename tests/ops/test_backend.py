"""Which module computes, where Triton is there, is not, or is of no use."""

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from sar.ops import (
    backend,
    squared_distance,
    squared_distance_pytorch,
    upsampled_cross_entropy_pytorch,
)

GPU = torch.device("cuda:1")  # which need not be there
MODULES = {
    "sar.ops.upsampled_cross_entropy": upsampled_cross_entropy_pytorch,
    "sar.ops.squared_distance": squared_distance_pytorch,
}


@pytest.fixture
def tried(monkeypatch):
    """Stand-ins for the modules of kernels, of which all work; the devices they are tried on."""
    devices = []
    monkeypatch.setattr(backend, "find_spec", lambda name: True)
    for name in MODULES:
        kernels = ModuleType(f"{name}_triton")
        kernels.try_out = devices.append
        monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    backend.choose_backend.cache_clear()
    yield devices
    backend.choose_backend.cache_clear()


@pytest.mark.parametrize("name", MODULES)
def test_triton_computes_on_a_gpu_where_it_works(name, tried):
    for _ in range(2):
        assert backend.choose_backend(name, GPU) is sys.modules[f"{name}_triton"]
    assert tried == [GPU]  # once


@pytest.mark.parametrize("name", MODULES)
def test_pytorch_computes_elsewhere(name, tried, monkeypatch):
    assert backend.choose_backend(name, torch.device("cpu")) is MODULES[name]
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert backend.choose_backend(name, GPU) is MODULES[name]
    assert tried == []


@pytest.mark.parametrize("name", MODULES)
def test_pytorch_stands_in_where_triton_does_not_work(name, tried, monkeypatch, caplog):
    def no_compiler(device):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(sys.modules[f"{name}_triton"], "try_out", no_compiler)
    logger = logging.getLogger(backend.__name__)
    logger.addHandler(caplog.handler)
    found = backend.choose_backend(name, GPU)
    logger.removeHandler(caplog.handler)
    assert found is MODULES[name]
    assert "Failed to find C compiler" in caplog.text and name in caplog.text


def test_the_squared_distance_has_kernels_in_float32_only(tried):
    pixels, none = (SimpleNamespace(device=GPU, numel=lambda n=n: n) for n in (9, 0))
    assert squared_distance._backend(pixels, torch.float64) is squared_distance_pytorch
    assert squared_distance._backend(none, torch.float32) is squared_distance_pytorch
    assert squared_distance._backend(pixels, torch.float32) is not squared_distance_pytorch
    assert tried == [GPU]
