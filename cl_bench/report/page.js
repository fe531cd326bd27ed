"use strict";
const every = (selector, root = document) => [...root.querySelectorAll(selector)];

/* Sorting: by data-value, else by text; what has no number stays at the end. */
function sort(header) {
  const body = header.closest("table").tBodies[0];
  const column = [...header.parentNode.children].indexOf(header);
  const up = header.getAttribute("aria-sort") === "descending" || (column === 0 && header.getAttribute("aria-sort") === "none");
  every("th", header.parentNode).forEach((other) => other.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const value = (row) => {
    const cell = row.children[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number.parseFloat(text.replace("−", "-").replace("< ", "").replaceAll(",", ""));
    return column === 0 || (Number.isNaN(number) && text) ? text : number;
  };
  const compare = (a, b) => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return up ? order : -order;
  };
  body.append(...[...body.rows].map((row) => [value(row), row]).sort((a, b) => compare(a[0], b[0])).map((pair) => pair[1]));
}
every(".sortable th button").forEach((button) => button.addEventListener("click", () => sort(button.parentNode)));

/* Filtering: a row that doesn't match is hidden, and with it its line, point, matrix and pictures. */
const benchmark = document.getElementById("benchmark"), method = document.getElementById("method");
const words = document.getElementById("words"), count = document.getElementById("count");
function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = new Set();
  let total = 0;
  every("section.benchmark").forEach((section) => {
    let some = false;
    every(".results tbody tr", section).forEach((row) => {
      const text = row.dataset.words.toLowerCase();
      const fits = (!benchmark.value || section.id === benchmark.value) && (!method.value || row.dataset.method === method.value)
        && wanted.every((word) => text.includes(word));
      row.classList.toggle("off", !fits);
      total += 1;
      some ||= fits;
      if (fits) shown.add(row.dataset.id);
    });
    section.classList.toggle("off", !some);
  });
  every("[data-id]").forEach((part) => {
    if (part.tagName !== "TR") part.classList.toggle("off", !part.dataset.id.split(" ").some((id) => shown.has(id)));
  });
  count.textContent = `${shown.size} of ${total} configurations`;
}
every("select, input", document.querySelector(".controls")).forEach((control) => control.addEventListener("input", filter));
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
document.querySelector(".controls").hidden = false;
filter();

/* Pointing at a row, a legend or a line shows that configuration alone in all figures of its benchmark. */
every("section.benchmark").forEach((section) => {
  let hot = "";
  section.addEventListener("pointerover", (event) => {
    const part = event.target.closest(".legend [data-id], .results [data-id], .chart [data-id]");
    const next = part?.dataset.id ?? "";
    if (next === hot) return;
    hot = next;
    const ids = hot.split(" ").filter(Boolean);
    section.classList.toggle("focus", ids.length > 0);
    every(".chart [data-id], .legend [data-id]", section).forEach((one) =>
      one.classList.toggle("hot", one.dataset.id.split(" ").some((id) => ids.includes(id))));
  });
  section.addEventListener("pointerleave", () => { hot = ""; section.classList.remove("focus"); });
});
