"use strict";
// Decodes the data, keeps the state in the address, and draws one tab at a time. Text from the data is only ever set as
// text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const TABS = ["Board", "Lengths", "Trade-off", "Patterns", "Compare", "Training", "Aggregate", "Failures", "Quality", "Machine and methods", "Published"];
const HIGHLIGHTED = 8; // lines of a plot that have a colour and a name
const FIRST_LINES = 40; // of a board, more than a screen holds
const MANY = 6; // more values than these are a list to choose from, not buttons
const MEMORY = ["peak_allocated", "peak_reserved", "peak_resident"];
const BUTTONS_FIRST = ["task", "pattern", "length", "pass"];
const SHOW = ["native", "extension", "leaky", "controls"];
const HIDDEN_BY_DEFAULT = ["leaky"];
const NAMES = { length: "n", data_source: "data", task_version: "task version" };
const PATTERN_TITLES = { NS: "noncausal self", CS: "causal self", NC: "noncausal cross", CC: "causal cross" };
const DERIVED = ["rank_by_flops", "longest_n", "tokens_per_second", "state", "score_at_equal_state", "error_over_softmax", "efficiency_length"];
const FAILED = ["wrong", "error", "timeout", "oom"];

// ---- elements -------------------------------------------------------------------------------------------------------
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined && child !== "") element.append(child);
  return element;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// ---- numbers --------------------------------------------------------------------------------------------------------
// A format is made once: toLocaleString with options makes one at each call.
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const THREE_DIGITS = new Intl.NumberFormat("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const AT_MOST_THREE_DIGITS = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
function digits(value) {
  if (value === null) return "";
  const size = Math.abs(value);
  if (size >= 99.95 || size === 0) return WHOLE.format(value);
  if (size < 1e-6) return value.toExponential(1);
  return THREE_DIGITS.format(value);
}
const shown = (metric, value) => (metric.unit === "%" ? (value / metric.factor).toFixed(1) : digits(value / metric.factor));
// For other programs: all the digits that the page has, in the unit of the column's head.
const plainNumber = (value) => `${Number(value.toPrecision(5))}`;
const withUnit = (metric, value) => `${shown(metric, value)}${metric.unit ? ` ${metric.unit}` : ""}`;
const lengthText = (text) => text.split(":").map((n) => Number(n).toLocaleString("en")).join(" ← ");
const words = (name) => name.replace(/_/g, " ").replace("flops", "FLOPs");

function relative(cell) {
  if (cell.low === null || cell.high === null || !cell.value) return null;
  return Math.max(cell.value - cell.low, cell.high - cell.value) / Math.abs(cell.value);
}
function percent(share) {
  if (share === null) return "";
  return share >= 9.99 ? ">999" : share >= 0.0995 ? (100 * share).toFixed(0) : (100 * share).toFixed(1);
}
const low = (cell) => (cell.low === null ? cell.value : cell.low);
const high = (cell) => (cell.high === null ? cell.value : cell.high);
const isUnknown = (cell) => cell.status === "no interval";
const overlap = (a, b) => isUnknown(a) || isUnknown(b) || (low(a) <= high(b) && low(b) <= high(a));

// The ratio of two positive values with its interval: the half-widths of the logs are added as squares.
function ratio(above, below) {
  if (!above || !below || !(above.value > 0) || !(below.value > 0)) return null;
  const arm = (cell, end) => Math.abs(Math.log(end / cell.value));
  const value = above.value / below.value;
  // an end that is not positive has no log
  if (isUnknown(above) || isUnknown(below) || Math.min(low(above), low(below)) <= 0) return { value, low: null, high: null };
  return {
    value,
    low: value * Math.exp(-Math.hypot(arm(above, low(above)), arm(below, high(below)))),
    high: value * Math.exp(Math.hypot(arm(above, high(above)), arm(below, low(below)))),
  };
}

// How many times as good as softmax's line: as the meter latency_ratio measured it, both in turn in one process, where a
// board of the same question has that; or else the ratio of the two medians.
function besideOf(board, reference) {
  board.beside = board.beside || new Map();
  if (board.beside.has(reference)) return board.beside.get(reference);
  const [mechanism, , backend] = data.identities[reference.identity], cells = new Map();
  if (board.headline.name === "latency") for (const other of boards) if (other.twin === board.twin && other.baseline === `${mechanism} ${backend}`) {
    for (const line of other.lines) if ((valued(line, "latency_ratio") || {}).value > 0) cells.set(`${line.identity} ${line.grade}`, valued(line, "latency_ratio"));
  }
  board.beside.set(reference, cells);
  return cells;
}
const inverse = (end) => (end === null ? null : 1 / end);
function timesSoftmax(line, reference) {
  const { board } = line, { name } = board.headline, measured = valued(line, name) && besideOf(board, reference).get(`${line.identity} ${line.grade}`);
  if (measured) return { value: 1 / measured.value, low: inverse(measured.high), high: inverse(measured.low), how: `measured side by side with ${[0, 2].map((i) => data.identities[reference.identity][i]).join(" ")}` };
  const times = ratio(valued(reference, name), valued(line, name));
  return times && { ...times, how: "from the processes' medians, not measured side by side" };
}
const intervalText = (times) => (times.low === null || times.high === null ? "" : `[${digits(times.low)}, ${digits(times.high)}]`);

// ---- data -----------------------------------------------------------------------------------------------------------
async function unpacked() {
  const text = atob(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

function boardsOf(data) {
  const boards = [];
  let lineIndex = 0, cellIndex = 0;
  const names = Object.keys(data.properties);
  data.boards.lines.forEach((count, i) => {
    const board = {
      command: data.commands[data.boards.command[i]], curve: data.boards.curve[i], configuration: data.boards.configuration[i], twin: data.boards.twin[i], baseline: data.texts[data.boards.baseline[i]], n: data.boards.n[i], m: data.boards.m[i],
      headline: data.metrics[data.boards.headline[i]], note: data.texts[data.boards.note[i]], legend: data.texts[data.boards.legend[i]], lines: [], metrics: new Map(),
    };
    names.forEach((name, column) => { board[name] = data.properties[name][data.boards.properties[column][i]]; });
    for (let k = 0; k < count; k++, lineIndex++) {
      const from = data.lines;
      const line = {
        label: data.texts[from.label[lineIndex]], identity: from.identity[lineIndex], grade: data.texts[from.grade[lineIndex]],
        kind: data.kinds[from.kind[lineIndex]], atFloor: from.floor[lineIndex] === 1, cases: from.cases[lineIndex],
        seeds: data.texts[from.seeds[lineIndex]], laws: data.texts[from.laws[lineIndex]], board, firstCell: cellIndex, cellCount: from.cells[lineIndex],
      };
      cellIndex += line.cellCount;
      board.lines.push(line);
    }
    boards.push(board);
  });
  return boards;
}

// Cells are made when their board is looked at.
function cellsOf(line) {
  if (line.cells) return line.cells;
  line.cells = new Map();
  const from = data.cells;
  for (let i = line.firstCell; i < line.firstCell + line.cellCount; i++) {
    const metric = data.metrics[from.metric[i]], value = from.value[i];
    const end = (steps, sign) => {
      if (steps === -1 || value === null) return null;
      return typeof steps === "string" ? Number(steps) : value + sign * steps * data.intervalStep * Math.abs(value);
    };
    line.cells.set(metric.name, {
      value, low: end(from.low[i], -1), high: end(from.high[i], 1), status: data.texts[from.status[i]], seeds: from.seeds[i],
      processes: from.processes[i], counted: from.counted[i] === 1, reasons: data.texts[from.reasons[i]], metric,
    });
  }
  return line.cells;
}
const cellOf = (line, name) => (line ? cellsOf(line).get(name) : undefined);
const valued = (line, name) => { const cell = cellOf(line, name); return cell && cell.value !== null ? cell : undefined; };
function metricsOf(board) {
  if (!board.metrics.size) for (const line of board.lines) for (const cell of cellsOf(line).values()) board.metrics.set(cell.metric.name, cell.metric);
  return [...board.metrics.values()];
}
const memoryOf = (line) => MEMORY.map((name) => valued(line, name)).find(Boolean);

// ---- state, which the address keeps -----------------------------------------------------------------------------------
let data, boards, properties, wins;
const state = {};
function readAddress() {
  for (const key of Object.keys(state)) delete state[key];
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) state[key] = value;
}
function set(changes) {
  for (const [key, value] of Object.entries(changes)) if (value === null || value === "") delete state[key]; else state[key] = value;
  history.replaceState(null, "", `#${new URLSearchParams(state)}`);
  render();
}
const hidden = () => (state.hide === undefined ? HIDDEN_BY_DEFAULT : state.hide.split(","));

const comparesSome = (board) => board.lines.some((line) => line.kind === "ranked" && line.label.split(" ")[0] !== "softmax");

// The board that has all chosen values; where none has, the last choice counts, then as many others as possible.
function chosenBoard(last) {
  let best = null, bestPoints = -1;
  for (const board of boards) {
    let points = 0;
    for (const name of properties) if (state[name] === board[name]) points += name === last ? 1000 : name === "task" ? 100 : 10;
    points += (board.headline.score && !state.task && comparesSome(board) ? 1 : 0) + board.lines.length / 1e4 + Math.log2(board.n + 1) / 1e3;
    if (points > bestPoints) [best, bestPoints] = [board, points];
  }
  return best;
}
let current;
function choose(name, value) {
  state[name] = value;
  const board = chosenBoard(name);
  const changes = {};
  for (const property of properties) changes[property] = board[property];
  delete state.open;
  set(changes);
}

// What is typed into the box: words such as `pattern=CC n=2048 mem=64` choose, and the rest is a part of a name.
const ALIASES = { n: "length", seq_len: "length", memory: "mem" };
function ask(text) {
  const rest = [];
  for (const word of text.split(/\s+/)) {
    const [key, ...values] = word.split("="), name = ALIASES[key] || key, value = values.join("=").replace(name === "mem" ? /MiB$/ : /^$/, "");
    if (properties.includes(name) && boards.some((board) => board[name] === value)) choose(name, value);
    else if (name === "mem" && Number(value) > 0) set({ mem: Number(value) });
    else rest.push(word);
  }
  set({ find: rest.join(" ") });
}

// Boards that differ from the current one in nothing but some properties.
const siblings = (free) => boards.filter((board) => properties.every((name) => free.includes(name) || board[name] === current[name]));

function passes(line) {
  const off = hidden();
  if (line.kind === "control") { if (off.includes("controls")) return false; }
  else if (line.kind === "leaky") { if (off.includes("leaky")) return false; }
  else if (off.includes(line.grade)) return false;
  if (state.find && !line.label.toLowerCase().includes(state.find.toLowerCase())) return false;
  if (state.mem && line.kind === "ranked") {
    const memory = memoryOf(line);
    if (!memory || memory.value > Number(state.mem) * 2 ** 20) return false;
  }
  return true;
}

// Ranks, as ranges that the intervals allow, of the lines that pass the filters.
function ranked(board, counts = () => true) {
  const name = board.headline.name, sign = board.headline.higher === null ? 0 : board.headline.higher ? -1 : 1;
  const lines = board.lines.filter((line) => passes(line) && line.kind === "ranked" && valued(line, name) && counts(line));
  lines.sort((a, b) => sign * (valued(a, name).value - valued(b, name).value));
  const better = (a, b) => !overlap(a, b) && sign * (a.value - b.value) < 0;
  return lines.map((line) => {
    const cell = valued(line, name);
    const above = lines.filter((other) => better(valued(other, name), cell)).length;
    const below = lines.filter((other) => better(cell, valued(other, name))).length;
    return { line, cell, ranks: [1 + above, lines.length - below] };
  });
}
const rangeText = ([first, last]) => (first === last ? `${first}` : `${first}–${last}`);

// Softmax's lines, the fused one first; found once a board, because every line of it is compared with one.
function softmaxLines(board) {
  board.softmax = board.softmax || board.lines.filter((line) => line.label.split(" ")[0] === "softmax").sort((a, b) => b.label.endsWith("sdpa") - a.label.endsWith("sdpa"));
  return board.softmax;
}
// A label over all boards: that of one board leaves out what all its lines share.
const together = (line) => data.identities[line.identity][4];
const againstLabels = (board) => softmaxLines(board).map((line) => line.label);
const againstLine = (board) => softmaxLines(board).find((line) => line.label === state.against) || softmaxLines(board)[0];
function winsFrom(line, metric) {
  const reference = againstLine(line.board);
  if (!reference) return null;
  const [mechanism, , backend] = data.identities[reference.identity];
  const name = `${mechanism} ${backend}`;
  wins = wins || new Map([...data.wins].reverse().map((row) => [row.slice(0, 4).join("|"), row]));
  return wins.get([line.board.curve, line.identity, metric, name].join("|"));
}
function winsText(row) {
  if (!row) return "";
  const [, , , , answer, length, lowEnd, highEnd] = row;
  if (answer === "already") return `≤${highEnd.toLocaleString("en")}${lowEnd === null ? "" : " ?"}`;
  if (answer === "never") return `>${lowEnd.toLocaleString("en")}${highEnd === null ? "" : " ?"}`;
  return `${length.toLocaleString("en")} [${lowEnd === null ? "?" : lowEnd.toLocaleString("en")}, ${highEnd === null ? "?" : highEnd.toLocaleString("en")}]`;
}

// ---- frame ------------------------------------------------------------------------------------------------------------
function chips(name, values, text) {
  const buttons = values.map((value) => h("button", {
    type: "button", "aria-pressed": String(current[name] === value), "data-filter": name, "data-value": value, onclick: () => choose(name, value),
    title: name === "pattern" ? PATTERN_TITLES[value] : null,
  }, text(value)));
  return h("fieldset", {}, h("legend", {}, NAMES[name] || words(name)), buttons);
}
function list(label, name, values, selected, onchange, text = (value) => value) {
  const options = values.map((value) => h("option", { value, selected: value === selected }, text(value)));
  return h("label", { class: "field" }, label, h("select", { name, onchange: (event) => onchange(event.target.value) }, options));
}
const byNumber = (a, b) => parseFloat(a) - parseFloat(b) || (a < b ? -1 : 1);

let allFilters = false; // on a phone only the question is asked until more is wanted
function filters() {
  const question = [], controls = [];
  const ofTask = boards.filter((board) => board.task === current.task);
  for (const name of properties) {
    // what one task alone has, such as its data, is no choice
    let values = [...new Set((name === "task" ? boards : ofTask).map((board) => board[name]))];
    if (name === "length") values = [...new Set(siblings(["length"]).map((board) => board.length))].sort(byNumber);
    if (name === "pattern") values.sort((a, b) => Object.keys(PATTERN_TITLES).indexOf(a) - Object.keys(PATTERN_TITLES).indexOf(b));
    if (values.length < 2 && name !== "length") continue;
    const text = name === "length" ? lengthText : words;
    const group = BUTTONS_FIRST.includes(name) ? question : controls;
    if (BUTTONS_FIRST.includes(name) && values.length <= (name === "length" ? 9 : MANY)) group.push(chips(name, values, text));
    else group.push(list(NAMES[name] || words(name), name, values, current[name], (value) => choose(name, value), text));
  }
  const off = hidden();
  const present = SHOW.filter((name) => boards.some((board) => board.lines.some((line) => nameOfKind(line) === name)));
  const toggles = present.map((name) => h("button", {
    type: "button", "aria-pressed": String(!off.includes(name)), "data-show": name,
    onclick: () => set({ hide: (off.includes(name) ? off.filter((each) => each !== name) : [...off, name]).join(",") || "nothing" }),
  }, name));
  controls.push(h("fieldset", {}, h("legend", {}, "show"), toggles));
  const memories = current.lines.map(memoryOf).filter(Boolean).map((cell) => cell.value / 2 ** 20);
  if (memories.length) {
    const most = Math.ceil(Math.log2(Math.max(...memories, 1))), least = Math.floor(Math.log2(Math.max(Math.min(...memories), 0.01)));
    const number = h("input", { type: "number", name: "mem", min: 0, step: "any", placeholder: "any", value: state.mem, "aria-label": "memory at most, in MiB", onchange: (event) => set({ mem: event.target.value }) });
    const slider = h("input", { type: "range", min: least, max: most, step: 0.25, value: state.mem ? Math.log2(Number(state.mem)) : most, "aria-label": "memory at most, logarithmic",
      onchange: (event) => set({ mem: Number(event.target.value) >= most ? null : Number((2 ** Number(event.target.value)).toPrecision(3)) }) });
    controls.push(h("span", { class: "field" }, "memory ≤", number, "MiB", slider));
  }
  controls.push(h("label", { class: "field" }, "find", h("input", { type: "text", name: "find", value: state.find, placeholder: "name, pattern=CC", title: "a part of a name, or a whole question: pattern=CC n=2048 mem=64", onchange: (event) => ask(event.target.value) })));
  const against = againstLabels(current);
  if (against.length > 1) controls.push(list("against", "against", against, (againstLine(current) || {}).label, (value) => set({ against: value })));
  const chosen = ["mem", "find", "against", "hide"].filter((name) => state[name] !== undefined).length;
  const more = h("button", { type: "button", name: "more", class: "phone", "aria-expanded": String(allFilters), onclick: () => { allFilters = !allFilters; render(); } },
    allFilters ? "fewer filters" : `more filters${chosen ? ` (${chosen} set)` : ""}`);
  return h("div", { class: "filters", role: "group", "aria-label": "filters" }, question, more, h("div", { class: `more${allFilters ? " open-on-phone" : ""}` }, controls));
}
const nameOfKind = (line) => (line.kind === "control" ? "controls" : line.kind === "leaky" ? "leaky" : line.grade);

function head() {
  const tool = (text, title, onclick) => h("button", { type: "button", title, onclick }, text);
  const tools = h("div", { class: "tools" },
    tool("share", "the address of what is shown", () => dialog("The address of what is shown", location.href, "address.txt")),
    tool("csv", "this board as CSV", () => dialog("This board as CSV", tableText("csv"), "board.csv")),
    tool("md", "this board as Markdown", () => dialog("This board as Markdown", tableText("md"), "board.md")),
    tool("tex", "this board as LaTeX", () => dialog("This board as LaTeX", tableText("tex"), "board.tex")),
    tool("◐", "dark or light", () => { theme(!document.documentElement.classList.contains("dark")); }));
  return h("div", { class: "head" }, h("h1", {}, "cab"), h("p", { title: [data.summary, ...(data.commits.length > 1 ? [`commits ${data.commits.join(", ")}`] : [])].join("\n") }, data.summary), tools);
}
function theme(dark) { document.documentElement.classList.toggle("dark", dark); }

function dialog(title, text, file) {
  const area = h("textarea", { readonly: true, "aria-label": title, spellcheck: "false" });
  area.value = text;
  const box = h("dialog", { "aria-label": title, onclose: () => box.remove() }, h("h2", {}, title), area,
    h("p", {}, h("button", { type: "button", onclick: () => copy(text, area) }, "copy"), " ",
      h("button", { type: "button", onclick: () => download(text, file) }, "download"), " ",
      h("button", { type: "button", onclick: () => box.close() }, "close")));
  document.body.append(box);
  box.showModal();
  area.select();
}
function copy(text, area) {
  if (navigator.clipboard) navigator.clipboard.writeText(text).catch(() => area && area.select());
  else if (area) { area.select(); document.execCommand("copy"); }
}
function download(text, file) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  h("a", { href: address, download: file }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// The best of what needs no model or no other token (chance, none): a score has to exceed it.
function floorOf(board, metric) {
  if (!metric.score || metric.higher === null) return null;
  const controls = board.lines.filter((line) => line.kind === "control" && valued(line, metric.name));
  const floors = controls.filter((line) => line.grade === "floor" || data.identities[line.identity][0].split(" [")[0] === "none");
  const best = (floors.length ? floors : controls).map((line) => ({ line, cell: valued(line, metric.name) })).sort((a, b) => (metric.higher ? -1 : 1) * (a.cell.value - b.cell.value));
  return best[0] || null;
}
// How many pairs of a board's ranked lines its headline tells apart, as a share.
function apart(board) {
  if (board.apart !== undefined) return board.apart;
  const cells = board.lines.filter((line) => line.kind === "ranked").map((line) => valued(line, board.headline.name)).filter(Boolean);
  let pairs = 0, told = 0;
  cells.forEach((a, i) => cells.slice(i + 1).forEach((b) => { pairs += 1; told += overlap(a, b) ? 0 : 1; }));
  board.apart = pairs ? told / pairs : 0;
  return board.apart;
}
// A score of the same mechanism in this pattern, of the task that tells most mechanisms apart.
function scoreText(line) {
  const found = [];
  for (const board of boards) {
    if (!board.headline.score || board.headline.higher === null || board.pattern !== line.board.pattern || !comparesSome(board)) continue;
    const [mechanism] = data.identities[line.identity];
    const lines = board.lines.filter((each) => each.kind === "ranked" && data.identities[each.identity][0] === mechanism && valued(each, board.headline.name));
    if (lines.length) found.push({ board, line: lines.find((each) => each.identity === line.identity) || lines[0] });
  }
  const best = found.reduce((a, b) => (a && apart(a.board) >= apart(b.board) ? a : b), null);
  if (!best) return "";
  const { board } = best, { headline } = board, where = `${words(headline.name)} of ${together(best.line)}, n = ${lengthText(board.length)}; ${board.note}`;
  return h("span", { title: where }, `; ${words(board.task)} ${withUnit(headline, valued(best.line, headline.name).value)}${best.line.atFloor ? " (not above every floor)" : ""}`);
}

// ---- answer -----------------------------------------------------------------------------------------------------------
function answer() {
  const rows = ranked(current);
  if (!rows.length) return h("p", { class: "answer", id: "answer", "aria-live": "polite" }, "No mechanism passes the filters on this board.");
  const [best, ...others] = rows, headline = current.headline;
  const parts = [h("b", {}, best.line.label), `: ${withUnit(headline, best.cell.value)}`];
  if (best.cell.low !== null) parts.push(` [${shown(headline, best.cell.low)}, ${shown(headline, best.cell.high)}]`);
  const memory = memoryOf(best.line);
  if (memory) parts.push(`, ${withUnit(memory.metric, memory.value)}`);
  const reference = againstLine(current), other = valued(reference, headline.name);
  if (other && reference !== best.line && !headline.score) {
    const times = timesSoftmax(best.line, reference);
    if (times) parts.push(h("span", { title: times.how }, `; ${digits(times.value)}× ${headline.unit.endsWith("s") ? "as fast as" : "less than"} ${reference.label} ${intervalText(times)}`.trimEnd()));
  } else if (other && reference !== best.line) parts.push(`; ${reference.label} ${withUnit(headline, other.value)}`);
  if (!headline.score) parts.push(scoreText(best.line));
  const same = others.filter((row) => overlap(row.cell, best.cell));
  if (headline.higher === null) parts.push(`. ${words(headline.name)} has no direction: nothing is ranked by it.`);
  else if (others.length) {
    parts.push(same.length
      ? `. Not told apart from ${same.slice(0, 4).map((row) => row.line.label).join(", ")}${same.length > 4 ? ` and ${same.length - 4} more` : ""}.`
      : `. Told apart from the next, ${others[0].line.label}.`);
  }
  else parts.push(".");
  const where = `${words(current.task)}, ${PATTERN_TITLES[current.pattern] || current.pattern} (${current.pattern}), n = ${lengthText(current.length)}`;
  return h("p", { class: "answer", id: "answer", "aria-live": "polite" }, parts, h("span", { class: "quiet" }, ` ${where}${state.mem ? `, within ${state.mem} MiB` : ""}`));
}

// ---- board ------------------------------------------------------------------------------------------------------------
function axis(values, score) {
  const numbers = values.filter((value) => value !== null && Number.isFinite(value));
  let [from, to] = [Math.min(...numbers), Math.max(...numbers)];
  const logarithmic = !score && from > 0 && to > 4 * from;
  if (from === to) [from, to] = from ? [from - Math.abs(from) / 10, to + Math.abs(to) / 10] : [-1, 1];
  const change = (value) => (logarithmic ? Math.log(value) : value);
  const place = (value) => (logarithmic && value <= 0 ? -1 : (change(value) - change(from)) / (change(to) - change(from)));
  return { place, from, to, logarithmic, ticks: ticks(from, to, logarithmic) };
}
function ticks(from, to, logarithmic) {
  const result = [];
  if (logarithmic) {
    const dense = to / from < 100;
    for (let power = Math.floor(Math.log10(from)); power <= Math.log10(to); power++) for (const k of dense ? [1, 2, 5] : [1]) {
      const tick = k * 10 ** power;
      if (tick >= from * 0.999 && tick <= to * 1.001) result.push(tick);
    }
    const keep = Math.ceil(result.length / 7);
    return result.filter((_, i) => i % keep === 0);
  }
  const step0 = (to - from) / 5, size = 10 ** Math.floor(Math.log10(step0));
  const step = size * [1, 2, 5, 10].find((k) => k * size >= step0);
  for (let tick = Math.ceil(from / step) * step; tick <= to + step * 1e-9; tick += step) result.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  return result;
}

const WIDTH = 300, MARGIN = 9;
function bar(cell, scale, best, control) {
  if (!cell) return s("svg", { "aria-hidden": "true" });
  const x = (value) => MARGIN + (WIDTH - 2 * MARGIN) * Math.min(Math.max(scale.place(value), -0.02), 1.02);
  const parts = [s("path", { class: "grid", d: scale.ticks.map((tick) => `M${x(tick).toFixed(1)} 0V16`).join(""), "vector-effect": "non-scaling-stroke" })];
  const outside = scale.place(cell.value) < -0.001 || scale.place(cell.value) > 1.001;
  if (best) parts.push(s("rect", { class: "best-band", x: x(low(best)), width: Math.max(x(high(best)) - x(low(best)), 1.5), y: 0, height: 16 }));
  if (outside) {
    const left = scale.place(cell.value) < 0;
    parts.push(s("path", { class: "off", d: left ? "M1 8 L7 4 L7 12 Z" : `M${WIDTH - 1} 8 L${WIDTH - 7} 4 L${WIDTH - 7} 12 Z` }));
  } else {
    if (cell.low !== null) parts.push(s("line", { class: "interval", x1: x(cell.low), x2: x(cell.high), y1: 8, y2: 8 }));
    parts.push(dot(x(cell.value), control ? "quiet-stroke" : ""));
  }
  return s("svg", { viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: "none", "aria-hidden": "true" }, parts);
}
// A dot that stays round in a drawing that is stretched: the end of a stroke without length.
function dot(x, kind) {
  return s("path", { class: `dot-stroke ${kind}`, d: `M${x} 8h0.001`, "vector-effect": "non-scaling-stroke" });
}
const tickText = (value) => (Math.abs(value) >= 1e-6 || value === 0 ? AT_MOST_THREE_DIGITS.format(Number(value.toPrecision(3))) : value.toExponential(0));
function axisHead(scale, metric) {
  const labels = [];
  let last = -99;
  for (const tick of scale.ticks) {
    const x = MARGIN + (WIDTH - 2 * MARGIN) * scale.place(tick);
    if (x - last < 38) continue;
    last = x;
    const label = h("span", {}, tickText(tick / metric.factor));
    label.style.left = `${(100 * x) / WIDTH}%`;
    labels.push(label);
  }
  return h("div", { class: "ticks", "aria-hidden": "true" }, labels);
}

function columnsOf(board) {
  const headline = board.headline, metrics = metricsOf(board), reference = againstLine(board);
  const columns = [
    { key: headline.name, title: headline.title, best: headline.higher ? "descending" : "ascending", value: (line) => (valued(line, headline.name) || {}).value, text: (line) => cellText(line, headline.name), csv: (line) => cellNumber(line, headline.name) },
    { key: "half", title: headline.score ? "±" : "± %", best: "ascending", value: (line) => { const cell = valued(line, headline.name); return cell ? relative(cell) ?? undefined : undefined; },
      text: (line) => { const cell = valued(line, headline.name); if (!cell) return ""; if (isUnknown(cell)) return "no interval";
        return headline.score ? (cell.low === null ? "" : shown(headline, Math.max(cell.value - cell.low, cell.high - cell.value))) : percent(relative(cell)); } },
  ];
  if (reference && valued(reference, headline.name) && !headline.score) columns.push({
    key: "ratio", title: `× ${reference.label}`, best: "descending", wide: true, value: (line) => (timesSoftmax(line, reference) || {}).value,
    text: (line) => { const times = timesSoftmax(line, reference); return !times ? "" : times.how.startsWith("measured") ? `${digits(times.value)} ${intervalText(times)}`.trim() : digits(times.value); },
    csv: (line) => { const times = timesSoftmax(line, reference); return times ? plainNumber(times.value) : ""; },
    hover: (line) => { const times = timesSoftmax(line, reference); return times && [intervalText(times), times.how].filter(Boolean).join(", "); },
  });
  const memory = MEMORY.find((name) => metrics.some((metric) => metric.name === name));
  const rest = metrics.filter((metric) => metric.name !== headline.name && metric.name !== memory);
  const asked = state.columns ? state.columns.split(",") : null;
  const extra = asked || rest.filter((metric) => metric.score || metric.name === "flops" || metric.name === "latency" || metric.name === "latency_ratio" || metric.name === "parameters").map((metric) => metric.name);
  for (const metric of [...metrics.filter((each) => each.name === memory), ...rest.filter((each) => extra.includes(each.name))]) columns.push({
    key: metric.name, title: metric.title, wide: metric.name !== memory, best: metric.higher ? "descending" : "ascending",
    value: (line) => (valued(line, metric.name) || {}).value, text: (line) => cellText(line, metric.name), csv: (line) => cellNumber(line, metric.name),
  });
  columns.push(...derivedColumns(board, asked));
  return columns;
}
// Columns that follow from other lengths, columns or boards: those that were asked for, or else those that say something.
function derivedColumns(board, asked) {
  return [...rankByFlops(board), ...longestInMemory(board, Boolean(asked)), ...tokensPerSecond(board), ...scoreAtEqualState(board), ...errorOverSoftmax(board), ...efficiencyLength(board)].filter((column) => !asked || asked.includes(column.key));
}
// Decoded tokens a second, of the whole batch: the latency is that of one token of each sequence.
function tokensPerSecond(board) {
  if (board.pass !== "decode") return [];
  const rate = (line) => { const cell = valued(line, "latency"); return cell && cell.value ? board.batch / cell.value : undefined; };
  if (board.lines.every((line) => rate(line) === undefined)) return [];
  return [{ key: "tokens_per_second", title: "tokens/s", best: "descending", wide: true, value: rate, text: (line) => (rate(line) === undefined ? "" : digits(rate(line))) }];
}
// The error on corrupted inputs by softmax's on the same corruptions: ImageNet-C's corruption error.
function errorOverSoftmax(board) {
  const [reference] = softmaxLines(board).map((line) => valued(line, "corrupted_error")).filter((cell) => cell && cell.value);
  const ratio = (line) => { const cell = reference && valued(line, "corrupted_error"); return cell ? cell.value / reference.value : undefined; };
  if (board.lines.filter((line) => ratio(line) !== undefined).length < 2) return [];
  return [{ key: "error_over_softmax", title: "error over softmax's", best: "ascending", wide: true, value: ratio, text: (line) => (ratio(line) === undefined ? "" : `${digits(ratio(line))}×`) }];
}
function efficiencyLength(board) {
  const { headline } = board, reference = againstLine(board);
  if (!reference || lengthsOfCurve(board).length < 2 || headline.score) return [];
  return [{ key: "efficiency_length", title: "wins from n", wide: true, best: "ascending", value: (line) => { const row = winsFrom(line, headline.name); return row ? (row[4] === "already" ? row[7] / 2 : row[4] === "never" ? row[6] * 1e6 : row[5]) : undefined; },
    text: (line) => winsText(winsFrom(line, headline.name)) }];
}
// The rank by FLOPs, marked where it and that by latency among the same lines have no rank in common.
function rankByFlops(board) {
  if (board.headline.name !== "latency") return [];
  const rows = ranked(board, (line) => valued(line, "flops")), flops = new Map(rows.map(({ line }) => [line, valued(line, "flops")]));
  if (flops.size < 2) return [];
  const all = [...flops.values()].map((cell) => cell.value);
  const ranges = new Map([...flops].map(([line, cell]) => [line, [1 + all.filter((value) => value < cell.value).length, all.filter((value) => value <= cell.value).length]]));
  const rangeOf = (line) => ranges.get(line);
  const ranks = new Map(rows.map((row) => [row.line, row.ranks]));
  const differs = (line) => { const [first, last] = rangeOf(line), [from, to] = ranks.get(line); return first > to || last < from; };
  return [{ key: "rank_by_flops", title: "rank by FLOPs", best: "ascending", wide: true, value: (line) => (flops.has(line) ? rangeOf(line)[0] : undefined),
    text: (line) => (flops.has(line) ? `${rangeText(rangeOf(line))}${flops.get(line).counted ? "*" : ""}${differs(line) ? " ≠" : ""}` : ""),
    hover: (line) => (flops.has(line) && differs(line) ? "FLOPs and latency order it differently: no rank is in both ranges" : null) }];
}
// The longest measured n that fits: within the limit on memory, or where memory ran out on this curve.
function longestInMemory(board, asked) {
  const curve = lengthsOfCurve(board).sort((a, b) => a.n - b.n);
  const lineOn = (other, line) => other.lines.find((each) => each.identity === line.identity && each.grade === line.grade);
  const ranOut = (line) => line && (line.ranOut ??= [...MEMORY, line.board.headline.name].some((name) => (cellOf(line, name) || {}).status === "oom"));
  if (curve.length < 2 || !(asked || state.mem || curve.some((other) => other.lines.some(ranOut)))) return [];
  const limit = state.mem ? Number(state.mem) * 2 ** 20 : Infinity;
  const longest = (line) => {
    const lengths = curve.map((other) => [other.n, lineOn(other, line)]).filter(([, each]) => each && (ranOut(each) || memoryOf(each) || (!state.mem && valued(each, board.headline.name))));
    const fits = lengths.filter(([, each]) => (state.mem && memoryOf(each) ? memoryOf(each).value <= limit : !ranOut(each)));
    return lengths.length ? { n: fits.length ? fits[fits.length - 1][0] : 0, first: lengths[0][0], more: fits.length > 0 && fits[fits.length - 1] === lengths[lengths.length - 1] } : null;
  };
  if (!asked && board.lines.every((line) => { const found = longest(line); return !found || found.more; })) return []; // every measured n fits
  return [{ key: "longest_n", title: state.mem ? `longest n in ${state.mem} MiB` : "longest n in memory", best: "descending", wide: true,
    value: (line) => { const found = longest(line); return found ? found.n : undefined; },
    text: (line) => { const found = longest(line); return !found ? "" : !found.n ? `<${found.first.toLocaleString("en")}` : `${found.more ? "≥" : ""}${found.n.toLocaleString("en")}`; } }];
}
// The best score of the lines that keep no more state: what its memory of the past buys. The state is measured by
// decoding. All come from one board, because the bytes of two batches are not comparable: the board itself where it has
// two or more, or else that of the same configuration which has most.
function statesOf(board) {
  const stated = (other) => new Map(other.lines.map((line) => [line.identity, valued(line, "decode_state")]).filter(([, cell]) => cell));
  let from = board, most = stated(board);
  if (most.size < 2) for (const other of boards) if (other.configuration === board.configuration) {
    const states = stated(other);
    if (states.size > most.size) [from, most] = [other, states];
  }
  return [from, most];
}
function scoreAtEqualState(board) {
  const { headline } = board;
  if (!headline.score || headline.higher === null) return [];
  const [from, cells] = statesOf(board), lines = board.lines.filter((line) => line.kind === "ranked" && passes(line) && valued(line, headline.name) && cells.has(line.identity));
  if (lines.length < 2) return [];
  const states = new Map(lines.map((line) => [line, cells.get(line.identity).value]));
  const score = (line) => valued(line, headline.name).value, better = (a, b) => (headline.higher ? a > b : a < b);
  const best = (line) => lines.filter((other) => states.get(other) <= states.get(line)).reduce((a, b) => (better(score(b), score(a)) ? b : a), line);
  return [{ key: "state", title: "state", best: "ascending", wide: true, value: (line) => states.get(line), text: (line) => (states.has(line) ? withUnit(cells.get(line.identity).metric, states.get(line)) : ""),
      hover: (line) => (states.has(line) ? `what is kept while decoding; of batch ${from.batch}, level ${from.level}` : null) },
    { key: "score_at_equal_state", title: "best with no more state", best: headline.higher ? "descending" : "ascending", wide: true, value: (line) => (states.has(line) ? score(best(line)) : undefined),
      text: (line) => (states.has(line) ? `${shown(headline, score(best(line)))}${best(line) === line ? "" : ` ${best(line).label}`}` : ""),
      hover: (line) => (states.has(line) ? "the best score of the lines whose state while decoding is at most as large" : null) }];
}
const lengthsOfCurve = (board) => boards.filter((each) => each.curve === board.curve);
function cellText(line, name) {
  const cell = cellOf(line, name);
  if (!cell) return "";
  if (cell.value === null) return cell.status;
  return shown(cell.metric, cell.value) + (cell.counted ? "*" : "");
}
function cellNumber(line, name) {
  const cell = valued(line, name);
  return cell ? plainNumber(cell.value / cell.metric.factor) : cellText(line, name);
}

function orderedLines() {
  const rows = ranked(current), columns = columnsOf(current);
  const groups = [
    { name: "", lines: rows.map((row) => row.line) },
    { name: "without a value", lines: current.lines.filter((line) => line.kind === "ranked" && passes({ ...line, kind: "ranked", cells: cellsOf(line) }) && !valued(line, current.headline.name)) },
    { name: "controls: what they read does not depend on the queries, or they need no model; not ranked", lines: current.lines.filter((line) => line.kind === "control" && passes(line)) },
    { name: "leaky: outputs depend on tokens that the pattern forbids; not ranked", lines: current.lines.filter((line) => line.kind === "leaky" && passes(line)) },
  ];
  const column = columns.find((each) => each.key === state.sort);
  if (state.sort === "name" || column) {
    const reverse = state.dir === "reverse" ? -1 : 1;
    const order = (a, b) => {
      if (!column) return reverse * a.label.localeCompare(b.label);
      const [x, y] = [column.value(a), column.value(b)];
      if (x === undefined || y === undefined || x === null || y === null) return (x === undefined || x === null) - (y === undefined || y === null);
      return reverse * (column.best === "ascending" ? x - y : y - x);
    };
    for (const group of groups) group.lines.sort(order);
  }
  const ranks = new Map(rows.map((row) => [row.line, row.ranks]));
  return { groups, columns, ranks, rows };
}

function sortButton(key, title) {
  const active = state.sort === key;
  return h("button", { type: "button", "data-sort": key, onclick: () => set({ sort: key, dir: active && state.dir !== "reverse" ? "reverse" : null }) }, title, active ? (state.dir === "reverse" ? " ↑" : " ↓") : "");
}

function boardTab() {
  const { groups, columns, ranks, rows } = orderedLines();
  const headline = current.headline, best = rows.length ? rows[0].cell : null;
  const ends = rows.flatMap(({ cell }) => [cell.value, cell.low, cell.high]);
  const scale = axis(rows.length ? ends : [0, 1], headline.score);
  const sorted = (key) => (state.sort === key ? (state.dir === "reverse" ? "descending" : "ascending") : null);
  const heads = [
    h("th", { scope: "col", class: "rank" }, "rank"),
    h("th", { scope: "col", class: "name", "aria-sort": sorted("name") }, sortButton("name", "mechanism")),
    h("th", { scope: "col", class: "bar" }, h("span", { class: "spoken" }, headline.title, scale.logarithmic ? ", log axis" : ""), axisHead(scale, headline)),
    columns.map((column) => h("th", { scope: "col", class: `number${column.wide ? " wide" : ""}${column.key === "half" || MEMORY.includes(column.key) ? " middle" : ""}`, "aria-sort": sorted(column.key) }, sortButton(column.key, column.title))),
  ];
  const body = []; // what makes the rows of a line, one for each line
  for (const group of groups) {
    if (!group.lines.length) continue;
    if (group.name) body.push(() => h("tr", { class: "group" }, h("td", { colspan: 3 + columns.length }, group.name)));
    for (const line of group.lines) body.push(() => {
      const cell = valued(line, headline.name), isOpen = state.open === line.label;
      const tag = line.kind === "ranked" && line.grade !== "native" ? h("span", { class: "tag" }, line.grade === "extension" ? "ext" : line.grade) : "";
      const marked = best && cell && line.kind === "ranked" && (cell === best ? "best" : "");
      const toggle = () => set({ open: isOpen ? null : line.label });
      const row = h("tr", { class: "line", "data-label": line.label, onclick: (event) => { if (!event.target.closest("button")) toggle(); } },
        h("td", { class: "quiet rank" }, ranks.has(line) ? rangeText(ranks.get(line)) : ""),
        h("th", { scope: "row", class: "name", title: line.label }, h("button", { type: "button", "aria-expanded": String(isOpen), onclick: toggle }, line.label), tag),
        h("td", { class: "bar" }, bar(cell, scale, best, line.kind !== "ranked")),
        columns.map((column, i) => {
          const text = column.text(line), failed = column.key === headline.name && !cell ? (cellOf(line, headline.name) || {}).status : "";
          const floor = i === 0 && line.atFloor ? " ⌊" : "";
          return h("td", { class: `number${column.wide ? " wide" : ""}${column.key === "half" || MEMORY.includes(column.key) ? " middle" : ""} ${i === 0 ? marked || "" : ""} ${failed || ""}`, title: column.hover ? column.hover(line) : floor ? "not better than every floor" : null }, text, floor);
        }));
      return isOpen ? [row, h("tr", { class: "detail" }, h("td", { colspan: 3 + columns.length }, h("div", { class: "open", tabindex: 0, role: "region", "aria-label": `all of ${line.label}` }, detail(line))))] : [row];
    });
  }
  const counts = {};
  for (const line of current.lines) { const cell = cellOf(line, headline.name); if (cell && cell.value === null) counts[cell.status] = (counts[cell.status] || 0) + 1; }
  const failed = Object.entries(counts).map(([status, count]) => `${count} ${status}`).join(", ");
  return [
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "board" }, h("table", { class: "board" }, h("thead", {}, h("tr", {}, heads)), linesInTwoSteps(body))),
    h("p", { class: "quiet" }, `${current.note}. ${current.machine}. `, failed ? `Without a value: ${failed}. ` : "", "A row opens with all that was measured and the command that repeats it."),
    h("ul", { class: "quiet" }, current.legend.split("\n").filter(Boolean).map((text) => h("li", {}, text))),
    columnChoice(),
  ];
}
// The lines below the first screen are made after its frame is drawn, unless the reader has gone down to them.
function linesInTwoSteps(makers) {
  const first = scrollY > 0 || state.open ? makers.length : FIRST_LINES;
  const made = (some) => some.flatMap((make) => make()), tbody = h("tbody", {}, made(makers.slice(0, first)));
  if (makers.length > first) requestAnimationFrame(() => setTimeout(() => { if (tbody.isConnected) tbody.append(...made(makers.slice(first))); }));
  return tbody;
}
function columnChoice() {
  const metrics = metricsOf(current).filter((metric) => metric.name !== current.headline.name && !MEMORY.includes(metric.name));
  const choices = [...metrics.map((metric) => [metric.name, words(metric.name)]), ...derivedColumns(current, DERIVED).map((column) => [column.key, column.title])];
  if (choices.length < 2) return "";
  const on = columnsOf(current).map((column) => column.key);
  return h("fieldset", {}, h("legend", {}, "columns"), choices.map(([name, text]) => h("button", { type: "button", "data-column": name, "aria-pressed": String(on.includes(name)), onclick: () => {
    const names = choices.map(([each]) => each).filter((each) => (each === name ? !on.includes(name) : on.includes(each)));
    set({ columns: names.join(",") || "none" });
  } }, text)));
}

// The median of each process, for what several processes measured.
function mediansText(line, metric) {
  const values = line.cases.split(",").flatMap((id) => (data.medians[id] || []).filter(([name, machine]) => name === metric.name && machine === line.board.machine).flatMap((each) => each[2]));
  return values.length ? `processes: ${values.map((value) => shown(metric, value)).join(", ")}` : "";
}
function detail(line) {
  const [mechanism, params, backend] = data.identities[line.identity];
  const command = commandOf(line);
  const rows = [...cellsOf(line).values()].map((cell) => h("tr", {}, h("th", { scope: "row" }, words(cell.metric.name)),
    h("td", { class: "number" }, cell.value === null ? h("span", { class: cell.status }, cell.status) : withUnit(cell.metric, cell.value)),
    h("td", {}, cell.low === null || cell.value === null ? "" : `[${shown(cell.metric, cell.low)}, ${shown(cell.metric, cell.high)}]`),
    h("td", { class: "number" }, cell.processes > 1 ? `${cell.processes} processes` : "", cell.seeds > 1 ? ` ${cell.seeds} seeds` : ""),
    h("td", { class: "reason quiet" }, [mediansText(line, cell.metric), cell.reasons].filter(Boolean).join("; "))));
  const curve = lengthsOfCurve(line.board).sort((a, b) => a.n - b.n).map((board) => [board, board.lines.find((each) => each.identity === line.identity && each.grade === line.grade)]);
  const name = line.board.headline.name;
  const lengths = curve.length > 1 ? h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "n"), h("th", { scope: "col", class: "number" }, line.board.headline.title), h("th", { scope: "col" }, "95 % interval"))),
    h("tbody", {}, curve.map(([board, other]) => { const cell = cellOf(other, name); return h("tr", {}, h("th", { scope: "row" }, lengthText(board.length)),
      h("td", { class: "number" }, !cell ? "" : cell.value === null ? cell.status : shown(cell.metric, cell.value)), h("td", {}, cell && cell.value !== null && cell.low !== null ? `[${shown(cell.metric, cell.low)}, ${shown(cell.metric, cell.high)}]` : "")); }))) : "";
  const values = Object.entries(JSON.parse(params || "{}")).map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join(", ");
  return [
    command ? h("div", { class: "command" }, h("code", {}, command), h("button", { type: "button", onclick: (event) => { copy(command); event.target.textContent = "copied"; } }, "copy")) : "",
    h("div", { class: "columns" },
      h("table", {}, h("tbody", {}, rows)), lengths,
      h("div", {}, h("p", {}, `${mechanism}, backend ${backend || "none"}, ${line.grade}`), line.laws ? h("p", {}, h("b", {}, "Laws: "), line.laws) : "", h("p", {}, values || "no hyper-parameters"), h("p", { class: "quiet" }, line.board.machine),
        line.cases ? h("p", { class: "quiet" }, line.cases.split(",").map((id) => [h("code", {}, `cab results show ${id.slice(0, 12)}`), " ", h("code", {}, `cases/${id.slice(0, 2)}/${id}-*.json`), h("br")])) : "")),
  ];
}

const commandOf = (line) => (line.seeds ? `cab run ${data.identities[line.identity][3]} ${line.board.command} seed=${line.seeds}` : "");

function tableText(format) {
  const { groups, columns, ranks } = orderedLines();
  const heads = ["rank", "mechanism", ...columns.map((column) => column.title)];
  const rows = groups.flatMap((group) => group.lines.map((line) => [ranks.has(line) ? rangeText(ranks.get(line)) : line.kind === "ranked" ? "" : line.kind,
    line.label + (line.kind === "ranked" && line.grade !== "native" ? ` (${line.grade})` : ""), ...columns.map((column) => column.text(line))]));
  const about = `${current.task}, ${current.pattern}, n = ${lengthText(current.length)}; ${current.note}; ${current.machine}`;
  if (format === "csv") {
    const quote = (text) => (/[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    const safe = (text) => quote(/^[=+@\t\r]/.test(text) ? `'${text}` : text);
    const commands = ["command", ...groups.flatMap((group) => group.lines.map(commandOf))];
    const plain = (column, line) => (column.csv ? column.csv(line) : column.text(line).replace(/(?<=\d),(?=\d{3}(?!\d))/g, ""));
    const lines = groups.flatMap((group) => group.lines);
    const numbers = rows.map((row, i) => [...row.slice(0, 2), ...columns.map((column) => plain(column, lines[i]))]);
    return [heads, ...numbers].map((row, i) => [...row, commands[i]].map(safe).join(",")).join("\n") + "\n";
  }
  if (format === "md") {
    const escape = (text) => text.replace(/\\/g, "\\\\").replace(/([|<>*_`\[\]])/g, "\\$1").replace(/[\r\n]+/g, " ");
    const line = (row) => `| ${row.map(escape).join(" | ")} |`;
    return [line(heads), `| --- | --- |${" ---: |".repeat(columns.length)}`, ...rows.map(line), "", escape(about), ""].join("\n");
  }
  const escape = (text) => text.replace(/[\r\n]+/g, " ").replace(/[\\{}$&#^_%~×≤≥≠<>|±–←⌊]/g, (c) => ({ "\\": "\\textbackslash{}", "^": "\\^{}", "~": "\\~{}", "×": "$\\times$", "≤": "$\\le$", "≥": "$\\ge$", "≠": "$\\ne$", "<": "$<$", ">": "$>$", "|": "$|$", "⌊": "$\\lfloor$", "±": "$\\pm$", "–": "--", "←": "$\\leftarrow$" })[c] || `\\${c}`);
  const line = (row) => `${row.map(escape).join(" & ")} \\\\`;
  return [`% ${about.replace(/[\r\n]+/g, " ")}`, `\\begin{tabular}{rl${"r".repeat(columns.length)}}`, "\\toprule", line(heads), "\\midrule", ...rows.map(line), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}

// ---- plots ------------------------------------------------------------------------------------------------------------
function frame(width, height, xScale, yScale, xText, yText, xLabel, yLabel, parts, title) {
  const box = { left: 62, right: 8, top: 8, bottom: 40 };
  const x = (value) => box.left + (width - box.left - box.right - 105) * xScale.place(value);
  const y = (value) => height - box.bottom - (height - box.top - box.bottom) * yScale.place(value);
  const right = width - box.right - 105;
  const grid = [
    ...yScale.ticks.map((tick) => [s("line", { class: "grid", x1: box.left, x2: right, y1: y(tick), y2: y(tick) }), s("text", { class: "quiet-text", x: box.left - 6, y: y(tick) + 4, "text-anchor": "end" }, yText(tick))]),
    ...xScale.ticks.map((tick) => [s("line", { class: "grid", x1: x(tick), x2: x(tick), y1: box.top, y2: height - box.bottom }), s("text", { class: "quiet-text", x: x(tick), y: height - box.bottom + 16, "text-anchor": "middle" }, xText(tick))]),
    s("text", { class: "quiet-text", x: (box.left + right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel),
    s("text", { class: "quiet-text", x: 12, y: height / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${height / 2})` }, yLabel),
  ];
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": title }, grid, parts(x, y, right));
}
// Moves the names at the right end of lines apart, and up again where they would stand below the axis.
function spread(names, least, lowest) {
  names.sort((a, b) => a.y - b.y);
  for (let i = 1; i < names.length; i++) names[i].y = Math.max(names[i].y, names[i - 1].y + least);
  for (let i = names.length - 1, most = lowest; i >= 0; i--, most -= least) names[i].y = Math.min(names[i].y, most);
  return names;
}
// As wide as is asked for, or as the window: what is shrunk cannot be read.
const fitting = (width) => Math.max(Math.min(width, document.documentElement.clientWidth - 24), 320);
const brief = (text, most = 16) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function lengthsTab() {
  const group = siblings(["length", "pattern"]).filter((board) => board.n === board.m);
  const names = metricsOf(current).filter((metric) => group.some((board) => board.lines.some((line) => valued(line, metric.name))));
  const metric = names.find((each) => each.name === state.metric) || current.headline;
  const how = state.how || (metric.score ? "absolute" : "ratio");
  const patterns = [...new Set(group.map((board) => board.pattern))].sort((a, b) => Object.keys(PATTERN_TITLES).indexOf(a) - Object.keys(PATTERN_TITLES).indexOf(b));
  const lengths = [...new Set(group.map((board) => board.n))].sort((a, b) => a - b);
  if (lengths.length < 2) return h("p", {}, "Only one length was measured.");
  const series = new Map(); // pattern -> label -> points
  for (const board of group.sort((a, b) => a.n - b.n)) {
    const reference = valued(againstLine(board), metric.name);
    for (const line of board.lines) {
      if (!passesWithoutMemory(line) || line.kind !== "ranked") continue;
      const cell = valued(line, metric.name);
      if (!cell) continue;
      const point = how === "ratio" ? ratio(cell, reference) : { value: cell.value / metric.factor, low: low(cell) / metric.factor, high: high(cell) / metric.factor };
      if (!point || (!metric.score && !(point.value > 0))) continue;
      const of = series.get(board.pattern) || series.set(board.pattern, new Map()).get(board.pattern);
      (of.get(together(line)) || of.set(together(line), []).get(together(line))).push({ n: board.n, ...point });
    }
  }
  const all = [...series.values()].flatMap((of) => [...of.values()].flat());
  if (!all.length) return h("p", {}, "No value to draw.");
  // the best at the longest n over the patterns, and softmax
  const sums = new Map();
  for (const of of series.values()) for (const [label, points] of of) {
    const end = points[points.length - 1];
    if (end.n !== lengths[lengths.length - 1]) continue;
    const value = metric.score ? end.value : Math.log(end.value);
    const entry = sums.get(label) || [0, 0];
    sums.set(label, [entry[0] + value, entry[1] + 1]);
  }
  const order = [...sums].map(([label, [sum, count]]) => [label, (metric.higher ? -1 : 1) * sum / count, count]).sort((a, b) => b[2] - a[2] || a[1] - b[1]).map(([label]) => label);
  const softmax = softmaxLines(current).map(together), wanted = state.lines ? state.lines.split("|") : [];
  const highlighted = [...new Set([...softmax.slice(0, 2), ...wanted, ...order])].slice(0, HIGHLIGHTED);
  const xScale = axis(lengths, false);
  xScale.place = (n) => (Math.log(n) - Math.log(lengths[0])) / (Math.log(lengths[lengths.length - 1]) - Math.log(lengths[0]));
  const keep = Math.ceil(lengths.length / 8);
  xScale.ticks = lengths.filter((_, i) => (lengths.length - 1 - i) % keep === 0);
  const yScale = axis(all.map((point) => point.value).concat(how === "ratio" ? [1] : []), metric.score);
  const yLabel = how === "ratio" ? `${words(metric.name)}, × ${(againstLine(current) || {}).label}` : metric.title;
  const panels = patterns.filter((pattern) => series.has(pattern)).map((pattern) => {
    const of = series.get(pattern), title = `${PATTERN_TITLES[pattern] || pattern} (${pattern})`;
    const svg = frame(fitting(600), 330, xScale, yScale, (n) => n.toLocaleString("en"), tickText, "n", yLabel, (x, y, right) => {
      const parts = how === "ratio" ? [s("line", { class: "one", x1: 62, x2: right, y1: y(1), y2: y(1) })] : [];
      const path = (points) => points.map((point, i) => `${i ? "L" : "M"}${x(point.n).toFixed(1)} ${y(point.value).toFixed(1)}`).join("");
      for (const [label, points] of of) if (!highlighted.includes(label)) parts.push(s("path", { class: "other", d: path(points) }, s("title", {}, label)));
      const ends = [];
      highlighted.forEach((label, i) => {
        const points = of.get(label);
        if (!points) return;
        const clamp = (value, other) => (Number.isFinite(value) && value > 0 ? Math.min(Math.max(value, yScale.from), yScale.to) : other);
        if (points.every((point) => point.low !== null)) parts.push(s("path", { class: `band f${i}`, d: `${path(points.map((p) => ({ n: p.n, value: clamp(p.high, p.value) })))}L${path([...points].reverse().map((p) => ({ n: p.n, value: clamp(p.low, p.value) }))).slice(1)}Z` }));
        parts.push(s("path", { class: `line c${i}`, d: path(points) }, s("title", {}, label)));
        for (const point of points) parts.push(s("circle", { class: `f${i}`, cx: x(point.n), cy: y(point.value), r: 3 }, s("title", {}, `${label}, n = ${point.n.toLocaleString("en")}: ${digits(point.value)}${point.low === null ? "" : ` [${digits(point.low)}, ${digits(point.high)}]`}`)));
        ends.push({ label, i, y: y(points[points.length - 1].value) + 4 });
      });
      for (const end of spread(ends, 13, 330 - 44)) parts.push(s("text", { class: `f${end.i}`, x: right + 6, y: end.y }, brief(end.label), s("title", {}, end.label)));
      return parts;
    }, `${yLabel} by n, ${title}`);
    return h("figure", {}, h("figcaption", {}, title), svg);
  });
  const table = winsTable(metric);
  return [
    h("div", { class: "filters" }, list("metric", "metric", names.map((each) => each.name), metric.name, (value) => set({ metric: value }), words),
      h("fieldset", {}, h("legend", {}, "as"), [["ratio", "ratio to softmax"], ["absolute", "measured"]].map(([value, text]) => h("button", { type: "button", "aria-pressed": String(how === value), onclick: () => set({ how: value }) }, text)))),
    h("p", { class: "quiet" }, `${HIGHLIGHTED} lines have a colour: softmax and the best over the patterns at the longest n; the others are grey, and named under the pointer. Bands: 95 % intervals.`),
    h("div", { class: "panels" }, panels), table,
  ];
}
function passesWithoutMemory(line) {
  const mem = state.mem;
  delete state.mem;
  const result = passes(line);
  if (mem !== undefined) state.mem = mem;
  return result;
}
function winsTable(metric) {
  const lines = current.lines.filter((line) => line.kind === "ranked" && passesWithoutMemory(line)).map((line) => [line, winsFrom(line, metric.name)]).filter(([, row]) => row);
  if (!lines.length) return "";
  const lengths = lengthsOfCurve(current).map((board) => board.n).sort((a, b) => a - b);
  const [first, last] = [lengths[0], lengths[lengths.length - 1]];
  const x = (n) => 30 + 540 * (Math.log(n) - Math.log(first)) / (Math.log(last) - Math.log(first));
  const key = ([, row]) => (row[4] === "already" ? 0 : row[4] === "never" ? 1e12 : row[5]);
  lines.sort((a, b) => key(a) - key(b) || a[0].label.localeCompare(b[0].label));
  const rows = lines.map(([line, row]) => {
    const [, , , , answer, length, lowEnd, highEnd] = row;
    const parts = lengths.map((n) => s("line", { class: "grid", x1: x(n), x2: x(n), y1: 0, y2: 16 }));
    if (answer === "already") parts.push(s("path", { class: lowEnd === null ? "front-dot" : "hollow", d: `M${x(first) - 12} 8 l9 -4.5 v9 z` }));
    else if (answer === "never") parts.push(s("path", { class: highEnd === null ? "off" : "hollow", d: `M${x(last) + 12} 8 l-9 -4.5 v9 z` }));
    else parts.push(s("line", { class: "interval", x1: lowEnd === null ? x(first) - 12 : x(lowEnd), x2: highEnd === null ? x(last) + 12 : x(highEnd), y1: 8, y2: 8 }), dot(x(length), "accent-stroke"));
    return h("tr", {}, h("th", { scope: "row", class: "name" }, line.label), h("td", { class: "bar" }, s("svg", { viewBox: "0 0 600 16", preserveAspectRatio: "none", "aria-hidden": "true" }, parts)), h("td", { class: "number" }, winsText(row)));
  });
  return [h("h2", {}, `From which n ${words(metric.name)} is lower than that of ${(againstLine(current) || {}).label}, ${PATTERN_TITLES[current.pattern] || current.pattern} (${current.pattern}), ${words(current.pass)}`),
    h("p", { class: "quiet" }, `Measured at ${lengths.map((n) => n.toLocaleString("en")).join(", ")}. At least two lengths; between two of them interpolated on the logs. Arrow: open end; hollow or “?”: the intervals overlap, so that it is not certain.`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "wins from" }, h("table", { class: "board wins" }, h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "name" }, "mechanism"), h("th", { scope: "col" }, `n, log axis, ${first.toLocaleString("en")} to ${last.toLocaleString("en")}`), h("th", { scope: "col", class: "number" }, "wins from n"))), h("tbody", {}, rows)))];
}

// A score of another board of this pattern, by mechanism: the longest length of each task.
function scoreBoards() {
  const result = new Map();
  for (const board of boards) if (board.headline.score && board.pattern === current.pattern && board !== current) {
    const name = `${board.task}: ${words(board.headline.name)}`;
    if (!result.has(name) || result.get(name).n < board.n) result.set(name, board);
  }
  return result;
}
// Costs of other boards, for a board whose lines lack them: the state while decoding; and for a board of scores what the
// same lines (mechanism, hyper-parameters and backend) cost on the boards of speed of this pattern, one board for each
// pass: on the same machine if there is one, then that with most of these lines, then that with the nearest n.
function costsElsewhere() {
  const costs = [], [from, states] = statesOf(current), shared = new Set(current.lines.map((line) => line.identity));
  if (from !== current && states.size) costs.push({ key: "decode_state", metric: [...states.values()][0].metric, board: from, of: (line) => states.get(line.identity) });
  if (!current.headline.score) return costs;
  const best = new Map(), near = (board) => -Math.abs(Math.log(board.n / current.n));
  for (const board of boards) {
    if (board.headline.score || board.task !== "speed" || board.pattern !== current.pattern) continue;
    const points = [board.machine === current.machine ? 1 : 0, board.lines.filter((line) => shared.has(line.identity) && valued(line, board.headline.name)).length, near(board)];
    const held = best.get(board.pass), i = held ? points.findIndex((each, k) => each !== held.points[k]) : 0;
    if (points[1] && (!held || (i >= 0 && points[i] > held.points[i]))) best.set(board.pass, { board, points });
  }
  for (const { board } of best.values()) {
    const lines = new Map(board.lines.map((line) => [line.identity, line]));
    for (const metric of metricsOf(board)) if (!metric.score) costs.push({ key: `${board.task} ${board.pass}: ${metric.name}`, metric, board, of: (line) => valued(lines.get(line.identity), metric.name) });
  }
  return costs;
}
function tradeoffTab() {
  const own = metricsOf(current).filter((metric) => current.lines.some((line) => (valued(line, metric.name) || {}).value > 0 || metric.score));
  const elsewhere = scoreBoards();
  const ownCosts = own.filter((metric) => !metric.score), ys = [...own.filter((metric) => metric.score).map((metric) => metric.name), ...elsewhere.keys(), ...ownCosts.map((metric) => metric.name)];
  const xs = [...ownCosts.map((metric) => ({ key: metric.name, metric, of: (line) => valued(line, metric.name) })), ...costsElsewhere()];
  if (!xs.length || !ys.some((name) => xs.some((each) => each.key !== name))) return h("p", {}, "A trade-off needs two metrics, on this board or of the same mechanisms on another of this pattern.");
  const across = xs.find((each) => each.key === state.x) || xs.find((each) => each.metric.name === "latency") || xs[0], xMetric = across.metric;
  const memory = MEMORY.find((name) => ys.includes(name));
  const isScore = (name) => elsewhere.has(name) || own.some((metric) => metric.name === name && metric.score);
  const yName = ys.includes(state.y) ? state.y : ys.find((name) => current.headline.score && name === current.headline.name) || ys.find(isScore) || (memory !== xMetric.name && memory) || ys.find((name) => name !== xMetric.name);
  const other = elsewhere.get(yName), yMetric = other ? other.headline : own.find((metric) => metric.name === yName);
  // the line of the other board with the same hyper-parameters, else the first of the mechanism
  const scored = (line) => {
    const [mechanism, params] = data.identities[line.identity];
    return other.lines.find((each) => { const [name, its] = data.identities[each.identity]; return name === mechanism && its === params; }) || other.lines.find((each) => data.identities[each.identity][0] === mechanism);
  };
  const scoreOf = (line) => (other ? valued(scored(line), other.headline.name) : valued(line, yName));
  const isOfOthers = (line) => other && data.identities[scored(line).identity][1] !== data.identities[line.identity][1];
  const points = current.lines.filter((line) => line.kind === "ranked" && passes(line)).map((line) => ({ line, x: across.of(line), y: scoreOf(line) })).filter((point) => point.x && point.y && (yMetric.score || point.y.value > 0));
  if (!points.length) return h("p", {}, "No mechanism has both.");
  const up = yMetric.higher === true;
  const dominated = (point) => points.some((each) => each !== point && each.x.value <= point.x.value && (up ? each.y.value >= point.y.value : each.y.value <= point.y.value) && (each.x.value < point.x.value || each.y.value !== point.y.value));
  const front = points.filter((point) => !dominated(point)).sort((a, b) => a.x.value - b.x.value);
  const floor = floorOf(other || current, yMetric), xTitle = across.board ? `${words(across.key)}${xMetric.unit ? ` (${xMetric.unit})` : ""}` : xMetric.title;
  const xScale = axis(points.flatMap(({ x }) => [x.value, low(x), high(x)]).map((value) => value / xMetric.factor), false), yScale = axis(points.flatMap(({ y }) => [y.value, low(y), high(y)]).concat(floor ? floor.cell.value : []).map((value) => value / yMetric.factor), yMetric.score);
  const svg = frame(fitting(1100), 520, xScale, yScale, tickText, tickText, xTitle, other ? `${yName}, ${yMetric.unit}` : yMetric.title, (x, y, right) => {
    const X = (cell, end) => x(end(cell) / xMetric.factor), Y = (cell, end) => y(end(cell) / yMetric.factor), value = (cell) => cell.value, parts = [];
    parts.push(s("path", { class: "frontier", d: front.map((point, i) => (i ? `H${X(point.x, value)}V${Y(point.y, value)}` : `M${X(point.x, value)} ${Y(point.y, value)}`)).join("") }));
    if (floor) {
      const at = Y(floor.cell, value), text = `${floor.line.label} ${withUnit(yMetric, floor.cell.value)}`;
      parts.push(s("line", { class: "one floor", x1: 62, x2: right, y1: at, y2: at }), s("text", { class: "quiet-text", x: right + 6, y: at + 4 }, brief(text), s("title", {}, text)));
    }
    for (const point of points.filter((each) => !front.includes(each)).concat(front)) {
      const kind = front.includes(point) ? "interval" : "other", [cx, cy] = [X(point.x, value), Y(point.y, value)];
      if (low(point.x) < high(point.x)) parts.push(s("line", { class: kind, x1: X(point.x, low), x2: X(point.x, high), y1: cy, y2: cy }));
      if (low(point.y) < high(point.y)) parts.push(s("line", { class: kind, x1: cx, x2: cx, y1: Y(point.y, low), y2: Y(point.y, high) }));
    }
    const named = [];
    for (const point of points) {
      const [cx, cy] = [X(point.x, value), Y(point.y, value)], onFront = front.includes(point);
      const text = `${point.line.label}: ${withUnit(xMetric, point.x.value)}, ${withUnit(yMetric, point.y.value)}${isOfOthers(point.line) ? ` (of ${together(scored(point.line))})` : ""}`;
      parts.push(s("circle", { class: onFront ? "front-dot" : "hollow", cx, cy, r: 4.5 }, s("title", {}, text)));
      if (onFront || againstLabels(current).includes(point.line.label)) {
        if (!named.some(([a, b]) => Math.abs(a - cx) < 90 && Math.abs(b - cy) < 13)) { named.push([cx, cy]); parts.push(s("text", { x: cx + 8, y: cy - 6 }, brief(point.line.label, 26))); }
      }
    }
    return parts;
  }, `${words(across.key)} against ${yName}`);
  return [
    h("div", { class: "filters" }, list("across", "x", xs.map((each) => each.key), across.key, (v) => set({ x: v }), words), list("up", "y", ys, yName, (v) => set({ y: v }), words)),
    h("p", { class: "quiet" }, `Filled: no other mechanism is better in both (the stepped line, from the values alone). Hollow: another is at least as good in both. ${points.length} of ${current.lines.filter((line) => line.kind === "ranked").length} mechanisms have both.${ys.some(isScore) ? "" : " No score was measured in this pattern."}${points.some((point) => isOfOthers(point.line)) ? " Some scores are of other hyper-parameters than the cost; they are named under the pointer." : ""}${floor ? ` Dashed: ${floor.line.label}, which a score has to exceed.` : ""}`),
    across.board ? h("p", { class: "quiet" }, `The cost is of another board: ${words(across.board.task)}, n = ${lengthText(across.board.length)}; ${across.board.note}; ${across.board.machine}.`) : "",
    svg, front.length ? h("p", {}, "Frontier: ", front.map((point) => point.line.label).join(", ")) : "",
  ];
}

function patternsTab() {
  const columns = new Map(), sameTask = (board) => board.task === current.task;
  // of another task: the configuration that has most lines, over its lengths
  const counts = new Map();
  for (const board of boards) counts.set(board.curve, (counts.get(board.curve) || 0) + board.lines.length + (board.machine === current.machine ? 0.5 : 0));
  const ofTask = siblings(["pattern", "length", "data_source", "protocol", "task_version"]).filter(sameTask);
  for (const board of [...ofTask, ...boards.filter((each) => !sameTask(each))]) {
    const key = `${board.task}|${board.pattern}`, held = columns.get(key);
    const points = (each) => (sameTask(each) ? [0, each.length === current.length ? 1e12 : each.n] : [counts.get(each.curve), each.n]);
    const [a, b] = held ? [points(board), points(held)] : [];
    if (!held || a[0] > b[0] || (a[0] === b[0] && a[1] > b[1])) columns.set(key, board);
  }
  const order = Object.keys(PATTERN_TITLES);
  const used = [...columns.values()].sort((a, b) => sameTask(b) - sameTask(a) || a.task.localeCompare(b.task) || order.indexOf(a.pattern) - order.indexOf(b.pattern));
  const labels = new Map();
  for (const board of used) for (const line of board.lines) if (passesWithoutMemory(line) && line.kind !== "leaky") {
    const [mechanism, params, backend] = data.identities[line.identity];
    const key = `${mechanism} ${params} ${backend}`;
    if (!labels.has(key)) labels.set(key, { label: together(line), kind: line.kind, cells: new Map() });
    labels.get(key).cells.set(board, line);
  }
  const floors = new Map(used.map((board) => [board, floorOf(board, board.headline)]));
  const what = (board) => (!board.headline.score ? "" : `${board.headline.title}${floors.get(board) ? `, gain over ${brief(floors.get(board).line.label, 24)}` : ""}`);
  const value = (board, line) => {
    const cell = cellOf(line, board.headline.name);
    if (!cell || cell.value === null) return { status: cell ? cell.status : "" };
    if (board.headline.score) {
      const { headline } = board, floor = floors.get(board), raw = `${withUnit(headline, cell.value)} ${intervalText({ low: cell.low === null ? null : cell.low / headline.factor, high: cell.high === null ? null : cell.high / headline.factor })}`.trim();
      if (!floor) return { text: shown(headline, cell.value), shade: null, cell, hover: raw };
      const above = (headline.higher ? 1 : -1) * (cell.value - floor.cell.value);
      return { text: `${above >= 0 ? "+" : "−"}${shown(headline, Math.abs(above))}`, shade: null, cell, hover: `${raw}; ${floor.line.label} ${withUnit(headline, floor.cell.value)}` };
    }
    const against = valued(againstLine(board), board.headline.name);
    const times = board.headline.higher === null ? null : board.headline.higher ? ratio(cell, against) : ratio(against, cell);
    return times ? { text: digits(times.value), shade: Math.log2(times.value), interval: times, cell } : { text: withUnit(board.headline, cell.value), shade: null, cell };
  };
  const entries = [...labels.values()].map((row) => {
    const cells = used.map((board) => value(board, row.cells.get(board)));
    const shades = cells.map((cell) => cell.shade).filter((shade) => shade !== null && shade !== undefined);
    return { ...row, cells, mean: shades.length ? shades.reduce((a, b) => a + b, 0) / shades.length : -99, coverage: cells.filter((cell) => cell.text).length };
  }).sort((a, b) => (a.kind === "control") - (b.kind === "control") || b.mean - a.mean || a.label.localeCompare(b.label));
  const one = used.every((board) => board.task === used[0].task);
  return [
    h("p", { class: "quiet" }, `Costs: how many times as good as ${(againstLine(current) || {}).label || "softmax"} (blue: better, orange: worse); scores: how much better than the best floor (none, chance) in the head's unit, or the value where there is no floor; the pointer has both. Each column of ${words(current.task)} is at n = ${lengthText(current.length)} where it was measured, else at its longest n; another task's is of the configuration that has most lines. Hatched: unsupported. Framed: failed. Empty: not measured; nothing is filled in. Sorted by the mean of the logs over what was measured.`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "patterns" }, h("table", { class: "heat" },
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "mechanism"), used.map((board) => h("th", { scope: "col", title: board.note }, one ? board.pattern : `${words(board.task)} ${board.pattern}`, h("br"), h("span", { class: "quiet" }, lengthText(board.length), what(board) ? [h("br"), what(board)] : ""))), h("th", { scope: "col" }, "measured"))),
      h("tbody", {}, entries.map((entry) => h("tr", {}, h("th", { scope: "row", title: entry.label }, brief(entry.label, 34), entry.kind === "control" ? h("span", { class: "tag" }, "control") : ""),
        entry.cells.map((cell) => {
          const td = h("td", { class: cell.status === "unsupported" ? "refused" : FAILED.includes(cell.status) ? "failed" : "", title: cell.hover ? cell.hover : cell.interval && cell.interval.low !== null ? `[${digits(cell.interval.low)}, ${digits(cell.interval.high)}]` : cell.status }, cell.text || (FAILED.includes(cell.status) ? cell.status : ""));
          if (cell.shade !== null && cell.shade !== undefined) td.style.background = `rgba(var(--${cell.shade >= 0 ? "cool" : "warm"}), ${Math.min(Math.abs(cell.shade) / 5, 1) * 0.5})`;
          return td;
        }), h("td", {}, `${entry.coverage}/${used.length}`)))))),
    agreementTable(),
  ];
}

// Rank correlations of each two patterns and of each two tasks.
function agreementTable() {
  if (!data.agreements.length) return "";
  return [h("h2", {}, "Do patterns and tasks agree?"),
    h("p", { class: "quiet" }, "Spearman's rank correlation of the two boards over the mechanisms that both rank, better on the same side, with its 95 % interval; blank for fewer than six mechanisms, and where one board has them all equal; beyond 0.95 it has no interval. Of several lengths the longest counts."),
    plainTable(["between", "first", "second", "where", "mechanisms", "correlation", "from", "to"], data.agreements, [4, 5, 6, 7])];
}
function compareTab() {
  const labels = [...new Set(siblings(["length", "pattern"]).flatMap((board) => board.lines.filter((line) => line.kind !== "leaky").map(together)))].sort();
  const rows = ranked(current), reference = againstLine(current);
  const a = labels.includes(state.a) ? state.a : rows.length ? together(rows[0].line) : labels[0];
  const b = labels.includes(state.b) ? state.b : reference && together(reference) !== a ? together(reference) : labels.find((label) => label !== a);
  const names = metricsOf(current), metric = names.find((each) => each.name === state.metric) || current.headline;
  const cases = [];
  for (const board of boards) {
    if (board.machine !== current.machine) continue;
    const [x, y] = [a, b].map((label) => valued(board.lines.find((line) => together(line) === label), metric.name));
    const times = metric.byDifference ? (x && y ? { value: (x.value - y.value) / metric.factor, low: (x.value - y.value - Math.hypot(x.value - low(x), high(y) - y.value)) / metric.factor, high: (x.value - y.value + Math.hypot(high(x) - x.value, y.value - low(y))) / metric.factor } : null) : ratio(x, y);
    if (times) cases.push({ board, times, x, y });
  }
  const order = Object.keys(PATTERN_TITLES);
  cases.sort((p, q) => p.board.task.localeCompare(q.board.task) || order.indexOf(p.board.pattern) - order.indexOf(q.board.pattern) || p.board.pass.localeCompare(q.board.pass) || p.board.n - q.board.n);
  const controls = h("div", { class: "filters" }, list("A", "a", labels, a, (v) => set({ a: v })), list("B", "b", labels, b, (v) => set({ b: v })), list("metric", "metric", names.map((each) => each.name), metric.name, (v) => set({ metric: v }), words));
  if (!cases.length) return [controls, h("p", {}, "No case has both.")];
  const neutral = metric.byDifference ? 0 : 1;
  const scale = axis(cases.flatMap(({ times }) => [times.value, times.low, times.high]).concat(neutral), metric.byDifference);
  const above = ({ low }) => low !== null && low > neutral, below = ({ high }) => high !== null && high < neutral, never = () => false;
  const [better, worse] = metric.higher === null ? [never, never] : metric.higher ? [above, below] : [below, above];
  const wins = cases.filter(({ times }) => better(times)).length, losses = cases.filter(({ times }) => worse(times)).length;
  const differing = properties.filter((name) => new Set(cases.map(({ board }) => board[name])).size > 1);
  const x = (value) => MARGIN + (WIDTH - 2 * MARGIN) * Math.min(Math.max(scale.place(value), 0), 1);
  return [controls,
    h("p", { class: "answer" }, h("b", {}, a), ` against `, h("b", {}, b), `, ${words(metric.name)}: better in ${wins} of ${cases.length} cases, worse in ${losses}, not told apart in ${cases.length - wins - losses}.`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "comparison" }, h("table", { class: "board" }, h("thead", {}, h("tr", {}, differing.map((name) => h("th", { scope: "col" }, NAMES[name] || words(name))), h("th", { scope: "col", class: "bar" }, metric.byDifference ? "A − B" : `A / B${scale.logarithmic ? ", log axis" : ""}`, axisHead(scale, { unit: "", factor: 1 })), h("th", { scope: "col", class: "number" }, metric.byDifference ? "A − B" : "A / B"), h("th", { scope: "col" }, "95 % interval"), h("th", { scope: "col", class: "number wide" }, "A"), h("th", { scope: "col", class: "number wide" }, "B"))),
      h("tbody", {}, cases.map(({ board, times, x: cellA, y: cellB }) => h("tr", {}, differing.map((name) => h("td", {}, name === "length" ? lengthText(board[name]) : words(board[name]))),
        h("td", { class: "bar" }, s("svg", { viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: "none", "aria-hidden": "true" }, s("line", { class: "one", x1: x(neutral), x2: x(neutral), y1: 0, y2: 16 }), times.low === null ? "" : s("line", { class: "interval", x1: x(times.low), x2: x(times.high), y1: 8, y2: 8 }), dot(x(times.value), better(times) ? "accent-stroke" : ""))),
        h("td", { class: "number" }, digits(times.value)), h("td", {}, times.low === null ? "none" : `[${digits(times.low)}, ${digits(times.high)}]`), h("td", { class: "number wide" }, withUnit(metric, cellA.value)), h("td", { class: "number wide" }, withUnit(metric, cellB.value))))))),
    h("p", { class: "quiet" }, "Ratios come from the processes' medians, not from runs side by side; the interval adds both half-widths as squares.")];
}

function plainTable(heads, rows, numbers = [], about = "") {
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": [about, heads.join(", ")].filter(Boolean).join(": ") }, h("table", {}, h("thead", {}, h("tr", {}, heads.map((text, i) => h("th", { scope: "col", class: numbers.includes(i) ? "number" : null }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((value, i) => h("td", { class: numbers.includes(i) ? "number" : "reason" }, value)))))));
}
function failuresTab() {
  return [h("h2", {}, "How what was asked for ended"), plainTable(["status", "metrics", "cases"], data.statuses.map(([status, rows, cases]) => [h("span", { class: status }, status), rows.toLocaleString("en"), cases.toLocaleString("en")]), [1, 2]),
    h("h2", {}, "Reasons"), data.failures.length ? plainTable(["status", "reason", "metrics", "mechanisms"], data.failures.map(([status, reason, rows, mechanisms]) => [h("span", { class: status }, status), reason, rows.toLocaleString("en"), mechanisms.join(", ")]), [2]) : h("p", {}, "Nothing failed.")];
}
// How well costs were measured, over the whole store: half-widths by metric and length, and the worst rows.
const CONVERGED = 0.05; // the half-width that a timing stops at
function qualityTab() {
  const { rows, reasons, worst } = data.quality, share = (value) => (value === null ? "" : `± ${percent(value)} %`);
  const withWidth = rows.filter((row) => row[6] !== null);
  const scale = axis(withWidth.flatMap((row) => [row[5], row[7]]).filter((value) => value > 0).concat(CONVERGED), false);
  const x = (value) => MARGIN + (WIDTH - 2 * MARGIN) * Math.min(Math.max(scale.place(value), 0), 1);
  const bars = rows.map((row) => s("svg", { viewBox: `0 0 ${WIDTH} 16`, preserveAspectRatio: "none", "aria-hidden": "true" }, s("line", { class: "one", x1: x(CONVERGED), x2: x(CONVERGED), y1: 0, y2: 16 }),
    row[6] === null ? "" : [s("line", { class: "interval", x1: x(row[5]), x2: x(row[7]), y1: 8, y2: 8 }), dot(x(row[6]), "")]));
  const number = (text) => h("td", { class: "number" }, text);
  const heads = ["metric", "n"].map((text) => h("th", { scope: "col" }, text));
  return [h("p", { class: "quiet" }, `The 95 % interval's longer arm as a share of the value, over every case of the store: dot, the median; line, the middle four fifths; dashed, the ${100 * CONVERGED} % at which a timing has converged. Counts are exact and not listed.`),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "half-widths by metric and length" }, h("table", { class: "board quality" }, h("thead", {}, h("tr", {}, heads,
      h("th", { scope: "col", class: "bar" }, `half-width, %${scale.logarithmic ? ", log axis" : ""}`, axisHead(scale, { factor: 0.01 })),
      ["median", "nine in ten", "worst", "values", "converged", "no interval"].map((text) => h("th", { scope: "col", class: "number" }, text)))),
      h("tbody", {}, rows.map((row, i) => h("tr", {}, h("th", { scope: "row" }, words(row[0])), h("td", {}, row[1].toLocaleString("en")), h("td", { class: "bar" }, bars[i]),
        number(share(row[6])), number(share(row[7])), number(share(row[8])), number(row[2].toLocaleString("en")), number(`${percent(row[4] / row[2])} %`), number(row[3].toLocaleString("en"))))))),
    h("h2", {}, "The widest intervals"), plainTable(["half-width", "mechanism", "task", "pattern", "pass", "batch", "n", "metric", "case", "why it stopped"], worst.map(([width, ...row]) => [share(width), ...row.map((text, i) => (i < 2 || i === 6 ? text : i === 7 ? h("code", {}, `cab results show ${text.slice(0, 12)}`) : words(text)))]), [0, 5, 6]),
    h("h2", {}, "Why measurements stopped before they converged"), reasons.length ? plainTable(["reason", "values"], reasons.map(([reason, count]) => [reason, count.toLocaleString("en")]), [1]) : h("p", {}, "Every one converged.")];
}
function machineTab() {
  const names = [...new Set(data.environments.flatMap((each) => Object.keys(each)))];
  return [h("h2", {}, "Environments"), plainTable(["environment", ...data.environments.map((_, i) => `${i + 1}`)], names.map((name) => [words(name), ...data.environments.map((each) => each[name] ?? "")])),
    h("h2", {}, "How each metric is measured"), h("ul", {}, data.methods.map((text) => h("li", {}, text))),
    h("h2", {}, "What the marks say"), h("ul", {}, data.legend.map((text) => h("li", {}, text))),
    h("h2", {}, "What the page computes"), h("p", {}, "× softmax: one over latency_ratio, with its interval, where that was measured with the same softmax side by side; or else the ratio of the two medians, whose interval adds the half-widths of both on the log scale as squares. The pointer says which. Rank: the range that the intervals allow among the lines that pass the filters. Wins from n: see the tab Lengths. Rank by FLOPs: ≠ where no rank is in both ranges. Longest n: the longest measured one that fits into the limit on memory, or at which memory did not run out; ≥ where no longer one was measured. Best with no more state: the best score of the lines whose state while decoding is at most as large.")];
}
function publishedTab() {
  return [h("p", { class: "quiet" }, data.publishedAbout), data.published.length ? plainTable(data.publishedColumns, data.published, [6]) : h("p", {}, "Nothing was published of the tasks that were measured."),
    h("h2", {}, "CAB's four boards"), h("p", { class: "quiet" }, data.cabAbout), plainTable(["pattern", "rank", "mechanism", "index"], data.cabsBoards, [1, 3])];
}
const trainingsOf = (line) => line.cases.split(",").map((id) => data.trainings[id]).filter(Boolean);
function trainingTab() {
  const metric = current.headline, lines = orderedLines().groups.flatMap((group) => group.lines).filter((line) => trainingsOf(line).length);
  if (!lines.length) return h("p", {}, "No training passes the filters.");
  const every = lines.flatMap(trainingsOf);
  const softmax = againstLabels(current);
  const highlighted = [...lines.filter((line) => softmax.includes(line.label)), ...lines.filter((line) => !softmax.includes(line.label))].slice(0, HIGHLIGHTED).map((line) => line.label);
  const xScale = axis([0, ...every.flatMap(([steps]) => steps)], true);
  const yScale = axis(every.flatMap(([, values]) => values.map((value) => value / metric.factor)), true);
  const svg = frame(fitting(900), 420, xScale, yScale, tickText, tickText, "step", metric.title, (x, y, right) => {
    const parts = [], ends = [];
    for (const line of [...lines].reverse()) {
      const i = highlighted.indexOf(line.label);
      for (const [steps, values] of trainingsOf(line)) {
        const d = steps.map((step, k) => `${k ? "L" : "M"}${x(step).toFixed(1)} ${y(values[k] / metric.factor).toFixed(1)}`).join("");
        parts.push(s("path", { class: i < 0 ? "other" : `line c${i}`, d }, s("title", {}, line.label)));
        if (i >= 0 && steps.length === 1) parts.push(s("circle", { class: `f${i}`, cx: x(steps[0]), cy: y(values[0] / metric.factor), r: 3 }, s("title", {}, line.label)));
      }
      const last = trainingsOf(line).map(([, values]) => values[values.length - 1] / metric.factor);
      if (i >= 0) ends.push({ label: line.label, i, y: y(last.reduce((a, b) => a + b, 0) / last.length) + 4 });
    }
    for (const end of spread(ends, 13, 420 - 44)) parts.push(s("text", { class: `f${end.i}`, x: right + 6, y: end.y }, brief(end.label), s("title", {}, end.label)));
    return parts;
  }, `${metric.title} on the validation examples, by step`);
  return [h("p", { class: "quiet" }, "On the validation examples, a line for each seed. Softmax and the first lines of the board have a colour; the others are grey, and named under the pointer. What the board shows is of the test examples, with the weights of the best validation."),
    h("figure", {}, h("figcaption", {}, `${words(current.task)} ${current.pattern}`), svg)];
}
function aggregateTab() {
  return [h("p", { class: "quiet" }, data.aggregateAbout), ...Object.entries(data.aggregates).flatMap(([pattern, { rows, ranks, pairs, about }]) => [
    h("h2", {}, PATTERN_TITLES[pattern] ? `${PATTERN_TITLES[pattern]} (${pattern})` : pattern),
    plainTable(data.aggregateHeads, rows, [0, 2, 3, 4], pattern),
    ranks ? [h("h3", {}, `Mean ranks, ${pattern}`), h("p", { class: "quiet" }, about), criticalDifference(ranks)] : "",
    pairs ? [h("h3", {}, `Differences on each task, ${pattern}`), h("p", { class: "quiet" }, about), plainTable(data.pairHeads, pairs, [1, 2, 3], pattern)] : ""])];
}
// Mean ranks on an axis, the names at both sides, and a bar over those that are not told apart.
function criticalDifference({ means, difference, groups }) {
  const width = 900, side = 230, half = Math.ceil(means.length / 2), top = 40 + 12 * groups.length, height = top + 18 * half + 16;
  const last = Math.max(means.length, 2), x = (rank) => side + (width - 2 * side) * (rank - 1) / (last - 1);
  const rankOf = new Map(means), every = Math.ceil(last / 12), parts = [];
  parts.push(s("line", { class: "interval", x1: x(1), x2: Math.min(x(1 + difference), width), y1: 8, y2: 8 }), s("text", { x: x(1) - 6, y: 12, "text-anchor": "end" }, `critical difference ${digits(difference)}`));
  parts.push(s("line", { class: "interval", x1: x(1), x2: x(last), y1: 32, y2: 32 }));
  for (let rank = 1; rank <= last; rank += every) parts.push(s("line", { class: "interval", x1: x(rank), x2: x(rank), y1: 28, y2: 32 }), s("text", { class: "quiet-text", x: x(rank), y: 25, "text-anchor": "middle" }, `${rank}`));
  groups.forEach((group, i) => parts.push(s("line", { class: "together", x1: x(rankOf.get(group[0])) - 3, x2: x(rankOf.get(group[group.length - 1])) + 3, y1: 42 + 12 * i, y2: 42 + 12 * i }, s("title", {}, group.join(", ")))));
  means.forEach(([name, rank], i) => {
    const left = i < half, y = top + 18 * (left ? i : means.length - 1 - i) + 12, edge = left ? side - 12 : width - side + 12;
    parts.push(s("path", { class: "other", d: `M${x(rank)} 32V${y}H${edge}` }), s("text", { x: left ? edge - 5 : edge + 5, y: y + 4, "text-anchor": left ? "end" : "start" }, `${brief(name, 26)} ${rank.toFixed(1)}`));
  });
  return s("svg", { class: "ranks", viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": `mean ranks: ${means.map(([name, rank]) => `${name} ${rank.toFixed(1)}`).join(", ")}; not told apart: ${groups.map((group) => group.join(", ")).join("; ") || "none"}` }, parts);
}

// ---- start ------------------------------------------------------------------------------------------------------------
const DRAW = { Board: boardTab, Lengths: lengthsTab, "Trade-off": tradeoffTab, Patterns: patternsTab, Compare: compareTab, Training: trainingTab, Aggregate: aggregateTab, Failures: failuresTab, Quality: qualityTab, "Machine and methods": machineTab, Published: publishedTab };
function tabs() {
  const several = siblings(["length", "pattern"]).some((board) => board.n !== current.n);
  const drawn = { Lengths: several, Training: current.lines.some((line) => trainingsOf(line).length), Aggregate: Object.keys(data.aggregates).length > 0, Quality: data.quality.rows.length > 0 };
  return TABS.filter((name) => drawn[name] ?? true);
}
function render() {
  current = chosenBoard(null);
  const names = tabs(), tab = names.includes(state.tab) ? state.tab : "Board";
  const focused = document.activeElement && document.activeElement !== document.body ? address(document.activeElement) : null;
  const bars = h("div", { role: "tablist", "aria-label": "views", onkeydown: (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { set({ tab: names[(names.indexOf(tab) + step + names.length) % names.length] }); document.querySelector("[role=tab][aria-selected=true]").focus(); }
  } }, names.map((name) => h("button", { type: "button", role: "tab", id: `tab-${name.replace(/ /g, "-")}`, "aria-selected": String(name === tab), tabindex: name === tab ? 0 : -1, "aria-controls": "panel", onclick: () => set({ tab: name }) }, name)));
  const panel = h("section", { role: "tabpanel", id: "panel", "aria-labelledby": `tab-${tab.replace(/ /g, "-")}` }, DRAW[tab]());
  const app = document.getElementById("app");
  app.replaceChildren(h("header", { class: "top" }, h("div", {}, head(), filters())), h("main", {}, answer(), bars, panel));
  // below which heads stay; where it is set, every style is computed again
  const top = `${app.firstChild.offsetHeight}px`, { style } = document.documentElement;
  if (style.getPropertyValue("--top") !== top) style.setProperty("--top", top);
  const chosen = bars.querySelector("[aria-selected=true]");
  if (chosen.offsetLeft + chosen.offsetWidth > bars.clientWidth) bars.scrollLeft = chosen.offsetLeft; // the tabs are wider than a phone
  if (focused) { const again = document.querySelector(focused); if (again) again.focus({ preventScroll: true }); }
}
// A selector that finds an element of the bar again after it has been drawn anew.
function address(element) {
  for (const name of ["data-filter", "data-show", "data-sort", "data-column"]) if (element.hasAttribute(name)) {
    const value = element.getAttribute("data-value");
    return `[${name}=${CSS.escape(element.getAttribute(name))}]${value === null ? "" : `[data-value=${CSS.escape(value)}]`}`;
  }
  if (element.name) return `[name=${CSS.escape(element.name)}]`;
  if (element.id) return `#${CSS.escape(element.id)}`;
  return null;
}

(async () => {
  theme(matchMedia("(prefers-color-scheme: dark)").matches);
  data = await unpacked();
  boards = boardsOf(data);
  properties = Object.keys(data.properties).filter((name) => name === "length" || name === "task" || name === "pattern" || data.properties[name].length > 1);
  properties.sort((a, b) => (BUTTONS_FIRST.indexOf(a) + 1 || 99) - (BUTTONS_FIRST.indexOf(b) + 1 || 99));
  readAddress();
  render();
  addEventListener("hashchange", () => { readAddress(); render(); });
  document.documentElement.dataset.ready = "yes";
})();
