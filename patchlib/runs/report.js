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

// "seed=1" is that value of that column, and not any text with a 1 in it
function named(row, word) {
  const [name, value] = [word.split("=", 1)[0], word.slice(word.indexOf("=") + 1)];
  const at = columns.findIndex((column) => column.toLowerCase() === name);
  return word.includes("=") && at >= 0 && row.cells[at].dataset.value.toLowerCase() === value;
}

function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = every("select[data-column]").filter((one) => one.value);
  const shown = new Set();
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = (one) => `=${row.cells[columns.indexOf(one.dataset.column)].dataset.value}` === one.value;
    const has = (word) => text.includes(word) || named(row, word);
    row.hidden = !(words.every(has) && chosen.every(fits));
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

// --- Thumbnails: the figures themselves, drawn once each when they come near; what came last is looked at first ---
const waiting = [];
let drawing = false;

async function drawWaiting() {
  if (drawing) return;
  drawing = true;
  for (let element; (element = waiting.pop()); ) {
    try {
      await (element.matches(".plot") ? drawComparison : drawThumbnail)(element);
    } catch (error) { // it must not keep the next from being drawn; its title stays, as the picture's text
      console.error(error);
    }
  }
  drawing = false;
}

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
  const near = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
  near.forEach((target) => observer.unobserve(target));
  waiting.push(...near.reverse()); // the topmost first
  drawWaiting();
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
    const layout = structuredClone(plotly.layout);
    if (layout.width > place.clientWidth) layout.width = Math.max(place.clientWidth, 320);
    Plotly.newPlot(place, structuredClone(plotly.data), layout, { ...CONFIG, responsive: false });
  }
}

function step(by) {
  const shown = every(".thumbs li:not([hidden]) button");
  enlarge(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
}

every(".thumbs button").forEach((button) => button.addEventListener("click", () => enlarge(button)));
byId("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => current.focus()); // on the figure that was shown last
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
