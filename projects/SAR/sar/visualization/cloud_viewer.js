// Shows a cloud of points: camera, colours of the points, and a legend whose classes can be hidden.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const canvas = document.querySelector("canvas");
const output = document.querySelector("output");

const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const positions = Float32Array.from(new Uint16Array(decode(data.positions).buffer));
const ownColors = decode(data.colors);
const layers = data.layers.map(({ name, counts, ids }) => ({
  name, counts,
  ids: data.id_bytes === 1 ? decode(ids) : new Uint16Array(decode(ids).buffer),
}));

// The ignored points come after the classes.
const IGNORED = data.classes.length;
const classes = [...data.classes, { name: "ignored", color: "#8a8f94" }];
const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));
const CORRECT = "#aab2ba", WRONG = "#dc2020", UNKNOWN = "#8aa0cf";
const layerOf = (name) => layers.find((layer) => layer.name === name);
const [truth, prediction] = [layerOf("ground truth"), layerOf("prediction")];
const MODES = [data.own, ...layers.map((layer) => layer.name), ...(data.errors ? ["errors"] : [])];

// What is shown. The layer of the mode, or else the first one, decides which points a class has.
let mode = MODES[0];
const hiddenClasses = new Set();
const legendLayer = () => layerOf(mode) ?? layers[0];

// The camera turns about a target. Angles are in radians, and lengths in levels of a coordinate.
const axes = [0, 1, 2];
const extent = axes.map((axis) => {
  let largest = 0;
  for (let i = axis; i < positions.length; i += 3) largest = Math.max(largest, positions[i]);
  return largest;
});
const RADIUS = Math.max(Math.hypot(...extent) / 2, 1);
const TANGENT = Math.tan(Math.PI / 10); // of half the field of view, from top to bottom
const OBLIQUE = 0.6, ABOVE = Math.PI / 2;
const camera = {};
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

// Looks at the whole cloud, with its longer horizontal side across the picture.
function resetCamera(pitch) {
  const turn = pitch === ABOVE ? 0 : 0.49;
  Object.assign(camera, { yaw: turn - (extent[0] >= extent[1] ? Math.PI / 2 : 0), pitch,
    distance: RADIUS / 10, target: extent.map((side) => side / 2) });
  const [right, up, back] = frame();
  const aspect = canvas.clientWidth / canvas.clientHeight;
  const offset = [0, 0, 0];
  for (let i = 0; i < data.shown; i++) {
    for (const axis of axes) offset[axis] = positions[3 * i + axis] - camera.target[axis];
    const needed = Math.max(Math.abs(dot(offset, right)) / aspect, Math.abs(dot(offset, up)));
    const distance = dot(offset, back) + 1.08 * needed / TANGENT;
    if (distance > camera.distance) camera.distance = distance;
  }
  schedule();
}

// The directions right, up and back (to the viewer).
function frame() {
  const [sin, cos] = [Math.sin(camera.yaw), Math.cos(camera.yaw)];
  const [up, flat] = [Math.sin(camera.pitch), Math.cos(camera.pitch)];
  return [[-sin, cos, 0], [-cos * up, -sin * up, flat], [cos * flat, sin * flat, up]];
}

// The matrix from positions to clip space, by columns.
function matrix() {
  const directions = frame();
  const [near, far] = [camera.distance / 100, camera.distance + 3 * RADIUS];
  const scales = [canvas.clientHeight / canvas.clientWidth / TANGENT, 1 / TANGENT];
  const rows = directions.map((direction) => [...direction, -dot(direction, camera.target)]);
  rows[2][3] -= camera.distance; // depth is the negative of this row
  const depth = rows[2].map((value) => -value);
  const last = depth.map((value) => value * (far + near) / (far - near));
  last[3] -= 2 * far * near / (far - near);
  const [x, y] = [0, 1].map((row) => rows[row].map((value) => value * scales[row]));
  return [0, 1, 2, 3].flatMap((column) => [x[column], y[column], last[column], depth[column]]);
}

const VERTEX = `
attribute vec3 position;
attribute vec4 color;
uniform mat4 matrix;
uniform float size;
varying vec3 shade;
void main() {
  gl_Position = color.a > 0.0 ? matrix * vec4(position, 1.0) : vec4(2.0, 2.0, 2.0, 1.0);
  gl_PointSize = clamp(size / gl_Position.w, 1.5, 60.0);
  shade = color.rgb;
}`;
// Discs with a darker edge, so that points in front of others of one colour are visible.
const FRAGMENT = `
precision mediump float;
varying vec3 shade;
void main() {
  vec2 offset = 2.0 * gl_PointCoord - 1.0;
  float square = dot(offset, offset);
  if (square > 1.0) discard;
  gl_FragColor = vec4(shade * (1.0 - 0.35 * square), 1.0);
}`;

let gl = null;
let program = null;
let pointScale = 1;
const pointColors = new Uint8Array(4 * data.shown);

// Creates everything that lives on the graphics card.
function setUp() {
  gl = canvas.getContext("webgl", { antialias: true });
  if (!gl) {
    byId("summary").textContent = "This browser cannot show the cloud, because WebGL is not "
      + "available. Try another browser, or turn on its hardware acceleration.";
    byId("summary").className = "warning";
    return;
  }
  program = gl.createProgram();
  for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(type);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  gl.useProgram(program);
  gl.enable(gl.DEPTH_TEST);
  const buffers = [["position", 3, gl.FLOAT, false], ["color", 4, gl.UNSIGNED_BYTE, true]];
  for (const [name, size, type, isShare] of buffers) {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); // the colours stay bound, for `paint`
    if (name === "position") gl.bufferData(gl.ARRAY_BUFFER, positions, gl.STATIC_DRAW);
    const place = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, isShare, 0, 0);
  }
  paint();
}

// Red is wrong. A correct point is a pale grey, after the brightness of its own colour.
function errorColor(i, own) {
  if (truth.ids[i] === IGNORED) return rgb(UNKNOWN);
  if (truth.ids[i] !== prediction.ids[i]) return rgb(WRONG);
  const grey = 110 + 0.5 * dot(own, [0.3, 0.59, 0.11]);
  return [grey, grey, grey];
}

// Fills the colours of all points; a hidden point gets the opacity 0.
function paint() {
  const layer = layerOf(mode);
  const classColors = classes.map((one) => rgb(one.color));
  const filter = legendLayer();
  for (let i = 0; i < data.shown; i++) {
    const own = ownColors.subarray(3 * i, 3 * i + 3);
    const color = layer ? classColors[layer.ids[i]] : mode === "errors" ? errorColor(i, own) : own;
    pointColors.set(color, 4 * i);
    pointColors[4 * i + 3] = filter && hiddenClasses.has(filter.ids[i]) ? 0 : 255;
  }
  if (gl) gl.bufferData(gl.ARRAY_BUFFER, pointColors, gl.DYNAMIC_DRAW);
  schedule();
}

function draw() {
  if (!gl || gl.isContextLost()) return;
  const density = Math.min(window.devicePixelRatio, 2);
  const [width, height] = [canvas.clientWidth, canvas.clientHeight]
    .map((side) => Math.max(Math.round(side * density), 1));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  gl.viewport(0, 0, width, height);
  const background = getComputedStyle(document.documentElement).getPropertyValue("--raised").trim();
  gl.clearColor(...rgb(background).map((value) => value / 255), 1);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.uniformMatrix4fv(gl.getUniformLocation(program, "matrix"), false, matrix());
  const diameter = 2.4 * data.spacing * pointScale;
  gl.uniform1f(gl.getUniformLocation(program, "size"),
    diameter * height / (2 * TANGENT));
  gl.drawArrays(gl.POINTS, 0, data.shown);
}

let isScheduled = false;
function schedule() {
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(() => { isScheduled = false; draw(); });
}

function turn(x, y) {
  camera.yaw -= x;
  camera.pitch = Math.min(Math.max(camera.pitch + y, -Math.PI / 2), Math.PI / 2);
  schedule();
}

function move(x, y) { // shares of the height of the picture
  const [right, up] = frame();
  const height = 2 * camera.distance * TANGENT;
  for (const axis of axes) camera.target[axis] -= height * (x * right[axis] - y * up[axis]);
  schedule();
}

function zoom(factor) {
  camera.distance = Math.min(Math.max(camera.distance * factor, RADIUS / 200), 20 * RADIUS);
  schedule();
}

// Returns the nearest visible point within 8 pixels of a place on the canvas, or -1.
function pointAt(x, y) {
  const m = matrix();
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  let [best, bestDepth] = [-1, Infinity];
  for (let i = 0; i < data.shown; i++) {
    if (!pointColors[4 * i + 3]) continue;
    const [px, py, pz] = [positions[3 * i], positions[3 * i + 1], positions[3 * i + 2]];
    const depth = m[3] * px + m[7] * py + m[11] * pz + m[15];
    if (depth <= 0 || depth >= bestDepth) continue;
    const column = (m[0] * px + m[4] * py + m[8] * pz + m[12]) / depth;
    const row = (m[1] * px + m[5] * py + m[9] * pz + m[13]) / depth;
    const distance = Math.hypot((column + 1) / 2 * width - x, (1 - row) / 2 * height - y);
    if (distance < 8) [best, bestDepth] = [i, depth];
  }
  return best;
}

function describe(x, y) {
  const point = pointAt(x, y);
  output.textContent = point < 0 ? "" : layers.map(({ name, ids }) =>
    `${name}: ${classes[ids[point]].name}`).join("; ");
}

// Pointers that are down: one turns or moves, two move and zoom.
const pointers = new Map();
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  describe(event.offsetX, event.offsetY);
});
canvas.addEventListener("pointermove", (event) => {
  const before = pointers.get(event.pointerId);
  const now = [event.offsetX, event.offsetY];
  if (!before) {
    describe(...now);
    return;
  }
  const [x, y] = axes.slice(0, 2).map((axis) => (now[axis] - before[axis]) / canvas.clientHeight);
  const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  if (others.length) {
    move(x / 2, y / 2);
    const apart = (place) => Math.hypot(place[0] - others[0][0], place[1] - others[0][1]) + 1;
    zoom(apart(before) / apart(now));
  } else if (event.shiftKey || event.buttons & 6) {
    move(x, y);
  } else {
    turn(4 * x, 4 * y);
  }
  pointers.set(event.pointerId, now);
});
for (const type of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(type, (event) => pointers.delete(event.pointerId));
}
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaY * (event.deltaMode === 1 ? 20 : 1); // some browsers count lines
  zoom(Math.exp(Math.min(Math.max(lines, -200), 200) / 600));
}, { passive: false });

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key in ARROWS) {
    const [x, y] = ARROWS[event.key];
    if (event.shiftKey) move(-0.05 * x, -0.05 * y);
    else turn(0.1 * x, -0.1 * y);
  } else if (event.key === "+" || event.key === "=") {
    zoom(0.9);
  } else if (event.key === "-") {
    zoom(1 / 0.9);
  } else {
    return;
  }
  event.preventDefault();
});

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function swatch(color) {
  const node = element("span", { class: "swatch", "aria-hidden": "true" });
  node.style.background = color;
  return node;
}

const whole = (number) => number.toLocaleString("en");

function fillLegend() {
  const layer = legendLayer();
  byId("legend").hidden = !layer;
  if (!layer) return;
  document.querySelector("h2").textContent = `Classes of the ${layer.name}`;
  const { correct, wrong } = data.errors ?? {};
  byId("key").replaceChildren(...(mode !== "errors" ? [] : [
    [CORRECT, `correct: ${whole(correct)}`], [WRONG, `wrong: ${whole(wrong)}`],
    ...(truth.counts[IGNORED] ? [[UNKNOWN, "no ground truth"]] : []),
  ].map(([color, text]) => element("li", {}, swatch(color), text))));
  const present = classes.map((_, k) => k).filter((k) => layer.counts[k]);
  present.sort((a, b) => (a === IGNORED) - (b === IGNORED) || layer.counts[b] - layer.counts[a]);
  byId("classes").setAttribute("aria-label", "Classes that are shown");
  byId("classes").replaceChildren(...present.map((k) => {
    const button = element("button", { type: "button", "aria-pressed": !hiddenClasses.has(k) },
      swatch(classes[k].color), element("span", { class: "name" }, classes[k].name),
      element("span", { class: "count" }, whole(layer.counts[k])));
    button.addEventListener("click", () => {
      if (!hiddenClasses.delete(k)) hiddenClasses.add(k);
      button.setAttribute("aria-pressed", !hiddenClasses.has(k));
      paint();
    });
    return button;
  }));
}

function hideAll(isHidden) {
  hiddenClasses.clear();
  if (isHidden) for (const k of classes.keys()) hiddenClasses.add(k);
  fillLegend();
  paint();
}

function choose(name) {
  mode = name;
  for (const button of byId("layers").children) {
    button.setAttribute("aria-pressed", button.textContent === mode);
  }
  canvas.setAttribute("aria-label", `Cloud in 3-D: ${mode}`);
  fillLegend();
  paint();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  schedule();
}

const ACTIONS = {
  oblique: () => resetCamera(OBLIQUE),
  above: () => resetCamera(ABOVE),
  nearer: () => zoom(0.8),
  farther: () => zoom(1 / 0.8),
  larger: () => { pointScale *= 1.25; schedule(); },
  smaller: () => { pointScale /= 1.25; schedule(); },
  all: () => hideAll(false),
  none: () => hideAll(true),
  theme: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
};
for (const [id, action] of Object.entries(ACTIONS)) byId(id).addEventListener("click", action);

document.title = data.title;
document.querySelector("h1").textContent = data.title;
byId("summary").textContent = data.shown === data.total ? `${whole(data.total)} points.`
  : `${whole(data.shown)} of ${whole(data.total)} points are shown. They are chosen at random, and `
    + "rare classes keep more of their points. The legend counts all points.";
byId("layers").append(...MODES.map((name) => {
  const button = element("button", { type: "button", "aria-pressed": false }, name);
  button.addEventListener("click", () => choose(name));
  return button;
}));
const system = matchMedia("(prefers-color-scheme: dark)");
system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
canvas.addEventListener("webglcontextrestored", setUp);
new ResizeObserver(schedule).observe(canvas);
resetCamera(OBLIQUE);
setTheme(system.matches ? "dark" : "light");
choose(mode);
setUp();
