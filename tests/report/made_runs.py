"""OUTPUT_DIRs with as much as the report page needs."""

import json

from sar.data.class_frequency import ClassFrequency

CLASSES = ("ground", "</script><b>bold", "dot")
# Ids by how many training images show them: 1, 0, 2.
FREQUENCY = ClassFrequency(CLASSES, 10, images=(5, 9, 1), pixels=(50, 45, 5), ignored_pixels=0)


def make_run(folder, ious, dataset="roads_val", classes=CLASSES, lines=(), **changes):
    """An OUTPUT_DIR with as much as an evaluation needs; `changes` are to its JSON file."""
    metrics = {f"IoU-{name}": iou for name, iou in zip(classes, ious, strict=True)}
    known = [iou for iou in ious if iou is not None]
    metrics |= {"mIoU": sum(known) / len(known), "mIoU@f": ious[0], "pACC": 50.0}
    evaluation = {
        "dataset": dataset, "num_images": 7, "metrics": metrics, "class_names": classes,
        "groups": {"f": [1, 0], "c": [], "r": [2]} if len(classes) == 3 else {},
    }  # fmt: skip
    path = folder / "inference" / dataset / "sem_seg_evaluation.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(evaluation | changes))
    (folder / "metrics.json").write_text("\n".join(lines))
    FREQUENCY.save(folder / "class_frequency.json")
    return str(folder)
