"use strict";
const every = (selector, root = document) => [...root.querySelectorAll(selector)];
const found = (id) => document.getElementById(id);

/* An element; what stands in it goes in as text, so that a name may hold anything. */
function made(tag, attributes, ...inside) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...inside);
  return element;
}

/* What an element holds becomes the face of a button in it. */
function asButton(element, attributes) {
  const button = made("button", { type: "button", ...attributes }, ...element.childNodes);
  element.append(button);
  return button;
}

/* Sorting: by data-value, else by text; the best first, then the other way around. What has no number stays at the end,
   and an opened row below its own. */
function sort(header) {
  const body = header.closest("table").tBodies[0];
  const column = [...header.parentNode.children].indexOf(header);
  const [first, second] = header.dataset.best === "least" ? ["ascending", "descending"] : ["descending", "ascending"];
  const order = header.getAttribute("aria-sort") === first ? second : first;
  every("th", header.parentNode).forEach((other) => other.setAttribute("aria-sort", "none"));
  header.setAttribute("aria-sort", order);
  const value = (row) => {
    const cell = row.children[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number.parseFloat(text.replace("−", "-").replace("< ", "").replaceAll(",", ""));
    return column === 0 || (Number.isNaN(number) && text) ? text : number;
  };
  const compare = (a, b) => {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    const up = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
    return order === "ascending" ? up : -up;
  };
  const sorted = [...body.rows].filter((row) => !row.dataset.of).map((row) => [value(row), row]).sort((a, b) => compare(a[0], b[0]));
  body.append(...sorted.flatMap(([, row]) => (opened.has(row) ? [row, opened.get(row)] : [row])));
}
every(".sortable thead th button").forEach((button) => button.addEventListener("click", () => sort(button.parentNode)));

/* A row opens: what details.py says of its runs is laid out the first time. */
const opened = new Map();
let details;
const table = (name, heads, lines) => made("div", { class: "wide", tabindex: "0", role: "region", "aria-label": name },
  made("table", {}, made("thead", {}, made("tr", {}, ...heads.map((head) => made("th", { scope: "col" }, head)))),
    made("tbody", {}, ...lines.map(([first, ...rest]) =>
      made("tr", {}, made("th", { scope: "row" }, `${first}`), ...rest.map((cell) => made("td", {}, ...[cell].flat())))))));

function copying(command) {
  const code = made("code", {}, command), button = made("button", { type: "button", "aria-live": "polite" }, "Copy");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    } catch { // not allowed here: the old way, else a key copies what is selected
      getSelection().selectAllChildren(code);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
  });
  return made("div", { class: "command" }, code, button);
}

function inside(row) {
  details ??= JSON.parse(found("details").textContent);
  const { columns, origins, rows: { [row.dataset.id]: [commands, runs] } } = details;
  const seed = "Seed", name = row.querySelector("th").textContent.trim();
  const links = (folder, files) => files.flatMap((file) =>
    [made("a", { href: `${folder}/figures/${encodeURIComponent(file)}` }, file.replace(/\.png$/, "").replaceAll("_", " ")), ", "]).slice(0, -1);
  const place = (folder) => {
    try { return decodeURIComponent(folder); } catch { return folder; }
  };
  const origin = ([number, folder, date, of]) => {
    const [version, commit, machine, ...figures] = origins[of];
    return [number, made("a", { href: `${folder}/` }, place(folder)), links(folder, figures), date, version,
      commit && made("span", { title: commit }, commit.replace(/^(.{10})[0-9a-f]*/, "$1")), machine];
  };
  return made("div", { class: "inside" },
    table(`Seeds of ${name}`, [seed, ...columns[row.closest("section").id]], runs.map(([number, , , , texts]) => [number, ...texts])),
    made("p", { class: "facts" }, commands.length ? "The command that makes these runs again, or shows them where they are:" : "The records keep no command."),
    ...commands.map(copying),
    table(`Where the runs of ${name} are`, [seed, "Folder", "Figures", "Began, UTC", "Version", "Commit", "Machine"], runs.map(origin)));
}

function open(row, button) {
  const closed = button.getAttribute("aria-expanded") === "false";
  button.setAttribute("aria-expanded", `${closed}`);
  if (!opened.has(row)) {
    const id = `of-${row.dataset.id}`;
    const below = made("tr", { class: "opened", id, "data-of": row.dataset.id }, made("td", { colspan: row.children.length }, inside(row)));
    button.setAttribute("aria-controls", id);
    row.after(below);
    opened.set(row, below);
  }
  opened.get(row).hidden = !closed;
}

/* Filtering: a row that doesn't match is hidden, and with it its line, point, matrix and pictures. What is chosen stands
   in the address, and is read from it. */
const FILTERS = { method: "Method", scenario: "Scenario", dataset: "Data set", network: "Network", budget: "Budget", length: "Length", protocol: "Protocol", benchmark: "Benchmark" };
const words = found("words"), wrong = found("wrong");
const rows = every(".results tbody tr").map((row) => {
  const section = row.closest("section"), name = row.querySelector("th"), label = name.textContent.trim();
  const values = Object.fromEntries(Object.keys(FILTERS).map((key) => [key, row.dataset[key] ?? section.dataset[key]]));
  const text = [section.querySelector("h2").textContent, label, name.title, ...Object.values(values)].join(" ").toLowerCase();
  asButton(name, { class: "expand", "aria-expanded": "false" }).addEventListener("click", (event) => open(row, event.currentTarget));
  return { row, section, values, text };
});
const known = Object.fromEntries(Object.keys(FILTERS).map((key) =>
  [key, [...new Set(rows.map((one) => one.values[key]))].sort((a, b) => a.localeCompare(b, undefined, { numeric: true }))]));
const chosen = Object.fromEntries(Object.keys(FILTERS).map((key) => [key, new Set()]));
const muted = new Set(); /* configurations that a legend switched off */

const facets = Object.entries(FILTERS).filter(([key]) => known[key].length > 1).map(([key, title]) => {
  const boxes = known[key].map((value) => made("label", {}, made("input", { type: "checkbox", value }), value));
  const summary = made("summary", {}, title);
  found("facets").append(made("details", { class: "facet", name: "facet" }, summary, made("div", { role: "group", "aria-label": title }, ...boxes)));
  boxes.forEach((label) => label.firstChild.addEventListener("change", ({ target }) => {
    chosen[key][target.checked ? "add" : "delete"](target.value);
    say(true);
  }));
  return { key, title, summary, boxes: boxes.map((label) => label.firstChild) };
});

/* The address of what is chosen; `say` writes it, as a new page of the history or over this one. */
function address() {
  const encoded = (text) => encodeURIComponent(text).replaceAll("%3D", "=");
  const parts = Object.keys(FILTERS).filter((key) => chosen[key].size).map((key) => `${key}=${[...chosen[key]].map(encoded).join(",")}`);
  if (words.value.trim()) parts.push(`words=${encoded(words.value.trim())}`);
  return `#${parts.join("&")}`;
}
function say(anew) {
  wrong.hidden = true;
  history[anew ? "pushState" : "replaceState"](null, "", address() === "#" ? location.pathname + location.search : address());
  show();
}

/* `#method=er,der&scenario=class`: a value may be short of what comes after its first word. */
function read() {
  const decoded = (text) => {
    try { return decodeURIComponent(text); } catch { return text; }
  };
  const said = [], hash = location.hash.slice(1);
  Object.values(chosen).forEach((values) => values.clear());
  words.value = "";
  if (!hash.includes("=")) {
    if (hash && !found(decoded(hash))) said.push(`there is no place #${decoded(hash)}`);
  } else for (const part of hash.split("&").filter(Boolean)) {
    const [key, ...rest] = part.split("="), text = rest.join("=");
    if (key === "words") words.value = decoded(text);
    else if (!Object.hasOwn(FILTERS, key)) said.push(`there is no filter ${decoded(key)} (there are ${[...Object.keys(FILTERS), "words"].join(", ")})`);
    else {
      const unknown = text.split(",").filter(Boolean).map(decoded).filter((value) => {
        const same = known[key].filter((one) => one.toLowerCase() === value.toLowerCase());
        const begins = known[key].filter((one) => one.toLowerCase().startsWith(`${value.toLowerCase()}_`));
        const fits = same.length ? same : begins;
        fits.forEach((one) => chosen[key].add(one));
        return !fits.length;
      });
      const some = known[key].slice(0, 30).join(", ") + (known[key].length > 30 ? ", …" : "");
      if (unknown.length) said.push(`no row has ${key}=${unknown.join(" or ")} (there are ${some})`);
    }
  }
  wrong.textContent = said.length ? `Left out of what the address asks for: ${said.join("; ")}.` : "";
  wrong.hidden = !said.length;
  show();
}

/* Shows what is chosen, and that alone. */
function show() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = new Set(), sections = new Set(), methods = new Set();
  for (const { row, section, values, text } of rows) {
    const fits = Object.entries(chosen).every(([key, some]) => !some.size || some.has(values[key])) && wanted.every((word) => text.includes(word));
    row.classList.toggle("off", !fits);
    opened.get(row)?.classList.toggle("off", !fits);
    if (fits) {
      shown.add(row.dataset.id);
      sections.add(section.id);
      methods.add(values.method);
    }
  }
  every("section.benchmark").forEach((section) => section.classList.toggle("off", !sections.has(section.id)));
  every("[data-section]").forEach((part) => part.classList.toggle("off", !sections.has(part.dataset.section)));
  every(".overview tbody tr").forEach((row) => row.classList.toggle("off", !methods.has(row.dataset.method)));
  every("[data-id]").forEach((part) => {
    if (part.closest(".results")) return;
    const drawn = part.closest(".chart");
    part.classList.toggle("off", !part.dataset.id.split(" ").some((id) => shown.has(id) && !(drawn && muted.has(id))));
  });
  every(".foot").forEach((foot) => { /* a dot plot: its rows close up, and what is below them follows */
    const chart = foot.closest("svg"), { row, base, height } = foot.dataset, [, , width] = chart.getAttribute("viewBox").split(" ");
    let up = 0;
    every(".series", chart).forEach((series) => {
      if (series.classList.contains("off")) up += Number(row);
      else series.setAttribute("transform", `translate(0 ${-up})`);
    });
    foot.setAttribute("transform", `translate(0 ${-up})`);
    every(".down", chart).forEach((line) => line.setAttribute("d", line.getAttribute("d").replace(/V.*/, `V${base - up}`)));
    chart.setAttribute("viewBox", `0 0 ${width} ${height - up}`);
  });
  every("[data-pair]").forEach((row) => row.classList.toggle("off", !row.dataset.pair.split(" ").every((id) => shown.has(id))));
  every(".front").forEach((front) => { /* the best of all: not of those that are left */
    front.classList.toggle("off", every("[data-id]", front.closest(".chart")).some((part) => part.classList.contains("off")));
  });
  every(".legend").forEach((legend) => {
    const entries = every("[data-id]", legend);
    entries.forEach((entry) => entry.querySelector("button").setAttribute("aria-pressed", `${!muted.has(entry.dataset.id)}`));
    legend.querySelector(".all").classList.toggle("off", !entries.some((entry) => muted.has(entry.dataset.id)));
  });
  facets.forEach(({ key, title, summary, boxes }) => {
    boxes.forEach((box) => { box.checked = chosen[key].has(box.value); });
    const names = [...chosen[key]];
    summary.textContent = names.length ? `${title}: ${names.slice(0, 2).join(", ")}${names.length > 2 ? ` + ${names.length - 2}` : ""}` : title;
    summary.classList.toggle("some", names.length > 0);
  });
  found("count").textContent = `${shown.size} of ${rows.length} configurations${shown.size || !rows.length ? "" : ": none has all of this"}`;
  document.body.classList.toggle("filtered", shown.size < rows.length);
  found("clear").disabled = address() === "#" && !muted.size && wrong.hidden;
}
words.addEventListener("input", () => say(false));
found("clear").addEventListener("click", () => {
  Object.values(chosen).forEach((values) => values.clear());
  muted.clear();
  words.value = "";
  say(true);
});
addEventListener("hashchange", read);
document.addEventListener("pointerdown", (event) => every(".facet[open]").forEach((facet) => { facet.open = facet.contains(event.target); }));
document.addEventListener("keydown", (event) => {
  const facet = event.key === "Escape" && event.target.closest?.(".facet[open]");
  if (facet) {
    facet.open = false;
    facet.firstChild.focus();
  }
});
/* To a place of the page, and what is chosen stays. */
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#']"), hash = link?.getAttribute("href").slice(1);
  if (link && !hash.includes("=") && location.hash.includes("=")) {
    event.preventDefault();
    found(hash).scrollIntoView();
  }
});
document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());

/* A legend: each entry shows or hides its configuration in the figures; "only" shows that one, and again all. */
every(".legend").forEach((legend) => {
  const entries = every("[data-id]", legend), ids = entries.map((entry) => entry.dataset.id);
  const only = (id) => {
    const rest = ids.filter((other) => other !== id), alone = !muted.has(id) && rest.every((other) => muted.has(other));
    ids.forEach((other) => muted[alone || other === id ? "delete" : "add"](other));
    show();
  };
  entries.forEach((entry) => {
    const { id } = entry.dataset, name = entry.textContent.trim();
    const button = asButton(entry, { "aria-pressed": "true", title: "Click: show or hide. Twice: only this one." });
    button.addEventListener("click", () => {
      muted[muted.has(id) ? "delete" : "add"](id);
      show();
    });
    button.addEventListener("dblclick", () => only(id));
    const alone = made("button", { type: "button", class: "only", "aria-label": `only ${name}` }, "only");
    alone.addEventListener("click", () => only(id));
    entry.append(alone);
  });
  const all = made("button", { type: "button" }, "Show all");
  all.addEventListener("click", () => {
    ids.forEach((id) => muted.delete(id));
    show();
  });
  legend.append(made("li", { class: "all" }, all));
});

/* A table that is wider than the page leaves out columns, and puts intervals below their means; a button shows all. */
every(".results").forEach((results) => {
  const button = made("button", { type: "button", "aria-pressed": "false", hidden: "" });
  let width = 0;
  const fit = () => {
    for (const how of ["", "brief", "brief tight"]) {
      results.classList.remove("brief", "tight");
      if (button.ariaPressed === "false") results.classList.add(...how.split(" ").filter(Boolean));
      if (results.offsetWidth <= results.parentNode.clientWidth) break;
    }
    const out = [...results.tHead.rows[0].cells].filter((head) => !head.offsetWidth).length;
    button.textContent = out ? `Show ${out} more columns` : "Only the columns that fit";
    button.hidden = !out && button.ariaPressed === "false";
  };
  button.addEventListener("click", () => {
    button.ariaPressed = `${button.ariaPressed === "false"}`;
    fit();
  });
  results.caption.firstElementChild.prepend(button, " ");
  new ResizeObserver(([{ contentRect }]) => { // says nothing of a table that is far from the window, or filtered away
    if (contentRect.width && contentRect.width !== width) requestAnimationFrame(fit);
    width = contentRect.width;
  }).observe(results.parentNode);
  addEventListener("beforeprint", fit);
});

document.querySelector(".controls").hidden = false;
read();

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
