// The page holds what is chosen; each change asks the server anew, and only the newest answer is shown.
"use strict";
const facts = JSON.parse(document.getElementById("facts").textContent);
const at = (id) => document.getElementById(id);
const state = { pictures: [], slot: 0, forced: [], routes: [], asked: 0, chosen: 0 };
const SVG = "http://www.w3.org/2000/svg";
const HINTS = {
  "V-logit": "An expression for one thing in the picture", "VL-classifier": "A question",
  "VL-classifier-GQA": "A question", "VL-logit": "Captions, one on each line: they are ranked",
  "VL-binary-classifier": "A statement about both pictures", "VL-tri-classifier": "A sentence that may follow from the picture",
  "matching": "Texts, one on each line: how well each belongs to the picture",
};

function made(name, attributes = {}, ...children) {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  one.append(...children);
  return one;
}

function drawn(name, attributes = {}, ...children) {
  const one = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
  one.append(...children);
  return one;
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    throw new Error("the program that serves this page does not answer; is it still running?");
  }
  let value = null;
  try { value = await response.json(); } catch (error) { /* told below */ }
  if (!response.ok) throw new Error((value && value.error) || `status ${response.status}`);
  return value;
}

function complain(error) {
  at("problem").textContent = error ? error.message : "";
  at("problem").hidden = !error;
}

const looked = {};
function look(key) {
  looked[key] = looked[key] || request(`picture/${key}`).catch((error) => { delete looked[key]; throw error; });
  return looked[key];
}

// --- Pictures ------------------------------------------------------------------------------------------------------

function offer(each) {
  const words = each.texts[0] || each.title;
  const picture = made("img", { alt: "", loading: "lazy" });
  const button = made("button", { type: "button", "aria-pressed": "false", title: words },
    picture, made("span", { class: "words" }, words || "a picture"));
  button.dataset.keys = each.pictures.join(" ");
  const item = made("li", {}, button);
  button.addEventListener("click", () => choose(each));
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    request(`thumbnail/${each.pictures[0]}`)
      .then((found) => { if (found.address) picture.src = found.address; }).catch(() => {});
  }).observe(item);
  at("offers").append(item);
  return item;
}

async function choose(each) {
  const number = begin();
  if (facts.pictures === each.pictures.length) {
    state.pictures = [...each.pictures];
  } else {  // one of two
    state.pictures[state.slot] = each.pictures[0];
    state.slot = (state.slot + 1) % facts.pictures;
  }
  state.forced = [];
  state.offer = facts.pictures === each.pictures.length ? each : null;
  for (const button of at("offers").querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.dataset.keys === state.pictures.join(" ")));
  if (each.texts.length) at("text").value = each.texts.join("\n");
  at("stage").textContent = "looking at the picture …";
  try {
    const found = await Promise.all(state.pictures.filter(Boolean).map(look));
    if (number !== state.chosen) return;
    at("stage").replaceChildren(...found.map(stage));
    if (state.pictures.length === facts.pictures && at("text").value.trim()) await ask();
  } catch (error) {
    if (number !== state.chosen) return;
    at("stage").replaceChildren();
    complain(error);
  }
}

function begin() {  // what is under way for another picture is not shown any more
  ++state.asked;
  complain(null);
  at("send").disabled = false;
  at("answer").replaceChildren();
  at("routes").hidden = at("why").hidden = true;
  state.chances = undefined;
  return ++state.chosen;
}

function stage(found) {
  const line = Math.max(found.width, found.height) / 320;
  const svg = drawn("svg", { viewBox: `0 0 ${found.width} ${found.height}`, role: "group", "aria-label": found.about });
  if (found.address) svg.append(drawn("image", { href: found.address, width: found.width, height: found.height }));
  const caption = made("figcaption", {}, "");
  const labels = drawn("g", { class: "labels" });  // over all boxes
  found.boxes.forEach(([x1, y1, x2, y2], number) => {
    const name = `region ${number}${found.names[number] ? `, ${found.names[number]}` : ""}`;
    const size = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
    const group = drawn("g", { class: "region", tabindex: "0", role: "img", "aria-label": name },
      drawn("rect", { class: "halo", ...size, "stroke-width": line * 2.2 }),
      drawn("rect", { class: "box", ...size, "stroke-width": line }));
    const text = label(found, line, x1, y1, x2, found.names[number] || name);
    group.dataset.number = text.dataset.label = number;
    for (const event of ["pointerenter", "focus"]) group.addEventListener(event, () => {
      const share = state.chances && state.chances[number];
      caption.textContent = share === undefined || share === null ? name : `${name}: ${percent(share)}`;
      text.classList.add("here");
    });
    for (const event of ["pointerleave", "blur"]) group.addEventListener(event, () => text.classList.remove("here"));
    svg.append(group);
    labels.append(text);
  });
  svg.append(labels);
  return made("figure", {}, svg, caption);
}

function label(found, line, x1, y1, x2, name) {  // it grows to the left where there is more room
  const right = x1 < found.width - x2;
  return drawn("text", {
    x: right ? x1 : x2, y: Math.max(y1 - line * 3, line * 12), "font-size": line * 11,
    "text-anchor": right ? "start" : "end",
  }, name);
}

function percent(value) {
  return value === null ? "–" : `${(100 * value).toFixed(1)} %`;
}

async function drop(file) {
  if (!file) return;
  const number = begin();
  at("stage").textContent = "finding regions: tens of seconds on a CPU …";
  try {
    const { key } = await request("picture", { method: "POST", body: file });
    const each = { pictures: [key], texts: [], title: file.name };
    const item = offer(each);
    look(key).then((found) => { item.querySelector("img").src = found.address; });
    if (number === state.chosen) await choose(each);
  } catch (error) {
    if (number === state.chosen) at("stage").replaceChildren();
    complain(error);
  }
}

// --- Answers -------------------------------------------------------------------------------------------------------

async function ask() {
  const number = ++state.asked;
  complain(null);
  const chosen = state.pictures.filter(Boolean);
  if (chosen.length < facts.pictures) {
    complain(new Error(facts.pictures === 2 ? "choose two pictures first" : "choose a picture first"));
    return;
  }
  const typed = at("text").value;
  const texts = facts.compares ? typed.split("\n").filter((line) => line.trim()) : [typed];
  at("send").disabled = true;
  try {
    const found = await request("ask", {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ pictures: chosen, texts, forced: state.forced }),
    });
    if (number === state.asked) show(found, texts);
  } catch (error) {
    if (number === state.asked) complain(error);
  } finally {
    if (number === state.asked) at("send").disabled = false;
  }
}

function show(found, texts) {
  const now = found.forced || found.own;
  const parts = [answer(now, Boolean(found.forced))];
  if (found.forced) parts.push(made("p", { class: "faint" }, `By itself the model answers: ${said(found.own)}`));
  const truth = state.offer && state.offer.texts[0] === texts[0] ? state.offer.truth : {};
  const right = truth.answers || (truth.regions || []).map(regionName);
  if (right.length) parts.push(made("p", { class: "truth" }, `Right by the data: ${right.join("; ")}`));
  for (const remark of found.remarks) parts.push(made("p", { class: "remark" }, remark));
  at("answer").replaceChildren(...parts);
  at("command").textContent = found.why;
  at("why").hidden = !found.why;
  state.chances = now.probabilities;
  mark(found, truth.regions || []);
  state.routes = found.routes;
  routes(texts);
}

function said(values) {
  if (values.ranking) return `“${values.ranking[0].text}” first`;
  if (values.region !== undefined) return `${regionName(values.region)}, ${percent(values.probability)}`;
  return `${values.answer || "yes"}, ${percent(values.probability)}`;
}

function regionName(number) {
  const group = at("stage").querySelector(`[data-number="${number}"]`);
  return group ? group.getAttribute("aria-label") : `region ${number}`;
}

function answer(values, forced) {
  const box = made("div", forced ? { class: "is-forced" } : {});
  let rows;
  if (values.ranking) {
    rows = values.ranking.map((each) => [each.text, each.probability, each.score]);
  } else if (values.region !== undefined) {
    box.append(made("p", {}, made("strong", {}, regionName(values.region))));
    rows = values.regions.map((each) => [regionName(each.region), each.probability]);
  } else {
    box.append(made("p", {}, made("strong", {}, values.answer)));
    rows = values.answers.map((each) => [each.answer, each.probability]);
  }
  if (forced) box.append(made("p", { class: "changed" }, "with the forced choices"));
  const list = made("ol", { class: "bars" });
  for (const [label, share, score] of rows) {
    const bar = made("span");
    bar.style.width = `${100 * (share === null ? 0 : share)}%`;
    const number = share === null ? score.toFixed(2) : percent(share);
    list.append(made("li", {}, made("span", {}, label), made("span", { class: "bar", "aria-hidden": "true" }, bar),
      made("span", { class: "number" }, number)));
  }
  box.append(list);
  return box;
}

function mark(found, right) {
  for (const part of at("stage").querySelectorAll(".region, [data-label]")) {
    const number = Number(part.dataset.number ?? part.dataset.label);
    part.classList.toggle("answer", found.own.region === number);
    part.classList.toggle("forced", Boolean(found.forced) && found.forced.region === number);
    part.classList.toggle("right", right.includes(number));
  }
}

// --- Routes --------------------------------------------------------------------------------------------------------

function routes(texts) {
  const rows = [];
  state.routes.forEach((choices, text) => {
    for (const row of new Set(choices.map((each) => each.row))) rows.push({ text, row });
  });
  at("routes").hidden = !rows.length;
  if (!rows.length) return;
  const names = rows.map(({ text, row }) => facts.pictures === 2 && new Set(rows.map((each) => each.row)).size > 1
    ? `the ${row ? "second" : "first"} picture` : texts[text]);
  const before = at("row").selectedIndex;
  at("row").replaceChildren(...names.map((name, index) => made("option", { value: index }, name)));
  at("row").selectedIndex = Math.min(Math.max(before, 0), rows.length - 1);
  at("which").hidden = rows.length < 2;
  at("row").onchange = () => grid(rows);
  at("release").hidden = !state.forced.length;
  grid(rows);
}

function grid(rows) {
  const { text, row } = rows[at("row").selectedIndex];
  const layers = new Map();
  for (const choice of state.routes[text]) {
    if (choice.row !== row) continue;
    if (!layers.has(choice.layer)) layers.set(choice.layer, []);
    layers.get(choice.layer).push(choice);
  }
  const focused = document.activeElement && document.activeElement.dataset.choice;
  at("grid").replaceChildren(...[...layers].map(([layer, choices]) => made("div", { class: "layer" },
    made("h3", {}, `Layer ${layer + 1}`), made("div", {}, ...choices.map(choiceLine)))));
  at("meanings").replaceChildren(...meanings(rows).flatMap(([name, meaning]) =>
    [made("dt", {}, name), made("dd", {}, meaning)]));
  if (focused) at("grid").querySelector(`[data-choice="${CSS.escape(focused)}"]`)?.focus();
}

function meanings(rows) {
  const found = new Map();
  for (const { text } of rows) for (const choice of state.routes[text]) for (const option of choice.options)
    found.set(option.name, option.meaning);
  return [...found];
}

function choiceLine(choice) {
  const what = choice.block === "modes" ? "mode" : "input";
  const line = made("div", { class: "choice", role: "group", "aria-label": `${what} of layer ${choice.layer + 1}` },
    made("span", { class: "of" }, what));
  const same = (each) => each.row === choice.row && each.layer === choice.layer && each.block === choice.block;
  const forced = state.forced.find(same);
  for (const option of choice.options) {
    const taken = forced ? forced.option === option.name : option.chosen;
    const button = made("button", { type: "button", "aria-pressed": String(taken), class: forced && taken ? "forced" : "",
      title: option.meaning },
      option.name, " ", made("span", { class: "share" }, percent(option.probability)));
    button.dataset.choice = `${choice.row} ${choice.layer} ${choice.block} ${option.name}`;
    button.addEventListener("click", () => {
      const others = state.forced.filter((each) => !same(each));
      state.forced = option.chosen ? others  // what it chose itself is not forced
        : [...others, { row: choice.row, layer: choice.layer, block: choice.block, option: option.name }];
      ask();
    });
    line.append(button);
  }
  return line;
}

// --- Start ---------------------------------------------------------------------------------------------------------

at("hint").textContent = HINTS[facts.kind] || "A text";
facts.offers.forEach(offer);
at("form").addEventListener("submit", (event) => { event.preventDefault(); state.forced = []; ask(); });
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !facts.compares) { event.preventDefault(); at("form").requestSubmit(); }
});
at("release").addEventListener("click", () => { state.forced = []; ask(); });
at("file").addEventListener("change", (event) => { drop(event.target.files[0]); event.target.value = ""; });
if (facts.drops) {
  for (const name of ["dragover", "dragenter"]) document.addEventListener(name, (event) => {
    event.preventDefault(); at("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault(); at("drop").classList.remove("over"); drop(event.dataTransfer.files[0]);
  });
}
if (facts.offers.length && facts.offers[0].texts.length) choose(facts.offers[0]);
