// Plots of a few lines each: elements from a name, attributes and children.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = [ // within a circle of radius 5, so that methods are told apart without colour
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4h8v8h-8z", "M0,-5L5,4H-5z", "M0,-5L5,0L0,5L-5,0z",
  "M0,5L5,-4H-5z", "M-5,-1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z", "M5,0L-4,5V-5z",
  "M-4.5,-2.5l2,-2l2.5,2.5l2.5,-2.5l2,2l-2.5,2.5l2.5,2.5l-2,2l-2.5,-2.5l-2.5,2.5l-2,-2l2.5,-2.5z",
];

function element(name, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "path", "line", "circle", "text", "title"].includes(name);
  const node = isSvg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Call draw(width) now, and again when the window changes. Returns a function that draws again.
function drawAtEachWidth(place, draw) {
  const redraw = () => place.replaceChildren(draw(Math.min(place.clientWidth, 800)));
  addEventListener("resize", redraw);
  redraw();
  return redraw;
}

const methodColor = (index) => `var(--method-${index % SHAPES.length})`;
// From the ninth method on, a colour comes back with another shape.
const methodShape = (index) => SHAPES[(index + Math.floor(index / SHAPES.length)) % SHAPES.length];

function format(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

// Round numbers from low to high, about `count` of them, with the digits that tell them apart:
// [{value, label}, ...]. Of a range without extent, its one number.
function ticks(low, high, count = 5) {
  if (low === high) return [{ value: low, label: String(low) }];
  const raw = (high - low) / count;
  let power = Math.floor(Math.log10(raw));
  let factor = [1, 2, 5].find((size) => size * 10 ** power >= raw);
  if (!factor) [factor, power] = [1, power + 1];
  const step = factor * 10 ** power;
  const magnitude = Math.floor(Math.log10(Math.max(Math.abs(low), Math.abs(high))));
  const label = (value) => {
    if (value === 0) return "0";
    if (magnitude >= -3 && magnitude < 6) return value.toFixed(Math.max(0, -power));
    const own = Math.floor(Math.log10(Math.abs(value)) + 1e-9);
    return value.toExponential(Math.max(0, own - power));
  };
  const values = [];
  const [first, last] = [Math.ceil(low / step - 1e-6), Math.floor(high / step + 1e-6)];
  for (let i = first; i <= last; i++) values.push(i * step);
  return values.map((value) => ({ value, label: label(value) }));
}

// Is a plot flattened by its highest values, such as the first losses of a training?
function needsLogAxis(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[0] > 0 && sorted[sorted.length - 1] > 4 * sorted[Math.floor(sorted.length / 2)];
}

// Marks of a logarithmic axis: 1, 2 and 5 times powers of ten, or of many powers only some. The
// first and the last enclose the range.
function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const step = Math.ceil((last - first) / 6);
  const values = [];
  for (let power = first; power < last + step; power += step) {
    for (const factor of last - first > 3 ? [1] : [1, 2, 5]) {
      values.push(Number(`${factor}e${power}`));
    }
  }
  const [from, to] = [values.findLastIndex((value) => value <= low),
    values.findIndex((value) => value >= high)];
  return values.slice(from, to + 1).map((value) => ({ value, label: String(value) }));
}

// Horizontal grid with numbers at the left; y maps a value to pixels.
function grid(marks, y, left, right) {
  return marks.map(({ value, label }) => element("g", {},
    element("line", { class: "grid", x1: left, x2: right, y1: y(value), y2: y(value) }),
    element("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, label)));
}

// A metric of each class, a row a class, the methods below each other, with a line of one spread to
// the left and right.
function classPlot(classes, methods, metric, width) {
  const cut = Math.min(22, Math.floor(width / 24)); // letters of a name
  const longest = Math.min(Math.max(...classes.map((one) => one.name.length)), cut);
  const [left, right, top] = [16 + 7.5 * longest, width - 16, 24];
  const high = 7 * methods.length + 10;
  const bottom = top + high * classes.length;
  const x = (value) => left + (right - left) * value / 100;
  const rows = classes.flatMap((one, row) => {
    const middle = top + high * (row + 0.5);
    const lower = middle + high / 2;
    const name = one.name.length > cut ? one.name.slice(0, cut - 1) + "…" : one.name;
    return [
      element("text", { x: left - 8, y: middle + 4, "text-anchor": "end" }, name),
      element("line", { class: "grid", x1: 0, x2: right, y1: lower, y2: lower }),
      ...methods.flatMap((method, index) => {
        const { mean, spread } = method.summary[`${metric}-${one.name}`];
        if (mean === null) return [];
        const y = middle + 7 * (index - (methods.length - 1) / 2);
        const color = methodColor(index);
        const ends = { x1: x(Math.max(mean - spread, 0)), x2: x(Math.min(mean + spread, 100)) };
        return [
          element("line", { ...ends, y1: y, y2: y, stroke: color }),
          element("path",
            { d: methodShape(index), fill: color, transform: `translate(${x(mean)},${y})` },
            element("title", {}, `${one.name}, ${method.name}: ${format(mean)}`)),
        ];
      }),
    ];
  });
  const scale = ticks(0, 100).map(({ value, label }) => element("g", {},
    element("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: bottom }),
    element("text", { x: x(value), y: top - 8, "text-anchor": "middle" }, label)));
  return element("svg", { width, height: bottom + 4, role: "img",
    "aria-label": `${metric} of each class; the numbers are in the table below` },
  ...scale, ...rows);
}

// Values over iterations, a line a run; [{name, color, dashes, points: [[iteration, value], ...]}].
function linePlot(lines, label, width) {
  const points = lines.flatMap((line) => line.points);
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [first, last] = [Math.min(...xs), Math.max(...xs)];
  const isLog = needsLogAxis(ys);
  const marks = isLog ? logTicks(Math.min(...ys), Math.max(...ys))
    : ticks(Math.min(...ys), Math.max(...ys));
  const shown = isLog ? marks.map(({ value }) => value) : ys;
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const scale = isLog ? Math.log : (value) => value;
  const left = Math.max(60, 14 + 7 * Math.max(...marks.map(({ label }) => label.length)));
  const [right, top, bottom] = [width - 20, 10, 250];
  const x = (value) => left + 6 + (right - left - 12) * (value - first) / (last - first || 1);
  const y = (value) => bottom - 6
    - (bottom - top - 12) * (scale(value) - scale(low)) / (scale(high) - scale(low) || 1);
  const drawn = lines.flatMap((line) => {
    const path = line.points.map(([iteration, value], index) =>
      `${index ? "L" : "M"}${x(iteration).toFixed(1)},${y(value).toFixed(1)}`);
    const [lastX, lastY] = line.points[line.points.length - 1];
    return [
      element("path", { d: path.join(""), fill: "none", stroke: line.color, "stroke-width": 1.8,
        "stroke-dasharray": line.dashes }, element("title", {}, line.name)),
      element("circle", { cx: x(lastX), cy: y(lastY), r: 3, fill: line.color },
        element("title", {}, `${line.name}: ${lastY} at iteration ${lastX}`)),
    ];
  });
  // The ends of the axis, and round numbers that keep away from them.
  const away = 12 + 8 * String(last).length;
  const between = ticks(first, last, width / 100).map(({ value }) => value).filter((value) =>
    Number.isInteger(value) && x(value) - x(first) > away && x(last) - x(value) > away);
  const below = [...new Set([first, ...between, last])].map((value) =>
    element("text", { x: x(value), y: bottom + 16, "text-anchor": "middle" }, String(value)));
  return element("svg", { width, height: 290, role: "img",
    "aria-label": `${label} over iterations, a line a run` },
  ...grid(marks, y, left, right), ...below,
  element("text", { x: (left + right) / 2, y: bottom + 34, "text-anchor": "middle" },
    isLog ? "iteration; the vertical axis is logarithmic" : "iteration"),
  ...drawn);
}

const RED = "203, 59, 38";
const BLUE = "33, 102, 196";

// A matrix of classes, in the order given. A cell with null is grey. Options:
//   shade(value, i, j): colour of a cell, transparent where there is nothing to see, in any theme
//   describe(i, j): the text for the cell under the pointer, or at the arrow keys
//   cellText(value): the text in a cell, if the classes are few; without it, cells have none
function heatmap(matrix, names, label, { shade, describe, cellText }) {
  const size = names.length;
  const canvas = element("canvas", { width: size, height: size, tabindex: 0, role: "img",
    "aria-label": `${label}: arrow keys read the cells` });
  const context = canvas.getContext("2d");
  matrix.forEach((row, i) => row.forEach((value, j) => {
    context.fillStyle = value === null ? "rgba(128, 128, 128, .25)" : shade(value, i, j);
    context.fillRect(j, i, 1, 1);
  }));
  const output = element("output");
  const cell = [0, 0];
  const show = () => { output.textContent = describe(...cell); };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (share) => Math.min(size - 1, Math.max(0, Math.floor(size * share)));
    cell[0] = at((event.clientY - box.top) / box.height);
    cell[1] = at((event.clientX - box.left) / box.width);
    show();
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    for (const axis of [0, 1]) {
      cell[axis] = Math.min(size - 1, Math.max(0, cell[axis] + steps[event.key][axis]));
    }
    show();
  });
  canvas.addEventListener("focus", show);
  const hasRoom = size <= 12; // for names of two lines, and numbers in the cells
  const cut = (name) => (hasRoom || name.length <= 16 ? name : `${name.slice(0, 15)}…`);
  const listOf = (kind) => element("ol", { class: kind, "aria-hidden": "true" },
    ...(size > 30 ? [] : names.map((name) => element("li", {}, cut(name)))));
  const parts = [listOf("rows"), canvas];
  if (cellText && hasRoom) {
    const numbers = element("div", { class: "numbers", "aria-hidden": "true" },
      ...matrix.flat().map((value) => element("span", {}, value === null ? "" : cellText(value))));
    numbers.style.gridTemplateColumns = `repeat(${size}, 1fr)`;
    parts.push(numbers);
  }
  parts.push(listOf("columns"));
  return [element("div", { class: hasRoom ? "heatmap roomy" : "heatmap" }, ...parts), output];
}

// Points in the unit square, coloured by class.
function scatter(points, classes, label) {
  const circles = points.map(([x, y, k]) => {
    const [cx, cy] = [(4 + 312 * x).toFixed(1), (316 - 312 * y).toFixed(1)];
    return element("circle", { cx, cy, r: 2.2, fill: classes[k].color, "data-class": k },
      element("title", {}, classes[k].name));
  });
  return element("svg",
    { class: "scatter", viewBox: "0 0 320 320", role: "img", "aria-label": label }, ...circles);
}
