"use strict";
// Figures are drawn when they come near, in the page's colours unless they name their own, and again when the theme changes.
const places = [...document.querySelectorAll(".figure:has(> script)")];
const stored = new Map(places.map((place) => [place, JSON.parse(place.querySelector("script").textContent)]));
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function draw(place) {
  const { data, layout } = stored.get(place);
  const shown = { ...layout, autosize: true, paper_bgcolor: "transparent", plot_bgcolor: "transparent" };
  if (layout.width > place.clientWidth) delete shown.width; // a phone's
  shown.font = { color: colour("--pst-color-text-base"), ...layout.font };
  const lines = { gridcolor: colour("--pst-color-border"), zerolinecolor: colour("--pst-color-border") };
  for (const axis of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) shown[axis] = { ...lines, ...layout[axis] };
  Plotly.react(place, data, shown, { responsive: true, displaylogo: false, showSendToCloud: false });
}

const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(target);
    draw(target);
  }
}, { rootMargin: "300px" });
places.forEach((place) => near.observe(place));
addEventListener("beforeprint", () => places.forEach(draw));
new MutationObserver(() => places.filter((place) => place.data).forEach(draw))
  .observe(document.documentElement, { attributeFilter: ["data-theme"] });
