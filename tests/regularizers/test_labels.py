import pytest
import torch

from sar.regularizers.labels import match_labels


def test_large_ids_are_kept():
    labels = torch.full((1, 8, 8), 65535)
    assert (match_labels(torch.zeros(1, 2, 4, 4), labels) == 65535).all()


def test_labels_of_the_embeddings_size_are_returned_as_they_are():
    labels = torch.randint(5, (2, 3, 4))
    assert match_labels(torch.zeros(2, 8, 3, 4), labels) is labels


@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 4), (2, 8, 4, 4)])
def test_labels_that_do_not_go_with_the_embeddings(shape):
    with pytest.raises(ValueError, match="do not go with embeddings"):
        match_labels(torch.zeros(2, 8, 4, 4), torch.zeros(shape, dtype=torch.int64))
