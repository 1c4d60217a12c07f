"use strict";
// Shows the chosen boards, sorts their tables and draws the plot. Without this script the page shows every board.

const boards = [...document.querySelectorAll("article.board")];
const selects = [...document.querySelectorAll("#boards-choices select")];
const ALL = "";

function isChosen(board) {
  return selects.every((select) => select.value === ALL || board.dataset[select.name] === select.value);
}

function showChosen(changedSelect) {
  // where no board has all chosen values, keep the last choice and take the others from the board that has most of them
  if (changedSelect && changedSelect.value !== ALL && !boards.some(isChosen)) {
    const candidates = boards.filter((board) => board.dataset[changedSelect.name] === changedSelect.value);
    const agreement = (board) => selects.filter((select) => board.dataset[select.name] === select.value).length;
    candidates.sort((a, b) => agreement(b) - agreement(a));
    for (const select of selects) select.value = candidates[0].dataset[select.name];
  }
  for (const board of boards) board.hidden = !isChosen(board);
}

for (const select of selects) select.addEventListener("change", () => showChosen(select));
showChosen(null);

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const table = header.closest("table");
    const column = [...header.parentNode.children].indexOf(header);
    const descending = header.getAttribute("aria-sort") === "ascending"; // a second click reverses the order
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const key = (row) => row.children[column].dataset.value;
    for (const body of table.tBodies) {
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === ""); // rows without a value stay last
        const order = header.classList.contains("number") ? x - y : x.localeCompare(y);
        return descending ? -order : order;
      });
      body.append(...rows);
    }
  });
}

const plot = document.getElementById("plot");
if (plot) {
  const data = JSON.parse(document.getElementById("plot-data").textContent);
  const viewSelect = document.getElementById("plot-view");
  const metricSelect = document.getElementById("plot-metric");
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "star", "triangle-down", "pentagon"];
  const LIGHT = ["#1d2126", "#0b62b0", "#b3470d", "#00795b", "#a13d86", "#7a6000", "#3f6fd8", "#8c2d2d"];
  const DARK = ["#e6e9ec", "#6cb2f2", "#f2a065", "#4fc9a2", "#e495c9", "#d9c252", "#9fb4ff", "#ef8f8f"];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const MAX_VISIBLE = 12; // of more mechanisms than this, only some are drawn until the legend is clicked
  const WIDE = 720; // pixels

  const cssVariable = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const format = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 6 });
  const escape = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const isWide = () => plot.clientWidth > WIDE;

  // a point is [n, value, low, high, m, processes, converged]; a series is one metric of one mechanism in one pattern
  function hoverText(label, point, unit) {
    const [n, value, low, high, m, processes, converged] = point;
    const interval = low === null ? "" : ` [${format(low)}, ${format(high)}]`;
    const lengths = `n = ${n.toLocaleString("en")}` + (m === n ? "" : `, m = ${m.toLocaleString("en")}`);
    const count = `${processes} process${processes === 1 ? "" : "es"}`;
    const note = converged ? "" : ", stopped before it converged";
    return `<b>${escape(label)}</b><br>${lengths}<br>${format(value)} ${unit}${interval}<br>${count}${note}`;
  }

  function traces(view, metric, isVisible) {
    const labelsInLegend = new Set();
    const orders = [...new Set(view.series.map((series) => series.order))];
    // with one length only, the mechanisms' points are drawn beside each other, in decades along the axis
    const offset = (series) =>
      view.lengths.length > 1 ? 0 : 0.2 * ((orders.indexOf(series.order) + 0.5) / orders.length - 0.5);
    return view.series.filter((series) => series.metric === metric.name).map((series) => {
      const panel = view.patterns.indexOf(series.pattern);
      const axis = panel ? String(panel + 1) : "";
      const showLegend = !labelsInLegend.has(series.label);
      labelsInLegend.add(series.label);
      const colour = (dark.matches ? DARK : LIGHT)[series.order % LIGHT.length];
      const column = (index) => series.points.map((point) => point[index]);
      const arm = (end) => series.points.map((point) => (point[2] === null ? 0 : Math.abs(point[end] - point[1])));
      return {
        type: "scatter", mode: "lines+markers", name: escape(series.label), legendgroup: escape(series.label),
        showlegend: showLegend, legendrank: series.order + 1, xaxis: `x${axis}`, yaxis: `y${axis}`, y: column(1),
        x: column(0).map((n) => n * 10 ** offset(series)),
        error_y: { type: "data", symmetric: false, array: arm(3), arrayminus: arm(2), thickness: 1, width: 3 },
        line: { color: colour, width: 1.75, dash: series.kind === "ranked" ? "solid" : "dot" },
        marker: { color: colour, size: 7, symbol: SYMBOLS[(series.order + Math.floor(series.order / 8)) % 8] },
        visible: isVisible(series) ? true : "legendonly", hovertemplate: "%{text}<extra></extra>",
        text: series.points.map((point) => hoverText(series.label, point, metric.unit)),
      };
    });
  }

  // one panel for each pattern
  function layout(view, metric) {
    const wide = isWide();
    const columns = wide && view.patterns.length > 1 ? 2 : 1;
    const rows = Math.ceil(view.patterns.length / columns);
    const tickStep = Math.ceil(view.lengths.length / (columns === 2 ? 6 : wide ? 12 : 5));
    const ticks = view.lengths.filter((_, index) => (view.lengths.length - 1 - index) % tickStep === 0);
    const range = [Math.log10(view.lengths[0]) - 0.12, Math.log10(view.lengths[view.lengths.length - 1]) + 0.12];
    const text = cssVariable("--text"), grid = cssVariable("--grid");
    const result = {
      height: rows * 350 + (wide ? 90 : 240), margin: { l: 70, r: 10, t: 30, b: 60 }, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: getComputedStyle(document.body).fontFamily, size: 13 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: cssVariable("--quiet"), activecolor: text },
      hoverlabel: { align: "left", bgcolor: cssVariable("--panel"), font: { color: text, size: 13 } }, annotations: [],
      legend: wide ? { x: 1.01, y: 1 } : { orientation: "h", y: -0.15 / rows, yanchor: "top" },
      grid: { rows, columns, pattern: "independent", xgap: 0.12, ygap: 0.2 },
      uirevision: `${viewSelect.value} ${metricSelect.value}`,
    };
    view.patterns.forEach((pattern, panel) => {
      const axis = panel ? String(panel + 1) : "";
      const lowest = panel + columns >= view.patterns.length, leftmost = panel % columns === 0;
      const linecolor = cssVariable("--rule");
      const common = { type: "log", gridcolor: grid, zeroline: false, automargin: true, linecolor };
      result[`xaxis${axis}`] = {
        ...common, tickvals: ticks, ticktext: ticks.map((n) => n.toLocaleString("en")), range, tickangle: 0,
        title: { text: lowest ? "queries n" : "", standoff: 8 }, ...(panel ? { matches: "x" } : {}),
      };
      const decades = metric.range[1] - metric.range[0];
      result[`yaxis${axis}`] = {
        ...common, title: { text: leftmost ? metric.title : "", standoff: 8 }, exponentformat: "none",
        tickformat: ",~r", range: metric.range, ...(decades > 1.5 ? { dtick: 1 } : { nticks: 8 }),
        ...(panel ? { matches: "y" } : {}),
      };
      result.annotations.push({
        text: view.titles[panel], xref: `x${axis} domain`, yref: `y${axis} domain`, x: 0, y: 1.02, showarrow: false,
        xanchor: "left", yanchor: "bottom", font: { size: 14, color: text },
      });
    });
    return result;
  }

  let allVisible = null; // true or false after a click on "show all" or "hide all"
  function draw() {
    const view = data.views[Number(viewSelect.value)];
    const previousMetric = metricSelect.value;
    metricSelect.replaceChildren(...view.metrics.map((metric) => new Option(metric.title, metric.name)));
    if (view.metrics.some((metric) => metric.name === previousMetric)) metricSelect.value = previousMetric;
    const metric = view.metrics.find((each) => each.name === metricSelect.value);
    const drawn = view.series.filter((series) => series.metric === metric.name);
    // softmax first, then the lowest value at the greatest length
    const last = (series) => series.points[series.points.length - 1];
    const byCost = [...drawn].sort((a, b) => last(b)[0] - last(a)[0] || last(a)[1] - last(b)[1]);
    const drawnLabels = byCost.map((series) => series.label);
    const labels = [...new Set(["softmax", ...drawnLabels])].filter((label) => drawnLabels.includes(label));
    const visibleLabels = new Set(labels.slice(0, MAX_VISIBLE));
    const isVisible = (series) => (allVisible === null ? visibleLabels.has(series.label) : allVisible);
    const howTo = "Click a name to show or hide it, twice to see it alone.";
    document.getElementById("plot-note").textContent = labels.length > MAX_VISIBLE
      ? `${labels.length} mechanisms; softmax and the lowest at the greatest length are drawn. ${howTo}`
      : `${howTo} Error bars: 95 % interval.`;
    // the buttons are listed because plotly's default ones include one that sends the data to its makers
    const buttons = [["toImage"], ["zoom2d", "pan2d", "resetScale2d"]];
    const config = { responsive: true, displaylogo: false, showSendToCloud: false, modeBarButtons: buttons };
    Plotly.react(plot, traces(view, metric, isVisible), layout(view, metric), config);
  }
  const drawAnew = () => { allVisible = null; draw(); };
  viewSelect.addEventListener("change", drawAnew);
  metricSelect.addEventListener("change", drawAnew);
  for (const button of document.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => { allVisible = button.dataset.show === "all"; draw(); });
  }
  dark.addEventListener("change", draw);
  let wasWide = isWide();
  addEventListener("resize", () => {
    if (isWide() !== wasWide) draw();
    wasWide = isWide();
  });
  draw();
}
