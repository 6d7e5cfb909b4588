import numpy as np
import pytest

from sar.regularizers.simplex_etf import simplex_etf
from sar.visualization.cosines import NEGATIVE, POSITIVE, centred_cosines, plot_cosines


def test_cosines_are_those_about_the_mean():
    frame = simplex_etf(4, 6).double().numpy()
    frame = frame if frame.shape[0] == 4 else frame.T
    shifted = 5 * frame + np.arange(6)
    expected = np.where(np.eye(4), 1, -1 / 3)
    np.testing.assert_allclose(centred_cosines(shifted), expected, atol=1e-6)


def test_a_vector_that_is_the_mean_has_no_direction():
    cosines = centred_cosines(np.array([[1.0, 0], [-1, 0], [0, 0]]))
    assert cosines[:2, :2].tolist() == [[1, -1], [-1, 1]]
    assert np.isnan(cosines[2]).all() and np.isnan(cosines[:, 2]).all()


def test_cells_are_red_where_vectors_are_alike_and_blue_where_they_are_opposite():
    cosines = np.array([[1.0, -1, 0], [-1, 1, 0.5], [0, 0.5, np.nan]])
    picture = np.asarray(plot_cosines(cosines, ["a", "b", "c"], ["title"]))
    reds = np.argwhere((picture == POSITIVE).all(axis=-1))
    top, left = reds.min(axis=0)
    # Near the corner of each cell, where no number is.
    corners = [
        [picture[top + 2 + 32 * i, left + 2 + 32 * j].tolist() for j in range(3)] for i in range(3)
    ]
    red, blue, white, pink, grey = (
        list(POSITIVE), list(NEGATIVE), [255] * 3, [229, 157, 146], [222] * 3,
    )  # fmt: skip
    assert corners == [[red, blue, white], [blue, red, pink], [white, pink, grey]]


@pytest.mark.parametrize("num_classes", [2, 60, 171, 847])
def test_the_picture_of_many_classes_stays_small(num_classes):
    cosines = np.eye(num_classes)
    names = [f"a class whose name is long {k}" for k in range(num_classes)]
    picture = plot_cosines(cosines, names, ["title", "a longer title than two classes are wide"])
    assert max(picture.size) < 1900
    pixels = np.asarray(picture)
    # All of the diagonal is there, and the margin around is white.
    assert (pixels == POSITIVE).all(axis=-1).sum() >= num_classes
    assert (pixels[:, -5:] == 255).all() and (pixels[:5] == 255).all()
