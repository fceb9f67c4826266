// Pictures of routes; see flows.py. Without this the pictures are whole, with a tooltip on each part.
(() => {
  "use strict";
  const idle = "Point at a box, a band or an arc for its numbers; with a keyboard, use the arrow keys.";

  const title = (mark) => mark.querySelector("title").textContent;

  // The bands that a box's samples come along, or a band's two boxes.
  function touched(svg, mark) {
    const { layer, mode, from, to } = mark.dataset;
    const all = (selector) => [...svg.querySelectorAll(selector)];
    if (mark.classList.contains("node")) {
      return all(".band").filter(({ dataset: band }) =>
        (+band.layer === +layer && band.from === mode) || (+band.layer === layer - 1 && band.to === mode));
    }
    if (mark.classList.contains("band")) {
      return all(".node").filter(({ dataset: node }) =>
        (+node.layer === +layer && node.mode === from) || (+node.layer === +layer + 1 && node.mode === to));
    }
    return all(".node").filter(({ dataset: node }) => node.layer === layer);
  }

  function words(mark, others) {
    if (!mark.classList.contains("node")) return title(mark) + ".";
    const into = others.filter((band) => +band.dataset.layer < +mark.dataset.layer);
    const out = others.filter((band) => band.dataset.layer === mark.dataset.layer);
    const list = (bands, key) => bands.map(({ dataset }) => `${dataset[key]} ${dataset.count}`).join(", ");
    return title(mark) + "." + (into.length ? ` They come from ${list(into, "from")}.` : "")
      + (out.length ? ` They go to ${list(out, "to")}.` : "");
  }

  function point(figure, mark) {
    const svg = figure.querySelector(".flow-scroll svg");
    svg.querySelectorAll(".on, .here").forEach((old) => old.classList.remove("on", "here"));
    svg.classList.toggle("lit", Boolean(mark));
    const said = figure.querySelector(".flow-said");
    if (!mark) {
      said.textContent = idle;
      return;
    }
    const others = touched(svg, mark);
    mark.classList.add("on", "here");
    others.forEach((other) => other.classList.add("on"));
    said.textContent = words(mark, others);
  }

  // Boxes and arcs as columns, from the top down, for the arrow keys; one of them is in the page's tab order.
  function columnsOf(svg) {
    const columns = [];
    svg.querySelectorAll(".node, .input").forEach((mark) => {
      (columns[mark.dataset.layer - 1] ??= []).push(mark);
    });
    const place = { text: -1, vision: 1 };
    columns.forEach((column) => column.sort((a, b) => (place[a.dataset.side] ?? 0) - (place[b.dataset.side] ?? 0)));
    return columns;
  }

  function step(columns, mark, key) {
    const layer = mark.dataset.layer - 1;
    const row = columns[layer].indexOf(mark);
    if (key === "ArrowUp") return columns[layer][row - 1];
    if (key === "ArrowDown") return columns[layer][row + 1];
    const beside = columns[layer + (key === "ArrowRight" ? 1 : -1)];
    if (!beside) return undefined;
    return beside.find(({ dataset }) => (dataset.mode ?? dataset.side) === (mark.dataset.mode ?? mark.dataset.side))
      ?? beside[Math.min(row, beside.length - 1)];
  }

  function enliven(figure) {
    const svg = figure.querySelector(".flow-scroll svg");
    const columns = columnsOf(svg);
    svg.setAttribute("role", "group"); // its parts are to be reached now, one by one
    columns.flat().forEach((mark, number) => {
      mark.setAttribute("tabindex", number ? "-1" : "0");
      mark.setAttribute("role", "img");
      mark.setAttribute("aria-label", title(mark));
      mark.addEventListener("focus", () => point(figure, mark));
    });
    svg.addEventListener("keydown", (event) => {
      const mark = event.target.closest(".node, .input");
      if (!mark || !/^Arrow|^Escape$/.test(event.key)) return;
      event.preventDefault();
      if (event.key === "Escape") return point(figure, null);
      const next = step(columns, mark, event.key);
      if (!next) return;
      mark.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
    svg.addEventListener("pointerover", (event) => {
      const mark = event.target.closest(".node, .band, .input");
      if (mark) point(figure, mark);
    });
    svg.addEventListener("pointerleave", () => point(figure, null));
    // not on the picture: Chromium would take one that listens to focus for a stop of the tab key
    svg.parentNode.addEventListener("focusout", () => point(figure, null));
    figure.querySelector(".flow-said").textContent = idle;
  }

  function compare(routes) {
    const controls = routes.querySelector(".flow-controls");
    if (!controls) return;
    const [first, second] = controls.querySelectorAll("select");
    const apply = () => {
      const chosen = [first.value, second.value].filter((value) => value !== "");
      routes.querySelectorAll(".flow").forEach((figure) => {
        figure.hidden = chosen.length > 0 && !chosen.includes(figure.dataset.flow);
      });
      const two = chosen.length === 2 && first.value !== second.value;
      routes.querySelectorAll(".flow-pair").forEach((pair) => {
        const both = pair.dataset.pair.split(" ");
        pair.hidden = two && !chosen.every((value) => both.includes(value));
      });
      const details = routes.querySelector(".flow-differences");
      if (details) details.open = two;
    };
    controls.hidden = false;
    controls.addEventListener("change", apply);
    apply(); // the browser may have kept a choice over a reload
  }

  document.querySelectorAll(".routes").forEach((routes) => {
    routes.querySelectorAll("figure.flow").forEach(enliven);
    compare(routes);
  });
})();
