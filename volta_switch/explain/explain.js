// The page says everything without this; here are shades by any measure, and a word's regions and a region's words.
(() => {
  "use strict";
  const measures = new Map(JSON.parse(document.getElementById("values").textContent).measures.map((m) => [m.name, m]));
  const words = [...document.querySelectorAll(".word")];
  const regions = [...document.querySelectorAll(".region")].sort((a, b) => a.dataset.region - b.dataset.region);
  const select = document.getElementById("measure");
  const said = document.querySelector(".said");
  let pinned = null; // what was clicked or chosen by a key
  let pointed = null; // what the pointer or the focus is on

  const isWord = (mark) => mark.classList.contains("word");
  const numberOf = (mark) => Number(isWord(mark) ? mark.dataset.word : mark.dataset.region);
  const nameOf = (mark) => isWord(mark) ? `“${mark.querySelector(".said-word").textContent}”`
    : mark.getAttribute("aria-label");
  const measured = (value) => value !== null && value !== undefined;
  const signed = (value) => Math.abs(value) < 0.005 ? "0.00" : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const isSigned = (measure) => measure.name === "occlusion" || measure.name === "gradient";
  const written = (value, measure, linked) => !measured(value) ? "–"
    : isSigned(measure) || (linked && measure.name === "gradient") ? signed(value) : `${(100 * value).toFixed(1)} %`;

  function shade(marks, values, most, measure) {
    marks.forEach((mark, number) => {
      const value = values?.[number];
      const share = measured(value) && most > 0 ? Math.abs(value) / most : 0;
      const colour = value < 0 ? "213 94 0" : "0 114 178";
      mark.classList.toggle("against", value < 0 && share > 0.02);
      mark.classList.toggle("for", value > 0 && share > 0.02);
      if (isWord(mark)) {
        mark.style.backgroundColor = `rgb(${colour} / ${(0.45 * share).toFixed(3)})`;
        mark.querySelector(".value").textContent = written(value, measure);
      } else {
        const box = mark.querySelector(".box");  // little fill: a picture's colours may be what is asked about
        box.style.fill = `rgb(${colour} / ${(0.16 * share).toFixed(3)})`;
        box.style.setProperty("--share", share.toFixed(3));
      }
    });
  }

  function draw() {
    const measure = measures.get(select.value);
    const here = pointed ?? pinned;
    [...words, ...regions].forEach((mark) => mark.classList.toggle("here", mark === here));
    [...words, ...regions].forEach((mark) => mark.setAttribute("aria-pressed", String(mark === pinned)));
    let ofWords = measure.words, ofRegions = measure.regions;
    if (here && isWord(here)) {
      ofRegions = measure.to_regions[numberOf(here)];
      ofWords = words.map((mark, number) => mark === here ? measure.words[number] : null);
    } else if (here) {
      ofWords = measure.to_words[numberOf(here)];
      ofRegions = regions.map((mark, number) => mark === here ? measure.regions[number] : null);
    }
    const most = (values) => Math.max(0, ...(values ?? []).filter(measured).map(Math.abs));
    const common = here ? 0 : Math.max(most(ofWords), isSigned(measure) ? most(ofRegions) : 0);
    shade(words, ofWords, here && isWord(here) ? most(measure.words) : common || most(ofWords), measure);
    shade(regions, ofRegions, here && !isWord(here) ? most(measure.regions)
      : isSigned(measure) && !here ? common : most(ofRegions), measure);
    said.textContent = here ? tell(here, measure, isWord(here) ? ofRegions : ofWords) : measure.about;
  }

  function tell(here, measure, links) {
    const own = (isWord(here) ? measure.words : measure.regions)[numberOf(here)];
    const others = isWord(here) ? regions : words;
    const best = others.map((mark, number) => [mark, links?.[number]])
      .filter(([, value]) => measured(value) && Math.abs(value) >= 0.005)
      .sort(([, a], [, b]) => Math.abs(b) - Math.abs(a)).slice(0, 5)
      .map(([mark, value]) => `${nameOf(mark)} ${written(value, measure, true)}`);
    const what = isSigned(measure) ? "worth together with" : "attends to";
    return `${measure.title}. ${nameOf(here)}: ${written(own, measure)} for the answer`
      + (best.length ? `; ${what} ${best.join(", ")}.` : ".");
  }

  // Of each group one mark is in the page's tab order; arrow keys move among the others.
  function moves(marks, mark, key) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[key];
    if (!step) return false;
    const next = marks[(marks.indexOf(mark) + step + marks.length) % marks.length];
    marks.forEach((each) => { each.tabIndex = each === next ? 0 : -1; });
    next.focus();
    return true;
  }

  for (const group of [words, regions]) {
    for (const mark of group) {
      mark.addEventListener("pointerenter", () => { pointed = mark; draw(); });
      mark.addEventListener("pointerleave", () => { pointed = null; draw(); });
      mark.addEventListener("focus", () => { if (mark.matches(":focus-visible")) { pointed = mark; draw(); } });
      mark.addEventListener("blur", () => { pointed = null; draw(); });
      mark.addEventListener("click", () => { pinned = pinned === mark ? null : mark; draw(); });
      mark.addEventListener("keydown", (event) => {
        if (moves(group, mark, event.key)) event.preventDefault();
        else if (!isWord(mark) && (event.key === "Enter" || event.key === " ")) {
          event.preventDefault();
          pinned = pinned === mark ? null : mark;
          draw();
        } else if (event.key === "Escape") {
          pinned = pointed = null;
          draw();
        }
      });
    }
    group.forEach((mark, number) => { mark.tabIndex = number ? -1 : 0; });
  }
  select.addEventListener("change", draw);
  document.querySelector(".controls").hidden = false;
  draw();
})();
