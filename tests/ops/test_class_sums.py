import pytest
import torch

from sar.ops.class_sums import class_sums


@pytest.fixture
def case():
    torch.manual_seed(0)
    embeddings = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 1, 2, 9, 3, 3, 1], [9, 9, 0, 0, 2, 1, 3]])
    return embeddings, labels


def test_class_sums_equal_the_dense_product():
    torch.manual_seed(0)
    vectors = torch.randn(2, 5, 7, dtype=torch.float64)
    labels = torch.tensor([[0, 1, 2, 9, 3, 3, 1], [9, 9, 0, 0, 2, 1, 3]])
    sums, counts = class_sums(vectors, labels, 5, 9)
    one_hot = torch.stack([(labels == k).double() for k in range(5)])
    torch.testing.assert_close(sums, torch.einsum("knl,ncl->kc", one_hot, vectors))
    assert counts.tolist() == [3, 3, 2, 3, 0] and counts.dtype == torch.int64
    assert (sums[4] == 0).all()


def test_class_sums_gradcheck(case):
    embeddings, labels = case
    assert torch.autograd.gradcheck(lambda e: class_sums(e, labels, 4, 9)[0], (embeddings,))


def test_class_sums_leave_out_ignored_vectors_that_are_infinite(case):
    embeddings, labels = case
    disturbed = torch.where((labels == 9)[:, None], torch.inf, embeddings)
    assert torch.equal(
        class_sums(disturbed, labels, 4, 9)[0], class_sums(embeddings, labels, 4, 9)[0]
    )


@pytest.mark.parametrize("ignore_value", [0, 3])
def test_class_sums_with_a_class_id_to_ignore(case, ignore_value):
    embeddings, labels = case
    labels[labels == 9] = 1
    sums, counts = class_sums(embeddings, labels, 4, ignore_value)
    assert counts[ignore_value] == 0 and (sums[ignore_value] == 0).all()
    assert counts.sum() == (labels != ignore_value).sum()


@pytest.mark.parametrize("unknown", [-1, 4, 5, 255])
def test_an_unknown_id_is_an_error(case, unknown):
    embeddings, labels = case
    labels[0, 0] = unknown
    with pytest.raises((IndexError, RuntimeError)):
        class_sums(embeddings, labels, 4, 9)


def test_class_sums_in_float32_keep_their_precision():
    torch.manual_seed(0)
    vectors, labels = 1 + torch.randn(1, 8, 1 << 16), torch.randint(2, (1, 1 << 16))
    exact, _ = class_sums(vectors.double(), labels, 2, 255)
    found, _ = class_sums(vectors, labels, 2, 255)
    assert (found / exact - 1).abs().max() < 1e-5
