"""Stands for train_net.py in tests: writes what a training writes, within milliseconds.

The first word is the mIoU of the plain model. FAKE_FAILS is the seed of trainings that fail,
FAKE_STOPS the iteration in which they wait for a signal, FAKE_COUNTS changes the class counts,
FAKE_IMAGES is the number of images of an evaluation, and FAKE_PIXELS are its pixels of each class.
"""

import json
import os
import sys
import time
from pathlib import Path

words = sys.argv[1:]
base = float(words.pop(0))
config = words[words.index("--config-file") + 1]
overrides = words[words.index("--resume") + 1 :]
keys = dict(zip(overrides[::2], overrides[1::2], strict=True))
folder, seed = Path(keys["OUTPUT_DIR"]), int(keys["SEED"])
iterations = int(keys["SOLVER.MAX_ITER"])
print("starting", config, os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"])
if os.environ.get("FAKE_FAILS") == str(seed):
    print("error: images/train/a.png cannot be read: repair it")
    sys.exit(1)
start = 0
if (folder / "last_checkpoint").exists():
    start = int((folder / "last_checkpoint").read_text()) + 1
print(f"from iteration {start}")
(folder / "config.yaml").write_text("VERSION: 2\n")
(folder / "pid").write_text(str(os.getpid()))
names = ["ground", "block", "dot"]
counts = {"class_names": names, "num_images": 5, "images": [5, 5, 5], "pixels": [900, 90, 9]}
counts |= {"ignored_pixels": 0} | json.loads(os.environ.get("FAKE_COUNTS", "{}"))
(folder / "class_frequency.json").write_text(json.dumps(counts))
with open(folder / "metrics.json", "a") as file:
    for iteration in range(start, iterations):
        line = {"iteration": iteration, "total_loss": 1.0, "loss_sem_seg": 1.0, "time": 0.5}
        print(json.dumps(line), file=file, flush=True)
        (folder / f"model_{iteration:07d}.pth").touch()
        (folder / "last_checkpoint").write_text(str(iteration))
        if os.environ.get("FAKE_STOPS") == str(iteration):
            (folder / "stopped").touch()
            time.sleep(60)
score = base + seed + 4.0 * ("MODEL.REGULARIZERS" in keys)
for shift, name in enumerate(eval(keys["DATASETS.TEST"])):
    metrics = {f"{kind}-{name}": score for kind in ("IoU", "ACC") for name in names}
    metrics |= {name: score - shift for name in ("mIoU", "mIoU@f", "mIoU@c", "mIoU@r")}
    metrics |= {"mIoU@r_pixel": None, "fwIoU": score, "mACC": score, "pACC": score}
    path = folder / "inference" / name / "sem_seg_evaluation.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"dataset": name, "class_names": names, "metrics": metrics}
    content["num_images"] = int(os.environ.get("FAKE_IMAGES", 5))
    pixels = json.loads(os.environ.get("FAKE_PIXELS", "[1, 1, 1]"))
    confusion = [[count * (i == j) for j in range(3)] for i, count in enumerate(pixels)]
    content["confusion_truth_by_prediction"] = confusion
    path.write_text(json.dumps(content))
(folder / "model_final.pth").touch()
