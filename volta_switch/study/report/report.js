"use strict";
// What makes the page handier; nothing is needed to read it.

// A table's headings sort its rows: by data-value where a cell has one, else by its text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const numbers = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const upwards = before ? before === "descending" : !numbers; // numbers begin with the largest
      const of = (row) => {
        const cell = row.cells[column];
        return numbers ? parseFloat(cell.dataset.value) : cell.textContent.trim();
      };
      const order = (a, b) => {
        const [x, y] = [of(a), of(b)];
        if (numbers && (isNaN(x) || isNaN(y))) return isNaN(x) - isNaN(y); // what lacks a number is last
        return (upwards ? 1 : -1) * (numbers ? x - y : x.localeCompare(y));
      };
      body.append(...[...body.rows].sort(order));
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
    });
  });
}

// Above each group of curves: which arms to show.
for (const place of document.querySelectorAll(".choose")) {
  const parts = [...place.parentNode.querySelectorAll("svg [data-arm]")];
  const arms = [...new Set(parts.map((part) => part.dataset.arm))];
  if (arms.length < 2) continue;
  const choice = document.createElement("fieldset");
  choice.className = "choose";
  const legend = document.createElement("legend");
  legend.textContent = "Show";
  choice.append(legend);
  for (const arm of arms) {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      for (const part of parts) if (part.dataset.arm === arm) part.style.display = box.checked ? "" : "none";
    });
    const label = document.createElement("label");
    label.append(box, arm);
    choice.append(label);
  }
  place.replaceWith(choice);
}

// Printing opens what is folded, and folds it again.
let opened = [];
window.addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const part of opened) part.open = true;
});
window.addEventListener("afterprint", () => {
  for (const part of opened) part.open = false;
});
