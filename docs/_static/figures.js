"use strict";
// Figures are drawn when they come near, for a page has many.
const places = [...document.querySelectorAll(".drawn")];

function draw(place) {
  const { data, layout } = JSON.parse(place.querySelector("script").textContent);
  if (layout.width > place.clientWidth) delete layout.width; // a phone's
  Plotly.newPlot(place, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false, showSendToCloud: false });
}

const near = new IntersectionObserver((entries) => {
  for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
    near.unobserve(target);
    draw(target);
  }
}, { rootMargin: "300px" });
places.forEach((place) => near.observe(place));
addEventListener("beforeprint", () => places.filter((place) => !place.data).forEach(draw));
