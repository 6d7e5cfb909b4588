"""Draw labels and predictions."""

from sar.visualization.overlay import class_colors, colorize, draw_overlay, side_by_side

__all__ = ["class_colors", "colorize", "draw_overlay", "side_by_side"]
