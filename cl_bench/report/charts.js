
/* Charts: a tap names the mark that is nearest, and a button hands out a chart as a file. */
const said = document.createElement("output");
said.className = "said";
said.hidden = true;
document.body.append(said);
const charts = every(".chart svg");
charts.forEach((chart) => chart.addEventListener("click", (event) => {
  const marks = every(".mark", chart).filter((mark) => mark.getClientRects().length).map((mark) => {
    const box = mark.getBoundingClientRect();
    return [Math.hypot(event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2), mark];
  });
  const [distance, mark] = marks.reduce((least, next) => (next[0] < least[0] ? next : least), [Infinity]);
  said.hidden = distance > 24;
  if (said.hidden) return;
  said.textContent = mark.querySelector("title").textContent;
  said.style.top = `${event.pageY + 14}px`;
  said.style.left = `${Math.max(8, Math.min(event.pageX, scrollX + document.documentElement.clientWidth - said.offsetWidth - 8))}px`;
  event.stopPropagation();
}));
document.addEventListener("click", () => { said.hidden = true; });

/* The styles that a chart has from the page are written into its elements, as other programs read them. */
const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order", "opacity", "color",
  "font-family", "font-size", "font-style"];
function drawing(chart) {
  const copy = chart.cloneNode(true);
  const originals = [chart, ...every("*", chart)];
  [copy, ...every("*", copy)].forEach((part, place) => {
    const style = getComputedStyle(originals[place]);
    STYLES.forEach((name) => part.setAttribute(name, style.getPropertyValue(name)));
    if (style.display === "none") part.setAttribute("display", "none");
  });
  const [, , width, height] = chart.getAttribute("viewBox").split(" ");
  Object.entries({ width, height }).forEach((pair) => copy.setAttribute(...pair));
  return new XMLSerializer().serializeToString(copy);
}
charts.forEach((chart) => {
  const figure = chart.closest("figure"), button = document.createElement("button");
  Object.assign(button, { type: "button", className: "save", textContent: "SVG", title: "Download this chart" });
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([drawing(chart)], { type: "image/svg+xml" }));
    link.download = `${figure.dataset.file ?? "chart"}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  figure.querySelector("figcaption").append(" ", button);
});
