"""Report the hardware and the versions that a measurement depends on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

_PACKAGES = ("torch", "torchvision", "triton", "detectron2", "numpy", "pillow")


def environment(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """Return the device, the number of torch's threads, and the versions of the main packages."""
    gpu = torch.device(device).type == "cuda"
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
    return {
        "device": torch.cuda.get_device_name() if gpu else f"{_cpu()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items() if number),
    }


def _version(package: str) -> str | None:
    for name in (package, f"pb1-{package}"):  # the name of detectron2 on the package index
        try:
            return version(name)
        except PackageNotFoundError:
            pass
    return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
