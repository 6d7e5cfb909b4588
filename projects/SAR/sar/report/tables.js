// Texts and tables.

const say = (text, name = "p") => element("p", { class: name === "p" ? "" : name }, text);

// Words between ** are bold.
const withBold = (text) => text.split("**").map((part, index) =>
  (index % 2 ? element("strong", {}, part) : part));

// Names such as MODEL.LOSS.CLASS_WEIGHTS and SemanticAnchorRegularizer may break between words.
const breakable = (text) => text.replace(/[._/](?=[^._/])|[a-z]{2}(?=[A-Z])/g, "$&\n")
  .split("\n").flatMap((part, index) => (index ? [element("wbr"), part] : [part]));

// What can be wider than the window scrolls, and says so.
function scroller(label, child) {
  const box = element("div", { class: "scroll", role: "region", "aria-label": label }, child);
  const hint = say("More columns: scroll sideways →", "hint");
  hint.hidden = true;
  const update = () => {
    hint.hidden = box.scrollWidth <= box.clientWidth;
    box.tabIndex = hint.hidden ? -1 : 0; // the arrow keys scroll it
    box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
  };
  box.addEventListener("scroll", update);
  new ResizeObserver(update).observe(box);
  return element("div", {}, hint, box);
}

// A table: cells are {text, parts, value, note}. Its columns sort by value, null last.
function table(caption, headers, rows, { sorts = true } = {}) {
  const body = element("tbody");
  const content = ({ text, parts, note }) => [...(parts ?? breakable(text)),
    ...(note ? [" ", element("span", { class: "note" }, note)] : [])];
  const fill = () => body.replaceChildren(...rows.map(([name, ...cells]) => element("tr", {},
    element("th", { scope: "row" }, element("span", { class: "name" }, ...content(name))),
    ...cells.map((cell) => element("td", {}, ...content(cell))))));
  const head = element("tr", {}, ...headers.map((title, column) => {
    if (!sorts) return element("th", { scope: "col" }, ...breakable(title));
    const button = element("button", { type: "button" }, ...breakable(title));
    const header = element("th", { scope: "col" }, button);
    button.addEventListener("click", () => {
      // The greatest number first, but names from A on.
      const first = typeof rows[0][column].value === "string" ? "ascending" : "descending";
      const other = first === "ascending" ? "descending" : "ascending";
      const direction = header.getAttribute("aria-sort") === first ? other : first;
      for (const sibling of head.children) sibling.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        const [x, y] = [a[column].value, b[column].value];
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
      });
      fill();
    });
    return header;
  }));
  fill();
  return scroller(caption.replaceAll("**", ""), element("table", {},
    element("caption", {}, ...withBold(caption)), element("thead", {}, head), body));
}

// A mean with its spread, and its difference to the first method. Each part may be a line.
function metricCell({ mean, spread, difference }, index, name) {
  const isGeometry = name.startsWith("NC");
  const digits = isGeometry || name === "Loss" ? 4 : 2;
  const parts = [format(mean, digits)];
  if (spread !== null) parts.push(" ", element("span", {}, `± ${format(spread, digits)}`));
  if (index && difference !== null) {
    const isBetter = isGeometry ? difference < 0 : difference > 0;
    const color = difference === 0 ? "faint" : isBetter ? "better" : "worse";
    const sign = difference > 0 ? "+" : "";
    parts.push(" ", element("span", { class: color }, `(${sign}${format(difference, digits)})`));
  }
  return { value: mean, parts };
}

const textCell = (text, note) => ({ text: text ?? "–", value: text ?? null, note });
const numberCell = (value) => ({ text: format(value), value: value ?? null });
