"use strict";
// Choosing boards, sorting them, and drawing the plot. Without it the page still shows every board.

const boards = [...document.querySelectorAll("article.board")];
const choices = [...document.querySelectorAll("#boards-choices select")];
const ALL = "";

function chosen(board) {
  return choices.every((select) => select.value === ALL || board.dataset[select.name] === select.value);
}

function choose(changed) {
  // where no board fits all choices, keep the one just made and take the others from the nearest board
  if (changed && changed.value !== ALL && !boards.some(chosen)) {
    const fitting = boards.filter((board) => board.dataset[changed.name] === changed.value);
    const agreement = (board) => choices.filter((select) => board.dataset[select.name] === select.value).length;
    fitting.sort((a, b) => agreement(b) - agreement(a));
    for (const select of choices) select.value = fitting[0].dataset[select.name];
  }
  for (const board of boards) board.hidden = !chosen(board);
}

for (const select of choices) select.addEventListener("change", () => choose(select));
choose(null);

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const table = header.closest("table");
    const at = [...header.parentNode.children].indexOf(header);
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.children[at].dataset.value;
    for (const body of table.tBodies) {
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // what has no value stays last
        const order = header.classList.contains("number") ? x - y : x.localeCompare(y);
        return down ? -order : order;
      });
      body.append(...rows);
    }
  });
}

const box = document.getElementById("plot");
if (box) {
  const data = JSON.parse(document.getElementById("plot-data").textContent);
  const view = document.getElementById("plot-view");
  const metric = document.getElementById("plot-metric");
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon"];
  const LIGHT = ["#1d2126", "#0b62b0", "#b3470d", "#00795b", "#a13d86", "#7a6000", "#3f6fd8", "#8c2d2d"];
  const DARK = ["#e6e9ec", "#6cb2f2", "#f2a065", "#4fc9a2", "#e495c9", "#d9c252", "#9fb4ff", "#ef8f8f"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const MANY = 12; // more lines than this, and only some are drawn until the legend is clicked

  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const figure = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 6 });
  const safe = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function hover(label, point, unit) {
    const [n, value, low, high, m, processes, converged] = point;
    const interval = low === null ? "" : ` [${figure(low)}, ${figure(high)}]`;
    const size = `n = ${n.toLocaleString("en")}` + (m === n ? "" : `, m = ${m.toLocaleString("en")}`);
    const rests = `${processes} process${processes === 1 ? "" : "es"}${converged ? "" : ", stopped before it converged"}`;
    return `<b>${safe(label)}</b><br>${size}<br>${figure(value)} ${unit}${interval}<br>${rests}`;
  }

  function traces(shown, quantity, visible) {
    const seen = new Set();
    const places = [...new Set(shown.series.map((line) => line.place))];
    // at one length only, the points stand beside each other
    const apart = (line) => (shown.lengths.length > 1 ? 0 : 0.2 * ((places.indexOf(line.place) + 0.5) / places.length - 0.5));
    return shown.series.filter((line) => line.metric === quantity.name).map((line) => {
      const at = shown.patterns.indexOf(line.pattern);
      const axis = at ? String(at + 1) : "";
      const first = !seen.has(line.label);
      seen.add(line.label);
      const colour = (dark.matches ? DARK : LIGHT)[line.place % LIGHT.length];
      const column = (index) => line.points.map((point) => point[index]);
      const arm = (end) => line.points.map((point) => (point[2] === null ? 0 : Math.abs(point[end] - point[1])));
      return {
        type: "scatter", mode: "lines+markers", name: safe(line.label), legendgroup: safe(line.label),
        showlegend: first, legendrank: line.place + 1, xaxis: `x${axis}`, yaxis: `y${axis}`, y: column(1),
        x: column(0).map((n) => n * 10 ** apart(line)),
        error_y: { type: "data", symmetric: false, array: arm(3), arrayminus: arm(2), thickness: 1, width: 3 },
        line: { color: colour, width: 1.75, dash: line.kind === "ranked" ? "solid" : "dot" },
        marker: { color: colour, size: 7, symbol: SYMBOLS[(line.place + Math.floor(line.place / 8)) % 8] },
        visible: visible(line) ? true : "legendonly", hovertemplate: "%{text}<extra></extra>",
        text: line.points.map((point) => hover(line.label, point, quantity.unit)),
      };
    });
  }

  function layout(shown, quantity) {
    const wide = box.clientWidth > 720;
    const columns = wide && shown.patterns.length > 1 ? 2 : 1;
    const rows = Math.ceil(shown.patterns.length / columns);
    const every = Math.ceil(shown.lengths.length / (columns === 2 ? 6 : wide ? 12 : 5));
    const ticks = shown.lengths.filter((_, at) => (shown.lengths.length - 1 - at) % every === 0);
    const ends = [Math.log10(shown.lengths[0]) - 0.12, Math.log10(shown.lengths[shown.lengths.length - 1]) + 0.12];
    const text = style("--text"), grid = style("--grid");
    const made = {
      height: rows * 350 + (wide ? 90 : 240), margin: { l: 70, r: 10, t: 30, b: 60 }, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", 
      font: { color: text, family: getComputedStyle(document.body).fontFamily, size: 13 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--quiet"), activecolor: text },
      hoverlabel: { align: "left", bgcolor: style("--panel"), font: { color: text, size: 13 } }, annotations: [],
      legend: wide ? { x: 1.01, y: 1 } : { orientation: "h", y: -0.15 / rows, yanchor: "top" },
      grid: { rows, columns, pattern: "independent", xgap: 0.12, ygap: 0.2 }, uirevision: `${view.value} ${metric.value}`,
    };
    shown.patterns.forEach((pattern, at) => {
      const axis = at ? String(at + 1) : "";
      const low = at + columns >= shown.patterns.length, left = at % columns === 0;
      const common = { type: "log", gridcolor: grid, zeroline: false, automargin: true, linecolor: style("--rule") };
      made[`xaxis${axis}`] = {
        ...common, tickvals: ticks, ticktext: ticks.map((n) => n.toLocaleString("en")), range: ends, tickangle: 0,
        title: { text: low ? "queries n" : "", standoff: 8 }, ...(at ? { matches: "x" } : {}),
      };
      made[`yaxis${axis}`] = {
        ...common, title: { text: left ? quantity.title : "", standoff: 8 }, exponentformat: "none", tickformat: ",~r",
        range: quantity.range, ...(quantity.range[1] - quantity.range[0] > 1.5 ? { dtick: 1 } : { nticks: 8 }),
        ...(at ? { matches: "y" } : {}),
      };
      made.annotations.push({
        text: shown.titles[at], xref: `x${axis} domain`, yref: `y${axis} domain`, x: 0, y: 1.02, showarrow: false,
        xanchor: "left", yanchor: "bottom", font: { size: 14, color: text },
      });
    });
    return made;
  }

  let asked = null;
  function draw() {
    const shown = data.views[Number(view.value)];
    const known = metric.value;
    metric.replaceChildren(...shown.metrics.map((each) => new Option(each.title, each.name)));
    if (shown.metrics.some((each) => each.name === known)) metric.value = known;
    const quantity = shown.metrics.find((each) => each.name === metric.value);
    const lines = shown.series.filter((line) => line.metric === quantity.name);
    const end = (line) => line.points[line.points.length - 1];
    const lowest = [...lines].sort((a, b) => end(b)[0] - end(a)[0] || end(a)[1] - end(b)[1]).map((line) => line.label);
    const labels = [...new Set(["softmax", ...lowest])].filter((label) => lowest.includes(label));
    const few = new Set(labels.slice(0, MANY));
    const visible = (line) => (asked === null ? few.has(line.label) : asked);
    document.getElementById("plot-note").textContent = labels.length > MANY
      ? `${labels.length} mechanisms; softmax and the lowest at the greatest length are drawn. Click a name to show or hide it, twice to see it alone.`
      : "Click a name to show or hide it, twice to see it alone. Error bars: 95 % interval.";
    // named one by one: by default plotly offers to send the data to its makers
    const buttons = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
    const config = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtons: buttons };
    Plotly.react(box, traces(shown, quantity, visible), layout(shown, quantity), config);
  }
  const redraw = () => { asked = null; draw(); };
  view.addEventListener("change", redraw);
  metric.addEventListener("change", redraw);
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => { asked = button.dataset.show === "all"; draw(); });
  }
  dark.addEventListener("change", draw);
  let width = box.clientWidth;
  addEventListener("resize", () => {
    if ((box.clientWidth > 720) !== (width > 720)) draw();
    width = box.clientWidth;
  });
  draw();
}
