// One study: its 25 distributions, the panel, slices to scroll, what the networks saw, the issues.

const UNBACKED = "backed by no test on patients";
const STRANGE = "on a region like nothing seen in training";

// Why the severity of a cell that networks graded is not to be trusted, in words; empty where nothing speaks against it.
function doubt(cell) {
  const words = [cell.backed ? "" : UNBACKED, cell.strange ? STRANGE : ""];
  return cell.from === "prior" ? "" : words.filter(Boolean).join(", ");
}

// The same of several cells, for the key of colours.
function doubts(cells) {
  return [UNBACKED, STRANGE].filter((words) => cells.some((cell) => doubt(cell).includes(words))).join(", or ");
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}.`;
}

class StudyPage {
  constructor(study) {
    this.study = study;
    this.slices = study.series.length ? new Slices(study) : null;
    this.seen = make("section", { class: "seen", "aria-labelledby": "seen-title" });
    this.overlay = { on: true, strength: 85 };
    this.element = this.build();
    this.choose(...study.worst.cell);
  }

  build() {
    const { study } = this;
    const facts = [study.failed ? "could not be graded: the prior stands in" : `worst finding: ${grade(study.worst)}, ${study.worst.where}`,
      `${study.seconds} s`, plural(study.issues.length, "issue")];
    return make("article", { "aria-labelledby": "title" },
      neighbours(study.id),
      make("h1", { id: "title", tabindex: -1 }, `Study ${study.id}`, study.phantom ? make("span", { class: "tag" }, "phantom") : ""),
      make("p", { class: "facts" }, facts.join(" · ")),
      basis(study.phantom, study.cells.flat().every((cell) => cell.backed), study.rests_on),
      make("div", { class: "pair" },
        make("div", { class: "findings" }, this.table(), key(doubts(study.cells.flat()))),
        this.seen,
        this.slices ? this.slices.element : make("p", { class: "nothing" }, "No images: the study could not be read or graded.")),
      this.panel(),
      issues(study));
  }

  table() {
    const head = make("tr", {}, make("th", { scope: "col" }, make("span", { class: "hidden" }, "Level")),
      report.columns.map((title) => make("th", { scope: "col" }, title.replace("sub", "sub\u00ad"))));
    this.buttons = report.levels.map((_, row) => report.columns.map((_, column) => this.cell(row, column)));
    const rows = report.levels.map((level, row) => make("tr", {}, make("th", { scope: "row" }, level),
      this.buttons[row].map((button) => make("td", { role: "gridcell" }, button))));
    return make("section", { "aria-labelledby": "table-title" },
      make("h2", { id: "table-title" }, "Probabilities"),
      make("table", { class: "heat", role: "grid", "aria-labelledby": "table-title", onkeydown: (event) => this.walk(event) },
        make("caption", {}, "Per cent normal or mild, moderate, severe; the patient's right on the left. ",
          isLabelled(this.study) ? "A box marks the label. " : "", make("span", { class: "hint" }, "Choose a cell to see its slice, its regions and what they turned on; arrow keys walk over the cells.")),
        make("thead", {}, head), make("tbody", {}, rows)));
  }

  cell(row, column) {
    const cell = this.study.cells[row][column];
    const largest = cell.p.indexOf(Math.max(...cell.p));
    const numbers = cell.p.map((share, place) => make("span",
      { class: [place === largest ? "largest" : "", place === cell.label ? "label" : ""].join(" ").trim() || null },
      cell.percent[place]));
    const bar = draw("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", class: "bar3", "aria-hidden": "true" });
    let start = 0;
    cell.p.forEach((share, place) => {
      bar.append(draw("rect", { x: start, y: 0, width: 100 * share, height: 6, fill: report.scale[place] }));
      start += 100 * share;
    });
    const label = cell.label === null ? "" : `; label ${report.severities[cell.label]}`;
    const origin = cell.from === "own view" ? "" : `; from ${cell.from === "prior" ? "the prior" : "other views"}`;
    const kind = cell.from === "prior" ? "cell prior" : doubt(cell) ? "cell unbacked" : "cell";
    return make("button", { type: "button", class: kind, "aria-pressed": "false", tabindex: -1,
      style: cell.from === "prior" ? null : `background-color:${cell.fill};color:${cell.ink}`,
      onclick: () => this.choose(row, column),
      "data-cell": `${row} ${column}` },
      make("span", { class: "hidden" }, `${cellName(row, column)}: ${inWords(cell.percent)}${label}${origin}${doubt(cell) ? `; ${doubt(cell)}` : ""}`),
      make("span", { class: "numbers", "aria-hidden": "true" }, numbers), bar);
  }

  // Arrow keys, Home and End go from cell to cell; Tab leaves the table, which is one stop.
  walk(event) {
    const place = this.buttons.flat().indexOf(event.target);
    if (place < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const wide = report.columns.length;
    const [row, column] = [Math.floor(place / wide), place % wide];
    const to = { ArrowDown: [row + 1, column], ArrowUp: [row - 1, column], ArrowRight: [row, column + 1], ArrowLeft: [row, column - 1],
      Home: [row, 0], End: [row, wide - 1] }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = this.buttons[to[0]]?.[to[1]];
    if (next) this.stop(next).focus();
  }

  // The cell at which Tab stops.
  stop(button) {
    this.buttons.flat().forEach((one) => one.setAttribute("tabindex", one === button ? 0 : -1));
    return button;
  }

  // Choose a cell: its slice with its region comes up, and what the networks saw of it.
  choose(row, column) {
    this.buttons.flat().forEach((button) => button.setAttribute("aria-pressed", "false"));
    this.stop(this.buttons[row][column]).setAttribute("aria-pressed", "true");
    const regions = this.study.regions.filter((region) => region.row === row && region.column === column);
    const point = this.study.points.find((one) => one.row === row && one.column === column);
    if (point) this.show(point.series, point.instance, regions[0] ?? null);
    else if (regions.length) this.show(regions[0].series, middle(regions[0]).instance, regions[0]);
    this.drawSeen(row, column, regions);
  }

  show(seriesId, instance, region) {
    const series = this.study.series.findIndex((one) => one.id === seriesId);
    const slice = series < 0 ? -1 : this.study.series[series].slices.findIndex((one) => one.instance === instance);
    if (slice >= 0) this.slices.choose(series, slice, region);
  }

  drawSeen(row, column, regions) {
    const cell = this.study.cells[row][column];
    const strength = make("input", { type: "range", min: 0, max: 100, value: this.overlay.strength, "aria-label": "Strength of the saliency maps",
      oninput: (event) => { this.overlay.strength = event.target.value; refresh(); } });
    const on = make("input", { type: "checkbox", name: "saliency", checked: this.overlay.on,
      onchange: (event) => { this.overlay.on = event.target.checked; refresh(); } });
    const strips = regions.map((region) => this.strip(region));
    const refresh = () => this.seen.querySelectorAll(".map").forEach((map) => {
      map.style.opacity = this.overlay.on ? this.overlay.strength / 100 : 0;
    });
    this.seen.replaceChildren(
      make("h2", { id: "seen-title" }, `What the networks saw: ${cellName(row, column)}`),
      make("p", { role: "status" }, `${inWords(cell.percent)}.`, cell.from === "prior" ? " The prior stands in; no network spoke." : doubt(cell) ? make("strong", {}, ` ${sentence(doubt(cell))}`) : ""),
      ...(strips.length ? [make("div", { class: "switches" }, make("label", {}, on, " Saliency "), strength), ...strips, saliencyKey()]
        : [make("p", { class: "nothing" }, "No region could be cut for this cell; the issues say why.")]),
      members(cell));
    refresh();
  }

  strip(region) {
    const count = region.slices.length;
    const { size, tall } = region;
    const picture = draw("svg", { viewBox: `0 0 ${count * size} ${tall}`, role: "img",
      "aria-label": `${region.title}: ${count} slices of ${size} by ${tall} pixels, with saliency map` },
      draw("image", { href: webp(region.image), width: count * size, height: tall, class: "pixels" }),
      region.map ? draw("image", { href: webp(region.map), width: count * size, height: tall, preserveAspectRatio: "none", class: "map" }) : null);
    const buttons = region.slices.map((item) => item
      ? make("button", { type: "button", onclick: () => this.show(region.series, item.instance, region) }, item.name)
      : make("span", {}, "zeros"));
    const notes = [region.mirrored ? "mirrored, so that right looks like left" : null,
      region.padded ? "past the image its border is repeated" : null, region.repeated ? "the border slice stands there again" : null,
      region.map ? null : "no saliency: no network graded it"];
    return make("figure", { class: "strip" },
      make("figcaption", {}, [region.title, `${region.mm} mm`, `${plural(count, "slice")} of ${size} × ${tall} px`, ...notes.filter((note) => note)].join(" · ")),
      film(region.edges, picture, `max-width:${count * 15}rem`),
      make("div", { class: "names", style: `max-width:${count * 15}rem` }, buttons));
  }

  panel() {
    const tiles = this.study.panel.map((tile, place) => {
      const kind = place < 3 ? "tile sagittal" : "tile";
      const series = this.study.series.find((one) => one.id === tile.series);
      if (!series) return make("div", { class: `${kind} empty` }, make("span", {}, tile.title), make("span", {}, tile.reason));
      const slice = series.slices.find((one) => one.instance === tile.instance);
      const [x, y, wide, tall] = tile.box;
      const middle = x + wide / 2;
      // Beside a spine the names stand in a column; on an axial slice above their marks, away from each other.
      const beside = (point) => place < 3 ? { x: x + wide - 2, y: point.y + 1.8, "text-anchor": "end" }
        : { x: point.x, y: point.y - 5.5, "text-anchor": point.x < middle ? "end" : "start" };
      const marks = tile.points.map((point) => [mark(point.x, point.y, point.colour, point),
        draw("text", { ...beside(point), class: "name", "font-size": 5.6 }, point.text)]);
      const there = tile.points.map((point) => point.text).join(", ") || "none";
      const picture = draw("svg", { viewBox: tile.box.join(" "), role: "img",
        "aria-label": `${tile.title}, ${slice.name}; keypoints with their confidence: ${there}` },
        draw("image", { href: webp(slice.image), width: slice.wide, height: slice.tall, preserveAspectRatio: "none" }), marks);
      return make("button", { type: "button", class: kind,
        onclick: () => { this.show(tile.series, tile.instance, this.slices.chosen); this.slices.stage.scrollIntoView({ block: "nearest" }); } },
        make("span", {}, tile.title, make("span", { class: "hidden" }, ": show this slice")), film(series.edges, picture));
    });
    return make("section", { "aria-labelledby": "panel-title" }, make("h2", { id: "panel-title" }, "At a glance"),
      make("div", { class: "panel" }, tiles));
  }
}

// A picture with what lies at its left and right edge.
function film(edges, picture, style = null) {
  const letter = (side, text) => make("span", { class: `edge ${side}`, "aria-hidden": "true" }, text);
  return make("div", { class: "film", style }, letter("left", edges[0]), letter("right", edges[1]), picture);
}

function middle(region) {
  const there = region.slices.filter((item) => item);
  return there[Math.floor(there.length / 2)];
}

function isLabelled(study) {
  return study.cells.flat().some((cell) => cell.label !== null);
}

// The networks one by one: how far they agree is part of the answer.
function members(cell) {
  if (!cell.members.length) return null;
  const row = (name, p, tag = "td") => make("tr", {}, make("th", { scope: "row" }, name),
    p.map((share) => make(tag, { class: "number" }, `${share} %`)));
  return make("details", { open: true }, make("summary", {}, "Network by network"),
    doubt(cell) ? make("p", { class: "facts" }, sentence(doubt(cell))) : null,
    make("div", { class: "scroll" }, make("table", { class: "plain" },
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Network"),
        report.severities.map((word) => make("th", { scope: "col", class: "number" }, word)))),
      make("tbody", {}, cell.members.map(([name, p]) => row(name, p)), row("blended", cell.percent)))));
}

function issues(study) {
  const rows = study.issues.map((issue) => make("tr", {}, make("th", { scope: "row" }, issue.code.replaceAll("_", " ")),
    make("td", {}, issue.detail), make("td", {}, issue.series ?? "–"), make("td", {}, report.meanings[issue.code])));
  return make("section", { "aria-labelledby": "issues-title" }, make("h2", { id: "issues-title" }, "Issues"),
    rows.length ? make("div", { class: "scroll" }, make("table", { class: "plain" },
      make("thead", {}, make("tr", {}, ["Issue", "Detail", "Series", "Meaning"].map((title) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, rows)))
      : make("p", {}, "Nothing was missing, repaired or replaced."));
}

function neighbours(id) {
  const ids = sortedStudies().map((study) => study.id);
  const place = ids.indexOf(id);
  const link = (to, text) => to === undefined ? make("span", { class: "off" }, text) : make("a", { href: `#study/${to}` }, text);
  return make("nav", { class: "neighbours", "aria-label": "Studies" }, make("a", { href: "#" }, "All studies"),
    link(place > 0 ? ids[place - 1] : undefined, "‹ Previous"), link(place < 0 ? undefined : ids[place + 1], "Next ›"));
}

// What colours and marks mean; `doubted`: why something is hatched.
function key(doubted) {
  const ring = (point, text) => make("span", {},
    draw("svg", { viewBox: "-6 -6 12 12", width: 22, height: 22, "aria-hidden": "true", class: "dark" },
      mark(0, 0, report.scale[1], point, 3.4)), ` ${text}`);
  const swatch = (colour, text, kind = "") => make("span", {},
    make("span", { class: `swatch ${kind}`, style: `background-color:${colour}`, "aria-hidden": "true" }), ` ${text}`);
  return make("div", { class: "key" }, report.severities.map((word, place) => swatch(report.scale[place], word)),
    swatch("var(--prior)", "prior", "prior"), doubted ? swatch(report.pale, doubted, "unbacked") : null,
    ring({}, "keypoint, with its confidence from 0 to 1"), ring({ doubtful: true }, "doubtful"),
    ring({ repaired: true }, "repaired from its neighbours"));
}

function saliencyKey() {
  const swatch = (colour, text) => make("span", {},
    make("span", { class: "swatch", style: `background-color:${colour}`, "aria-hidden": "true" }), ` ${text}`);
  return make("div", { class: "key" }, swatch(report.saliency.raises, "raises the severity"),
    swatch(report.saliency.lowers, "lowers it"), make("span", { class: "hint" }, report.saliency.method));
}
