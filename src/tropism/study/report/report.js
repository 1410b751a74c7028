"use strict";
// Clips of one start run together: that is what they are compared for.
for (const row of document.querySelectorAll(".sample")) {
  const clips = [...row.querySelectorAll("video")];
  for (const clip of clips) {
    const others = clips.filter((other) => other !== clip);
    clip.addEventListener("play", () => { for (const other of others) if (other.paused) { other.currentTime = clip.currentTime; other.play(); } });
    clip.addEventListener("pause", () => { for (const other of others) other.pause(); });
  }
}
// Values under the pointer: the nearest x of a chart, for every series drawn there. The page is complete without it.
for (const chart of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(chart.dataset.chart);
  const figure = chart.closest("figure");
  let tip = null, cursor = null;
  const leave = () => { tip?.remove(); cursor?.remove(); tip = cursor = null; };
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("pointermove", (event) => {
    const frame = chart.getBoundingClientRect(), scale = chart.viewBox.baseVal.width / frame.width;
    const at = (event.clientX - frame.left) * scale;
    let nearest = null;
    for (const series of data.series) for (const point of series.points) {
      if (nearest === null || Math.abs(point[0] - at) < Math.abs(nearest[0] - at)) nearest = point;
    }
    if (nearest === null) return;
    leave();
    cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of [["class", "cursor"], ["x1", nearest[0]], ["x2", nearest[0]], ["y1", 10], ["y2", 194]]) cursor.setAttribute(name, value);
    chart.append(cursor);
    tip = document.createElement("div");
    tip.className = "tip";
    const lines = [`${data.x} ${nearest[2]}`];
    for (const series of data.series) {
      const point = series.points.find((p) => Math.abs(p[0] - nearest[0]) < 0.05);
      if (point) lines.push(`${series.name}: ${point[3]}`);
    }
    tip.innerText = lines.join("\n");
    figure.append(tip);
    const box = figure.getBoundingClientRect();
    const x = nearest[0] / scale + frame.left - box.left;
    tip.style.top = `${frame.top - box.top + 12}px`;
    tip.style.left = `${x + 12 + tip.offsetWidth > box.width ? Math.max(0, x - tip.offsetWidth - 12) : x + 12}px`;
  });
}
