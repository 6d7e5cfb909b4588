// Fills the sections of the page from the data.

const data = JSON.parse(document.getElementById("data").textContent);
const section = (id) => document.getElementById(id);
const { sample, part } = data.units; // "image" and "pixel", or "cloud" and "point"
const classesInOrder = data.order.map((k) => data.classes[k]);

function methodKey() {
  return element("ul", { class: "key" }, ...data.methods.map((method, index) => element("li", {},
    element("svg", { width: 12, height: 12, viewBox: "-6 -6 12 12", "aria-hidden": "true" },
      element("path", { d: methodShape(index), fill: methodColor(index) })),
    method.name)));
}

function swatch(color) {
  const node = element("span", { class: "swatch", "aria-hidden": "true" });
  node.style.background = color;
  return node;
}

function fillRecommendation() {
  const place = section("recommendation");
  const advice = data.recommendation;
  if (!advice) {
    place.remove();
    return;
  }
  for (const text of advice.notes) place.append(element("p", {}, ...withBold(text)));
  for (const { question, sentences } of advice.recommendations) {
    place.append(element("h3", {}, question),
      element("p", {}, ...withBold(sentences.join(" "))));
  }
  place.append(table(advice.caption, ["method", ...advice.metrics],
    advice.differences.map(({ name, cells }) => [textCell(name), ...cells.map((text) => {
      const isClear = text.startsWith("**");
      const color = !isClear ? "" : text.startsWith("**-") ? "worse" : "better";
      // The difference and its interval, each in a line if the window is narrow.
      const parts = text.replaceAll("**", "").split(/ (?=\[)/).flatMap((part, index) =>
        [...(index ? [" "] : []), element(isClear ? "strong" : "span", { class: color }, part)]);
      return { parts };
    })]), { sorts: false }), say(advice.limits, "faint"));
}

function fillSettings() {
  const { rows, unfair, notes } = data.settings;
  if (unfair) section("settings").append(say(unfair, "warning"));
  section("settings").append(...notes.map((note) => say(note, "faint")));
  if (!rows.length) {
    section("settings").append(say("No setting is known to differ.", "faint"));
    return;
  }
  const headers = ["setting", ...data.methods.map((method) => method.name)];
  section("settings").append(table("Settings that differ between the runs, and what they belong to",
    headers, rows.map(({ key, values, kind }) =>
      [textCell(key, kind), ...values.map((value) => textCell(value))]), { sorts: false }));
}

function fillMetrics() {
  const rows = data.metrics.map((name) => [textCell(name),
    ...data.methods.map((method, index) => metricCell(method.summary[name], index, name))]);
  rows.unshift([textCell("runs"), ...data.methods.map((method) =>
    textCell(String(method.num_runs)))]);
  const compared = data.methods.length > 1
    ? ` In brackets: the difference to ${data.methods[0].name}.` : "";
  section("metrics").append(
    table("Metrics of each method", ["metric", ...data.methods.map((method) => method.name)], rows,
      { sorts: false }),
    say("In percent: mean over the runs of a method ± the standard deviation of one run (n − 1)."
      + compared + (data.is_ordered ? ` @f, @c, @r: frequent, common and rare classes, by training ${sample}s`
        + " (60, 20 and 20% of the classes)." : "")
      + (data.metrics.includes("NC1")
        ? " NC1 to NC3, no percentages: 0 is full neural collapse." : "")
      + (data.metrics.includes("Loss") ? " Loss, no percentage: the validation loss. Compare it"
        + " only between runs with the same loss function." : ""), "faint"));
}

function fillClasses() {
  const headers = [
    "class", ...data.methods.map((method) => method.name), `train ${sample}s %`, `train ${part}s %`,
  ];
  const select = element("select", { id: "class-metric" },
    ...data.class_metrics.map((name) => element("option", {}, name)));
  const [plot, place] = [element("div"), element("div")];
  const fill = () => {
    const metric = select.value;
    const rows = classesInOrder.map((one) => [
      textCell(one.name, one.group),
      ...data.methods.map((method, index) =>
        metricCell(method.summary[`${metric}-${one.name}`], index, metric)),
      numberCell(one.images), numberCell(one.pixels),
    ]);
    place.replaceChildren(table(`${metric} of each class, in percent`, headers, rows));
  };
  fill();
  section("classes").append(
    say("In percent, " + (data.is_ordered ? "the most frequent class in training first."
      : "in the order of ids: no run has left class_frequency.json."), "faint"),
    element("label", { for: "class-metric" }, "Metric: "), select, methodKey(), plot, place);
  const draw = drawAtEachWidth(plot, (width) =>
    classPlot(classesInOrder, data.methods, select.value, width));
  select.addEventListener("change", () => {
    fill();
    draw();
  });
}

// For each method, the share of the pixels of each class that is predicted as each class.
function fillConfusions() {
  const matrices = data.confusions.map((confusion) => confusion && data.order.map((i) =>
    data.order.map((j) => (confusion.shares[i] ? confusion.shares[i][j] : null))));
  if (!matrices.some((matrix) => matrix)) {
    section("confusions").append(
      say("Left out: the evaluations have no confusion matrix.", "reason"));
    return;
  }
  const names = classesInOrder.map((one) => one.name);
  const percent = (share) => `${format(100 * share, 2)}%`;
  const panels = data.methods.map((method, index) => {
    const matrix = matrices[index];
    const figure = element("figure", {}, element("h3", {}, method.name));
    if (!matrix) {
      figure.append(say("Left out: an evaluation has no confusion matrix.", "reason"));
      return figure;
    }
    const describe = (i, j) => {
      const pixels = data.confusions[index].pixels[data.order[i]].toLocaleString("en");
      if (matrix[i][j] === null) return `${names[i]}: no ground truth`;
      const verb = i === j ? "correct" : `predicted as ${names[j]}`;
      return `${names[i]}, ${verb}: ${percent(matrix[i][j])} of ${pixels} ${part}s`;
    };
    figure.append(...heatmap(matrix, names, `${method.name}: confusion matrix`, {
      // Paler behind numbers.
      shade: (share, i, j) =>
        `rgba(${i === j ? BLUE : RED}, ${(names.length > 12 ? 1 : 0.75) * Math.sqrt(share)})`,
      describe,
      cellText: (share) => (share && (share < 0.01 ? "<1" : format(100 * share, 0))) || "",
    }));
    return figure;
  });
  section("confusions").append(
    say("Each row is a class of the ground truth, the most frequent in training first. Its cells"
      + ` show, in percent, as which classes its ${part}s are predicted. Blue is correct, red is`
      + " wrong, and grey has no ground truth. The shade grows with the square root of the share, so"
      + " that small shares are visible. Runs of a method are added up.", "faint"),
    element("div", { class: names.length > 30 ? "panels wide" : "panels" }, ...panels),
    confusionTable(matrices, names));
}

// The largest confusions of each method.
function confusionTable(matrices, names) {
  const pairs = new Map();
  for (const matrix of matrices.filter(Boolean)) {
    const wrong = matrix.flatMap((row, i) => row.map((share, j) => [share, i, j]))
      .filter(([share, i, j]) => share && i !== j);
    wrong.sort((a, b) => b[0] - a[0]);
    for (const [, i, j] of wrong.slice(0, 10)) pairs.set(`${i} ${j}`, [i, j]);
  }
  const largest = ([i, j]) => Math.max(...matrices.map((matrix) => matrix?.[i][j] ?? 0));
  const rows = [...pairs.values()].sort((a, b) => largest(b) - largest(a)).map(([i, j]) => [
    textCell(names[i]), textCell(names[j]),
    ...matrices.map((matrix) => numberCell(matrix && 100 * matrix[i][j])),
  ]);
  if (!rows.length) return say("No class is confused with another.", "faint");
  return table(
    "The ten largest confusions of each method, in percent",
    ["class", "predicted as", ...data.methods.map((method) => method.name)], rows);
}

function fillTraining() {
  // First the mIoU on the compared data set, unless it was only evaluated once.
  const isCurve = (name) => data.runs.some((run) => run.curves[name]?.length > 1);
  const rank = (name) => name.endsWith("/mIoU") && isCurve(name)
    ? 1 + (name === "sem_seg/mIoU" || name.startsWith(`${data.dataset}/`)) : 0;
  const names = [...new Set(data.runs.flatMap((run) => Object.keys(run.curves)))]
    .sort((a, b) => rank(b) - rank(a) || a.localeCompare(b));
  if (!names.length) {
    section("training").append(say("Left out: no run has a metrics.json.", "reason"));
    return;
  }
  const select = element("select", { id: "curve" },
    ...names.map((name) => element("option", {}, name)));
  select.value = !rank(names[0]) && names.includes("total_loss") ? "total_loss" : names[0];
  const place = element("div");
  // With several data sets, the names of their metrics start with the data set.
  const validation = ["sem_seg/Loss", `${data.dataset}/sem_seg/Loss`]
    .find((name) => names.includes(name));
  // A sum of losses has a curve for each term only.
  const training = ["loss_sem_seg", "total_loss"].find((name) => names.includes(name));
  const linesOf = (name, suffix, dashesOf) => data.runs.filter((run) => name in run.curves)
    .map((run) => ({ name: run.name + suffix, color: methodColor(run.method),
      points: run.curves[name], dashes: dashesOf(run) }));
  const linesOfSelected = () => {
    const lines = linesOf(select.value, "", (run) =>
      (data.runs.find((other) => other.method === run.method) === run ? "none" : "5 3"));
    if (select.value === training && validation) {
      lines.push(...linesOf(validation, ", validation loss", () => "1 3"));
    }
    return lines;
  };
  const without = data.runs.filter((run) => !Object.keys(run.curves).length).map((run) => run.name);
  section("training").append(
    element("label", { for: "curve" }, "Curve: "), select, methodKey(), place,
    say("Full lines: the first run of a method; dashed: its others."
      + (validation && training ? ` Dotted, with ${training}: the validation loss.` : "")
      + (without.length ? ` Without metrics.json: ${without.join(", ")}.` : ""), "faint"));
  select.addEventListener("change", drawAtEachWidth(place, (width) =>
    linePlot(linesOfSelected(), select.value, width)));
}

function fillCosines() {
  const names = classesInOrder.map((one) => one.name);
  const panels = [["centres", "class centres"], ["anchors", "semantic anchors"]].flatMap(
    ([kind, title]) => data.views.filter((view) => view[kind]).map((view) => {
      const sorted = data.order.map((i) => data.order.map((j) => view[kind][i][j]));
      return element("figure", {}, element("h3", {}, `${view.name}: ${title}`),
        ...heatmap(sorted, names, `${view.name}: cosines of ${title}`, {
          shade: (value) => `rgba(${value > 0 ? RED : BLUE}, ${Math.abs(value)})`,
          describe: (i, j) => `${names[i]} and ${names[j]}: `
            + (sorted[i][j] === null ? "not known" : format(sorted[i][j], 3)),
        }));
    }));
  if (panels.length) {
    section("cosines").append(say("Each cell is the cosine between the vectors of two classes, after"
      + " the mean of all vectors is subtracted. Red classes are alike, blue ones are opposed, and"
      + " grey is not known. If the classes were spread out evenly, all cosines would be"
      + ` ${format(-1 / (names.length - 1), 3)}. The most frequent class in training is first.`,
    "faint"), element("div", { class: "scale", role: "img", "aria-label":
      "Colours from blue, a cosine of -1, over none, 0, to red, 1" },
    element("i"), ...["−1", "0", "1"].map((text) => element("span", {}, text))));
  }
  section("cosines").append(element("div", { class: "panels" }, ...panels),
    ...leftOut("class centres", data.views.filter((view) => !view.centres)),
    ...leftOut("semantic anchors", data.views.filter((view) => !view.anchors)));
}

// A sentence for each reason why views are left out.
function leftOut(what, views) {
  const names = new Map();
  for (const view of views) {
    const reason = reasonFor(view, what);
    names.set(reason, [...(names.get(reason) ?? []), view.name]);
  }
  return [...names].map(([reason, of]) =>
    say(`Left out: ${what} of ${of.join(", ")}. ${reason}`, "reason"));
}

function reasonFor(view, what) {
  if (view.reasons.model) return view.reasons.model;
  if (what === "semantic anchors") return view.reasons.anchors ?? "They are all alike.";
  return view.reasons.images ?? `There is no labelled ${part} of two classes in the ${sample}s.`;
}

function fillEmbeddings() {
  const place = element("div", { class: "panels" });
  const kinds = Math.max(0, ...data.views.map((view) => view.projections.length));
  let chosen = null;
  const select = element("select", { id: "projection" },
    ...["PCA", "t-SNE"].slice(0, kinds).map((name) => element("option", {}, name)));
  const highlight = () => {
    for (const circle of place.querySelectorAll("circle")) {
      circle.classList.toggle("away", chosen !== null && circle.dataset.class !== chosen);
    }
  };
  const draw = () => {
    place.replaceChildren(...data.views.filter((view) => view.projections.length).map((view) => {
      const projection = view.projections[select.selectedIndex];
      return element("figure", {}, element("h3", {}, view.name),
        scatter(projection.points, data.classes, `${view.name}: embeddings by class`),
        element("figcaption", {}, `${projection.name}; ${projection.points.length} ${part}s`));
    }));
    highlight();
  };
  const buttons = data.order.map((k) => {
    const button = element("button", { type: "button", "aria-pressed": "false" },
      swatch(data.classes[k].color), data.classes[k].name);
    button.addEventListener("click", () => {
      chosen = chosen === String(k) ? null : String(k);
      for (const other of buttons) {
        other.setAttribute("aria-pressed", String(other === button && chosen !== null));
      }
      highlight();
    });
    return button;
  });
  select.addEventListener("change", draw);
  draw();
  if (kinds) {
    section("embeddings").append(say(`Each dot is a ${part} of a validation ${sample}. Its place shows the`
      + ` features that the last layer classifies: ${part}s with similar features are close. Each class`
      + ` has the same number of dots, or fewer if the ${sample}s show too few of its ${part}s.`,
    "faint"), element("label", { for: "projection" }, "Projection: "), select,
      element("div", { class: "key", role: "group", "aria-label": "Show one class" }, ...buttons));
  }
  section("embeddings").append(place,
    ...leftOut("embeddings", data.views.filter((view) => !view.projections.length)));
}

function fillPictures() {
  const { names, images, classes, reason, num_images: numImages } = data.pictures;
  if (!images.length) {
    section("pictures").append(say(`Left out. ${reason}`, "reason"));
    return;
  }
  section("pictures").append(say(`From ${numImages} validation ${sample}s: the predictions of`
    + ` ${names.slice(1).join(", ")} differ most on these. At most two neighbours in the data set are`
    + ` shown, such as frames of one video. ${sample === "image" ? "Black pixels are ignored."
      : "Black is the background, or ignored points."}`, "faint"),
  element("ul", { class: "key" }, ...data.order.filter((k) => classes.includes(k)).map((k) =>
    element("li", {}, swatch(data.classes[k].color), data.classes[k].name))));
  for (const one of images) {
    const panels = [sample, ...names].map((name, index) => {
      const source = index ? one.maps[index - 1] : one.image;
      return element("figure", {}, element("figcaption", {}, name),
        element("img", { src: source, alt: `${name} of ${one.name}`, loading: "lazy" }));
    });
    section("pictures").append(element("h3", {}, `${one.name}: ${format(one.share, 1)}% differ`),
      element("div", { class: "strip" }, ...panels));
  }
}

function fillRuns() {
  section("runs").append(element("ul", {}, ...data.runs.map((run) =>
    element("li", {}, `${run.name}: `, element("span", { class: "faint" }, run.folder),
      `; metrics of ${run.source}`))));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

const system = matchMedia("(prefers-color-scheme: dark)");
setTheme(system.matches ? "dark" : "light");
system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
section("theme").addEventListener("click", () =>
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));

section("summary").textContent = data.dataset
  + (data.num_evaluated === null ? ": " : `, ${data.num_evaluated} ${sample}s: `)
  + data.methods.map(({ name, num_runs: count }) => name + (count > 1 ? ` (${count} runs)` : ""))
    .join(", ");
if (data.warning) section("summary").after(say(data.warning, "warning"));
fillRecommendation();
document.querySelector("nav").append(...[...document.querySelectorAll("section")].map((one) =>
  element("a", { href: `#${one.id}` }, one.querySelector("h2").textContent)));
fillSettings();
fillMetrics();
fillClasses();
fillConfusions();
fillTraining();
fillCosines();
fillEmbeddings();
fillPictures();
fillRuns();
