"""The page as text, and in a browser."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from sar.evaluation.table import HEADLINE
from sar.report import compare, find_runs, render

from .made_runs import CLASSES, make_run


def test_the_page_holds_its_data_and_loads_nothing(content):
    page = render(content, {"limits": "few"})
    assert page.count("</script>") == 2
    assert "Content-Security-Policy" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    data = page.split('id="data">')[1].split("</script>")[0]
    expected = content | {"recommendation": {"limits": "few"}}
    assert json.loads(data) == json.loads(json.dumps(expected))


# In the browser: what a user would do, and what there is to see then.
SCRIPT = """<script>
const seen = { errors };
const [metrics, classes] = ["metrics", "classes"].map((id) =>
  document.getElementById(id).querySelector("table"));
const names = (table) => [...table.tBodies[0].rows].map((row) =>
  [...row.querySelector(".name").childNodes].filter((node) => !node.classList?.contains("note"))
    .map((node) => node.textContent).join("").trim());
const heads = (table) => [...table.tHead.rows[0].cells];
const sorts = (table) => heads(table).map((cell) => cell.getAttribute("aria-sort"));
seen.before = names(classes);
const click = (column) => {
  const button = heads(classes)[column].firstChild;
  button.focus();
  button.click();
  return [names(classes), sorts(classes)[column], document.activeElement === button];
};
seen.byName = click(0);
seen.byPlain = click(1);
seen.byPlainAgain = click(1);
seen.sorts = sorts(classes);
seen.metric = [...metrics.tBodies[0].rows[1].cells].map((cell) => cell.textContent);
seen.advice = document.getElementById("recommendation").innerText;
seen.bold = [...document.querySelectorAll("#recommendation strong")].map((node) =>
  [node.textContent, node.className]);
seen.theme = [document.documentElement.dataset.theme];
document.getElementById("theme").click();
seen.theme.push(document.documentElement.dataset.theme);
const press = (target, key) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
const canvas = document.querySelector("#cosines canvas");
canvas.focus();
const output = document.querySelector("#cosines output");
press(canvas, "ArrowUp");
press(canvas, "ArrowRight");
seen.cells = [output.textContent];
press(canvas, "ArrowDown");
press(canvas, "ArrowRight");
seen.cells.push(output.textContent);
const [toggle] = [...document.querySelectorAll("[aria-pressed]")].slice(-1);
const away = () => document.querySelectorAll("circle.away").length;
toggle.click();
seen.highlight = [toggle.textContent, toggle.ariaPressed, away()];
toggle.click();
seen.highlight.push(toggle.ariaPressed, away());
const confused = document.querySelector("#confusions canvas");
const numbers = document.querySelector("#confusions .numbers");
seen.confusions = [[...numbers.children].map((node) => node.textContent).join(" ")];
confused.focus();
for (const key of ["ArrowRight", "ArrowDown", "ArrowDown"]) {
  press(confused, key);
  seen.confusions.push(document.querySelector("#confusions output").textContent);
}
seen.confused = [...document.querySelector("#confusions tbody").rows].map((row) =>
  [...row.cells].map((cell) => cell.textContent));
seen.marks = [document.querySelectorAll("#classes svg[role=img] > path").length];
const metric = document.getElementById("class-metric");
seen.metrics = [...metric.options].map((option) => option.textContent);
metric.value = "Precision";
metric.dispatchEvent(new Event("change"));
seen.marks.push(document.querySelectorAll("#classes svg[role=img] > path").length);
seen.precision = document.querySelector("#classes tbody").rows[0].cells[1].textContent;
seen.lines = document.querySelectorAll("#training path[fill=none]").length;
seen.curve = document.getElementById("curve").value;
const curve = document.getElementById("curve");
curve.value = "loss_sem_seg";
curve.dispatchEvent(new Event("change"));
seen.losses = [...document.querySelectorAll("#training path[fill=none]")].map((path) =>
  [path.getAttribute("stroke-dasharray"), path.textContent]);
// Numbers at the left of a plot.
const labels = (low, high) => [...linePlot(
  [{ name: "a", color: "red", points: [[0, low], [9, high]] }], "loss", 600,
).querySelectorAll("text[text-anchor=end]")].map((node) => node.textContent);
seen.ticks = ranges.map(([low, high]) => labels(low, high));
seen.curves = [...document.querySelectorAll("#curve option")].map((node) => node.textContent);
seen.log = [[9, 3, 2, 1, 1], [5, 3, 2, 1, 1], [9, 1, 1, 0, 0], [40, 40, 50]].map(needsLogAxis);
seen.logTicks = [[0.3, 900], [1.5, 4], [2e-7, 3]].map(([low, high]) =>
  logTicks(low, high).map(({ label }) => label));
seen.iterations = [...linePlot([{ name: "a", color: "red", points: [[19, 1], [4321, 2]] }], "loss",
  600).querySelectorAll("text[text-anchor=middle]")].map((node) => node.textContent);
seen.settings = document.getElementById("settings").textContent;
seen.scale = [...document.querySelectorAll("#cosines .scale span")].map((node) => node.textContent);
seen.columns = [...document.querySelectorAll("#cosines .columns li")].map((node) =>
  node.textContent);
seen.left = [...document.querySelectorAll(".reason")].map((node) => node.textContent);
seen.runs = document.querySelector("#runs li").textContent;
seen.warning = document.querySelector(".warning").textContent;
seen.width = document.documentElement.scrollWidth <= innerWidth;
document.body.replaceChildren(JSON.stringify(seen));
</script></body>"""
LISTENER = """<script>const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
const ranges = RANGES;
</script><title>"""


# From and to, and the numbers beside the axis of a curve that goes from the one to the other.
TICKS = [
    (100.1, 100.5, ["100.1", "100.2", "100.3", "100.4", "100.5"]),
    (87.8, 87.95, ["87.80", "87.85", "87.90", "87.95"]),
    (0.0, 1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    (-3.0, 6.0, ["-2", "0", "2", "4", "6"]),
    (12345.0, 12346.0, ["12345.0", "12345.2", "12345.4", "12345.6", "12345.8", "12346.0"]),
    (0.0, 0.01, ["0", "0.002", "0.004", "0.006", "0.008", "0.010"]),
    (2e-7, 1e-6, ["2e-7", "4e-7", "6e-7", "8e-7", "1.0e-6"]),
    (
        1.2345e-4,
        1.2346e-4,
        [f"1.234{digits}e-4" for digits in ("50", "52", "54", "56", "58", "60")],
    ),
    (1e6, 4e6, ["1e+6", "2e+6", "3e+6", "4e+6"]),
    (0.37, 0.37, ["0.37"]),
]


LOSSES = ("loss_sem_seg", "sem_seg/Loss")


RECOMMENDATION = {
    "notes": ["Missing: A (1)."],
    "recommendations": [{"question": "Which?", "sentences": ["Use **B**.", "Certain."]}],
    "limits": "Not too sure.",
    "caption": "Differences. **Bold**: clear.",
    "metrics": ["mIoU", "mIoU@r"],
    "differences": [{"name": "plain", "cells": ["**-2 [-3, -1]**", "+1 [-1, +3]"]}],
}


def in_browser(page, script, folder, width=1280):
    """Return the JSON that the script leaves in the body of the page."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian's package chromium)")
    listener = LISTENER.replace("RANGES", json.dumps([bounds for *bounds, _ in TICKS]))
    text = page.replace("<title>", listener, 1).replace("</body>", script)
    (folder / "page.html").write_text(text, encoding="utf-8")
    # --no-sandbox: root, in a container, has none.
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--hide-scrollbars", f"--window-size={width},1000", "--virtual-time-budget=2000"]
    command += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command += [(folder / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    body = done.stdout.split("<body>")[1].split("</body>")[0]
    return json.loads(html.unescape(body))


def test_the_page_in_a_browser(content, tmp_path):
    content["views"][0] |= {
        "centres": [[1, 0.5, None], [0.5, 1, -0.25], [None, -0.25, 1]],
        "projections": [{"name": "PCA, 90%", "points": [[0, 0, 0], [1, 0, 2], [0.5, 1, 2]]}],
    }
    content["confusions"][0] = {
        "pixels": [1000, 2000, 0],
        "shares": [[0.9, 0.096, 0.004], [1, 0, 0], None],
    }
    content["class_metrics"] = ["IoU", "Precision"]
    for k, name in enumerate(CLASSES):
        precision = {"mean": 10.0 * k, "spread": None, "difference": None}
        content["methods"][0]["summary"][f"Precision-{name}"] = precision
        unknown = dict.fromkeys(precision)
        content["methods"][1]["summary"][f"Precision-{name}"] = unknown
    content["warning"] = "Not the <same>."
    content["settings"] |= {
        "unfair": "Not fair: <length>.",
        "rows": [
            {"key": "SOLVER.MAX_ITER", "kind": "length", "is_unfair": True, "values": ["9", "99"]}
        ],
    }
    for name in ("sem_seg/mIoU", "other_val/sem_seg/mIoU", "sem_seg/mIoU@f", *LOSSES):
        content["runs"][0]["curves"][name] = [(0, 1.0), (9, 2.0)]
    seen = in_browser(render(content, RECOMMENDATION), SCRIPT, tmp_path)
    assert seen["errors"] == []
    bold = CLASSES[1]
    assert seen["before"] == [bold, "ground", "dot"]
    # A name without a letter first; what is not known, last, both ways.
    assert seen["byName"] == [[bold, "dot", "ground"], "ascending", True]
    assert seen["byPlain"] == [["ground", bold, "dot"], "descending", True]
    assert seen["byPlainAgain"] == [[bold, "ground", "dot"], "ascending", True]
    assert seen["sorts"] == [None, "ascending"] + [None] * 3
    assert seen["metric"] == ["mIoU", "55.00 ± 7.07", "43.33 ± 0.00 (-11.67)"]
    for text in (
        "Missing: A (1).",
        "Use B. Certain.",
        "Not too sure.",
        "plain\n\t-2 [-3, -1]\t+1 [-1, +3]",
    ):
        assert text in seen["advice"]
    assert seen["bold"] == [["B", ""], ["Bold", ""], ["-2", "worse"], ["[-3, -1]", "worse"]]
    assert sorted(seen["theme"]) == ["dark", "light"]
    # Three classes, two methods, one of them without the dot's IoU. One has no precision.
    assert seen["marks"] == [5, 3]
    assert seen["metrics"] == ["IoU", "Precision"] and seen["precision"] == "10.00"
    # By training frequency: bold, ground, dot.
    assert seen["confusions"] == [
        " 100  10 90 <1   ",
        f"{bold}, predicted as ground: 100.00% of 2,000 pixels",
        "ground, correct: 90.00% of 1,000 pixels",
        "dot: no ground truth",
    ]
    assert seen["confused"] == [
        [bold, "ground", "100.00", "–"],
        ["ground", bold, "9.60", "–"],
        ["ground", "dot", "0.40", "–"],
    ]
    assert seen["lines"] == 1
    # By training frequency: bold, ground, dot.
    assert seen["cells"] == [f"{bold} and ground: 0.500", "ground and dot: not known"]
    assert seen["highlight"] == ["dot", "true", 1, "false", 0]
    assert seen["scale"] == ["−1", "0", "1"] and seen["columns"] == [bold, "ground", "dot"]
    no_images = "No model predicted images, because of --images 0."
    assert seen["left"] == [
        "Left out: an evaluation has no confusion matrix.",
        f"Left out: class centres of sar (1). {no_images}",
        f"Left out: semantic anchors of plain (1), sar (1). {no_images}",
        f"Left out: embeddings of sar (1). {no_images}",
        "Left out. Needs two runs whose models predict the same images of the data set.",
    ]
    assert seen["log"] == [True, False, False, False]
    assert seen["logTicks"] == [
        ["0.1", "1", "10", "100", "1000"],
        ["1", "2", "5"],
        ["1e-7", "0.00001", "0.001", "0.1", "10"],
    ]
    assert seen["iterations"] == ["19", "1000", "2000", "3000", "4321", "iteration"]
    assert seen["ticks"] == [labels for *_, labels in TICKS]
    assert seen["curves"] == [
        "sem_seg/mIoU", "other_val/sem_seg/mIoU", *LOSSES, "sem_seg/mIoU@f", "total_loss"
    ]  # fmt: skip
    assert seen["losses"] == [["none", "plain (1)"], ["1 3", "plain (1), validation loss"]]
    assert seen["curve"] == "sem_seg/mIoU"
    for text in ("Not fair: <length>.", "SOLVER.MAX_ITER", "99", "length", "plain (1) are not kn"):
        assert text in seen["settings"]
    assert seen["runs"].endswith("; metrics of the last evaluation of the training")
    assert seen["warning"] == "Not the <same>."
    assert seen["width"]


LAYOUT = """<script>addEventListener("load", () => setTimeout(() => {
const seen = { errors, width: document.documentElement.clientWidth };
const all = [...document.body.querySelectorAll("*")];
seen.outside = all.filter((node) => !node.parentElement.closest(".scroll")
  && node.getBoundingClientRect().right > seen.width + 1).map((node) => node.outerHTML);
const boxes = [...document.querySelectorAll(".scroll")];
const scrolling = boxes.filter((box) => box.scrollWidth > box.clientWidth);
seen.scrolling = scrolling.map((box) => box.ariaLabel);
seen.hints = boxes.filter((box) => !box.previousSibling.hidden).map((box) => box.ariaLabel);
for (const box of scrolling) box.scrollLeft = 50;
const left = (node) => node.getBoundingClientRect().left;
seen.moved = scrolling.filter((box) =>
  left(box.querySelector("td")) < left(box) && left(box.querySelector("tbody th")) !== left(box));
seen.sections = [...document.querySelectorAll("h2")].map((node) => node.textContent);
seen.keys = document.querySelectorAll("#pictures .key").length;
seen.breaks = document.querySelector("#settings tbody th").querySelectorAll("wbr").length;
document.body.replaceChildren(JSON.stringify(seen));
}, 500));</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("num_methods", [4, 8])
def test_nothing_is_cut_off_in_a_window(tmp_path, width, num_methods):
    names = [*(f"class_{k}" for k in range(12)), "a_class_with_a_very_long_name_" * 3]
    words = []
    for i in range(2 * num_methods):
        numbers = {
            "metrics": dict.fromkeys([*HEADLINE, *(f"IoU-{name}" for name in names)], 45.67 + i),
            "confusion_truth_by_prediction": (np.eye(len(names), dtype=int) + 1).tolist(),
        }  # fmt: skip
        lines = [json.dumps({"iteration": n, "total_loss": 9 / (n + 1)}) for n in range(9)]
        folder = make_run(
            tmp_path / str(i), [45.67 + i] * len(names), classes=names, lines=lines, **numbers
        )
        words.append(f"method {i // 2}={folder}")
    content = compare(find_runs(words), num_images=0)
    key = "MODEL.A_VERY_LONG_NAME.OF_A_SETTING_WITH_MANY_WORDS"
    values = ["SemanticAnchorRegularizer", "/data/of/somebody/class_weights.json"] * num_methods
    content["settings"]["rows"] = [
        {"key": key, "kind": "the method", "is_unfair": False, "values": values[:num_methods]}
    ]
    dot = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    content["pictures"] = {
        "names": ["ground truth", "a", "b"], "num_images": 9, "reason": "", "classes": [1, 2],
        "images": [{"name": "street.png", "share": 9.0, "image": dot, "maps": [dot] * 3}] * 2,
    }  # fmt: skip
    for view in content["views"]:
        view["anchors"] = view["centres"] = np.eye(len(names)).tolist()
        view["projections"] = [{"name": "PCA, 90%", "points": [[0, 0, 0], [1, 1, 2]]}]
    seen = in_browser(render(content), LAYOUT, tmp_path, width)
    assert seen["errors"] == [] and seen["width"] == width
    assert seen["outside"] == [] and seen["moved"] == []
    assert seen["hints"] == seen["scrolling"]
    assert bool(seen["scrolling"]) == (num_methods == 8 and width == 500)
    assert seen["sections"][0] == "Settings that differ" and seen["keys"] == 1
    assert seen["breaks"] == len(re.findall("[._]", key))


@pytest.mark.slow
def test_words_of_point_clouds(tmp_path):
    config = {"INPUT.POINTS.VOXEL_SIZE": 0.1}
    counts = {"confusion_truth_by_prediction": np.eye(3, dtype=int).tolist()}
    words = [
        make_run(tmp_path / str(n), (1, 2, 3), config=config, num_images=n, **counts)
        for n in (2, 3)
    ]
    content = compare(find_runs(words), num_images=0)
    assert "numbers of clouds (2: 2; 3: 3)" in content["warning"]
    for view in content["views"]:
        view["projections"] = [{"name": "PCA, 90%", "points": [[0, 0, 0], [1, 1, 2]]}]
    content["pictures"] = {
        "names": ["ground truth", "a", "b"], "num_images": 9, "reason": "", "classes": [1, 2],
        "images": [{"name": "scan.ply", "share": 9.0, "image": "", "maps": ["", "", ""]}],
    }  # fmt: skip
    script = """<script>document.body.replaceChildren(JSON.stringify(
      { errors, text: document.querySelector("main").innerText }));</script></body>"""
    seen = in_browser(render(content), script, tmp_path)
    assert seen["errors"] == []
    for text in (
        "by training clouds", "train clouds %", "train points %", "which classes its points are",
        "Each dot is a point of a validation cloud", "2 points", "From 9 validation clouds",
    ):  # fmt: skip
        assert text in seen["text"], text
    assert not re.search(r"\b(images?|pixels?)\b", seen["text"].replace("--images 0", ""))
