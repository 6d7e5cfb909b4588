"""The pictures of the generated data set: a landscape with a wall, and shapes in it.

Everything is drawn with element-wise NumPy arithmetic on numbers from `rng.random()`: no sines, no
matrix products, no drawing library. That is what makes the pixels the same on every machine.

Shapes: H, W: image height and width. h, w: height and width of a window.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

SKY, GROUND, WALL = 0, 1, 2
BACKGROUNDS = ("sky", "ground", "wall")
HEIGHT, WIDTH = 96, 128
IGNORE = 255
SUPERSAMPLING = 3  # a pixel of a shape's outline is SUPERSAMPLING**2 samples

# Directions of the five lines that a five-pointed star is made of.
_STAR_NORMALS = (
    (0.0, 1.0),
    (0.951057, 0.309017),
    (0.587785, -0.809017),
    (-0.587785, -0.809017),
    (-0.951057, 0.309017),
)


# Outlines: whether the points x, y (arrays, y downwards) lie in the shape, in units of its radius.
def _circle(x, y):
    return x * x + y * y <= 1.0


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) <= 0.8


def _diamond(x, y):
    return np.abs(x) / 0.75 + np.abs(y) <= 1.0


def _triangle(x, y):
    return (y <= 0.75) & (1.9 * np.abs(x) - y <= 1.0)


def _hexagon(x, y):
    return np.maximum(0.866025 * np.abs(x) + 0.5 * np.abs(y), np.abs(y)) <= 0.82


def _ring(x, y):
    squared_radius = x * x + y * y
    return (squared_radius <= 1.0) & (squared_radius >= 0.25)


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) <= 0.3) & (np.maximum(x, y) <= 0.95)


def _star(x, y):
    # A point of a five-pointed star is on the inner side of at least four of its five lines.
    return sum((x * nx + y * ny <= 0.36).astype(np.uint8) for nx, ny in _STAR_NORMALS) >= 4


def _crescent(x, y):
    return (x * x + y * y <= 1.0) & ((x - 0.5) * (x - 0.5) + y * y >= 0.62)


@dataclass(frozen=True)
class Shape:
    """A class of shapes: how it looks, how often it is there and how large.

    A family (`leader`) shares colours, textures and places. Its leader is frequent; the others are
    rarer, lie next to or on their leader, and differ from it only in outline.
    """

    contains: Callable[[np.ndarray, np.ndarray], np.ndarray]  # the outline
    leader: str
    image_share: float  # share of the images that show the class
    count: tuple[int, int]  # shapes of the class in such an image, both ends included
    radius: tuple[float, float]  # pixels


# By falling frequency.
SHAPES = {
    "circle": Shape(_circle, "circle", 0.8, (2, 4), (7, 13)),
    "square": Shape(_square, "square", 0.42, (1, 3), (8, 14)),
    "triangle": Shape(_triangle, "triangle", 0.26, (1, 3), (9, 14)),
    "hexagon": Shape(_hexagon, "triangle", 0.15, (1, 2), (9, 13)),
    "diamond": Shape(_diamond, "square", 0.1, (1, 3), (11, 14)),
    "ring": Shape(_ring, "circle", 0.07, (1, 3), (9, 12)),
    "cross": Shape(_cross, "square", 0.05, (1, 3), (10, 13)),
    "star": Shape(_star, "triangle", 0.036, (1, 3), (11, 14)),
    "crescent": Shape(_crescent, "circle", 0.025, (1, 3), (11, 14)),
}
SHAPE_IDS = {name: len(BACKGROUNDS) + i for i, name in enumerate(SHAPES)}


@dataclass(frozen=True)
class _Family:
    """Common properties of the shapes of a family."""

    band: tuple[float, float]  # rows of the centres, as shares of H
    colors: tuple[tuple[int, int, int], ...]


_FAMILIES = {
    "circle": _Family((0.1, 0.7), ((244, 190, 66), (238, 128, 58), (222, 84, 70), (250, 214, 120))),
    "square": _Family((0.4, 0.9), ((58, 120, 190), (44, 160, 172), (88, 96, 180), (120, 170, 210))),
    "triangle": _Family(
        (0.5, 0.9), ((60, 140, 84), (140, 80, 160), (120, 170, 70), (176, 96, 150))
    ),
}
# top of the sky, bottom of the sky, ground
_LANDSCAPES = (
    ((92, 156, 220), (204, 228, 244), (122, 164, 84)),  # day, meadow
    ((120, 110, 178), (250, 190, 150), (150, 124, 92)),  # dawn, heath
    ((132, 150, 170), (214, 216, 216), (104, 132, 92)),  # overcast, moor
    ((70, 130, 200), (240, 222, 184), (214, 184, 128)),  # noon, sand
    ((46, 62, 118), (150, 132, 176), (78, 104, 110)),  # dusk, marsh
    ((138, 180, 212), (216, 224, 234), (190, 200, 212)),  # winter, snow
)
_BRICKS = ((176, 100, 80), (168, 150, 128), (140, 140, 146), (196, 164, 120), (124, 92, 84))


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # (H, W, 3) uint8
    label: np.ndarray  # (H, W) uint8, class ids and IGNORE
    instances: list[tuple[int, np.ndarray]]  # class id and visible part, (H, W) bool


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return low + (high - low) * rng.random()


def _choice(rng: np.random.Generator, items):
    return items[int(rng.random() * len(items))]


def _smooth_noise(rng: np.random.Generator, height: int, width: int, cell_h: int, cell_w: int):
    """Random values on a coarse grid, blended in between. Returns (height, width) in 0..1."""
    grid = rng.random((height // cell_h + 2, width // cell_w + 2))
    y, x = np.arange(height) / cell_h, np.arange(width) / cell_w
    row, column = y.astype(int), x.astype(int)
    y, x = y - row, x - column
    y, x = (y * y * (3 - 2 * y))[:, None], x * x * (3 - 2 * x)
    grid = grid[row] * (1 - y) + grid[row + 1] * y
    return grid[:, column] * (1 - x) + grid[:, column + 1] * x


def _color(rng, color, jitter):
    return np.array(color) + (rng.random(3) - 0.5) * (2 * jitter)


def _draw_landscape(rng):
    """Return the image (H, W, 3) float, the label (H, W) and the height of the horizon."""
    sky_top, sky_bottom, ground = (_color(rng, c, 14) for c in _choice(rng, _LANDSCAPES))
    rows = np.arange(HEIGHT)[:, None]
    horizon = _uniform(rng, 0.6, 0.78) * HEIGHT

    t = np.minimum(rows / horizon, 1.0)[:, :, None]
    image = sky_top * (1 - t) + sky_bottom * t + np.zeros((1, WIDTH, 1))
    clouds = 0.65 * _smooth_noise(rng, HEIGHT, WIDTH, 14, 26)
    clouds = clouds + 0.35 * _smooth_noise(rng, HEIGHT, WIDTH, 5, 9)
    clouds = np.clip((clouds - 0.52) * 4, 0, 0.85)[:, :, None]
    image = image + clouds * (np.array((250, 250, 252)) - image)
    label = np.full((HEIGHT, WIDTH), SKY, dtype=np.uint8)

    # Two ridges, the farther one hazy, then the meadow in front.
    for lift, haze, swing in ((14, 0.55, 14), (7, 0.3, 10), (0, 0.0, 6)):
        ridge = horizon - lift + swing * (_smooth_noise(rng, 1, WIDTH, 1, 30)[0] - 0.5)
        mask = rows >= ridge
        depth = np.clip((rows - ridge) / (HEIGHT - horizon), 0, 1)
        texture = 0.6 * _smooth_noise(rng, HEIGHT, WIDTH, 4, 16) + 0.4 * rng.random((HEIGHT, WIDTH))
        shade = 0.86 + 0.18 * depth + 0.28 * (texture - 0.5)
        color = (ground * (1 - haze) + sky_bottom * haze) * shade[:, :, None]
        image = np.where(mask[:, :, None], color, image)
        label[mask] = GROUND
    return image, label, horizon


def _draw_wall(rng, image, label, horizon):
    """Draw a wall of bricks, with or without battlements, onto image and label."""
    brick_w, brick_h = _choice(rng, ((8, 4), (10, 5), (12, 6)))
    width = brick_w * int(_uniform(rng, 4, 8.5))
    height = brick_h * int(_uniform(rng, 26, 48) / brick_h)
    left = int(_uniform(rng, -0.2 * width, WIDTH - 0.8 * width))
    bottom = int(horizon + _uniform(rng, 2, 10))
    y, x = np.mgrid[0:height, 0:width]
    row = y // brick_h
    shifted = x + (row % 2) * (brick_w // 2)
    column = shifted // brick_w
    mask = np.ones((height, width), dtype=bool)
    if rng.random() < 0.5:
        mask[: 2 * brick_h] = (x[: 2 * brick_h] // brick_w) % 2 == 0
    brightness = 0.82 + 0.3 * rng.random((height // brick_h + 1, width // brick_w + 2))
    color = _color(rng, _choice(rng, _BRICKS), 16)
    wall = color * brightness[row, column][:, :, None]
    mortar = ((y % brick_h == 0) | (shifted % brick_w == 0))[:, :, None]
    wall = np.where(mortar, 0.5 * wall + 0.5 * np.array((206, 198, 188)), wall)
    wall = wall * (1.08 - 0.22 * x / width)[:, :, None]

    # It may reach beyond the sides of the picture.
    x0, x1 = max(left, 0), min(left + width, WIDTH)
    window = (slice(bottom - height, bottom), slice(x0, x1))
    wall, mask = wall[:, x0 - left : x1 - left], mask[:, x0 - left : x1 - left]
    image[window] = np.where(mask[:, :, None], wall, image[window])
    label[window][mask] = WALL


def _coverage(shape: Shape, x: float, y: float, radius: float, turn: float):
    """Antialiased outline of a shape centred on (x, y).

    Returns its window in the image, the covered share of each of its pixels (h, w), the same
    without the rim, and the positions of columns (1, w) and rows (h, 1) in units of the radius.
    """
    reach = radius * 1.2 + 3
    x0, x1 = max(int(x - reach), 0), min(int(x + reach) + 1, WIDTH)
    y0, y1 = max(int(y - reach), 0), min(int(y + reach) + 1, HEIGHT)
    s = SUPERSAMPLING
    px = ((np.arange(x0 * s, x1 * s) + 0.5) / s - x) / radius
    py = (((np.arange(y0 * s, y1 * s) + 0.5) / s - y) / radius)[:, None]
    # A rotation without sine and cosine: turn is the tangent of half the angle.
    cos, sin = (1 - turn * turn) / (1 + turn * turn), 2 * turn / (1 + turn * turn)
    inside = shape.contains(cos * px + sin * py, cos * py - sin * px)
    core = inside.copy()
    for axis in (0, 1):
        for step in (-s, s):
            core &= np.roll(inside, step, axis)

    def per_pixel(samples):
        blocks = samples.reshape(y1 - y0, s, x1 - x0, s)
        return blocks.sum(axis=(1, 3), dtype=np.int64) / (s * s)

    px = ((np.arange(x0, x1) + 0.5 - x) / radius)[None, :]
    py = ((np.arange(y0, y1) + 0.5 - y) / radius)[:, None]
    return (slice(y0, y1), slice(x0, x1)), per_pixel(inside), per_pixel(core), px, py


def _texture(rng, px, py, radius):
    """Brightness (h, w) around 1: plain, stripes or dots, whatever the class."""
    kind = rng.random()
    if kind < 0.4:
        return np.ones((py.shape[0], px.shape[1]))
    period = _uniform(rng, 4.0, 7.0) / radius
    slope = _uniform(rng, -1.0, 1.0)
    along = np.floor((px + slope * py) / period * 2) % 2
    if kind < 0.8:
        return 0.92 + 0.16 * along
    across = np.floor((py - slope * px) / period * 2) % 2
    return 1.03 - 0.2 * along * across


def _draw_shape(rng, image, label, owner, name, x, y, radius, number):
    """Draw a shape onto image, label and `owner` (the number of the shape seen in a pixel)."""
    turn = _uniform(rng, -0.12, 0.12)
    window, coverage, core, px, py = _coverage(SHAPES[name], x, y, radius, turn)
    family = _FAMILIES[SHAPES[name].leader]
    color = _color(rng, _choice(rng, family.colors), 30)

    shadow = np.zeros_like(coverage)
    shadow[2:, 2:] = coverage[:-2, :-2]
    image[window] *= (1 - 0.3 * shadow)[:, :, None]

    brightness = _texture(rng, px, py, radius) * (1.02 - 0.16 * (px + py))
    brightness = brightness * (0.62 + 0.38 * core)
    alpha = coverage[:, :, None]
    image[window] = image[window] * (1 - alpha) + color * brightness[:, :, None] * alpha

    mask = coverage >= 0.5
    label[window][mask] = SHAPE_IDS[name]
    owner[window][mask] = number
    if rng.random() < 0.5:  # an annotator who leaves out the mixed pixels of the outline
        label[window][(coverage > 0) & (coverage < 1)] = IGNORE


def _draw_ignored_blob(rng, label):
    """Mark a region of uneven outline as ignored."""
    radius, x, y = _uniform(rng, 3, 8), rng.random() * WIDTH, rng.random() * HEIGHT
    dy, dx = np.arange(HEIGHT)[:, None] - y, np.arange(WIDTH) - x
    uneven = 0.5 + _smooth_noise(rng, HEIGHT, WIDTH, 5, 5)
    label[dx * dx + 1.6 * dy * dy < radius * radius * uneven] = IGNORE


def _place(rng, name, placed):
    """Draw the centre and radius of a shape; a follower lies next to or on a leader."""
    shape = SHAPES[name]
    radius = _uniform(rng, *shape.radius)
    low, high = _FAMILIES[shape.leader].band
    leaders = [place for other, *place in placed if other == shape.leader]
    for _ in range(20):  # tries to find room; in a crowded picture the last one is taken
        if name == shape.leader or not leaders:
            x, y = rng.random() * WIDTH, _uniform(rng, low, high) * HEIGHT
        else:
            x, y, leader_radius = _choice(rng, leaders)
            distance = (leader_radius + radius) * _uniform(rng, 0.75, 1.1)
            x += distance if rng.random() < 0.5 else -distance
            y += distance * _uniform(rng, -0.5, 0.5)
        margin = 0.75 * radius
        x = min(max(x, margin), WIDTH - margin)
        y = min(max(y, margin), HEIGHT - margin)
        apart = (
            (x - x1) * (x - x1) + (y - y1) * (y - y1) >= 0.5 * (radius + r1) * (radius + r1)
            for _, x1, y1, r1 in placed
        )
        if all(apart):
            break
    return x, y, radius


def draw_scene(rng: np.random.Generator, names: Collection[str]) -> Scene:
    """Draw a landscape that shows the shapes `names` (of SHAPES), each as often as its `count`.

    Every random choice uses `rng`. A shape lies next to its leader if `names` has the leader, or
    else anywhere in the rows of its family.
    """
    image, label, horizon = _draw_landscape(rng)
    if rng.random() < 0.9:
        _draw_wall(rng, image, label, horizon)

    owner = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    placed = []
    # Rare ones last, so that nothing hides them.
    for name in sorted(names, key=list(SHAPES).index):
        low, high = SHAPES[name].count
        for _ in range(low + int(rng.random() * (high - low + 1))):
            place = _place(rng, name, placed)
            placed.append((name, *place))
            _draw_shape(rng, image, label, owner, name, *place, number=len(placed))

    for _ in range(int(rng.random() * 3)):
        _draw_ignored_blob(rng, label)

    light = _uniform(rng, 0.82, 1.12) + (rng.random(3) - 0.5) * 0.08
    noise = rng.random((2, HEIGHT, WIDTH, 3)) - 0.5
    image = image * light + (noise[0] + noise[1]) * _uniform(rng, 12, 40)
    image = np.clip(image, 0, 255).astype(np.uint8)
    visible = ((SHAPE_IDS[place[0]], owner == i) for i, place in enumerate(placed, start=1))
    return Scene(image, label, [(class_id, mask) for class_id, mask in visible if mask.any()])
