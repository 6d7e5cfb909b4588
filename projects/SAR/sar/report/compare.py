"""Collect the content of the comparison page, in types that JSON can hold.

Shape shorthands: K classes, C embedding channels, P points.
"""

import base64
import io
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from sar.data.class_frequency import ClassFrequency
from sar.data.datasets.folder import default_colors
from sar.data.units import Units
from sar.errors import InputError, listed
from sar.evaluation.class_groups import class_groups
from sar.evaluation.class_metrics import CLASS_METRICS
from sar.evaluation.geometry import GEOMETRY_METRICS
from sar.evaluation.table import GROUP_NAMES, HEADLINE, OBJECT_HEADLINE
from sar.report.confusions import describe_confusions
from sar.report.runs import Run
from sar.report.settings import compare_settings
from sar.report.views import Images, View, look_at
from sar.visualization.cosines import centred_cosines
from sar.visualization.overlay import IGNORE_COLOR, LINE_COLOR, region_edges

# Means in the table of metrics.
_MEANS = (*HEADLINE, *OBJECT_HEADLINE, *GEOMETRY_METRICS)
_MEANS_BY_FREQUENCY = {f"mIoU@{name}{unit}" for name in GROUP_NAMES for unit in ("", "_pixel")}
# Images of the test set that the page shows.
_NUM_PICTURES = 8

# Called with items and a title; returns the items.
ShowProgress = Callable[[Iterable, str], Iterable]


def compare(
    runs: Sequence[Run],
    *,
    num_images: int = 32,
    dataset: str = "",
    show_progress: ShowProgress = lambda items, title: items,
) -> dict:
    """Return the content of the page.

    The model of the first run of each method predicts images. With a single method, the models of
    all runs predict images.

    Args:
        runs: at least one, all evaluated on the same data set. Other methods are compared with the
            method of the first run.
        num_images: number of images that the models predict; 0 for none.
        dataset: the data set of the evaluations; "" for the first of DATASETS.TEST that all runs
            share.
        show_progress: called for each long part.

    Raises:
        InputError: the runs have different data sets or classes, or a class_frequency.json is
            malformed.
    """
    dataset, class_names = _common_ground(runs, dataset)
    evaluations = [run.evaluations[dataset] for run in runs]
    frequency = next(filter(None, (_frequency(run, class_names) for run in runs)), None)
    groups = next(filter(None, (evaluation.get("groups") for evaluation in evaluations)), {})
    if frequency and not groups:
        groups = class_groups(frequency.images, ties_by=frequency.pixels)

    methods = list(dict.fromkeys(run.method for run in runs))
    first_runs = [next(run for run in runs if run.method == method) for method in methods]
    names = {run.folder: _name(run, runs) for run in runs}
    units = runs[0].units(dataset)
    warning = _warn_of_other_images(list(names.values()), evaluations, units)
    settings = compare_settings(runs, list(names.values()), dataset)
    incomparable = {"Loss"}
    if _have_other_groups(evaluations):
        incomparable |= _MEANS_BY_FREQUENCY
        settings["notes"].append(
            "The runs differ in which classes are frequent, common or rare, because the counts of "
            "their training sets differ. So the differences of mIoU@f, mIoU@c and mIoU@r, also by "
            "pixel, are left out."
        )
    views, images = {}, None
    for run in first_runs if len(methods) > 1 else runs:
        if num_images == 0:
            reason = f"No model predicted {units.sample}s, because of --images 0."
            view = View(reasons={"model": reason})
        else:
            title = f"Looking at {names[run.folder]}"
            view, found = look_at(
                run, dataset, num_images, lambda items, title=title: show_progress(items, title)
            )
            images = images or found
        views[names[run.folder]] = view

    means = [name for name in _MEANS if _is_measured(name, evaluations)]
    means += _means_of_own_groups(evaluations)
    class_metrics = [
        metric
        for metric in CLASS_METRICS
        if _is_measured(f"{metric}-{class_names[0]}", evaluations)
    ]
    colors = next((view.colors for view in views.values() if view.colors is not None), None)
    if colors is None:
        colors = np.array(default_colors(len(class_names)), dtype=np.uint8)
    return {
        "dataset": dataset,
        "units": {"sample": units.sample, "part": units.part},
        "num_evaluated": None if warning else evaluations[0]["num_images"],
        "warning": warning,
        "settings": settings,
        "classes": _describe_classes(class_names, colors, frequency, groups),
        "order": _order(groups, len(class_names)),
        "is_ordered": bool(groups),
        "metrics": means,
        "class_metrics": class_metrics,
        "methods": _summaries(
            runs,
            evaluations,
            methods,
            [*means, *(f"{metric}-{name}" for metric in class_metrics for name in class_names)],
            incomparable,
        ),
        "confusions": [
            describe_confusions([run.confusion(dataset) for run in runs if run.method == method])
            for method in methods
        ],
        "runs": [
            {
                "name": names[run.folder],
                "method": methods.index(run.method),
                "folder": str(run.folder),
                "source": run.source(dataset),
                "curves": run.curves(),
            }
            for run in runs
        ],
        "views": [
            _describe_view(name, view)
            for name, view in show_progress(views.items(), "Arranging the embeddings")
        ],
        "pictures": _pictures(views, images, colors, units, show_progress),
    }


def warnings_of(content: dict) -> list[str]:
    """Return sentences about a comparison that may not be fair, and about unknown settings.

    Args:
        content: the result of `compare`.
    """
    settings = content["settings"]
    return list(filter(None, (settings["unfair"], content["warning"], *settings["notes"])))


def _common_ground(runs: Sequence[Run], wanted: str) -> tuple[str, list[str]]:
    """Return the data set that all runs were evaluated on, and its classes."""
    shared = [name for name in runs[0].evaluations if all(name in r.evaluations for r in runs)]
    shared = [name for name in shared if not wanted or name == wanted]
    if not shared:
        found = "; ".join(f"{run.folder}: {', '.join(run.evaluations)}" for run in runs)
        if wanted:
            raise InputError(
                f'not all runs were evaluated on the data set "{wanted}" ({found}): give another '
                "--dataset, or evaluate them on it with train_net.py --eval-only"
            )
        raise InputError(
            f"the runs were not evaluated on the same data set ({found}): choose runs of one data "
            "set, or evaluate them on one with train_net.py --eval-only"
        )
    order = runs[0].test_sets(shared[0])
    dataset = next(filter(shared.__contains__, order), shared[0])
    first = runs[0].evaluations[dataset]["class_names"]
    for run in runs:
        names = run.evaluations[dataset]["class_names"]
        if names != first:
            raise InputError(
                f"{run.folder} has other classes of {dataset} ({listed(names)}) than "
                f"{runs[0].folder} ({listed(first)}): choose runs with the same classes"
            )
    return dataset, first


def _frequency(run: Run, class_names: list[str]) -> ClassFrequency | None:
    frequency = run.class_frequency()
    return frequency if frequency and list(frequency.class_names) == class_names else None


def _name(run: Run, runs: Sequence[Run]) -> str:
    """Return the method of a run, with a number if it has several runs."""
    alike = [other for other in runs if other.method == run.method]
    return run.method if len(alike) == 1 else f"{run.method} ({alike.index(run) + 1})"


def _warn_of_other_images(names: Sequence[str], evaluations: Sequence[dict], units: Units) -> str:
    """Return a warning if the runs were evaluated on different numbers of images; else ""."""
    by_count: dict[int, list[str]] = {}
    for name, evaluation in zip(names, evaluations, strict=True):
        by_count.setdefault(evaluation["num_images"], []).append(name)
    if len(by_count) == 1:
        return ""
    listed = "; ".join(f"{count}: {', '.join(by_count[count])}" for count in sorted(by_count))
    return (
        f"The runs were evaluated on different numbers of {units.sample}s ({listed}), so they "
        f"differ in more than their methods: evaluate all runs on the same {units.sample}s with "
        "train_net.py --eval-only."
    )


def _metrics(evaluation: dict) -> dict[str, float | None]:
    return evaluation["metrics"] | evaluation.get("geometry", {})


def _is_measured(name: str, evaluations: Sequence[dict]) -> bool:
    """Return True if at least one evaluation has a metric, even without a value."""
    return any(name in _metrics(evaluation) for evaluation in evaluations)


def _means_of_own_groups(evaluations: Sequence[dict]) -> list[str]:
    """Return the names of the mean IoUs of the data set's own groups of classes, in any run."""
    names = dict.fromkeys(name for evaluation in evaluations for name in evaluation["metrics"])
    return [name for name in names if name.startswith("mIoU@") and name not in _MEANS_BY_FREQUENCY]


def _have_other_groups(evaluations: Sequence[dict]) -> bool:
    """Return True if the frequent, common or rare classes of two evaluations differ."""
    groups = [evaluation["groups"] for evaluation in evaluations if evaluation.get("groups")]
    sets = [{name: set(ids) for name, ids in of_run.items()} for of_run in groups]
    return any(of_run != sets[0] for of_run in sets)


def _order(groups: dict[str, list[int]], num_classes: int) -> list[int]:
    """Return the class ids, the most frequent in training first."""
    ids = [class_id for name in GROUP_NAMES for class_id in groups.get(name, [])]
    return ids or list(range(num_classes))


def _describe_classes(class_names, colors, frequency, groups) -> list[dict]:
    group_of = {k: GROUP_NAMES[name] for name in GROUP_NAMES for k in groups.get(name, [])}
    return [
        {
            "name": name,
            "color": "#" + bytes(colors[k].tolist()).hex(),
            "group": group_of.get(k),
            "images": frequency and 100 * frequency.images[k] / max(frequency.num_images, 1),
            "pixels": frequency and 100 * frequency.pixels[k] / sum(frequency.pixels),
        }
        for k, name in enumerate(class_names)
    ]


def _summaries(runs, evaluations, methods, names, incomparable) -> list[dict]:
    """Return mean and spread of each named metric over the runs of each method.

    Each metric also has the difference between its mean and the mean of the first method, unless it
    is one of the `incomparable` metrics, such as the loss.
    """
    summaries = []
    for method in methods:
        found = [_metrics(e) for r, e in zip(runs, evaluations, strict=True) if r.method == method]
        summary = {name: _mean_and_spread([one.get(name) for one in found]) for name in names}
        for name, numbers in summary.items():
            first = (summaries[0]["summary"] if summaries else summary)[name]["mean"]
            is_known = first is not None and numbers["mean"] is not None
            is_known = is_known and name not in incomparable
            numbers["difference"] = numbers["mean"] - first if is_known else None
        summaries.append({"name": method, "num_runs": len(found), "summary": summary})
    return summaries


def _mean_and_spread(values: list[float | None]) -> dict[str, float | None]:
    """Return the mean, and for two values or more the sample standard deviation (with n - 1)."""
    if None in values:  # no ground truth, or not measured in all runs
        return {"mean": None, "spread": None}
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "spread": spread}


def _describe_view(name: str, view: View) -> dict:
    return {
        "name": name,
        "reasons": view.reasons,
        "anchors": cosines(view.anchors),
        "centres": cosines(view.centres),
        "projections": _projections(view.points, view.point_classes),
    }


def cosines(vectors: np.ndarray | None) -> list[list[float | None]] | None:
    """Return the `centred_cosines` (K, K) of vectors (K, C). Vectors with NaN have None."""
    if vectors is None:
        return None
    is_known = ~np.isnan(vectors).any(axis=1)
    if is_known.sum() < 2:
        return None
    full = np.full((len(vectors),) * 2, np.nan)
    full[np.ix_(is_known, is_known)] = centred_cosines(vectors[is_known])
    return [[None if np.isnan(value) else round(float(value), 3) for value in row] for row in full]


def _projections(points: np.ndarray | None, classes: np.ndarray | None) -> list[dict]:
    """Return projections of the points to two dimensions, as [x, y, class id]."""
    if points is None or len(points) < 3:
        return []
    flat, share = principal_components(points)
    maps = {f"PCA, {100 * share:.0f}% of the variance": flat}
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        pass  # an optional package; PCA does not need it
    else:
        perplexity = min(30.0, (len(points) - 1) / 3)
        # This equals init="pca", which fails for one channel, and causes a segmentation fault if
        # all points are equal.
        start = 1e-4 * flat / max(flat[:, 0].std(), 1e-12)
        tsne = TSNE(init=start.astype(np.float32), random_state=0, perplexity=perplexity)
        maps["t-SNE"] = tsne.fit_transform(np.asarray(points, dtype=np.float32))
    projections = []
    for name, positions in maps.items():
        low, high = positions.min(axis=0), positions.max(axis=0)
        scaled = 0.5 + (positions - (low + high) / 2) / max((high - low).max(), 1e-12)
        rows = zip(scaled.round(3).tolist(), classes.tolist(), strict=True)
        projections.append({"name": name, "points": [[x, y, k] for (x, y), k in rows]})
    return projections


def principal_components(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Project points (P, C) on their first two principal axes.

    Returns:
        (P, 2) positions, and the share of the variance on these axes.
    """
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    positions = left[:, :2] * sizes[:2]
    if positions.shape[1] == 1:
        positions = np.pad(positions, ((0, 0), (0, 1)))
    return positions, float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-300))


def _pictures(
    views: dict[str, View],
    images: Images | None,
    colors: np.ndarray,
    units: Units,
    show_progress: ShowProgress,
) -> dict:
    """Return the images on which the predictions of several models differ most."""
    predictions = {name: view.predictions for name, view in views.items() if view.predictions}
    # Data sets of the same name may be in different folders, with different images.
    seen_by_all = set.intersection(*map(set, predictions.values())) if predictions else set()
    if len(predictions) < 2 or not seen_by_all:
        reason = f"Needs two runs whose models predict the same {units.sample}s of the data set."
        return {"names": [], "images": [], "reason": reason}
    shares = {}
    file_names = list(filter(seen_by_all.__contains__, images.label_files))
    for file_name in show_progress(file_names, "Comparing the predictions"):
        first, *others = (of_run[file_name] for of_run in predictions.values())
        is_counted = images.truth(file_name) < len(colors)
        differs = np.any([first != other for other in others], axis=0) & is_counted
        shares[file_name] = differs.sum() / max(is_counted.sum(), 1)
    described, classes = [], set()
    for file_name in most_different(shares):
        maps = [images.truth(file_name), *(of_run[file_name] for of_run in predictions.values())]
        classes.update(int(k) for m in maps for k in np.unique(m) if k < len(colors))
        described.append(
            {
                "name": file_name.replace("\\", "/").rsplit("/", 1)[-1],
                "share": 100 * float(shares[file_name]),
                "image": _data_uri(Image.fromarray(images.picture(file_name)), "JPEG"),
                "maps": [_data_uri(_in_colors(labels, colors), "PNG") for labels in maps],
            }
        )
    names = ["ground truth", *predictions]
    return {
        "names": names,
        "images": described,
        "classes": sorted(classes),
        "num_images": len(shares),
        "reason": "",
    }


def most_different(shares: Mapping[str, float]) -> list[str]:
    """Return the images with the largest shares of differing pixels, the largest first.

    Neighbours can be frames of one video, which look alike. So an image near two chosen images is
    passed over.

    Args:
        shares: by file name, in the order of the data set.
    """
    places = {name: place for place, name in enumerate(shares)}
    reach = len(shares) // _NUM_PICTURES
    chosen: list[str] = []
    for name in sorted(shares, key=shares.__getitem__, reverse=True):
        if sum(abs(places[name] - places[other]) <= reach for other in chosen) < 2:
            chosen.append(name)
    return chosen[:_NUM_PICTURES]


def _in_colors(labels: np.ndarray, colors: np.ndarray) -> Image.Image:
    """Return a label map (H, W) as a picture (2 H, 2 W), with lines between its regions.

    The lines fill odd rows and columns only, so that they cover no class completely. With at most
    254 classes, a palette saves space.
    """
    ignored, line = len(colors), len(colors) + 1
    drawn = np.minimum(labels, ignored, dtype=np.int64).repeat(2, axis=0).repeat(2, axis=1)
    drawn[region_edges(drawn)] = line
    table = np.concatenate([colors, np.array([IGNORE_COLOR, LINE_COLOR], dtype=np.uint8)])
    if len(table) > 256:
        return Image.fromarray(table[drawn])
    picture = Image.fromarray(drawn.astype(np.uint8))
    picture.putpalette(table.tobytes())
    return picture


def _data_uri(picture: Image.Image, format: str) -> str:
    stream = io.BytesIO()
    picture.save(stream, format, quality=80, optimize=True)
    encoded = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{format.lower()};base64,{encoded}"
