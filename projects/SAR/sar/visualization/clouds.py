"""Draw point clouds as pictures: from above, and obliquely in perspective.

A point is drawn as a disc, and each sample of the picture shows the nearest disc. A sample is
darker if its surroundings are nearer to the viewer, as in a hollow (eye-dome lighting, Boucheny
2009). So edges and shapes are visible without normals. This module needs only NumPy.

Shape shorthands: N points, H x W pixels, V x U samples (SAMPLES**2 for each pixel).
"""

from dataclasses import dataclass

import numpy as np

SIZE = (480, 640)  # pixels, height and width
SAMPLES = 2  # along each edge of a pixel; their mean is the pixel's colour
BACKGROUND = 255  # white
MAX_POINTS = 1_000_000  # of a larger cloud, a random part is drawn

_MARGIN = 0.03  # of the picture, on each side
# Single points may lie far away. The picture shows these percentiles of the coordinates, and a
# tenth more on each side.
_SHOWN, _BEYOND = (0.2, 99.8), 0.1
_DISC = 1.8  # diameter of a disc, in distances between neighbouring points
_RADII = (1.5, 24.0)  # samples; the least makes a disc of 3 x 3
_ELEVATION, _TURN = np.deg2rad(38), np.deg2rad(28)  # of the oblique view
_DISTANCE = 4.0  # from the viewer to the middle, in radii of the cloud
# Eye-dome lighting: distances to the surroundings in samples, and the differences of depth that
# count, in radii of the cloud.
_SURROUNDINGS = (2, 5)
_DEPTH_STEP, _DARKEST = 0.12, 0.45


@dataclass(frozen=True, eq=False)
class CloudView:
    """The points of a cloud that a viewer sees. It draws them in any colours.

    Attributes:
        points: (V, U) int64, the point that each sample shows; -1 is the background.
        shade: (V, U) float32, the brightness of each sample, 0 to 1.
    """

    points: np.ndarray
    shade: np.ndarray

    def draw(self, colors: np.ndarray) -> np.ndarray:
        """Return the picture (H, W, 3) uint8 of points with colours (N, 3) uint8."""
        table = np.concatenate([colors, np.full((1, 3), BACKGROUND)]).astype(np.float32)
        samples = table[self.points] * self.shade[..., None]  # -1 is the last row
        height, width = (side // SAMPLES for side in self.points.shape)
        pixels = samples.reshape(height, SAMPLES, width, SAMPLES, 3).mean(axis=(1, 3))
        return np.rint(pixels).astype(np.uint8)


def view_from_above(
    xyz: np.ndarray, normal: np.ndarray | None = None, size: tuple[int, int] = SIZE
) -> CloudView:
    """Return the view of a cloud from above, without perspective.

    x is to the right and y up, or y to the right and x down if the cloud is longer along y. Points
    that face down are not drawn if the cloud has normals. Without normals, a ceiling over the
    whole cloud is left out.

    Args:
        xyz: (N, 3) coordinates, z up.
        normal: (N, 3) directions of the surface, out of things, or None.
        size: height and width in pixels.
    """
    chosen, positions = _chosen_points(xyz, normal)
    if normal is not None:
        chosen, positions = _only(normal[chosen, 2] > 0, chosen, positions)
    radius = _radius(positions)
    depth = positions[:, 2].max() - positions[:, 2]
    plane = positions[:, :2]
    if not _is_wide(positions):
        plane = plane[:, ::-1] * [1, -1]
    return _look(chosen, plane, depth / radius, _DISC * point_spacing(positions), size)


def view_obliquely(
    xyz: np.ndarray, normal: np.ndarray | None = None, size: tuple[int, int] = SIZE
) -> CloudView:
    """Return the view of a cloud from above and the side, in perspective.

    The longer horizontal side of the cloud lies across the picture. Points that face away from the
    viewer are not drawn if the cloud has normals, so that a room is open to the viewer. Without
    normals, a ceiling over the whole cloud is left out.

    Args:
        as `view_from_above`.
    """
    chosen, positions = _chosen_points(xyz, normal)
    low, high = _bounds(positions)
    positions -= (low + high) / 2
    radius = _radius(positions)
    azimuth = _TURN - (np.pi / 2 if _is_wide(positions) else 0)
    cos, sin = np.cos(azimuth), np.sin(azimuth)
    right = np.array([-sin, cos, 0])
    back = np.array([cos * np.cos(_ELEVATION), sin * np.cos(_ELEVATION), np.sin(_ELEVATION)])
    viewer = _DISTANCE * radius * back
    is_seen = (viewer - positions) @ back > radius / 10  # in front of the viewer
    if normal is not None:
        rays = viewer - positions
        is_seen &= (rays * normal[chosen]).sum(axis=1) > 0.15 * np.linalg.norm(rays, axis=1)
    chosen, positions = _only(is_seen, chosen, positions)
    depth = (viewer - positions) @ back
    plane = np.stack([positions @ right, positions @ np.cross(back, right)], axis=1)
    diameters = _DISC * point_spacing(positions) / depth
    return _look(chosen, plane / depth[:, None], depth / radius, diameters, size)


def point_spacing(xyz: np.ndarray) -> np.ndarray:
    """Return the distance (N,) of each point to its neighbours, if the points lie on surfaces.

    It is estimated from the number of points in the same voxel, and is at most 2.5 times the
    typical distance. It is 0 if all points are equal.

    Args:
        xyz: (N, 3) coordinates.
    """
    positions = xyz - xyz.min(axis=0)
    extent = positions.max()
    edge = extent / 8
    while edge > extent / 2**20:
        voxels = (positions / edge).astype(np.int64)
        keys = (voxels[:, 0] << 42) + (voxels[:, 1] << 21) + voxels[:, 2]
        _, voxel_of, counts = np.unique(keys, return_inverse=True, return_counts=True)
        if len(counts) > len(xyz) / 8:
            # A surface that crosses a voxel has about the area of one of its sides.
            typical = edge * np.sqrt(len(counts) / len(xyz))
            return np.clip(edge / np.sqrt(counts), typical / 2, 2.5 * typical)[voxel_of]
        edge /= 2
    return np.zeros(len(xyz))


def height_colors(xyz: np.ndarray) -> np.ndarray:
    """Return colours (N, 3) uint8 by height, from blue over green to yellow.

    Args:
        xyz: (N, 3) coordinates, z up.
    """
    low, high = _bounds(xyz[:, 2])
    share = (xyz[:, 2] - low) / (high - low or 1.0)
    stops = np.array(
        [(62, 74, 137), (38, 130, 142), (53, 183, 121), (180, 222, 44), (253, 231, 37)]
    )
    steps = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, steps, channel) for channel in stops.T], 1).astype(np.uint8)


def _chosen_points(xyz: np.ndarray, normal: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices (M,) of points to draw, and their positions (M, 3) about their mean."""
    chosen = np.arange(len(xyz))
    if len(xyz) > MAX_POINTS:
        generator = np.random.default_rng(0)
        chosen = np.sort(generator.choice(len(xyz), MAX_POINTS, replace=False, shuffle=False))
    positions = xyz[chosen].astype(np.float64)
    positions -= positions.mean(axis=0)
    if normal is None:
        chosen, positions = _only(_below_ceiling(positions), chosen, positions)
    return chosen, positions


def _below_ceiling(positions: np.ndarray, cells: int = 24) -> np.ndarray:
    """Return (N,) bool: which points do not belong to a ceiling over the whole cloud.

    There is a ceiling if most cells of the floor plan have points near the highest ones, and also
    points in the lower half. A wall alone covers too few cells.
    """
    low, high = _bounds(positions)
    height = high[2] - low[2]
    extent = (high - low)[:2].max() or 1.0
    plan = np.clip((positions[:, :2] - low[:2]) / extent * cells, 0, cells - 1).astype(np.int64)
    index = plan[:, 0] * cells + plan[:, 1]
    is_high = positions[:, 2] > high[2] - 0.1 * height
    is_low = positions[:, 2] < low[2] + 0.5 * height
    occupied, topped, filled = (
        np.bincount(index[kind], minlength=cells**2) > 0 for kind in (slice(None), is_high, is_low)
    )
    if (topped & filled).sum() < max(0.7 * occupied.sum(), 2.5 * cells):
        return np.ones(len(positions), dtype=bool)
    return positions[:, 2] <= high[2] - 0.12 * height


def _only(kept: np.ndarray, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the rows that are kept, or all if none is."""
    return tuple(array[kept] for array in arrays) if kept.any() else arrays


def _bounds(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest value along the first axis, without values far away."""
    low, high = np.percentile(values, _SHOWN, axis=0)
    beyond = _BEYOND * (high - low)
    return np.maximum(values.min(axis=0), low - beyond), np.minimum(
        values.max(axis=0), high + beyond
    )


def _is_wide(positions: np.ndarray) -> bool:
    """Return whether the cloud is at least as long along x as along y."""
    low, high = _bounds(positions)
    return bool(high[0] - low[0] >= high[1] - low[1])


def _radius(positions: np.ndarray) -> float:
    low, high = _bounds(positions)
    return float(np.linalg.norm(high - low)) / 2 or 1.0


def _look(
    chosen: np.ndarray,
    plane: np.ndarray,
    depth: np.ndarray,
    diameters: np.ndarray,
    size: tuple[int, int],
) -> CloudView:
    """Return the view of points on a plane, which is scaled to fill the picture.

    Args:
        chosen: (M,) indices of the points in the cloud.
        plane: (M, 2) positions to the right and up.
        depth: (M,) distances from the viewer, in radii of the cloud.
        diameters: (M,) of the discs, in the unit of the plane.
        size: height and width in pixels.
    """
    height, width = (SAMPLES * side for side in size)
    low, high = _bounds(plane)
    room = (1 - 2 * _MARGIN) * np.array([width, height])
    scale = min(
        (side / length for side, length in zip(room, high - low, strict=True) if length),
        default=1.0,
    )
    places = (plane - (low + high) / 2) * scale * [1, -1] + np.array([width, height]) / 2
    radii = np.clip(diameters * scale / 2, *_RADII)
    order = np.argsort(-depth, kind="stable")  # the nearest last
    ranks = _nearest_discs(places[order], radii[order], (height, width))
    depths = np.append(depth[order], np.inf)[ranks].astype(np.float32)
    return CloudView(np.append(chosen[order], -1)[ranks], _eye_dome_lighting(depths))


def _nearest_discs(centres: np.ndarray, radii: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return (V, U) int32: the last disc that covers each sample, or -1.

    Args:
        centres: (M, 2) columns and rows of the centres.
        radii: (M,) in samples.
    """
    height, width = shape
    nearest = np.full(height * width, -1, dtype=np.int32)
    is_near = (np.abs(centres) < 4 * max(shape)).all(axis=1)  # the others are not in the picture
    ranks = np.flatnonzero(is_near).astype(np.int32)
    columns, rows = np.floor(centres[is_near]).astype(np.int32).T
    squares = radii[is_near] ** 2
    reach = int(radii.max())
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            x, y = columns + right, rows + down
            drawn = (down * down + right * right <= squares) & (x >= 0) & (x < width)
            drawn &= (y >= 0) & (y < height)
            samples, covering = (y[drawn] * width + x[drawn]), ranks[drawn]
            is_nearer = covering > nearest[samples]
            # Of several discs on one sample, the last assignment stays.
            nearest[samples[is_nearer]] = covering[is_nearer]
    return nearest.reshape(shape)


def _eye_dome_lighting(depths: np.ndarray) -> np.ndarray:
    """Return the brightness (V, U) of samples, from their depths (V, U); inf: background."""
    is_background = np.isinf(depths)
    depths = np.where(is_background, np.float32(1e9), depths)
    margin = max(_SURROUNDINGS)
    padded = np.pad(depths, margin, constant_values=1e9)
    height, width = depths.shape
    hidden = np.zeros_like(depths)
    directions = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    for distance in _SURROUNDINGS:
        for down, right in directions:
            top, left = margin + distance * down, margin + distance * right
            step = depths - padded[top : top + height, left : left + width]
            hidden += np.clip(step, 0, _DEPTH_STEP, out=step)
    hidden[is_background] = 0
    share = hidden / (len(directions) * len(_SURROUNDINGS) * _DEPTH_STEP)
    return (1 - (1 - _DARKEST) * np.sqrt(share)).astype(np.float32)
