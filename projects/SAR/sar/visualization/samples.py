"""Draw samples of a data set from its files: images or point clouds with the colours of classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from sar.data.clouds import is_cloud, read_cloud
from sar.data.grey_range import GreyRange
from sar.data.image_files import read_image
from sar.data.label_files import read_label
from sar.visualization.cloud_picture import draw_cloud_labels
from sar.visualization.dataset import TILE_WIDTH, arrange, contact_sheet, titled


def draw_samples(
    records: Sequence[dict], class_names: Sequence[str], colors: np.ndarray, grey_range: GreyRange
) -> Image.Image:
    """Draw images or clouds in rows, each with the colours of its labels, its name and a legend.

    Args:
        records: data set dicts, at least one; all of images or all of clouds.
        class_names: K names.
        colors: (K, 3) uint8 RGB.
        grey_range: range that scales 16-bit images.

    Raises:
        InputError: a file is missing or unreadable.
    """
    files = [(record["file_name"], record["sem_seg_file_name"]) for record in records]
    if not is_cloud(files[0][0]):
        samples = [(Path(f).name, read_image(f, grey_range), read_label(of_f)) for f, of_f in files]
        return contact_sheet(samples, class_names, colors)
    size = (TILE_WIDTH * 3 // 4, TILE_WIDTH)
    tiles = []
    for file, label_file in files:
        labels = read_label(label_file)[0]
        picture = draw_cloud_labels(read_cloud(file), labels, class_names, colors, size)
        tiles.append(titled(Path(file).name, picture))
    return arrange(tiles)
