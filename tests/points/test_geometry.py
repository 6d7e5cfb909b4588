import numpy as np
import pytest

from sar.points.geometry import bounds, floor_center, rotation_about, transform


def test_bounds_and_the_middle_of_the_floor():
    xyz = np.array([[1.0, 5, -2], [4, 3, 7], [2, 9, 0]])
    low, high = bounds(xyz)
    assert low.tolist() == [1, 3, -2] and high.tolist() == [4, 9, 7]
    assert floor_center(xyz).tolist() == [2.5, 6, -2]


@pytest.mark.parametrize("axis, name", [(0, "x"), (1, "y"), (2, "z")])
def test_rotations_are_scipys(axis, name):
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    for angle in (0.0, 0.3, -1.0, 2.5):
        expected = rotation.from_euler(name, angle).as_matrix()
        np.testing.assert_allclose(rotation_about(axis, angle), expected, rtol=0, atol=1e-15)


def test_a_transform_multiplies_each_vector_by_the_matrix():
    rng = np.random.default_rng(0)
    vectors, matrix = rng.random((5, 3)), rng.random((3, 3))
    for vector, found in zip(vectors, transform(vectors, matrix), strict=True):
        expected = [sum(matrix[i, j] * vector[j] for j in range(3)) for i in range(3)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
