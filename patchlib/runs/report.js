"use strict";
// The table's filters and order, figures drawn when they come into view, one of them enlarged. Plotly draws.
const figures = JSON.parse(document.getElementById("figures").textContent);
const every = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false };

// --- The table ---
const body = byId("runs").tBodies[0];
const rows = [...body.rows];
const columns = every("thead button").map((button) => button.textContent);

function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = every("select[data-column]").filter((one) => one.value);
  const shown = new Set();
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = (one) => `=${row.cells[columns.indexOf(one.dataset.column)].dataset.value}` === one.value;
    row.hidden = !(words.every((word) => text.includes(word)) && chosen.every(fits));
    if (!row.hidden) shown.add(row.dataset.row);
  }
  byId("count").textContent = `${shown.size} of ${rows.length} runs`;
  for (const item of every(".thumbs li")) item.hidden = !shown.has(item.dataset.row);
  for (const gallery of every(".gallery")) gallery.hidden = every("li:not([hidden])", gallery).length === 0;
}

function sort(header) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  every("thead th").forEach((one) => one.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (row) => row.cells[header.cellIndex].dataset.value;
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  rows.sort((a, b) => {
    const [first, second] = [key(a), key(b)];
    if (first === "" || second === "") return (first === "") - (second === ""); // empty cells stay last
    return compare(first, second) * (up ? 1 : -1);
  });
  body.append(...rows);
}

every("thead button").forEach((button) => button.addEventListener("click", () => sort(button.closest("th"))));
every(".filters input, .filters select").forEach((one) => one.addEventListener("input", filter));
document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
filter(); // a browser keeps what was chosen when a page is loaded again

// --- Comparisons, in the colours of the page ---
const dark = matchMedia("(prefers-color-scheme: dark)");

function drawComparison(element) {
  const { data, layout } = figures[element.dataset.figure].plotly;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--line"), linecolor: colour("--soft"), zerolinecolor: colour("--soft") };
  const own = { ...layout, paper_bgcolor: "transparent", plot_bgcolor: "transparent", autosize: true };
  own.font = { ...layout.font, color: colour("--ink") };
  for (const name of ["xaxis", "yaxis"]) own[name] = { ...layout[name], ...axis };
  Plotly.react(element, data, own, CONFIG);
}

dark.addEventListener("change", () => every(".plot.js-plotly-plot").forEach(drawComparison));

// --- Thumbnails: the figures themselves, drawn once each when they come near, one after the other ---
let queue = Promise.resolve();

async function drawThumbnail(button) {
  const { plotly, address } = figures[button.dataset.figure];
  const image = button.querySelector("img");
  if (address) {
    image.src = address;
    return;
  }
  const { width = 820, height = 450 } = plotly.layout;
  image.src = await Plotly.toImage(plotly, { format: "svg", width, height });
}

const near = new IntersectionObserver((entries, observer) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    const draw = target.matches(".plot") ? drawComparison : drawThumbnail;
    // A figure that cannot be drawn must not keep the next from it; its title stays, as the picture's text.
    queue = queue.then(() => draw(target)).catch((error) => console.error(error));
  }
}, { rootMargin: "300px" });
every(".plot, .thumbs button").forEach((one) => near.observe(one));

// --- One of them enlarged ---
const dialog = byId("enlarged");
let current = null;

function enlarge(button) {
  current = button;
  const { title, plotly, address } = figures[button.dataset.figure];
  byId("large-title").textContent = button.dataset.label;
  byId("large").setAttribute("aria-label", title); // which the figure shows itself
  byId("large-page").hidden = !button.dataset.page;
  byId("large-page").setAttribute("href", button.dataset.page);
  if (!dialog.open) dialog.showModal();
  const place = byId("large");
  Plotly.purge(place);
  place.replaceChildren();
  if (address) {
    const image = document.createElement("img");
    image.src = address;
    image.alt = title;
    place.append(image);
  } else {
    Plotly.newPlot(place, structuredClone(plotly.data), structuredClone(plotly.layout), { ...CONFIG, responsive: false });
  }
}

function step(by) {
  const shown = every(".thumbs li:not([hidden]) button");
  enlarge(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
}

every(".thumbs button").forEach((button) => button.addEventListener("click", () => enlarge(button)));
byId("close").addEventListener("click", () => dialog.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
