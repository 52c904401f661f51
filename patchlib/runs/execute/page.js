"use strict";
// Figures are drawn when they come near, for there may be hundreds; one that names no colours takes those of the page.
const figures = JSON.parse(document.querySelector("script#figures").textContent);
const places = [...document.querySelectorAll(".figure")];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw(place) {
  const { data, layout, config } = figures[place.dataset.figure];
  const shown = { ...layout, autosize: true };
  if (layout.width > place.clientWidth) delete shown.width; // a phone's
  if (!layout.font?.color) {
    const lines = { gridcolor: colour("--jp-border-color2"), linecolor: colour("--jp-border-color1") };
    for (const name of ["xaxis", "yaxis"]) shown[name] = { zerolinecolor: lines.linecolor, ...lines, ...layout[name] };
    shown.font = { ...layout.font, color: colour("--jp-content-font-color1") };
    shown.paper_bgcolor = shown.plot_bgcolor = "transparent";
  }
  Plotly.react(place, data, shown, { responsive: true, displaylogo: false, showSendToCloud: false, ...config });
}

const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(target);
    try { draw(target); } catch (error) { target.textContent = `This figure cannot be drawn: ${error.message}`; }
  }
}, { rootMargin: "300px" });
places.forEach((place) => near.observe(place));
addEventListener("beforeprint", () => places.forEach(draw));

const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark", dark.matches); // which tables go by
followScheme();
dark.addEventListener("change", () => { followScheme(); places.filter((place) => place.data).forEach(draw); });

// The table over many runs calls this when it was filtered: figures of runs that it leaves out are left out too.
globalThis.showRuns = (rows) => {
  const shown = new Set(rows.map((row) => row.querySelector("[data-run]").dataset.run));
  for (const run of document.querySelectorAll(".celltag_gallery [data-run]")) {
    run.closest(".jp-OutputArea-child").hidden = !shown.has(run.dataset.run);
  }
};
