// A walk through doubtful labels: keep, change or skip each by a key. What was decided stays in the browser, and goes
// out as a table of what changed. Text always goes in as text, so that nothing in the data can become markup.

const data = JSON.parse(document.getElementById("rows").textContent);
const main = document.getElementById("main");
const SVG = "http://www.w3.org/2000/svg";
// By row: 0 to 2, the label that it should have, or "skip".
const decided = read();
let at = Math.max(0, data.rows.findIndex((row) => !(row.row in decided)));

function read() {
  const found = {};
  try {
    const kept = JSON.parse(localStorage.getItem(data.key) ?? "{}");
    for (const row of data.rows) {
      if ([0, 1, 2, "skip"].includes(kept[row.row])) found[row.row] = kept[row.row];
    }
  } catch { /* another page's, or a browser that keeps nothing */ }
  return found;
}

function keep() {
  try {
    localStorage.setItem(data.key, JSON.stringify(decided));
  } catch { /* the table can be exported all the same */ }
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null));
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const webp = (text) => `data:image/webp;base64,${text}`;

function changed() {
  return data.rows.filter((row) => Number.isInteger(decided[row.row]) && decided[row.row] !== row.label);
}

function decide(what) {
  const row = data.rows[at];
  decided[row.row] = what === "keep" ? row.label : what;
  keep();
  at = Math.min(at + 1, data.rows.length - 1);
  show();
}

function step(by) {
  at = Math.min(Math.max(at + by, 0), data.rows.length - 1);
  show();
}

// The table of what changed: it replaces labels in training, or names those to leave out.
function table() {
  const lines = changed().map((row) => [row.row, data.labels[decided[row.row]], data.labels[row.label] ?? ""].join(","));
  return [data.columns.join(","), ...lines].join("\n") + "\n";
}

function exported() {
  const link = make("a", { href: `data:text/csv;charset=utf-8,${encodeURIComponent(table())}`, download: data.file });
  document.body.append(link);
  link.click();
  link.remove();
}

function slice(one) {
  const mark = { cx: one.x * 100 * one.shape, cy: one.y * 100, r: 4, fill: "none", stroke: "#ffd98a", "stroke-width": 0.7 };
  return make("figure", { class: one.own ? "slice own" : "slice" },
    draw("svg", { viewBox: `0 0 ${100 * one.shape} 100`, role: "img", "aria-label": `slice ${one.instance}` },
      draw("image", { href: webp(one.image), width: 100 * one.shape, height: 100, preserveAspectRatio: "none" }),
      draw("circle", { ...mark, "stroke-dasharray": one.own ? null : "2 2" })),
    make("figcaption", {}, `${one.instance}${one.own ? ", with the point" : ""}`));
}

function answer(one, label) {
  const cells = one.percent.map((percent, place) =>
    make("td", { class: place === label ? "number label" : "number" },
      make("span", { class: "share", style: `width: ${percent}%` }), `${percent} %`));
  return make("tr", {}, make("th", { scope: "row" }, one.name), cells);
}

function state(row) {
  const now = decided[row.row];
  if (now === undefined) return "not decided";
  if (now === "skip") return "skipped";
  return now === row.label ? "kept" : `changed to ${data.severities[now]}`;
}

function show() {
  const row = data.rows[at];
  const done = data.rows.filter((each) => each.row in decided).length;
  const label = data.severities[row.label] ?? "none";
  const button = (key, text, what) => make("button", { type: "button", "data-key": key, onclick: () => decide(what) },
    make("kbd", {}, key), ` ${text}`);
  main.replaceChildren(
    make("p", { class: "count", role: "status" },
      `${at + 1} of ${data.rows.length}: ${done} decided, ${changed().length} changed. This one: ${state(row)}.`),
    make("h1", {}, `Study ${row.study}, ${row.title}: labelled `, make("strong", {}, label)),
    make("div", { class: "tools" },
      button("k", "keep", "keep"), data.severities.map((word, place) => button(String(place + 1), word, place)),
      button("s", "skip", "skip"),
      make("button", { type: "button", onclick: () => step(-1) }, make("kbd", {}, "←"), " back"),
      make("button", { type: "button", onclick: () => step(1) }, make("kbd", {}, "→"), " on"),
      make("button", { type: "button", id: "export", onclick: exported }, `Export ${changed().length} changed`)),
    make("table", { class: "answers" },
      make("caption", {}, "What networks that had not seen the study say; its label is framed"),
      make("thead", {}, make("tr", {}, make("td"), data.severities.map((word) => make("th", { scope: "col" }, word)))),
      make("tbody", {}, row.answers.map((one) => answer(one, row.label)))),
    row.region === null ? make("p", { class: "nothing" }, "There is no point, and so no picture, of this row.")
      : make("figure", { class: "film" },
        make("img", { src: webp(row.region), alt: `region of ${row.mm} mm`, style: `aspect-ratio: ${row.count}` }),
        make("figcaption", {}, `${row.series}; region of ${row.mm} mm, slice by slice`)),
    make("div", { class: "strip" }, row.slices.map(slice)));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = { k: "keep", s: "skip", 1: 0, 2: 1, 3: 2 };
  if (event.key in keys) decide(keys[event.key]);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else return;
  event.preventDefault();
});
show();
