"use strict";
// The review page. All texts come in as data and go out through textContent, never as markup.

const $ = (id) => document.getElementById(id);
const CHUNK = 200; // rows in one request
const GAP = 8;
const ALL = null;

const page = {
  state: null,
  ids: [], // images of the view, in order
  rows: new Map(), // id -> what is known of it
  asked: new Set(), // ids of rows that are on their way
  label: ALL, // class that is shown
  current: 0, // position of the focus in `ids`
  anchor: 0, // where a range begins
  selected: new Set(), // ids
  columns: 1,
  side: 150, // width of a tile
  tiles: new Map(), // position -> element
  spare: [], // elements of tiles that were scrolled out of sight
  version: "", // changes with the run, so that its images are not mixed up in the browser's cache
};

// ---------------------------------------------------------------- requests

async function ask(path, body, method) {
  const options = { method: method || (body === undefined ? "GET" : "POST") };
  if (body instanceof FormData) options.body = body;
  else if (body !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: is `anyclass serve` still running?");
  }
  const value = await answer.json().catch(() => ({}));
  if (answer.ok) return value;
  throw new Error(value.detail || `error ${answer.status}`);
}

async function trying(work) {
  try {
    return await work();
  } catch (error) {
    say(error.message, true);
    return undefined;
  }
}

let quiet;
function say(text, bad) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", Boolean(bad));
  clearTimeout(quiet);
  quiet = setTimeout(() => ($("status").textContent = ""), bad ? 8000 : 3000);
}

// ---------------------------------------------------------------- small helpers

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(share > 0.9995 || share < 0.1 ? 1 : 0)} %`);
const share = (row) => (page.state.ranked && row.rank ? row.rank / page.state.ranked : row.confidence);
const sureness = (row) => (page.state.ranked && row.rank ? `rank ${row.rank}` : percent(row.confidence));
const score = (probability) => (page.state.ranked ? "" : percent(probability)); // where it is an order alone, the bar shows it
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const thumbnail = (id) => `thumbnails/${id}?v=${page.version}`;
const labelOf = (row) => (row.correction !== null ? row.correction : row.label || "");
const isChecked = (row) => row.correction !== null;

// ---------------------------------------------------------------- state and classes

function setState(state) {
  const changed = !page.state || page.state.run !== state.run;
  const modelReady = page.state && page.state.model && !state.model;
  page.state = state;
  if (changed) page.version = encodeURIComponent(state.run + performance.timeOrigin).slice(-40).replace(/%/g, "");
  document.querySelector("h1").textContent = state.name;
  const parts = [plural(state.images, "image"), plural(state.checked, "label") + " by you"];
  if (state.rejected) parts.push(`${state.rejected} not readable`);
  if (state.suspicious) parts.push(plural(state.suspicious, "suspicious label"));
  if (state.model) parts.push(state.model);
  $("summary").textContent = parts.join(" · ");
  $("undo").disabled = !state.undo;
  $("undo").title = state.undo ? `Undo: ${state.undo}` : "Nothing to undo";
  $("train").disabled = !state.checked || state.training.state === "running";
  $("train").title = state.checked ? "" : "Correct or confirm some labels first";
  showClasses();
  showTraining(state.training);
  if (modelReady) {
    page.rows.clear();
    render();
  }
  if (state.model) setTimeout(refreshState, 1500);
}

async function refreshState() {
  const state = await trying(() => ask("api/state"));
  if (state) setState(state);
}

function showClasses() {
  const wanted = $("class-filter").value.trim().toLowerCase();
  const list = $("classes");
  const before = list.scrollTop;
  const items = [classButton(ALL, "All images", page.state.images, "")];
  for (const one of page.state.classes) {
    if (wanted && !one.name.toLowerCase().includes(wanted)) continue;
    const kind = { unknown: "discovered", rejected: "rejected", new: "new, from you" }[one.kind] || "";
    const suggested = one.suggested && one.suggested !== one.name ? `perhaps ${one.suggested}` : "";
    items.push(classButton(one.name, one.name, one.count, suggested || kind));
  }
  list.replaceChildren(...items);
  list.scrollTop = before;
  const shown = page.state.classes.find((one) => one.name === page.label);
  $("class-tools").hidden = !shown || !["unknown", "rejected"].includes(shown.kind);
  for (const id of ["rename", "merge", "split", "reject"]) $(id).hidden = shown && shown.kind === "rejected";
  $("class-hint").textContent = `Discovered class${shown && shown.hint ? `: ${shown.hint}` : ""}.`;
  $("restore").hidden = !shown || shown.kind !== "rejected";
}

function classButton(label, text, count, kind) {
  const name = element("span", { class: "name" }, text);
  if (kind) name.append(element("span", { class: "kind" }, kind));
  const button = element("button", { type: "button", title: text, onclick: () => choose(label) }, name,
    element("span", { class: "count" }, count.toLocaleString("en")));
  button.setAttribute("aria-current", String(label === page.label));
  return element("li", {}, button);
}

function choose(label) {
  page.label = label;
  showClasses();
  loadView();
}

// ---------------------------------------------------------------- the view

let viewNumber = 0;
async function loadView(keep) {
  const number = ++viewNumber;
  const sort = $("sort").value;
  const focus = keep ? page.ids[page.current] : undefined;
  const waiting = setTimeout(() => number === viewNumber && say("Choosing images …"), 300);
  const found = await trying(() => {
    const query = sort === "useful" ? new URLSearchParams({ count: 60 }) : new URLSearchParams({ sort, show: $("show").value });
    if (page.label !== ALL) query.set("label", page.label);
    return ask(`api/${sort === "useful" ? "useful" : "view"}?${query}`);
  });
  clearTimeout(waiting);
  if (!found || number !== viewNumber) return;
  if ($("status").textContent === "Choosing images …") say("");
  page.ids = found.ids;
  page.selected.clear();
  page.current = Math.max(0, page.ids.indexOf(focus));
  page.anchor = page.current;
  if (!keep) $("grid").scrollTop = 0;
  const nothing = {
    useful: found.message || "No image is left to label.",
    suspicious: "No label here was checked against other images: this order is for labels that you gave before the fit.",
    changed: "Adaptation changed no label here.",
  };
  $("empty").textContent = nothing[sort] || "No image here.";
  $("empty").hidden = page.ids.length > 0;
  clearTiles();
  layout();
  showDetail();
  $("grid").dataset.order = sort;
  if (sort === "useful" && found.message && !page.ids.length) setTimeout(() => $("sort").value === "useful" && loadView(), 2000);
}

function clearTiles() {
  for (const tile of page.tiles.values()) tile.remove();
  page.tiles.clear();
}

const tileHeight = () => page.side + 34;

function layout() {
  const width = $("canvas").clientWidth;
  page.columns = Math.max(1, Math.floor((width + GAP) / (Number($("size").value) + GAP)));
  page.side = Math.floor((width + GAP) / page.columns) - GAP;
  document.documentElement.style.setProperty("--tile-size", `${page.side}px`);
  const lines = Math.ceil(page.ids.length / page.columns);
  $("canvas").style.height = `${lines * (tileHeight() + GAP)}px`;
  for (const [position, tile] of page.tiles) place(tile, position);
  render();
}

function place(tile, position) {
  const column = position % page.columns;
  const line = Math.floor(position / page.columns);
  tile.style.transform = `translate(${column * (page.side + GAP)}px, ${line * (tileHeight() + GAP)}px)`;
}

let planned = false;
function render() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    renderNow();
  });
}

function visible() {
  const grid = $("grid");
  const step = tileHeight() + GAP;
  const first = Math.max(0, Math.floor(grid.scrollTop / step) - 2);
  const last = Math.ceil((grid.scrollTop + grid.clientHeight) / step) + 2;
  return [first * page.columns, Math.min(page.ids.length, last * page.columns)];
}

let settling;
function renderNow() {
  const [from, to] = visible();
  for (const [position, tile] of page.tiles) {
    if (position < from || position >= to) {
      page.spare.push(tile);
      page.tiles.delete(position);
    }
  }
  for (let position = from; position < to; position++) {
    if (!page.tiles.has(position)) page.tiles.set(position, tileAt(position));
    fill(page.tiles.get(position), position);
  }
  page.spare.splice(0).forEach((tile) => tile.remove());
  const at = page.ids.length ? `${(page.current + 1).toLocaleString("en")} of ${page.ids.length.toLocaleString("en")}` : "";
  $("position").textContent = page.selected.size > 1 ? `${page.selected.size.toLocaleString("en")} selected · ${at}` : at;
  clearTimeout(settling);
  if (scrollsSlowly()) settled();
  settling = setTimeout(settled, 60); // of a fast scroll, images are asked for where it rests
}

let lastTop = 0;
let lastTime = 0;
function scrollsSlowly() {
  const now = performance.now();
  if (now - lastTime < 100) return false;
  const screens = Math.abs($("grid").scrollTop - lastTop) / $("grid").clientHeight;
  const slowly = screens < (4 * (now - lastTime)) / 1000;
  lastTop = $("grid").scrollTop;
  lastTime = now;
  return slowly;
}

function settled() {
  clearTimeout(settling);
  for (const tile of page.tiles.values()) {
    const image = tile.querySelector("img");
    const wanted = thumbnail(tile.dataset.id);
    if (image.getAttribute("src") !== wanted) image.src = wanted;
  }
  const [from, to] = visible();
  const isMissing = (id) => !page.rows.has(id) && !page.asked.has(id);
  if (!page.ids.slice(from, to).some(isMissing)) return;
  const missing = page.ids.slice(Math.max(0, from - CHUNK / 4), to + CHUNK / 4).filter(isMissing);
  for (let i = 0; i < missing.length; i += CHUNK) fetchRows(missing.slice(i, i + CHUNK));
}

async function fetchRows(ids) {
  if (!ids.length) return;
  ids.forEach((id) => page.asked.add(id));
  const found = await trying(() => ask(`api/rows?${ids.map((id) => `ids=${id}`).join("&")}`));
  ids.forEach((id) => page.asked.delete(id));
  if (!found) return;
  for (const row of found.rows) page.rows.set(row.id, row);
  render();
  if (ids.includes(page.ids[page.current])) showDetail();
}

function tileAt(position) {
  const tile = page.spare.pop() || newTile();
  const image = tile.querySelector("img");
  image.removeAttribute("src");
  delete image.dataset.state;
  place(tile, position);
  if (!tile.parentNode) $("canvas").append(tile);
  return tile;
}

function newTile() {
  const image = element("img", { alt: "", draggable: "false", onerror: (event) => (event.target.dataset.state = "failed"), onload: (event) => delete event.target.dataset.state });
  const tile = element("div", { class: "tile", role: "option" },
    element("span", { class: "frame" }, image, element("span", { class: "flag" })),
    element("span", { class: "label" }, element("b"), element("span")),
    element("span", { class: "bar" }, element("i")));
  return tile;
}

function fill(tile, position) {
  const id = page.ids[position];
  const row = page.rows.get(id);
  const another = tile.dataset.id !== String(id);
  const shown = [position, id, page.selected.has(id), position === page.current, row && isChecked(row), row && labelOf(row)].join("|");
  if (tile.shown === shown && tile.row === row) return; // most tiles of a frame: nothing is written into the page
  tile.shown = shown;
  tile.row = row;
  tile.id = `tile-${position}`;
  tile.dataset.id = id;
  tile.dataset.position = position;
  tile.setAttribute("aria-selected", String(page.selected.has(id)));
  tile.classList.toggle("current", position === page.current);
  if (!row) return another && blank(tile);
  const label = labelOf(row) || "no label";
  const predicted = !isChecked(row) && row.status !== "given" && row.confidence !== null;
  const flag = isChecked(row) ? "checked" : row.suspicious ? "suspicious" : row.status === "given" ? "given" : "";
  tile.dataset.flag = flag;
  tile.title = `${row.file_name}\n${label}`;
  tile.setAttribute("aria-label", `${label}, ${row.file_name}`);
  tile.querySelector(".flag").textContent = { checked: "✓ yours", suspicious: "suspicious", given: "given" }[flag] || "";
  tile.querySelector("b").textContent = label;
  tile.querySelector(".label span").textContent = predicted ? sureness(row) : "";
  tile.querySelector(".bar i").style.width = `${100 * (predicted ? share(row) : 1)}%`;
}

function blank(tile) {
  delete tile.dataset.flag;
  tile.title = "";
  for (const part of [".flag", "b", ".label span"]) tile.querySelector(part).textContent = "";
  tile.querySelector(".bar i").style.width = "0";
}

// ---------------------------------------------------------------- focus and selection

function move(position, extend) {
  if (!page.ids.length) return;
  page.current = Math.max(0, Math.min(page.ids.length - 1, position));
  if (extend) {
    page.selected.clear();
    const [low, high] = [page.anchor, page.current].sort((a, b) => a - b);
    for (let at = low; at <= high; at++) page.selected.add(page.ids[at]);
  } else {
    page.anchor = page.current;
    page.selected.clear();
  }
  reveal();
  render();
  showDetail();
}

function reveal() {
  const grid = $("grid");
  const step = tileHeight() + GAP;
  const top = Math.floor(page.current / page.columns) * step;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + step > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + step - grid.clientHeight;
  grid.setAttribute("aria-activedescendant", `tile-${page.current}`);
}

function toggle(position) {
  const id = page.ids[position];
  if (id === undefined) return;
  page.current = position;
  page.anchor = position;
  if (!page.selected.delete(id)) page.selected.add(id);
  render();
  showDetail();
}

function targets() {
  if (page.selected.size) return [...page.selected];
  const id = page.ids[page.current];
  return id === undefined ? [] : [id];
}

// ---------------------------------------------------------------- one image

let sharpening;
function showDetail() {
  const id = page.ids[page.current];
  const row = page.rows.get(id);
  $("detail").hidden = !row;
  $("nothing").hidden = Boolean(row);
  if (id !== undefined && !row) fetchRows([id]);
  if (!row) return;
  const large = `images/${id}?v=${page.version}`;
  if ($("large").getAttribute("href") !== large) {
    $("large").href = large;
    $("preview").src = thumbnail(id);
    clearTimeout(sharpening);
    sharpening = setTimeout(() => ($("preview").src = large), 300); // when one stays at an image
  }
  $("preview").alt = row.file_name;
  $("file").textContent = row.file_name;
  const word = isChecked(row) ? "Your label: " : row.status === "given" ? "Given label: " : "Predicted: ";
  $("verdict").replaceChildren(word, element("b", {}, labelOf(row) || "none"));
  if (page.selected.size > 1) $("verdict").append(` · a label goes to all ${page.selected.size} selected images`);
  $("top").replaceChildren(...choices(row).map((one, at) => choice(one, at)));
  const facts = [
    [page.state.ranked ? "Rank" : "Confidence", row.status === "given" ? null : confidenceOf(row)],
    ["Predicted", isChecked(row) ? row.label : null],
    ["Zero-shot", row.zero_shot_label && [row.zero_shot_label, score(row.zero_shot_score)].filter(Boolean).join(", ")],
    ["Other images say", row.opinion && `${row.opinion}, ${percent(row.opinion_score)}`],
    ["Familiarity", row.familiarity === null ? null : percent(row.familiarity)],
  ].filter(([, value]) => value);
  $("facts").replaceChildren(...facts.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, value)]));
}

function confidenceOf(row) {
  const words = page.state.ranked && row.rank ? `${row.rank} of ${page.state.ranked}, 1 is the least sure` : percent(row.confidence);
  return row.familiarity !== null && row.familiarity < 0.05 ? `${words}: unlike the training images` : words;
}

function choices(row) {
  if (row.top.length) return row.top;
  const names = new Set([row.label, row.runner_up, row.opinion, row.zero_shot_label].filter(Boolean));
  const own = row.status === "given" ? null : row.score;
  return [...names].map((label) => ({ label, probability: label === row.label ? own : null }));
}

function choice(one, at) {
  const bar = element("span", { class: "bar" }, element("i"));
  bar.firstChild.style.width = `${100 * (one.probability || 0)}%`;
  const button = element("button", { type: "button", onclick: () => assign(one.label) },
    element("kbd", {}, String(at + 1)), element("span", { class: "name" }, one.label),
    element("span", { class: "value" }, one.probability === null ? "" : score(one.probability)), bar);
  return element("li", {}, button);
}

// ---------------------------------------------------------------- corrections

let working = Promise.resolve();
function assign(label) {
  const ids = targets();
  if (!ids.length) return;
  const several = page.selected.size > 1;
  for (const id of ids) {
    const row = page.rows.get(id);
    if (row) row.correction = label === null ? (row.status === "given" ? "" : null) : label;
  }
  if (!several) move(page.current + 1);
  else page.selected.clear();
  render();
  showDetail();
  // one after the other: undo takes them back in the order in which they were made
  working = working.then(() => save(ids, label));
}

async function save(ids, label) {
  const state = await trying(() => ask("api/corrections", { ids, label }));
  if (state) {
    setState(state);
    say(label === null ? `${plural(ids.length, "label")} taken back` : `${plural(ids.length, "image")}: ${label}`);
  } else {
    ids.forEach((id) => page.rows.delete(id));
    settled();
  }
}

function confirmLabels() {
  const groups = new Map();
  for (const id of targets()) {
    const row = page.rows.get(id);
    const label = row && labelOf(row);
    if (!label) continue;
    groups.set(label, [...(groups.get(label) || []), id]);
  }
  const before = [page.current, new Set(page.selected)];
  if (!groups.size) return;
  if (groups.size === 1) return assign([...groups.keys()][0]);
  for (const [label, ids] of groups) {
    page.selected = new Set(ids);
    if (ids.length === 1) page.current = page.ids.indexOf(ids[0]);
    assign(label);
  }
  [page.current] = before;
  page.selected.clear();
  render();
}

function undo() {
  working = working.then(async () => {
    const done = await trying(() => ask("api/undo", {}));
    if (!done) return;
    say(`Undone: ${done.title}`);
    done.ids.forEach((id) => page.rows.delete(id));
    const at = page.ids.indexOf(done.ids[0]);
    if (done.ids.length <= 1 && at >= 0) move(at);
    await refreshState();
    if (!done.ids.length || /^(merged|split|rejected|renamed|restored) /.test(done.title)) await afterEdit();
    settled();
    showDetail();
  });
}

async function afterEdit() {
  page.rows.clear();
  await loadView(true);
}

// ---------------------------------------------------------------- type-ahead

let matches = [];
let marked = 0;

function showMatches() {
  const text = $("type").value.trim();
  const low = text.toLowerCase();
  const names = page.state.classes.map((one) => one.name);
  const starts = names.filter((name) => name.toLowerCase().startsWith(low));
  const inside = names.filter((name) => !name.toLowerCase().startsWith(low) && name.toLowerCase().includes(low));
  matches = text ? [...starts, ...inside].slice(0, 12) : [];
  if (text && !names.includes(text)) matches.push(text);
  marked = names.includes(matches[0]) ? 0 : -1; // a slip of the finger makes no new class
  drawMatches();
}

function drawMatches() {
  const names = new Set(page.state.classes.map((one) => one.name));
  $("matches").hidden = !matches.length;
  $("type").setAttribute("aria-expanded", String(matches.length > 0));
  $("matches").replaceChildren(...matches.map((name, at) => {
    const item = element("li", { role: "option", id: `match-${at}`, onmousedown: (event) => { event.preventDefault(); take(at); } }, names.has(name) ? name : `new class: ${name}`);
    item.setAttribute("aria-selected", String(at === marked));
    return item;
  }));
  if (matches.length) $("type").setAttribute("aria-activedescendant", `match-${marked}`);
  $("matches").children[marked]?.scrollIntoView({ block: "nearest" });
}

function take(at) {
  const name = matches[at];
  closeMatches();
  if (name !== undefined) assign(name);
  $("grid").focus();
}

function closeMatches() {
  $("type").value = "";
  matches = [];
  drawMatches();
}

$("type").addEventListener("input", showMatches);
$("type").addEventListener("blur", closeMatches);
$("type").addEventListener("keydown", (event) => {
  const steps = { ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps && matches.length) {
    marked = (Math.max(marked + steps[event.key], -1) + matches.length) % matches.length;
    drawMatches();
  } else if (event.key === "Enter" && marked < 0) say("There is no such class: ↓ and Enter make a new one");
  else if (event.key === "Enter") take(marked);
  else if (event.key === "Escape") {
    closeMatches();
    $("grid").focus();
  } else return;
  event.preventDefault();
  event.stopPropagation();
});

// ---------------------------------------------------------------- keys and mouse

const STEPS = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -page.columns, ArrowDown: () => page.columns };

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=range]), select, dialog *, textarea");
  if (typing || $("dialog").open || event.isComposing) return;
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "z") undo();
  else if (command && event.key.toLowerCase() === "a") {
    page.selected = new Set(page.ids);
    render();
    showDetail();
  } else if (command || event.altKey) return;
  else if (event.target.matches("button, a") && (event.key === "Enter" || event.key === " ")) return;
  else if (event.target.matches("input[type=range]")) return;
  else if (event.key in STEPS) move(page.current + STEPS[event.key](), event.shiftKey);
  else if (event.key === "Home") move(0, event.shiftKey);
  else if (event.key === "End") move(page.ids.length - 1, event.shiftKey);
  else if (event.key === "PageDown" || event.key === "PageUp") {
    const lines = Math.max(1, Math.floor($("grid").clientHeight / (tileHeight() + GAP)));
    move(page.current + (event.key === "PageDown" ? 1 : -1) * lines * page.columns, event.shiftKey);
  } else if (event.key === " ") toggle(page.current);
  else if (event.key === "Enter") confirmLabels();
  else if (event.key === "Delete" || event.key === "Backspace") assign(null);
  else if (event.key === "Escape") {
    page.selected.clear();
    render();
    showDetail();
  } else if (event.key === "?") showHelp();
  else if (/^[1-9]$/.test(event.key)) {
    const row = page.rows.get(page.ids[page.current]);
    const one = row && choices(row)[Number(event.key) - 1];
    if (one) assign(one.label);
  } else if (event.key.length === 1 && page.ids.length) {
    $("type").focus();
    return; // the letter itself arrives in the field
  } else return;
  event.preventDefault();
});

$("canvas").addEventListener("mousedown", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile || event.button !== 0) return;
  event.preventDefault();
  $("grid").focus({ preventScroll: true });
  const position = Number(tile.dataset.position);
  if (event.shiftKey) move(position, true);
  else if (event.ctrlKey || event.metaKey) {
    if (!page.selected.size && page.ids[page.current] !== undefined) page.selected.add(page.ids[page.current]);
    toggle(position);
  } else move(position);
});
$("grid").addEventListener("scroll", render, { passive: true });
$("sort").addEventListener("change", () => { loadView(); $("grid").focus(); });
$("show").addEventListener("change", () => { loadView(); $("grid").focus(); });
$("size").addEventListener("input", () => { clearTiles(); layout(); reveal(); });
$("class-filter").addEventListener("input", showClasses);
$("undo").addEventListener("click", () => {
  $("grid").focus(); // a button that is disabled while it has the focus swallows all keys
  undo();
});
$("confirm").addEventListener("click", confirmLabels);
$("clear").addEventListener("click", () => assign(null));
$("help").addEventListener("click", showHelp);
new ResizeObserver(() => layout()).observe($("grid"));

// ---------------------------------------------------------------- dialogs

function dialog(title, body, buttons) {
  $("dialog-title").textContent = title;
  $("dialog-body").replaceChildren(...body);
  $("dialog-buttons").replaceChildren(...buttons.map(([text, action, kind]) => element("button", { type: "button", class: kind || "", onclick: () => { $("dialog").close(); if (action) action(); } }, text)));
  if (!$("dialog").open) $("dialog").showModal();
  if (buttons.length === 1) $("dialog-buttons").firstElementChild.focus({ preventScroll: true });
}
$("dialog").addEventListener("close", () => {
  for (const image of $("dialog-body").querySelectorAll("img")) if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  $("grid").focus();
});
$("dialog").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  $("dialog-buttons").lastElementChild?.click();
});

function showHelp() {
  const keys = [
    ["← ↑ → ↓", "go to another image; with Shift, select"],
    ["1 … 9", "give the image its first, second … most probable class"],
    ["a letter", "type a class name; Enter takes it, ↓ and Enter make a new class"],
    ["Enter", "confirm the label as it is"],
    ["Del", "take the label back"],
    ["Space, Ctrl+click", "add an image to the selection"],
    ["Shift+click", "select up to an image"],
    ["Ctrl+A, Esc", "select all, or nothing"],
    ["Ctrl+Z", "undo, also what you did in an earlier session"],
  ];
  const list = element("dl", { class: "keys" }, ...keys.flatMap(([key, text]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, text)]));
  const more = element("p", { class: "soft" }, "Labels are saved at once, and the next image follows. Drop images anywhere to predict them. ");
  more.append(element("a", { href: "docs", target: "_blank", rel: "noopener" }, "For programs: /predict"));
  dialog("Keys", [list, more], [["Close", null, "primary"]]);
}

// ---------------------------------------------------------------- discovered classes

async function edit(body, next) {
  const before = page.label;
  say("Changing the run …");
  const state = await trying(() => ask("api/classes", body));
  if (!state) return;
  if (page.label === before) page.label = state.classes.some((one) => one.name === next) ? next : ALL;
  setState(state);
  await afterEdit();
  say("Done. Undo takes it back.");
}

function nameList(id, except) {
  return element("datalist", { id }, ...page.state.classes.filter((one) => one.name !== except).map((one) => element("option", { value: one.name })));
}

$("rename").addEventListener("click", () => {
  const old = page.label;
  const shown = page.state.classes.find((one) => one.name === old);
  const field = element("input", { maxlength: "200", value: (shown && shown.suggested) || old });
  dialog(`Rename ${old}`, [element("label", {}, "New name", field)], [["Cancel"], ["Rename", () => edit({ rename: { [old]: field.value } }, field.value.trim().normalize("NFC")), "primary"]]);
  field.select();
});
$("merge").addEventListener("click", () => {
  const old = page.label;
  const field = element("input", { maxlength: "200", list: "into" });
  dialog(`Merge ${old} into another class`, [element("label", {}, "Class that its images go to", field), nameList("into", old)], [["Cancel"], ["Merge", () => edit({ merge: [[old, field.value]] }, field.value), "primary"]]);
  field.focus();
});
$("split").addEventListener("click", () => {
  const old = page.label;
  dialog(`Split ${old}`, [element("p", {}, "Its images are divided in two classes by their features.")], [["Cancel"], ["Split", () => edit({ split: [old] }, ALL), "primary"]]);
});
$("reject").addEventListener("click", () => {
  const old = page.label;
  dialog(`Reject ${old}`, [element("p", {}, "It is no class: its images become none of these.")], [["Cancel"], ["Reject", () => edit({ reject: [old] }, ALL), "primary"]]);
});

$("restore").addEventListener("click", () => edit({ restore: [page.label] }, page.label));

// ---------------------------------------------------------------- train again

let following = false;
function showTraining(training) {
  const running = training.state === "running";
  $("training").hidden = training.state === "idle";
  $("training-cancel").textContent = running ? "Cancel" : "Close";
  const done = {
    running: training.line || "starting",
    finished: `${training.run} is finished`,
    failed: `Training failed: ${training.line}`,
    cancelled: "Training was cancelled",
    idle: "",
  };
  $("training-line").textContent = done[training.state];
  $("training-bar").hidden = !running;
  if (training.total) {
    $("training-bar").max = training.total;
    $("training-bar").value = training.done;
  } else $("training-bar").removeAttribute("value");
  if (running && !following) follow();
}

async function follow() {
  following = true;
  let training = { state: "running" };
  while (training.state === "running") {
    await new Promise((go) => setTimeout(go, 700));
    const found = await trying(() => ask("api/training"));
    if (!found) break;
    training = found;
    showTraining(training);
  }
  following = false;
  await refreshState();
  if (training.state === "finished") showComparison();
}

async function showComparison() {
  const found = await trying(() => ask("api/training/result"));
  if (!found) return;
  const lines = [];
  const add = (title, before, after) => lines.push(element("tr", {}, element("th", { scope: "row" }, title), element("td", {}, before), element("td", {}, after)));
  if (found.unseen) add(`Right, of ${plural(found.unseen.n, "label")} that neither run was trained on`, percent(found.unseen.before), percent(found.unseen.after));
  if (found.corrected) add(`Right, of your ${plural(found.corrected.n, "new label")}, each predicted without itself`, percent(found.corrected.before), percent(found.corrected.after));
  const own = found.accuracy;
  if (own.before || own.after) add("Right, on all labels of each run", own.before ? percent(own.before.accuracy) : "–", own.after ? percent(own.after.accuracy) : "–");
  add("Mean score", percent(found.score.before), percent(found.score.after));
  const table = element("table", {}, element("thead", {}, element("tr", {}, element("th"), element("th", {}, "before"), element("th", {}, "after"))), element("tbody", {}, ...lines));
  const text = `${plural(found.changed, "label")} of ${plural(found.images, "image")} that both runs predicted changed. Labels you corrected most are the hard ones: what is right of them says little of the other images.`;
  dialog("Before and after", [table, element("p", { class: "soft" }, text)], [["Stay with this run"], ["Go on with the new run", goOn, "primary"]]);
}

async function goOn() {
  const state = await trying(() => ask("api/training/open", {}));
  if (!state) return;
  page.rows.clear();
  page.label = ALL;
  setState(state);
  await loadView();
  say(`This is ${state.name} now`);
}

$("train").addEventListener("click", async () => {
  $("grid").focus();
  await working;
  const training = await trying(() => ask("api/training", {}));
  if (training) {
    showTraining(training);
    $("train").disabled = true;
  }
});
$("training-cancel").addEventListener("click", async () => {
  if (page.state.training.state !== "running" && !following) $("training").hidden = true;
  else await trying(() => ask("api/training", undefined, "DELETE"));
});

// ---------------------------------------------------------------- new images

async function predict(files) {
  const list = [...files].slice(0, 64);
  if (!list.length) return;
  say(page.state.model ? `Waiting: ${page.state.model}` : "Predicting …");
  const form = new FormData();
  list.forEach((file) => form.append("images", file));
  const found = await trying(() => ask("predict?top=5&nearest=12", form));
  if (!found) return;
  $("status").textContent = "";
  dialog(plural(list.length, "image"), found.predictions.map((one, at) => prediction(one, list[at])), [["Close", null, "primary"]]);
}

function prediction(one, file) {
  const preview = element("img", { alt: "", src: URL.createObjectURL(file), onerror: () => preview.replaceWith(element("p", { class: "none soft" }, "no preview in this browser")) });
  const about = element("div", {}, element("p", { class: "file" }, one.file_name));
  if (one.status === "rejected") about.append(element("p", {}, `Not readable: ${one.reason}`));
  const bars = one.top.map((top) => {
    const bar = element("i");
    bar.style.width = `${100 * top.probability}%`;
    return element("li", {}, element("span", { class: "name" }, top.label), bar, element("span", { class: "soft" }, score(top.probability)));
  });
  about.append(element("ul", { class: "bars" }, ...bars));
  if (one.familiarity !== null && one.familiarity < 0.05) about.append(element("p", { class: "soft" }, "Unlike the images of the run: perhaps none of its classes."));
  if (one.nearest.length) about.append(element("p", { class: "soft" }, "Nearest images of the run:"));
  const near = one.nearest.map((image) => element("figure", {}, element("img", { src: thumbnail(image.id), alt: image.file_name, title: image.file_name, loading: "lazy" }), element("figcaption", {}, `${image.known ? "✓ " : ""}${image.label || "no label"}`)));
  about.append(element("div", { class: "near" }, ...near));
  return element("div", { class: "result" }, preview, about);
}

$("predict").addEventListener("click", () => $("files").click());
$("files").addEventListener("change", () => {
  predict($("files").files).finally(() => ($("files").value = ""));
});
let dragging = 0;
const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
addEventListener("dragenter", (event) => { if (carriesFiles(event)) { dragging++; $("drop").hidden = false; } });
addEventListener("dragleave", (event) => { if (carriesFiles(event) && --dragging <= 0) { dragging = 0; $("drop").hidden = true; } });
addEventListener("dragover", (event) => { if (carriesFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  dragging = 0;
  $("drop").hidden = true;
  predict(event.dataTransfer.files);
});

// ---------------------------------------------------------------- begin

(async () => {
  const state = await trying(() => ask("api/state"));
  if (!state) return;
  setState(state);
  await loadView();
  $("grid").focus();
})();
