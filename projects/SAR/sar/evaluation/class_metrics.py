"""Name the metrics of classes, and average them over classes and groups of classes."""

from collections.abc import Mapping, Sequence

from torch import Tensor

# Prefixes of the metrics of single classes, as in "IoU-<class>".
PIXEL_METRICS = ("IoU", "ACC", "Precision", "F1", "BoundaryIoU")
OBJECT_METRICS = ("ObjectRecall", "ObjectPrecision")
CLASS_METRICS = (*PIXEL_METRICS, *OBJECT_METRICS)


def class_metrics(
    name: str,
    values: Tensor,
    class_names: Sequence[str],
    groups: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float]:
    """Return the metrics m<name>, <name>-<class>... and m<name>@<group>...

    Means leave out classes with NaN. A mean over no class is NaN.

    Args:
        name: one of CLASS_METRICS.
        values: (K,) in percent, NaN for classes without a value.
        class_names: K names.
        groups: class ids of each group, by its name.

    Example::

        >>> import torch
        >>> values = torch.tensor([80.0, 40.0, torch.nan])
        >>> class_metrics("IoU", values, ["road", "car", "sign"], {"r": [1, 2]})
        {'mIoU': 60.0, 'IoU-road': 80.0, 'IoU-car': 40.0, 'IoU-sign': nan, 'mIoU@r': 40.0}
    """
    metrics = {f"m{name}": values.nanmean()}
    metrics |= {f"{name}-{class_name}": values[i] for i, class_name in enumerate(class_names)}
    for group, ids in (groups or {}).items():
        metrics[f"m{name}@{group}"] = values[list(ids)].nanmean()
    return {key: value.item() for key, value in metrics.items()}
