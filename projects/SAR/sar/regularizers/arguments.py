"""Checks of the arguments that several regularizers have."""

from sar.ops.squared_distance import CLASSES, PIXELS


def check_share(name: str, value: float) -> None:
    """Raise ValueError if an argument does not lie in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def check_pull_over(value: str) -> None:
    """Raise ValueError if `pull_over` is neither PIXELS nor CLASSES."""
    if value not in (PIXELS, CLASSES):
        raise ValueError(f'pull_over must be "{PIXELS}" or "{CLASSES}", got "{value}"')
