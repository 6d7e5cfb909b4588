"""Point clouds in memory and in files: PLY, LAS and LAZ, NPZ, text, and the scans of KITTI."""

from sar.data.clouds.cloud import Cloud
from sar.data.clouds.files import (
    CLOUD_SUFFIXES,
    has_labels,
    is_cloud,
    is_other_text,
    label_file,
    label_suffix,
    read_cloud,
    read_cloud_label,
    write_labels,
)

__all__ = [
    "CLOUD_SUFFIXES",
    "Cloud",
    "has_labels",
    "is_cloud",
    "is_other_text",
    "label_file",
    "label_suffix",
    "read_cloud",
    "read_cloud_label",
    "write_labels",
]
