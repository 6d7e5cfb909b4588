import numpy as np
import pytest

from sar.visualization.clouds import (
    SAMPLES,
    _eye_dome_lighting,
    _nearest_discs,
    height_colors,
    point_spacing,
    view_from_above,
    view_obliquely,
)

SIZE = (60, 80)
VIEWS = pytest.mark.parametrize("view", [view_from_above, view_obliquely])
RED, GREEN, BLUE, GREY = (200, 0, 0), (0, 200, 0), (0, 0, 200), (120, 120, 120)


def plane(side=40, z=0.0):
    """Points on a square of 4 x 4 about the origin."""
    steps = np.linspace(-2, 2, side)
    x, y = np.meshgrid(steps, steps)
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, z)], axis=1)


def is_color(picture, color):
    """(H, W) bool: pixels of a colour, in any shade."""
    strongest, picture = np.argmax(color), picture.astype(int)
    others = [k for k in range(3) if k != strongest]
    return picture[..., strongest] > picture[..., others].max(axis=-1) + 60


def share(picture):
    """The share of the picture that is not background."""
    return (picture < 250).any(axis=-1).mean()


def test_nearest_discs_are_those_of_a_search_over_all_discs():
    generator = np.random.default_rng(0)
    centres = generator.uniform(-6, 36, (300, 2))
    radii = generator.uniform(0.7, 5, 300)
    found = _nearest_discs(centres, radii, (25, 30))
    rows, columns = np.mgrid[:25, :30]
    cells = np.floor(centres)
    squares = (columns[..., None] - cells[:, 0]) ** 2 + (rows[..., None] - cells[:, 1]) ** 2
    covers = squares <= radii**2
    expected = np.where(covers.any(axis=-1), 299 - covers[..., ::-1].argmax(axis=-1), -1)
    assert np.array_equal(found, expected)
    assert (found == -1).any() and len(np.unique(found)) > 40


def test_eye_dome_lighting_darkens_the_far_side_of_an_edge():
    depths = np.full((30, 40), 2.0, np.float32)
    depths[:, 20:] = 1.5
    depths[:, 35:] = np.inf
    shade = _eye_dome_lighting(depths)
    assert shade.shape == depths.shape and (shade[:, 20:] == 1).all()
    assert (shade[:, :15] == 1).all() and (shade[:, 19] < 0.85).all()
    assert (np.diff(shade[15, 14:20]) <= 0).all()
    assert shade.min() >= 0.4


@pytest.mark.parametrize("spacing", [0.01, 0.3])
def test_spacing_of_a_grid(spacing):
    steps = spacing * np.arange(60)
    grid = np.stack([*map(np.ravel, np.meshgrid(steps, steps)), np.zeros(3600)], axis=1)
    assert np.median(point_spacing(grid + 1000)) == pytest.approx(spacing, rel=0.35)
    # Nine times as dense in one half.
    fine = np.stack([*map(np.ravel, np.meshgrid(steps / 3, steps / 3)), np.zeros(3600)], axis=1)
    both = point_spacing(np.concatenate([grid, fine + [0, -30 * spacing, 0]]))
    ratio = np.median(both[:3600]) / np.median(both[3600:])
    assert 2 < ratio < 4


def test_from_above_x_is_to_the_right_and_y_up():
    xyz = plane() * [1.3, 1, 1]
    colors = np.full((len(xyz), 3), GREY)
    colors[(xyz[:, 0] > 0) & (xyz[:, 1] > 0)] = RED
    colors[(xyz[:, 0] > 0) & (xyz[:, 1] < 0)] = BLUE
    picture = view_from_above(xyz, size=SIZE).draw(colors)
    assert picture.shape == (*SIZE, 3) and picture.dtype == np.uint8
    red, blue = np.argwhere(is_color(picture, RED)), np.argwhere(is_color(picture, BLUE))
    assert len(red) > 400 and len(blue) > 400
    assert red[:, 0].max() <= 32 and blue[:, 0].min() >= 28
    assert min(red[:, 1].min(), blue[:, 1].min()) >= 38


def test_a_long_cloud_lies_across_the_picture():
    xyz = plane() * [1, 3, 1]
    colors = np.full((len(xyz), 3), GREY)
    colors[xyz[:, 1] > 3] = RED
    for view in (view_from_above, view_obliquely):
        picture = view(xyz, size=SIZE).draw(colors)
        drawn = np.argwhere((picture < 250).any(axis=-1))
        height, width = np.ptp(drawn, axis=0)
        assert width > 1.5 * height
        red = np.argwhere(is_color(picture, RED))
        assert len(red) > 100 and red[:, 1].min() > 45  # y is to the right


@VIEWS
def test_what_is_nearer_hides_what_is_behind(view):
    floor, cover = plane(), plane(z=1) * [0.6, 0.6, 1]
    xyz = np.concatenate([cover, floor])
    colors = np.repeat([RED, BLUE], len(floor), axis=0)
    picture = view(xyz, size=SIZE).draw(colors)
    middle = picture[24:36, 34:46].reshape(-1, 3)
    assert is_color(picture, BLUE).sum() > 200
    assert is_color(middle, RED).mean() > (0.99 if view is view_from_above else 0.3)
    # The order of the points does not matter.
    turned = view(xyz[::-1], size=SIZE).draw(colors[::-1])
    assert (np.abs(turned.astype(int) - picture).max(axis=-1) > 2).mean() < 0.02


def box(height=2.0):
    """Points and normals of a room seen from inside, (M, 3) each; the floor comes first."""
    flat = plane()
    sides = [(flat, [0, 0, 1]), (flat + [0, 0, height], [0, 0, -1])]
    for axis in (0, 1):
        for sign in (-1, 1):
            wall = np.roll(flat * [1, height / 4, 1], axis + 1, axis=1)
            wall[:, 2] = (flat[:, 1] + 2) * height / 4
            wall[:, 1 - axis], wall[:, axis] = flat[:, 0], 2 * sign
            normal = np.zeros(3)
            normal[axis] = -sign
            sides.append((wall, normal))
    return (
        np.concatenate([points for points, _ in sides]),
        np.concatenate([np.tile(normal, (len(flat), 1)) for _, normal in sides]),
    )


@VIEWS
def test_a_room_is_open_to_the_viewer(view):
    xyz, normal = box()
    colors = np.full((len(xyz), 3), GREY)
    colors[: len(plane())] = RED
    with_normals, without = (
        is_color(view(xyz, given, size=SIZE).draw(colors), RED).mean() for given in (normal, None)
    )
    assert with_normals > 0.15
    # Without normals, the ceiling is left out, but the near walls are not.
    assert 0.02 < without <= with_normals


@VIEWS
def test_a_wall_alone_has_no_ceiling(view):
    generator = np.random.default_rng(0)
    wall = plane()[:, [0, 2, 1]] + generator.normal(0, 0.01, (1600, 3))
    colors = np.where(wall[:, 2:] > 1.7, [RED], [GREY])
    assert is_color(view(wall, size=SIZE).draw(colors), RED).any()


def test_a_roof_without_a_floor_below_is_not_a_ceiling():
    roof = plane(z=3)
    ground = plane() * [2, 2, 1]
    xyz = np.concatenate([roof, ground])
    colors = np.repeat([RED, BLUE], len(roof), axis=0)
    picture = view_from_above(xyz, size=SIZE).draw(colors)
    assert is_color(picture, RED).sum() > 500


@VIEWS
def test_a_few_points_far_away_do_not_shrink_the_cloud(view):
    xyz = plane()
    colors = np.full((len(xyz) + 2, 3), GREY)
    far = np.concatenate([xyz, [[500, 0, 0], [0, -900, 300]]])
    alone, both = (view(p, size=SIZE).draw(colors[: len(p)]) for p in (xyz, far))
    assert share(both) > 0.6 * share(alone) > 0.15


@VIEWS
def test_map_coordinates_give_the_same_picture(view):
    generator = np.random.default_rng(0)
    xyz = generator.integers(0, 1000, (3000, 3)) / 256  # exact, far from the origin too
    colors = generator.integers(0, 255, (3000, 3)).astype(np.uint8)
    before = xyz.copy()
    pictures = [
        view(xyz + shift, size=SIZE).draw(colors).astype(int)
        for shift in ([0, 0, 0], [2.0**19, 2.0**22, -(2.0**10)])
    ]
    assert (np.abs(pictures[0] - pictures[1]).max(axis=-1) > 2).mean() < 0.02
    assert np.array_equal(xyz, before)


@VIEWS
@pytest.mark.parametrize(
    "xyz",
    [
        np.zeros((1, 3)),
        np.full((50, 3), 7.5, np.float32),
        np.linspace([0, 0, 0], [1, 0, 0], 30),
        np.linspace([0, 0, 0], [0, 0, 5], 30),
        np.array([[0, 0, 0], [1e6, 1e6, 1e6]]),
        plane() * 1e-6,
    ],
    ids=["one", "equal", "line", "vertical", "two", "tiny"],
)
def test_odd_clouds_are_drawn(view, xyz):
    picture = view(xyz, size=SIZE).draw(np.tile(RED, (len(xyz), 1)).astype(np.uint8))
    assert is_color(picture, RED).any() and (picture == 255).any()
    if len(xyz) > 1:
        assert view(xyz, np.tile([0, 0, -1.0], (len(xyz), 1)), SIZE).points.max() >= 0


def test_samples_name_their_points():
    xyz = plane(10)
    view = view_from_above(xyz, size=SIZE)
    assert view.points.shape == view.shade.shape == tuple(SAMPLES * side for side in SIZE)
    assert set(np.unique(view.points)) == {-1, *range(100)}
    assert 0 < view.shade.min() <= view.shade.max() == 1


def test_of_a_large_cloud_a_part_is_drawn(monkeypatch):
    monkeypatch.setattr("sar.visualization.clouds.MAX_POINTS", 500)
    view = view_from_above(plane(), size=SIZE)
    assert 300 < len(np.unique(view.points)) <= 501
    assert view.points.max() > 1000  # from the whole cloud


def test_height_colors():
    colors = height_colors(np.linspace([0, 0, -3], [0, 0, 9], 100))
    assert colors.shape == (100, 3) and colors.dtype == np.uint8
    assert is_color(colors[:1], BLUE).all() or colors[0, 2] > colors[0, 0]
    assert (np.diff(colors[:, 1].astype(int)) >= 0).all()
    assert np.ptp(height_colors(np.ones((5, 3))), axis=0).max() == 0
