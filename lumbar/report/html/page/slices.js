// Slices to scroll: mouse wheel, arrow keys, slider. Everything is drawn in mm of the slice.

class Slices {
  constructor(study) {
    this.study = study;
    this.place = { series: 0, slice: 0 };
    this.show = { points: true, regions: true, zoom: false };
    this.chosen = null; // the region whose box is drawn strongly
    this.turned = 0; // wheel movement not yet spent
    this.images = new Map(); // pictures decoded so far, by slice
    this.element = this.build();
    new ResizeObserver(() => this.refresh()).observe(this.stage);
    this.choose(0, Math.floor(study.series[0].slices.length / 2));
  }

  get series() { return this.study.series[this.place.series]; }

  get slice() { return this.series.slices[this.place.slice]; }

  build() {
    this.tabs = make("div", { class: "tabs", role: "group", "aria-label": "Series" },
      this.study.series.map((series, index) => make("button",
        { type: "button", onclick: () => this.choose(index, Math.floor(series.slices.length / 2)) }, series.title)));
    this.picture = draw("svg", { role: "presentation" });
    this.edges = ["left", "right"].map((side) => make("span", { class: `edge ${side}`, "aria-hidden": "true" }));
    this.stage = make("div", { class: "stage", tabindex: 0, role: "slider", "aria-label": "Slice", "aria-orientation": "vertical",
      onkeydown: (event) => this.key(event) }, this.picture, this.edges);
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.slider = make("input", { type: "range", min: 1, step: 1, "aria-label": "Slice number",
      oninput: (event) => this.go(Number(event.target.value) - 1) });
    this.caption = make("p", { class: "caption" });
    const steps = [[-1, "‹", "Previous slice"], [1, "›", "Next slice"]].map(([by, sign, name]) => make("button",
      { type: "button", class: "step", "aria-label": name, onclick: () => this.go(this.place.slice + by) }, sign));
    const switches = [["points", "Keypoints"], ["regions", "Regions"], ["zoom", "Zoom to the region"]].map(([name, text]) =>
      make("label", {}, make("input", { type: "checkbox", name, checked: this.show[name],
        onchange: (event) => { this.show[name] = event.target.checked; this.refresh(); } }), ` ${text}`));
    this.light = ["Brightness", "Contrast"].map((name) => make("input", { type: "range", min: 40, max: 250, value: 100,
      "aria-label": name, oninput: () => this.adjust() }));
    return make("section", { class: "viewer", "aria-labelledby": "slices-title" },
      make("h2", { id: "slices-title" }, "Slices"), this.tabs, this.stage,
      make("div", { class: "scrub" }, steps[0], this.slider, steps[1]), this.caption,
      make("div", { class: "switches" }, switches),
      make("div", { class: "switches" }, this.light.map((input) => make("label", {}, `${input.ariaLabel} `, input))),
      make("p", { class: "hint" }, "Mouse wheel, arrow keys, Home and End on the image, or the slider."));
  }

  // Show a slice, counted from 0, of a series; `region` is drawn strongly from then on.
  choose(series, slice, region = this.chosen) {
    this.chosen = region;
    this.place = { series, slice };
    [...this.tabs.children].forEach((tab, index) => tab.setAttribute("aria-pressed", String(index === series)));
    this.slider.max = this.series.slices.length;
    this.edges.forEach((edge, index) => { edge.textContent = this.series.edges[index]; });
    this.refresh();
  }

  go(slice) {
    this.place.slice = Math.min(Math.max(slice, 0), this.series.slices.length - 1);
    this.refresh();
  }

  key(event) {
    const last = this.series.slices.length - 1;
    const now = this.place.slice;
    const to = { ArrowDown: now + 1, ArrowRight: now + 1, ArrowUp: now - 1, ArrowLeft: now - 1,
      PageDown: now + 5, PageUp: now - 5, Home: 0, End: last }[event.key];
    if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.go(to);
  }

  wheel(event) {
    if (event.ctrlKey) return; // the browser's own zoom
    event.preventDefault();
    const unit = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 60 : 1; // a touchpad sends many small steps
    this.turned += event.deltaY / unit;
    const steps = Math.trunc(this.turned) || (Math.abs(event.deltaY) >= 30 ? Math.sign(event.deltaY) : 0);
    if (steps === 0) return;
    this.turned = 0;
    this.go(this.place.slice + Math.sign(steps));
  }

  adjust() {
    const [brightness, contrast] = this.light.map((input) => input.value);
    for (const image of this.images.values()) image.style.filter = `brightness(${brightness}%) contrast(${contrast}%)`;
  }

  image() {
    if (!this.images.has(this.slice)) {
      const { wide, tall, image } = this.slice;
      this.images.set(this.slice, draw("image", { href: webp(image), width: wide, height: tall, preserveAspectRatio: "none" }));
      this.adjust();
    }
    return this.images.get(this.slice);
  }

  boxes() {
    if (!this.show.regions) return [];
    return this.study.regions.flatMap((region) => region.slices
      .filter((item) => item && region.series === this.series.id && item.instance === this.slice.instance)
      .slice(0, 1)
      .map((item) => {
        const [x, y, width, height] = item.box;
        const chosen = region === this.chosen;
        const shape = item.corners ? ["polygon", { points: item.corners.join(" ") }] : ["rect", { x, y, width, height }];
        return draw(shape[0], { ...shape[1], fill: "none", stroke: chosen ? "#fff" : "#dfe5ea",
          class: chosen ? "box chosen" : "box", "stroke-width": chosen ? 2.2 : 1, "stroke-opacity": chosen ? 1 : 0.75,
          "stroke-dasharray": chosen ? null : "4 4", "vector-effect": "non-scaling-stroke" });
      }));
  }

  // `pixel`: mm of a screen pixel, so that names can be read on a phone, too.
  points(pixel) {
    if (!this.show.points) return [];
    return pointsOn(this.study, this.series.id, this.slice.instance).flatMap((point) => {
      const before = point.name.endsWith(" R"); // outwards, so that the names of two sides do not meet
      const x = point.x + (before ? -1 : 1) * Math.max(5, 10 * pixel);
      return [mark(point.x, point.y, point.colour, point, Math.max(report.mark_mm, 6 * pixel)),
        draw("text", { x, y: point.y + 4 * pixel, class: "name", "font-size": 12 * pixel,
          "text-anchor": before ? "end" : "start" }, point.name)];
    });
  }

  refresh() {
    const { wide, tall } = this.slice;
    const own = this.chosen?.series === this.series.id ? this.chosen.slices.find((item) => item) : null;
    const margin = 8;
    const view = this.show.zoom && own
      ? [own.box[0] - margin, own.box[1] - margin, own.box[2] + 2 * margin, own.box[3] + 2 * margin]
      : [0, 0, wide, tall];
    this.picture.setAttribute("viewBox", view.join(" "));
    const pixel = Math.max(view[2] / (this.stage.clientWidth || 600), view[3] / (this.stage.clientHeight || 600));
    this.picture.replaceChildren(this.image(), ...this.boxes(), ...this.points(pixel));
    const count = this.series.slices.length;
    const now = this.place.slice + 1;
    const found = pointsOn(this.study, this.series.id, this.slice.instance).map((point) => point.name);
    const text = `${this.series.title}, slice ${now} of ${count}`;
    this.slider.value = now;
    this.slider.setAttribute("aria-valuetext", text);
    const values = { "aria-valuemin": 1, "aria-valuemax": count, "aria-valuenow": now,
      "aria-valuetext": found.length ? `${text}, keypoints ${found.join(", ")}` : text };
    fill(this.stage, values, []);
    this.caption.textContent = `Slice ${now} of ${count} · series ${this.series.id} · ${this.slice.name}`;
  }
}

function pointsOn(study, series, instance) {
  return study.points.filter((point) => point.series === series && point.instance === instance);
}
