// The table of studies: sortable, filtered by id; at first the worst finding stands on top. What a column shows of a
// study is put into the page by `_summary` in ../write.py.

const order = { column: "worst", down: true, wanted: "" };

const COLUMNS = [
  { key: "id", title: "Study", value: (study) => Number(study.id) },
  { key: "worst", title: "Worst finding", value: (study) => study.worst.expected + (study.phantom ? 0 : study.worst.backed ? 20 : 10) },
  { key: "severe", title: "Severe", value: (study) => study.severe },
  { key: "moderate", title: "Moderate", value: (study) => study.moderate },
  { key: "confidence", title: "Lowest confidence", value: (study) => Number(study.confidence ?? -1) },
  { key: "prior", title: "From the prior", value: (study) => study.prior },
  { key: "issues", title: "Issues", value: (study) => study.issues },
];

function sortedStudies() {
  const { value } = COLUMNS.find((column) => column.key === order.column);
  const sign = order.down ? -1 : 1;
  return report.studies
    .filter((study) => study.id.includes(order.wanted))
    .sort((one, other) => sign * (value(one) - value(other)) || Number(one.id) - Number(other.id));
}

function heading(column, sort) {
  const on = order.column === column.key;
  const button = make("button", { type: "button", class: "sort", "data-key": column.key, onclick: () => sort(column.key) },
    column.title, make("span", { "aria-hidden": "true", class: "arrow" }, on ? (order.down ? " ▼" : " ▲") : " ↕"));
  return make("th", { scope: "col", "aria-sort": on ? (order.down ? "descending" : "ascending") : "none" }, button);
}

// The 25 cells in small, levels down, conditions across.
function thumbnail(study) {
  const squares = study.fills.flatMap((row, y) =>
    row.map((colour, x) => draw("rect", { x: 10 * x, y: 6 * y, width: 9, height: 5, fill: colour })));
  return draw("svg", { viewBox: "0 0 49 29", width: 66, height: 39, role: "img", class: "thumbnail",
    "aria-label": `25 cells, of ${study.counted} that count ${study.severe} severe, ${study.moderate} moderate` }, squares);
}

function studyRow(study) {
  const { worst } = study;
  const chip = study.failed
    ? make("span", { class: "chip failed" }, "could not be graded")
    : make("span", { class: "chip", style: `background:${worst.fill};color:${worst.ink}` },
        grade(worst));
  if (!worst.backed && !study.failed) chip.classList.add("unbacked");
  return make("tr", {},
    make("th", { scope: "row" }, make("a", { href: `#study/${study.id}` }, study.id),
      study.phantom ? make("span", { class: "tag" }, "phantom") : ""),
    make("td", {}, make("div", { class: "worst" }, thumbnail(study),
      make("div", {}, chip, study.failed ? "" : make("span", { class: "where" }, worst.where)))),
    make("td", { class: "number", "data-title": "severe" }, study.severe),
    make("td", { class: "number", "data-title": "moderate" }, study.moderate),
    make("td", { class: "number", "data-title": "lowest confidence" },
      study.confidence ?? "–"),
    make("td", { class: "number", "data-title": "from the prior" }, study.prior),
    make("td", { class: "number", "data-title": "issues" }, study.issues));
}

// Which studies of a mixed list are no patients'.
function phantoms() {
  const ids = report.studies.filter((study) => study.phantom).map((study) => study.id);
  if (!ids.length || ids.length === report.studies.length) return "";
  const more = ids.length > 8 ? ` and ${ids.length - 8} more` : "";
  return ` Phantoms, no patients: ${ids.slice(0, 8).join(", ")}${more}; their severities are not hatched.`;
}

function showList() {
  const head = make("tr");
  const body = make("tbody");
  const count = make("p", { class: "count", role: "status" });

  function refresh() {
    const studies = sortedStudies();
    head.replaceChildren(...COLUMNS.map((column) => heading(column, sort)));
    body.replaceChildren(...studies.map(studyRow));
    count.textContent = `${studies.length} of ${report.studies.length} studies`;
  }

  function sort(key) {
    order.down = order.column === key ? !order.down : key !== "id";
    order.column = key;
    refresh();
    head.querySelector(`[data-key="${key}"]`).focus();
  }

  const filter = make("input", { type: "search", id: "filter", value: order.wanted, inputmode: "numeric", autocomplete: "off",
    oninput: (event) => { order.wanted = event.target.value.trim(); refresh(); } });
  refresh();
  return make("section", { "aria-labelledby": "title" },
    make("h1", { id: "title", tabindex: -1 }, "Studies"),
    basis(report.studies.every((study) => study.phantom), report.studies.every((study) => study.backed), report.rests_on,
      { small: true, note: phantoms() }),
    make("div", { class: "tools" },
      make("label", { for: "filter" }, "Study id "), filter, count),
    make("div", { class: "scroll" }, make("table", { class: "studies" },
      make("caption", {}, "Cells of each study in small: levels from head to foot, conditions from the patient's right to left. ",
        "Severe and Moderate count the cells whose largest probability says so. Worst finding: the cell of the largest ",
        "expected severity (the probability of moderate and twice that of severe), and in that order. Findings that a test ",
        "on patients backs come first, and count alone where a study has such; phantoms come last, and all their cells count."),
      make("thead", {}, head), body)),
    key(doubts(report.studies)));
}
