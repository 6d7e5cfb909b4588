"""Properties of the steps of the augmentation of clouds, and of their combination."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sar.config import load_config
from sar.data.clouds import Cloud
from sar.errors import InputError
from sar.points.augmentation import (
    ColorAugmentation,
    PointAugmentation,
    RandomSimilarity,
    Similarity,
    add_jitter,
    crop,
    drop,
    mix3d,
    stretch_contrast,
)
from sar.points.elastic import ElasticDistortion
from sar.points.geometry import rotation_about

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32 - 1)
# Also points at the same place, and flat clouds.
coordinates = arrays.arrays(
    np.float64,
    st.tuples(st.integers(1, 40), st.just(3)),
    elements=st.one_of(st.sampled_from([0.0, 1.0, -2.5]), st.floats(-1000, 1000)),
)
ALL = PointAugmentation(
    max_points=25,
    max_drop=0.5,
    similarity=RandomSimilarity(max_tilt=0.2, scale=(0.8, 1.2)),
    elastic=[ElasticDistortion(0.2, 0.4), ElasticDistortion(0.8, 1.6)],
    jitter=0.01,
    color=ColorAugmentation(),
)


def make_cloud(xyz, seed=0, missing=()):
    """A cloud whose label is the number of a point, and whose arrays cannot be changed."""
    rng = np.random.default_rng(seed)
    number = len(xyz)
    normal = rng.standard_normal((number, 3))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    cloud = Cloud(
        xyz=xyz.copy(),
        color=rng.random((number, 3), np.float32),
        intensity=np.arange(number, dtype=np.float32) / 7,
        normal=normal.astype(np.float32),
        label=np.arange(number),
    )
    for array in vars(cloud).values():
        array.flags.writeable = False
    return replace(cloud, **dict.fromkeys(missing))


def uniform(seed, number=30):
    return np.random.default_rng(seed).uniform(-5, 5, (number, 3))


def distances(xyz):
    return np.linalg.norm(xyz[:, None] - xyz[None], axis=-1)


def cropped(xyz, max_points, rng, **kwargs):
    """The numbers of the points that a crop leaves."""
    return PointAugmentation(max_points=max_points, **kwargs)(make_cloud(xyz), rng).label


# -- Choices of points


@few
@given(xyz=coordinates, max_points=st.integers(1, 50), seed=seeds)
def test_a_crop_holds_the_points_nearest_to_one_of_them(xyz, max_points, seed):
    chosen = cropped(xyz, max_points, np.random.default_rng(seed))
    assert len(chosen) == min(max_points, len(xyz))
    assert (np.diff(chosen) > 0).all()
    # In x and y, no other point is nearer to the middle of the crop.
    flat = distances(xyz[:, :2])
    rest = np.setdiff1d(np.arange(len(xyz)), chosen)
    farthest = flat[:, chosen].max(axis=1)
    nearest = flat[:, rest].min(axis=1, initial=np.inf)
    assert (farthest <= nearest + 1e-9).any()


@few
@given(xyz=coordinates, max_points=st.integers(1, 50), seed=seeds)
def test_a_crop_does_not_depend_on_the_height(xyz, max_points, seed):
    other = xyz.copy()
    other[:, 2] = np.random.default_rng(seed).uniform(size=len(xyz))
    found = [cropped(array, max_points, np.random.default_rng(seed)) for array in (xyz, other)]
    np.testing.assert_array_equal(*found)


def test_every_point_can_be_the_middle_of_a_crop():
    rng, xyz = np.random.default_rng(0), uniform(0, 12)
    assert {int(cropped(xyz, 1, rng)[0]) for _ in range(300)} == set(range(12))


def test_zero_crops_nothing():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(cropped(uniform(0, 9), 0, rng), np.arange(9))


def test_class_uniform_crops_are_around_any_point_of_any_class():
    # Class 0 has 7 points, class 1 one, class 5 two; the ignored id 9 has two.
    cloud, rng = make_cloud(uniform(0, 12)), np.random.default_rng(1)
    label = np.array([0, 9, 0, 5, 0, 0, 1, 0, 9, 5, 0, 0])

    def shares(class_uniform):
        augment = PointAugmentation(max_points=1, class_uniform=class_uniform, ignore_label=9)
        middles = [augment(replace(cloud, label=label), rng).intensity[0] for _ in range(3000)]
        return np.bincount(np.rint(np.array(middles) * 7).astype(int), minlength=12) / 3000

    expected = np.where(label == 0, 1 / 7, np.where(label == 1, 1, np.where(label == 5, 1 / 2, 0)))
    np.testing.assert_allclose(shares(1.0), expected / 3, atol=0.03)
    np.testing.assert_allclose(shares(0.5), expected / 6 + 1 / 24, atol=0.03)
    np.testing.assert_allclose(shares(0.0), np.full(12, 1 / 12), atol=0.02)


def test_a_class_uniform_crop_of_a_cloud_without_classes():
    cloud, rng = make_cloud(uniform(0, 12)), np.random.default_rng(2)
    cloud = replace(cloud, label=np.full(12, 255))
    augment = PointAugmentation(max_points=1, class_uniform=1.0)
    assert len({augment(cloud, rng).intensity[0] for _ in range(300)}) == 12


@few
@given(number=st.integers(1, 200), max_share=st.floats(0, 1, exclude_max=True), seed=seeds)
def test_a_part_of_the_points_stays_and_always_one(number, max_share, seed):
    stays = drop(number, max_share, np.random.default_rng(seed))
    assert (np.diff(stays) > 0).all() and stays[0] >= 0 and stays[-1] < number
    assert max(1, number * (1 - max_share)) - 1e-6 <= len(stays) <= number


def test_shares_are_uniform_and_points_are_dropped_alike():
    rng = np.random.default_rng(1)
    stays = np.zeros((2000, 50), bool)
    for row in stays:
        row[drop(50, 0.4, rng)] = True
    dropped = 50 - stays.sum(axis=1)
    np.testing.assert_array_equal(np.unique(dropped), np.arange(20))
    assert dropped.mean() == pytest.approx(9.5, abs=0.5)
    assert stays.mean(axis=0) == pytest.approx(np.full(50, stays.mean()), abs=0.04)


# -- Rotation, tilt, scale and flip


@few
@given(xyz=coordinates, seed=seeds)
def test_a_rotation_keeps_distances_heights_and_orientation(xyz, seed):
    similarity = RandomSimilarity(flip=False)(np.random.default_rng(seed))
    turned = similarity.apply_points(xyz)
    np.testing.assert_allclose(turned[:, 2], xyz[:, 2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(distances(turned), distances(xyz), rtol=0, atol=1e-9)
    assert np.linalg.det(similarity.orthogonal) == pytest.approx(1)


def test_rotations_are_by_any_angle():
    rng, draw = np.random.default_rng(2), RandomSimilarity(flip=False)
    turned = np.array([draw(rng).apply_normals(np.array([[1.0, 0, 0]]))[0] for _ in range(400)])
    angles = np.arctan2(turned[:, 1], turned[:, 0])
    counts, _ = np.histogram(angles, bins=8, range=(-np.pi, np.pi))
    assert counts.sum() == 400 and counts.min() > 25


def test_a_quarter_turn_maps_x_to_y():
    quarter = Similarity(rotation_about(2, np.pi / 2), 3.0)
    xyz = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0]])  # the middle is the origin
    turned = np.array([[0.0, 1, 0], [0, -1, 0], [-2, 0, 0], [2, 0, 0]])
    np.testing.assert_allclose(quarter.apply_points(xyz), 3 * turned, rtol=0, atol=1e-12)
    np.testing.assert_allclose(quarter.apply_normals(xyz), turned, rtol=0, atol=1e-12)


@few
@given(xyz=coordinates, seed=seeds)
def test_a_similarity_scales_all_distances_by_a_factor_of_the_range(xyz, seed):
    similarity = RandomSimilarity(max_tilt=0.3, scale=(0.5, 1.5))(np.random.default_rng(seed))
    assert 0.5 <= similarity.scale <= 1.5
    found = distances(similarity.apply_points(xyz))
    np.testing.assert_allclose(found, similarity.scale * distances(xyz), rtol=0, atol=1e-8)


def test_scales_fill_their_range():
    rng, draw = np.random.default_rng(3), RandomSimilarity(scale=(0.5, 1.5))
    scales = [draw(rng).scale for _ in range(300)]
    assert 0.5 <= min(scales) < 0.52 and 1.48 < max(scales) <= 1.5


def test_tilts_reach_their_limit_and_no_more():
    rng, draw = np.random.default_rng(4), RandomSimilarity(max_tilt=0.3)
    up = np.array([[0.0, 0, 1]])
    cosines = np.array([draw(rng).apply_normals(up)[0, 2] for _ in range(500)])
    # Two tilts in a row.
    assert np.cos(0.3) ** 2 <= cosines.min() < np.cos(0.3) < cosines.max()
    upright = RandomSimilarity()(rng).apply_normals(up)
    np.testing.assert_array_equal(upright, up)


def test_x_and_y_are_flipped_independently():
    rng, draw = np.random.default_rng(5), RandomSimilarity(rotate=False)
    drawn = [tuple(np.diag(draw(rng).orthogonal)) for _ in range(400)]
    for signs in [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, 1)]:
        assert drawn.count(signs) > 70


@few
@given(xyz=coordinates, signs=st.sampled_from([(-1, 1), (1, -1), (-1, -1)]))
def test_a_flip_is_an_involution_about_the_middle_of_the_cloud(xyz, signs):
    flip = Similarity(np.diag([*signs, 1.0]), 1.0)
    flipped = flip.apply_points(xyz)
    middle = (xyz.min(axis=0) + xyz.max(axis=0)) / 2
    expected = np.where(np.array([*signs, 1]) > 0, xyz, 2 * middle - xyz)
    np.testing.assert_allclose(flipped, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flip.apply_points(flipped), xyz, rtol=0, atol=1e-9)


@few
@given(seed=seeds)
def test_normals_stay_perpendicular_to_their_surface(seed):
    triangles = uniform(seed, 30)

    def unit_normals(xyz):
        a, b, c = xyz.reshape(-1, 3, 3).transpose(1, 0, 2)
        normals = np.cross(b - a, c - a)
        return normals / np.linalg.norm(normals, axis=1, keepdims=True)

    similarity = RandomSimilarity(max_tilt=0.3, scale=(0.5, 1.5))(np.random.default_rng(seed))
    found = similarity.apply_normals(unit_normals(triangles).astype(np.float32))
    assert found.dtype == np.float32
    # A flip turns the order of the corners around.
    expected = unit_normals(similarity.apply_points(triangles))
    expected *= np.sign(np.linalg.det(similarity.orthogonal))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_the_middle_of_the_floor_stays():
    xyz = uniform(6, 100) + [500_000.0, 4_000_000.0, 100.0]
    center = [*(xyz[:, :2].min(axis=0) + xyz[:, :2].max(axis=0)) / 2, xyz[:, 2].min()]
    marked = np.vstack([xyz, center])
    moved = RandomSimilarity(max_tilt=0.3, scale=(2, 3))(np.random.default_rng(0))
    np.testing.assert_allclose(moved.apply_points(marked)[-1], center, rtol=0, atol=1e-8)


# -- Jitter and colours


def test_jitter_is_clipped_normal_noise():
    xyz = uniform(7, 50_000)
    noise = add_jitter(xyz, 0.01, np.random.default_rng(8)) - xyz
    assert noise.std() == pytest.approx(0.01, rel=0.01) and abs(noise.mean()) < 1e-4
    assert 0.039 < np.abs(noise).max() <= 0.04 + 1e-9
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.02


@few
@given(seed=seeds, share=st.floats(0, 1))
def test_contrast_is_stretched_by_a_share(seed, share):
    rng = np.random.default_rng(seed)
    color = rng.uniform(*np.sort(rng.random(2)), size=(20, 3)).astype(np.float32)
    color[:, 1] = 0.3  # a flat channel
    low, high = color.min(axis=0).astype(np.float64), color.max(axis=0).astype(np.float64)
    found = stretch_contrast(color, share)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 1], color[:, 1])
    for channel in (0, 2):
        expected = np.interp(
            color[:, channel],
            [low[channel], high[channel]],
            [(1 - share) * low[channel], (1 - share) * high[channel] + share],
        )
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=1e-4)


@few
@given(
    color=arrays.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(0, 1, width=32)
    ),
    seed=seeds,
)
def test_colors_stay_colors(color, seed):
    found = ColorAugmentation(contrast=1)(color, np.random.default_rng(seed))
    assert found.dtype == np.float32 and found.shape == color.shape
    assert 0 <= found.min() and found.max() <= 1


def test_a_shift_is_the_same_for_all_points():
    color = np.full((50, 3), 0.5, np.float32) + np.linspace(0, 0.1, 50, dtype=np.float32)[:, None]
    augment = ColorAugmentation(contrast=0, shift=0.2, jitter=0)
    rng = np.random.default_rng(9)
    shifts = np.array([augment(color, rng) - color for _ in range(200)])
    assert np.ptp(shifts, axis=1).max() < 1e-6
    assert 0.19 < np.abs(shifts).max() <= 0.2 + 1e-6
    assert np.abs(np.corrcoef(shifts[:, 0].T) - np.eye(3)).max() < 0.25


def test_contrast_is_stretched_with_its_probability():
    color = np.linspace(0.4, 0.6, 90, dtype=np.float32).reshape(30, 3)
    augment = ColorAugmentation(contrast=0.3, shift=0, jitter=0)
    rng = np.random.default_rng(10)
    changed = [not np.array_equal(augment(color, rng), color) for _ in range(1000)]
    assert 240 < sum(changed) < 360


def test_color_jitter_has_its_deviation():
    color = np.full((20_000, 3), 0.5, np.float32)
    augment = ColorAugmentation(contrast=0, shift=0, jitter=0.05)
    assert augment(color, np.random.default_rng(11)).std() == pytest.approx(0.05, rel=0.02)


# -- All steps together


@few
@given(xyz=coordinates, seed=seeds)
def test_everything_stays_with_its_point(xyz, seed):
    cloud = make_cloud(xyz, seed)
    result = ALL(cloud, np.random.default_rng(seed))
    index = result.label
    assert 1 <= len(index) <= 25 and (np.diff(index) > 0).all()
    np.testing.assert_array_equal(result.intensity, cloud.intensity[index])
    # Distances are scaled by 0.8 to 1.2; distortions and jitter move a point by less than 3.
    found, before = distances(result.xyz), distances(xyz[index])
    assert (found <= 1.2 * before + 6).all() and (found >= 0.8 * before - 6).all()
    # The angles between normals, and the differences of colours up to noise.
    np.testing.assert_allclose(
        result.normal @ result.normal.T,
        cloud.normal[index] @ cloud.normal[index].T,
        rtol=0,
        atol=1e-5,
    )


@few
@given(xyz=coordinates, seed=seeds)
def test_without_changes_a_part_of_the_rows_is_left(xyz, seed):
    cloud = make_cloud(xyz, seed)
    result = PointAugmentation(max_points=20, max_drop=0.3)(cloud, np.random.default_rng(seed))
    for name, array in vars(result).items():
        np.testing.assert_array_equal(array, getattr(cloud, name)[result.label])


def test_every_step_is_applied_in_the_documented_order():
    cloud, rng = make_cloud(uniform(19)), np.random.default_rng(20)
    result = ALL(cloud, np.random.default_rng(20))
    index = crop(cloud.xyz, 25, rng.integers(30))
    index = index[drop(25, 0.5, rng)]
    similarity = ALL.similarity(rng)
    xyz = similarity.apply_points(cloud.xyz[index])
    for distort in ALL.elastic:
        xyz = distort(xyz, rng)
    xyz = add_jitter(xyz, 0.01, rng)
    np.testing.assert_array_equal(result.label, index)
    np.testing.assert_array_equal(result.xyz, xyz)
    np.testing.assert_array_equal(result.normal, similarity.apply_normals(cloud.normal[index]))
    np.testing.assert_array_equal(result.color, ALL.color(cloud.color[index], rng))


def test_points_are_dropped_from_the_crop():
    cloud, rng = make_cloud(uniform(17)), np.random.default_rng(18)
    augment = PointAugmentation(max_points=20, max_drop=0.5)
    assert {len(augment(cloud, rng)) for _ in range(100)} == set(range(11, 21))


@few
@given(seed=seeds)
def test_the_result_depends_on_the_cloud_and_the_generator_only(seed):
    cloud = make_cloud(uniform(seed))
    first, again, other = (ALL(cloud, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    for name, array in vars(first).items():
        np.testing.assert_array_equal(array, getattr(again, name))
    assert not np.array_equal(first.xyz[:1], other.xyz[:1])


def test_nothing_is_shared_with_the_input():
    cloud = make_cloud(uniform(12))
    for augment in (ALL, PointAugmentation()):
        result = augment(cloud, np.random.default_rng(0))
        for name, array in vars(result).items():
            assert not np.shares_memory(array, getattr(cloud, name))
            array[:] = 0  # can be changed


def test_no_steps_change_nothing():
    cloud = make_cloud(uniform(13))
    result = PointAugmentation()(cloud, np.random.default_rng(0))
    for name, array in vars(cloud).items():
        np.testing.assert_array_equal(getattr(result, name), array)
        assert getattr(result, name).dtype == array.dtype


@pytest.mark.parametrize("name", ["color", "intensity", "normal", "label"])
def test_missing_arrays_stay_missing_and_do_not_change_the_others(name):
    cloud = make_cloud(uniform(14))
    full, result = (
        ALL(c, np.random.default_rng(0)) for c in (cloud, replace(cloud, **{name: None}))
    )
    for field in fields(Cloud):
        found = getattr(result, field.name)
        if field.name == name:
            assert found is None
        else:
            np.testing.assert_array_equal(found, getattr(full, field.name))


# -- Mix3D


@few
@given(first=coordinates, second=coordinates)
def test_mixed_clouds_lie_on_top_of_each_other(first, second):
    clouds = [make_cloud(first, 1), make_cloud(second, 2)]
    mixed = mix3d(clouds)
    parts = np.split(mixed.xyz, [len(first)])
    for part, before in zip(parts, (first, second), strict=True):
        np.testing.assert_allclose(part - part[0], before - before[0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(part[:, :2].min(0), -part[:, :2].max(0), rtol=0, atol=1e-9)
        assert part[:, 2].min() == 0
    for name in ("color", "intensity", "normal", "label"):
        for cloud, part in zip(clouds, np.split(getattr(mixed, name), [len(first)]), strict=True):
            np.testing.assert_array_equal(part, getattr(cloud, name))
            assert part.dtype == getattr(cloud, name).dtype


def test_mixed_clouds_without_features():
    clouds = [Cloud(uniform(seed, 5), label=np.full(5, seed)) for seed in (1, 2)]
    mixed = mix3d(clouds)
    np.testing.assert_array_equal(mixed.label, [1] * 5 + [2] * 5)
    assert mixed.color is mixed.intensity is mixed.normal is None


@pytest.mark.parametrize("name", ["color", "intensity", "normal", "label"])
def test_clouds_with_different_arrays_are_not_mixed(name):
    clouds = [make_cloud(uniform(1)), make_cloud(uniform(2), missing=[name])]
    for pair in (clouds, clouds[::-1]):
        with pytest.raises(InputError, match=f"INPUT.POINTS.MIX3D.* {name} "):
            mix3d(pair)


def test_mixes_are_drawn_with_their_probability():
    rng = np.random.default_rng(15)

    def count(probability):
        augment = PointAugmentation(mix3d=probability)
        return sum(augment.draw_mix(rng) for _ in range(1000))

    assert count(0) == 0 and count(1) == 1000 and 740 < count(0.8) < 860


# -- Config


def test_the_config_describes_all_steps():
    cfg = load_config(
        "",
        [
            "INPUT.POINTS.MAX_POINTS", "7", "INPUT.POINTS.DROP", "0.3", "INPUT.POINTS.ROTATE",
            "False", "INPUT.POINTS.TILT", "0.1", "INPUT.POINTS.SCALE", "(0.5, 2)",
            "INPUT.POINTS.FLIP", "False", "INPUT.POINTS.ELASTIC", "((1, 2), (3, 4), (5, 6))",
            "INPUT.POINTS.JITTER", "0.25", "INPUT.POINTS.MIX3D", "0.5",
            "INPUT.POINTS.CLASS_UNIFORM", "0.75", "MODEL.SEM_SEG_HEAD.IGNORE_VALUE", "65535",
        ],
    )  # fmt: skip
    augment = PointAugmentation.from_config(cfg)
    assert (augment.max_points, augment.max_drop, augment.jitter) == (7, 0.3, 0.25)
    assert (augment.class_uniform, augment.ignore_label) == (0.75, 65535)
    assert augment.mix3d == 0.5 and augment.color is not None
    assert vars(augment.similarity) == {
        "rotate": False, "max_tilt": 0.1, "scale": (0.5, 2), "flip": False,
    }  # fmt: skip
    assert [(e.granularity, e.magnitude) for e in augment.elastic] == [(1, 2), (3, 4), (5, 6)]


def test_a_config_without_augmentation_changes_nothing(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "INPUT: {POINTS: {MAX_POINTS: 0, DROP: 0, ROTATE: False, TILT: 0, SCALE: [1, 1], "
        "FLIP: False, ELASTIC: [], JITTER: 0, COLOR: False}}"
    )
    cloud = make_cloud(uniform(16))
    result = PointAugmentation.from_config(load_config(path))(cloud, np.random.default_rng(0))
    for name, array in vars(cloud).items():
        np.testing.assert_allclose(getattr(result, name), array, rtol=0, atol=1e-12)


def test_a_saved_config_is_read_as_the_same(tmp_path):
    cfg = load_config()
    path = tmp_path / "config.yaml"
    path.write_text(cfg.dump())
    assert load_config(path).INPUT.POINTS == cfg.INPUT.POINTS


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("MAX_POINTS", "-1", "is -1"),
        ("CLASS_UNIFORM", "-0.5", "is -0.5"),
        ("DROP", "1", "less than 1"),
        ("DROP", "-0.1", "-0.1"),
        ("TILT", "3", "radians"),
        ("TILT", "-0.1", "-0.1"),
        ("SCALE", "(1.1, 0.9)", "smallest"),
        ("SCALE", "(0, 1)", "above 0"),
        ("SCALE", "(1, 1, 1)", "greatest"),
        ("ELASTIC", "(0.2, 0.4)", "pairs of granularity"),
        ("ELASTIC", "((0.2, 0.4, 0.8),)", "pairs of granularity"),
        ("ELASTIC", "(('a', 'b'),)", "pairs of granularity"),
        ("ELASTIC", "((0, 0.4),)", "above 0"),
        ("JITTER", "-1", "is -1"),
        ("MIX3D", "1.5", "is 1.5"),
    ],
)
def test_bad_values_name_their_key(key, value, words):
    cfg = load_config("", [f"INPUT.POINTS.{key}", value])
    with pytest.raises(InputError, match=words) as error:
        PointAugmentation.from_config(cfg)
    assert f"INPUT.POINTS.{key} " in str(error.value)
