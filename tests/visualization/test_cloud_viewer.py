import base64
import html
import json
import shutil
import subprocess

import numpy as np
import pytest

from sar.visualization.cloud_viewer import MAX_BYTES, PREDICTION, TRUTH, write_viewer

NAMES = ["floor", "</script><b>wall", "cup"]
COLORS = np.array([[200, 10, 10], [10, 200, 10], [10, 10, 200]], dtype=np.uint8)


def read_page(path):
    """The data of a page, with decoded arrays."""
    page = path.read_text(encoding="utf-8")
    assert len(path.read_bytes()) <= MAX_BYTES
    assert page.count("</script>") == 2
    assert "Content-Security-Policy" in page and "http" not in page.replace("http-equiv", "")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])

    def decode(text, dtype):
        return np.frombuffer(base64.b64decode(text), dtype)

    data["positions"] = decode(data["positions"], "<u2").reshape(-1, 3)
    data["colors"] = decode(data["colors"], "u1").reshape(-1, 3)
    for layer in data["layers"]:
        layer["ids"] = decode(layer["ids"], "u1" if data["id_bytes"] == 1 else "<u2")
    return data


def random_cloud(number, generator):
    xyz = generator.uniform(-20, 30, (number, 3)) * [1, 0.5, 0.1] + [5e5, 5e6, 100]
    return xyz, generator.integers(0, 256, (number, 3)).astype(np.uint8)


def test_the_page_holds_the_cloud(tmp_path):
    generator = np.random.default_rng(0)
    xyz, colors = random_cloud(500, generator)
    truth, prediction = generator.integers(0, 3, (2, 500))
    truth[:50], truth[50:60] = 255, -1
    path = tmp_path / "scan 7.html"
    write_viewer(path, xyz, colors, {TRUTH: truth, PREDICTION: prediction}, NAMES, COLORS)
    data = read_page(path)
    assert (data["title"], data["own"]) == ("scan 7", "own colours")
    assert data["total"] == data["shown"] == 500
    scale = np.ptp(xyz, axis=0).max() / 65535
    assert np.abs(data["positions"] * scale - (xyz - xyz.min(axis=0))).max() <= 0.51 * scale
    assert np.array_equal(data["colors"], colors)
    assert data["classes"][1] == {"name": NAMES[1], "color": "#0ac80a"}
    shown = [np.where(ids % 256 > 2, 3, ids) for ids in (truth, prediction)]
    for layer, name, ids in zip(data["layers"], (TRUTH, PREDICTION), shown, strict=True):
        assert layer["name"] == name and np.array_equal(layer["ids"], ids)
        assert layer["counts"] == [(ids == k).sum() for k in range(4)]
    correct = ((truth == prediction) & (shown[0] < 3)).sum()
    assert data["errors"] == {"correct": correct, "wrong": 440 - correct}


def test_a_large_cloud_is_thinned_but_keeps_its_rare_class(tmp_path):
    generator = np.random.default_rng(0)
    number = 400_000
    xyz, colors = random_cloud(number, generator)
    truth = (generator.random(number) < 0.3).astype(np.uint8)
    truth[::8000] = 2
    truth[1::8000] = 255
    path = tmp_path / "large.html"
    write_viewer(path, xyz.astype(np.float32), colors, {TRUTH: truth}, NAMES, COLORS)
    data = read_page(path)
    assert path.stat().st_size > 0.99 * MAX_BYTES
    ids = data["layers"][0]["ids"]
    assert data["total"] == number and 140_000 < data["shown"] == len(ids) < number
    assert (ids == 2).sum() == 50
    assert data["layers"][0]["counts"] == np.bincount(np.minimum(truth, 3)).tolist()
    assert "errors" not in data
    assert (ids == 1).mean() == pytest.approx(0.3, abs=0.05)


def test_many_classes_and_no_colours(tmp_path):
    xyz = np.linspace([0, 0, 0], [1, 1, 1], 300)
    names = [f"class {k}" for k in range(300)]
    colors = np.zeros((300, 3), np.uint8)
    write_viewer(tmp_path / "a.html", xyz, None, {PREDICTION: np.arange(300)}, names, colors)
    data = read_page(tmp_path / "a.html")
    assert (data["own"], data["id_bytes"]) == ("height", 2)
    assert np.array_equal(data["layers"][0]["ids"], np.arange(300))
    assert len(np.unique(data["colors"], axis=0)) > 100


@pytest.mark.parametrize("number", [1, 3])
def test_points_at_one_place_without_layers(tmp_path, number):
    xyz = np.full((number, 3), 3.5, np.float32)
    write_viewer(tmp_path / "a.html", xyz, None, {}, NAMES, COLORS)
    data = read_page(tmp_path / "a.html")
    assert data["shown"] == number and not data["positions"].any() and data["layers"] == []


LISTENER = """<script>const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => errors.push(event.violatedDirective));
</script><title>"""
# In the browser: what a user would do, and what there is to see then.
SCRIPT = """<script>
const seen = { errors };
// Pixels by their strongest channel: red, green, blue; and the others, such as the background.
function look() {
  draw();
  const pixels = new Uint8Array(4 * canvas.width * canvas.height);
  gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const counts = [0, 0, 0, 0];
  for (let i = 0; i < pixels.length; i += 4) {
    const [r, g, b] = pixels.subarray(i, i + 3);
    const k = r > g + 60 && r > b + 60 ? 0 : g > r + 60 && g > b + 60 ? 1 : b > r + 60 && b > g + 60
      ? 2 : 3;
    counts[k] += 1;
  }
  return counts.map((count) => count / (pixels.length / 4));
}
const press = (label) => [...document.querySelectorAll("button")]
  .find((button) => button.textContent.startsWith(label)).click();
const key = (name, shiftKey = false) => canvas.dispatchEvent(
  new KeyboardEvent("keydown", { key: name, shiftKey, cancelable: true }));
const pointer = (type, x, y, options = {}) => canvas.dispatchEvent(new PointerEvent(type,
  { clientX: canvas.getBoundingClientRect().left + x, clientY: canvas.getBoundingClientRect().top
    + y, pointerId: 1, ...options }));
canvas.setPointerCapture = () => {}; // needs a real pointer
seen.modes = [...byId("layers").children].map((button) => button.textContent);
seen.own = look();
press("ground truth");
seen.truth = look();
seen.legend = [document.querySelector("#legend h2").textContent,
  ...[...byId("classes").children].map((button) => button.textContent)];
press("floor");
seen.withoutFloor = look();
seen.pressed = [...byId("classes").children].map((button) => button.ariaPressed);
press("Hide all");
seen.hidden = look();
press("Show all");
press("errors");
seen.wrong = look();
seen.key = byId("key").textContent;
press("prediction");
press("From above");
seen.above = look();
pointer("pointermove", canvas.clientWidth / 2, canvas.clientHeight / 2);
seen.described = output.textContent;
pointer("pointermove", 2, 2);
seen.nothing = output.textContent;
press("Nearer");
seen.nearer = look();
press("Farther");
press("Larger points");
seen.larger = look();
const state = () => [camera.yaw, camera.pitch, camera.distance, ...camera.target];
const changes = (action) => {
  const before = state();
  action();
  return state().map((value, k) => Number(value !== before[k])).join("");
};
press("From the side");
seen.changes = [
  changes(() => key("ArrowLeft")), changes(() => key("ArrowUp")), changes(() => key("+")),
  changes(() => key("ArrowRight", true)), changes(() => key("a")),
  changes(() => canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: 100, cancelable: true }))),
  changes(() => {
    pointer("pointerdown", 100, 100);
    pointer("pointermove", 120, 100, { buttons: 1 });
    pointer("pointerup", 120, 100);
  }),
  changes(() => {
    pointer("pointerdown", 100, 100);
    pointer("pointermove", 120, 90, { buttons: 1, shiftKey: true });
    pointer("pointerup", 120, 90);
  }),
  changes(() => {
    pointer("pointerdown", 100, 100);
    pointer("pointerdown", 200, 100, { pointerId: 2 });
    pointer("pointermove", 300, 100, { pointerId: 2 });
    pointer("pointerup", 100, 100);
    pointer("pointerup", 300, 100, { pointerId: 2 });
  }),
];
seen.released = pointers.size;
seen.theme = [document.documentElement.dataset.theme];
press("Dark or light");
seen.theme.push(document.documentElement.dataset.theme);
seen.summary = byId("summary").textContent;
seen.width = document.documentElement.scrollWidth <= innerWidth;
document.body.replaceChildren(JSON.stringify(seen));
</script></body>"""


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed (Debian's package chromium)")
    # A floor; a wall at one end, half of which is predicted as a cup; a part without ground truth.
    steps = np.linspace(0, 4, 60)
    x, y = map(np.ravel, np.meshgrid(steps, steps))
    floor = np.stack([x, y, 0 * x], axis=1)
    wall = np.stack([x, 0 * x + 4, y / 2], axis=1)
    xyz = np.concatenate([floor, wall])
    truth = np.repeat([0, 1], 3600)
    prediction = truth.copy()
    prediction[(truth == 1) & (xyz[:, 0] < 2)] = 2
    truth[(truth == 0) & (xyz[:, 0] < 0.5)] = 255
    colors = np.full((7200, 3), (120, 120, 120), np.uint8)
    path = tmp_path / "cloud.html"
    write_viewer(path, xyz, colors, {TRUTH: truth, PREDICTION: prediction}, NAMES, COLORS)
    page = path.read_text().replace("<title>", LISTENER, 1).replace("</body>", SCRIPT)
    path.write_text(page)
    # --no-sandbox: root, in a container, has none. SwiftShader is WebGL without a graphics card.
    command = [chromium, "--headless", "--no-sandbox", "--dump-dom", "--enable-logging=stderr"]
    command += ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--window-size=1280,900"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(html.unescape(done.stdout.split("<body>")[1].split("</body>")[0]))
    assert seen["errors"] == []
    assert seen["modes"] == ["own colours", "ground truth", "prediction", "errors"]
    assert max(seen["own"][:3]) == 0
    red, green, blue, _ = seen["truth"]
    assert red > 0.1 and green > 0.05 and blue == 0
    wall = NAMES[1]
    assert seen["legend"] == [
        "Classes of the ground truth",
        f"{wall}3,600",
        "floor3,120",
        "ignored480",
    ]
    assert seen["withoutFloor"][0] == 0 and seen["withoutFloor"][1] >= green
    assert seen["pressed"] == ["true", "false", "true"]
    assert max(seen["hidden"][:3]) == 0 and seen["hidden"][3] == 1
    assert 0.01 < seen["wrong"][0] < 0.6 * (red + green) and max(seen["wrong"][1:3]) == 0
    assert seen["key"] == "correct: 4,920wrong: 1,800no ground truth"
    assert seen["above"][0] > 0.2 and seen["above"][1] < 0.1
    assert seen["described"] == "ground truth: floor; prediction: floor"
    assert seen["nothing"] == ""
    assert seen["nearer"][0] > 1.2 * seen["above"][0]
    assert seen["larger"][0] >= seen["above"][0]
    turned, tilted, zoomed, moved, unchanged, wheeled, dragged, shifted, pinched = seen["changes"]
    assert (
        (turned, tilted, zoomed) == ("100000", "010000", "001000") == (dragged, "010000", wheeled)
    )
    assert moved[:3] == "000" and "1" in moved and unchanged == "000000"
    assert shifted[:3] == "000" and shifted[3:] == "111" and pinched[2] == "1"
    assert seen["released"] == 0
    assert sorted(seen["theme"]) == ["dark", "light"]
    assert seen["summary"] == "7,200 points."
    assert seen["width"]
