// Which page: the address after # says it, so that back, forward and a reload work from a file, too.

function identity() {
  const { bundle } = report;
  const rows = bundle.members.map((member) => make("tr", {}, make("th", { scope: "row" }, member.name),
    make("td", {}, member.stage), make("td", {}, member.fold ?? "all"), make("td", { class: "sha" }, member.sha256)));
  return [
    make("p", {}, make("strong", {}, report.notice), " Sides come from the images' own geometry."),
    make("p", {}, "Weights bundle ", make("strong", {}, bundle.name), ", SHA-256 ",
      make("span", { class: "sha" }, bundle.identity), bundle.description ? `: ${bundle.description}` : ""),
    make("details", {}, make("summary", {}, `${plural(bundle.members.length, "network")}, blend: ${bundle.blend}`),
      make("div", { class: "scroll" }, make("table", { class: "plain" },
        make("thead", {}, make("tr", {}, ["Network", "Stage", "Fold", "SHA-256"].map((title) => make("th", { scope: "col" }, title)))),
        make("tbody", {}, rows)))),
    make("p", { class: "hint" }, report.versions)];
}

function unknown(id) {
  return make("section", { "aria-labelledby": "title" }, make("h1", { id: "title", tabindex: -1 }, "No such study"),
    make("p", { role: "alert" }, `This report holds no study ${id}.`), make("p", {}, make("a", { href: "#" }, "All studies")));
}

function open(first) {
  const [page, id] = location.hash.slice(1).split("/");
  const block = page === "study" ? document.getElementById(`study-${id}`) : null;
  const missing = page === "study" && !block;
  const element = block ? new StudyPage(JSON.parse(block.textContent)).element : missing ? unknown(id ?? "") : showList();
  document.getElementById("main").replaceChildren(element);
  document.title = block ? `Study ${id} – Lumbar report` : "Lumbar report";
  if (!first) {
    window.scrollTo(0, 0);
    document.getElementById("title").focus({ preventScroll: true });
  }
}

document.getElementById("identity").append(...identity());
window.addEventListener("hashchange", () => open(false));
open(true);
