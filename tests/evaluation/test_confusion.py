import math

import numpy as np
import pytest
import torch

from sar.evaluation.confusion import confusion_metrics, update_confusion


def counted(prediction, truth, num_classes, ignore):
    """Pixel by pixel, in plain Python."""
    confusion = [[0] * num_classes for _ in range(num_classes)]
    for p, t in zip(prediction.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if t != ignore:
            confusion[t][p] += 1
    return confusion


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize(("num_classes", "ignore"), [(2, 255), (11, 255), (11, 7), (200, 255)])
def test_counts_every_valid_pixel(dtype, num_classes, ignore):
    generator = torch.Generator().manual_seed(0)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    expected = np.zeros((num_classes, num_classes), dtype=int)
    for size in [(13, 17), (1, 1), (8, 5)]:
        prediction = torch.randint(num_classes, size, generator=generator)
        truth = torch.randint(num_classes, size, generator=generator)
        truth[torch.rand(size, generator=generator) < 0.2] = ignore
        update_confusion(confusion, prediction, truth.to(dtype), ignore)
        expected += counted(prediction, truth, num_classes, ignore)
    assert expected.sum() > 100
    assert confusion.tolist() == expected.tolist()


def test_more_classes_than_8_bits_and_16_bit_ignore_label():
    num_classes = 847
    truth = torch.tensor([[846, 65535, 0, 300]], dtype=torch.int32)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    update_confusion(confusion, torch.tensor([[846, 5, 846, 44]]), truth, 65535)
    assert confusion.nonzero().tolist() == [[0, 846], [300, 44], [846, 846]]
    assert confusion.sum() == 3


def test_ignore_label_is_not_taken_modulo_256():
    confusion = torch.zeros(50, 50, dtype=torch.int64)
    # 300 is 44 in 8 bits.
    update_confusion(confusion, torch.tensor([[3]]), torch.tensor([[44]], dtype=torch.uint8), 300)
    assert confusion[44, 3] == 1


def test_only_ignored_pixels_count_nothing():
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    update_confusion(confusion, torch.ones(4, 4, dtype=torch.int64), torch.full((4, 4), 255), 255)
    assert confusion.sum() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_host_synchronisation_on_a_gpu():
    confusion = torch.zeros(5, 5, dtype=torch.int64, device="cuda")
    prediction = torch.randint(5, (32, 32), device="cuda")
    truth = torch.randint(5, (32, 32), device="cuda").to(torch.uint8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        update_confusion(confusion, prediction, truth, 255)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert confusion.tolist() == counted(prediction, truth, 5, 255)


def test_metrics_by_hand():
    # Rows are the ground truth. Class c is predicted, but not in the ground truth. Class d is in
    # the ground truth, but never predicted.
    confusion = torch.tensor([[6, 1, 1, 0], [2, 2, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0]])
    groups = {"f": [0, 1], "c": [1, 2], "r": [2], "x": []}
    metrics = confusion_metrics(confusion, ["a", "b", "c", "d"], groups)
    iou_a, iou_b = 6 / (6 + 1 + 1 + 2 + 3), 2 / (2 + 2 + 1)
    precision_a, precision_b = 6 / (6 + 2 + 3), 2 / (2 + 1)
    recall_a, recall_b = 6 / 8, 2 / 4
    f1_a = 2 * precision_a * recall_a / (precision_a + recall_a)
    f1_b = 2 * precision_b * recall_b / (precision_b + recall_b)
    expected = {
        "mIoU": (iou_a + iou_b + 0) / 3,
        "IoU-a": iou_a,
        "IoU-b": iou_b,
        "IoU-c": math.nan,
        "IoU-d": 0,
        "mIoU@f": (iou_a + iou_b) / 2,
        "mIoU@c": iou_b,
        "mIoU@r": math.nan,
        "mIoU@x": math.nan,
        "fwIoU": (8 * iou_a + 4 * iou_b + 3 * 0) / 15,
        "mACC": (recall_a + recall_b + 0) / 3,
        "ACC-a": recall_a,
        "ACC-b": recall_b,
        "ACC-c": math.nan,
        "ACC-d": 0,
        "pACC": 8 / 15,
        "mPrecision": (precision_a + precision_b) / 2,
        "Precision-a": precision_a,
        "Precision-b": precision_b,
        "Precision-c": math.nan,
        "Precision-d": math.nan,
        "mF1": (f1_a + f1_b + 0) / 3,
        "F1-a": f1_a,
        "F1-b": f1_b,
        "F1-c": math.nan,
        "F1-d": 0,
    }
    assert list(metrics) == list(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(100 * value, abs=1e-12, nan_ok=True), name


def test_precision_and_f1_of_pixels_in_numpy():
    generator = np.random.default_rng(0)
    truth, prediction = generator.integers(0, 7, (2, 5000))
    prediction = np.where(generator.random(5000) < 0.6, truth, prediction)
    confusion = torch.zeros(7, 7, dtype=torch.int64)
    update_confusion(confusion, torch.from_numpy(prediction), torch.from_numpy(truth), 255)
    metrics = confusion_metrics(confusion, list("abcdefg"))
    precisions, f1s = [], []
    for k in range(7):
        hits = np.float64(((truth == k) & (prediction == k)).sum())
        precision, recall = hits / (prediction == k).sum(), hits / (truth == k).sum()
        precisions.append(100 * precision)
        f1s.append(100 * 2 / (1 / precision + 1 / recall))
        assert metrics[f"Precision-{'abcdefg'[k]}"] == pytest.approx(precisions[k], abs=1e-10)
        assert metrics[f"F1-{'abcdefg'[k]}"] == pytest.approx(f1s[k], abs=1e-10)
    assert metrics["mPrecision"] == pytest.approx(np.mean(precisions), abs=1e-10)
    assert metrics["mF1"] == pytest.approx(np.mean(f1s), abs=1e-10)


def test_metrics_of_a_data_set_without_ground_truth():
    metrics = confusion_metrics(torch.zeros(2, 2, dtype=torch.int64), ["a", "b"], {"f": [0]})
    assert all(math.isnan(value) for value in metrics.values())


def test_counts_beyond_single_precision_are_exact():
    # 10^11 pixels, one of them wrong.
    metrics = confusion_metrics(torch.tensor([[10**11 - 1, 1], [0, 0]]), ["a", "b"])
    assert metrics["pACC"] == pytest.approx(100 * (1 - 1e-11), abs=1e-13)
    assert metrics["pACC"] < 100
