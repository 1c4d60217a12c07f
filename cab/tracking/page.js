"use strict";
// Draws each chart when it comes into view. Text from the data is only ever set as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const HEIGHT = 160, MARGIN = 8;
const SECONDS = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"], [1e-9, "ns"]];

function unpacked(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer);
}

function shown(value, unit) {
  if (unit !== "s") return `${Number(value.toPrecision(6)).toLocaleString("en")} ${unit}`;
  const [scale, name] = SECONDS.find(([size]) => Math.abs(value) >= size) || SECONDS[3];
  return `${(value / scale).toPrecision(4)} ${name}`;
}

function draw(canvas, chart, values) {
  const width = (canvas.width = canvas.clientWidth || 900);
  canvas.height = HEIGHT;
  const context = canvas.getContext("2d");
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  const range = high - low || Math.abs(high) || 1;
  const x = (place) => MARGIN + (place / Math.max(values.length - 1, 1)) * (width - 2 * MARGIN);
  const y = (value) => HEIGHT - MARGIN - ((value - low) / range) * (HEIGHT - 2 * MARGIN);
  for (const mark of chart.marks) {
    if (mark.kind === "drift") {
      context.fillStyle = mark.share > 0 ? "#f8dcdc" : "#dcf0dc";
      context.fillRect(x(mark.at), 0, x(mark.end) - x(mark.at), HEIGHT);
      continue;
    }
    context.strokeStyle = mark.kind === "environment" ? "#888" : mark.share > 0 ? "#c00" : "#080";
    context.setLineDash(mark.kind === "environment" ? [5, 4] : []);
    context.beginPath();
    context.moveTo(x(mark.at - 0.5), 0);
    context.lineTo(x(mark.at - 0.5), HEIGHT);
    context.stroke();
  }
  context.fillStyle = "#246";
  const size = values.length > 2 * width ? 1 : values.length > width / 4 ? 2 : 3;
  values.forEach((value, place) => context.fillRect(x(place) - size / 2, y(value) - size / 2, size, size));
  context.fillStyle = "#555";
  context.fillText(shown(high, chart.unit), 2, 10);
  context.fillText(shown(low, chart.unit), 2, HEIGHT - 2);
  return (position) => {
    const place = Math.round(((position - MARGIN) / (width - 2 * MARGIN)) * (values.length - 1));
    return Math.max(0, Math.min(values.length - 1, place));
  };
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { watcher.unobserve(entry.target); entry.target.show(); }
}, { rootMargin: "300px" });

const sections = data.charts.map((chart) => {
  const section = document.createElement("section");
  const canvas = document.createElement("canvas");
  const note = element("div", "");
  note.className = "note";
  const title = `${chart.name}, ${chart.metric}`;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  canvas.height = HEIGHT;
  section.append(element("h3", title), element("div", chart.machine), canvas, note);
  const list = document.createElement("ul");
  for (const mark of chart.marks) list.append(element("li", mark.text));
  if (chart.marks.length) section.append(list);
  canvas.show = () => {
    const values = unpacked(chart.values, Float32Array), commits = unpacked(chart.commits, Int32Array);
    const placeAt = draw(canvas, chart, values);
    canvas.addEventListener("mousemove", (event) => {
      const place = placeAt(event.offsetX);
      note.textContent = `${data.commits[commits[place]]}: ${shown(values[place], chart.unit)}`;
    });
  };
  watcher.observe(canvas);
  return [title.toLowerCase(), section];
});
document.getElementById("charts").append(...sections.map(([, section]) => section));
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const [title, section] of sections) section.hidden = !title.includes(wanted);
});
