// Elements from data. Text always goes in as text, so that nothing in the data can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function webp(text) {
  return `data:image/webp;base64,${text}`;
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

const report = JSON.parse(document.getElementById("report").textContent);

// "severe 98 %, moderate 2 %, normal or mild 0 %"
function inWords(percents) {
  return report.severities.map((word, place) => `${word} ${percents[place]} %`).reverse().join(", ");
}

// The likeliest severity of a cell: "severe 98 %"
function grade(cell) {
  return `${report.severities[cell.grade]} ${cell.percent[cell.grade]} %`;
}

function cellName(row, column) {
  return `${report.levels[row]} ${report.columns[column]}`;
}

// What severities rest on; a warning where nothing measured on patients backs some of them. `small`: beside tables in
// small, whose cells are too small for hatching.
function basis(phantom, backed, text, { small = false, note = "" } = {}) {
  const hatched = small ? "Severities that are hatched, or pale in the small tables," : "Hatched severities";
  const strong = phantom ? "Phantom, no patient. " : backed ? null : `${hatched} are backed by no test on patients. `;
  return make("p", { class: phantom ? "banner phantom" : backed ? "basis" : "banner" },
    strong && make("strong", {}, strong), `Severities rest on: ${text}.${note}`);
}

// One keypoint's mark, in mm: a ring; broken where doubtful; a broken diamond where it was repaired.
function mark(x, y, colour, point, radius = report.mark_mm) {
  const tall = 1.35 * radius;
  const shape = point.repaired
    ? { d: `M${x} ${y - tall}L${x + tall} ${y}L${x} ${y + tall}L${x - tall} ${y}Z` }
    : { d: `M${x - radius} ${y}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0` };
  const broken = point.repaired || point.doubtful ? "4 3" : null;
  const line = { ...shape, fill: "none", "vector-effect": "non-scaling-stroke" };
  return draw("g", { class: "mark" },
    draw("path", { ...line, stroke: "#000", "stroke-width": 5, "stroke-opacity": 0.7 }),
    draw("path", { ...line, stroke: colour, "stroke-width": 2.2, "stroke-dasharray": broken }));
}
