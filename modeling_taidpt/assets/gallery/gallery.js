"use strict";
// All text goes into the page by textContent: no label and no file name is ever taken for markup.
const PAGE = 120, MOST_LABELS = 200, MOST_CHIPS = 4, MOST_BELOW = 20;
const STEPS = 65500;  // as the scores are written: every step of the slider is a whole number of them
const meta = JSON.parse(document.getElementById("meta").textContent);
const at = id => document.getElementById(id);
const rows = [];  // {path, thumb, full, error, labels, scores, found}: scores of 0 to STEPS, falling
const groups = [
  ["all", "All", () => true],
  ["labels", "With labels", row => row.found > 0],
  ["nothing", "Nothing found", row => row.found === 0 && !row.error],
  ["errors", "Errors", row => Boolean(row.error)],
];
const state = { group: "all", chosen: [], sort: "", page: 0 };
let view = [], counts = new Uint32Array(meta.labels.length), open = -1;

function element(tag, options = {}, ...children) {
  const made = Object.assign(document.createElement(tag), options);
  made.append(...children);
  return made;
}
const numbers = text => new Uint16Array(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)).buffer);
const shown = score => (score / STEPS).toFixed(2);
const threshold = () => Math.round(Number(at("threshold").value) * STEPS);
const fileName = row => row.path.slice(Math.max(row.path.lastIndexOf("/"), row.path.lastIndexOf("\\")) + 1);

// ---------------------------------------------------------------- data: scripts, which load from a disk too

window.addRows = chunk => {
  const sizes = numbers(chunk.sizes), labels = numbers(chunk.labels), scores = numbers(chunk.scores);
  let start = 0;
  chunk.paths.forEach((path, index) => {
    const end = start + sizes[index];
    rows.push({ path, thumb: chunk.thumbs[index], full: chunk.full[index], error: chunk.errors[index] || "",
      labels: labels.subarray(start, end), scores: scores.subarray(start, end), found: 0 });
    start = end;
  });
};

function load(number, updated) {
  if (number === meta.chunks) return update(true);
  const script = element("script", { src: `${meta.folder}/chunk-${String(number).padStart(5, "0")}.js` });
  script.onload = () => {
    script.remove();
    const now = performance.now();
    const due = now - updated > 400;  // the first images are there at once, the others fill in
    if (due) update(false);
    setTimeout(load, 0, number + 1, due ? now : updated);
  };
  script.onerror = () => { at("status").textContent = `A file of this gallery is missing: ${script.getAttribute("src")}.`; };
  document.head.append(script);
}

// ---------------------------------------------------------------- what is shown

function update(whole = rows.length === meta.total) {
  const least = threshold();
  counts = new Uint32Array(meta.labels.length);
  const sizes = Object.fromEntries(groups.map(([name]) => [name, 0]));
  const inGroup = groups.find(([name]) => name === state.group)[2];
  view = [];
  rows.forEach((row, index) => {
    let found = 0;
    while (found < row.scores.length && row.scores[found] >= least) counts[row.labels[found++]]++;
    row.found = found;
    for (const [name, , test] of groups) sizes[name] += test(row);
    if (inGroup(row) && state.chosen.every(label => { const position = row.labels.indexOf(label); return position >= 0 && position < found; })) view.push(index);
  });
  if (state.sort !== "") {
    const keys = new Int32Array(rows.length).fill(-1), label = Number(state.sort);
    for (const index of view) {
      const position = rows[index].labels.indexOf(label);
      if (position >= 0) keys[index] = rows[index].scores[position];
    }
    view.sort((a, b) => keys[b] - keys[a] || a - b);
  }
  at("least").textContent = Number(at("threshold").value).toFixed(2);
  showGroups(sizes);
  showLabels();
  showPage();
  const still = whole ? "" : ` (${rows.length.toLocaleString("en")} of ${meta.total.toLocaleString("en")} loaded)`;
  at("status").textContent = `${view.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} images${still}`;
}

function showGroups(sizes) {
  if (!at("groups").children.length) {
    at("groups").append(...groups.map(([name]) => {
      const button = element("button", { type: "button", id: `group-${name}` });
      button.onclick = () => { state.group = name; first(); };
      return button;
    }));
  }
  for (const [name, title] of groups) {
    at(`group-${name}`).textContent = `${title} ${sizes[name].toLocaleString("en")}`;
    at(`group-${name}`).setAttribute("aria-pressed", String(state.group === name));
  }
}

function showLabels() {
  const text = at("find").value.trim().toLowerCase(), focused = document.activeElement?.dataset?.label;
  const fitting = meta.labels.map((name, label) => label)
    .filter(label => (counts[label] || state.chosen.includes(label)) && meta.labels[label].toLowerCase().includes(text))
    .sort((a, b) => counts[b] - counts[a] || a - b);
  const most = counts.reduce((a, b) => Math.max(a, b), 1);
  at("labels").replaceChildren(...fitting.slice(0, MOST_LABELS).map(label => {
    const bar = element("i");
    bar.style.width = `${100 * counts[label] / most}%`;
    const button = element("button", { type: "button", title: meta.labels[label] }, bar,
      element("span", { textContent: meta.labels[label] }), element("span", { textContent: counts[label].toLocaleString("en") }));
    button.dataset.label = label;
    button.setAttribute("aria-pressed", String(state.chosen.includes(label)));
    button.onclick = () => choose(label);
    return element("li", {}, button);
  }));
  if (focused !== undefined) document.querySelector(`#labels [data-label="${focused}"]`)?.focus({ preventScroll: true });
  at("more").textContent = fitting.length > MOST_LABELS ? `${fitting.length - MOST_LABELS} more: find them by name.` : fitting.length ? "" : "No label reaches this score.";
  at("chosen").replaceChildren(...state.chosen.map(label => {
    const button = element("button", { type: "button", textContent: `${meta.labels[label]} ×` });
    button.setAttribute("aria-label", `Do not filter by ${meta.labels[label]}`);
    button.onclick = () => choose(label);
    return button;
  }));
}

function showPage() {
  const pages = Math.max(1, Math.ceil(view.length / PAGE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const start = state.page * PAGE;
  at("grid").replaceChildren(...view.slice(start, start + PAGE).map((index, position) => tile(rows[index], start + position)));
  at("empty").hidden = view.length > 0 || rows.length < meta.total;
  at("pages").hidden = pages < 2;
  at("page").value = state.page + 1;
  at("page").max = pages;
  at("of-pages").textContent = `of ${pages.toLocaleString("en")}`;
  at("previous-page").disabled = state.page === 0;
  at("next-page").disabled = state.page === pages - 1;
}

function chip(row, position, tag = "span") {
  const made = element(tag, { className: `chip${position < row.found ? "" : " below"}` }, meta.labels[row.labels[position]]);
  made.append(element("b", { textContent: shown(row.scores[position]) }));
  return made;
}

function tile(row, position) {
  const text = element("span", { className: "text" });
  for (let label = 0; label < Math.min(row.found, MOST_CHIPS); label++) text.append(chip(row, label));
  if (row.found > MOST_CHIPS) text.append(element("span", { className: "chip more", textContent: `+${row.found - MOST_CHIPS}` }));
  if (row.error) text.append(element("span", { className: "error", textContent: row.error }));
  text.append(element("span", { className: "file", textContent: fileName(row), title: row.path }));
  const image = row.thumb
    ? element("img", { loading: "lazy", decoding: "async", alt: "", src: row.thumb })
    : element("span", { className: "none", textContent: "No image" });
  const button = element("button", { type: "button" }, image, text);
  button.dataset.position = position;
  button.onclick = () => enlarge(position);
  return element("li", {}, button);
}

// ---------------------------------------------------------------- large view

function enlarge(position) {
  open = Math.min(Math.max(position, 0), view.length - 1);
  const row = rows[view[open]];
  const photo = at("photo");
  photo.hidden = !row.thumb;
  photo.onerror = () => { photo.onerror = null; photo.src = row.thumb; };  // moved, or of a format that browsers lack
  if (row.thumb) { photo.src = row.full || row.thumb; photo.alt = fileName(row); }
  at("broken").hidden = !row.error;
  at("broken").textContent = row.error;
  at("name").textContent = row.path;
  at("chips").replaceChildren(...Array.from(row.labels.subarray(0, row.found + MOST_BELOW), (label, index) => {
    const made = chip(row, index, "button");
    made.type = "button";
    made.title = "Filter by this label";
    made.onclick = () => { at("large").close(); if (!state.chosen.includes(label)) choose(label); };
    return made;
  }));
  at("previous").disabled = open === 0;
  at("next").disabled = open === view.length - 1;
  if (!at("large").open) at("large").showModal();
}

at("large").addEventListener("close", () => {
  if (open < 0) return;
  state.page = Math.floor(open / PAGE);
  showPage();
  focusTile(open);
  open = -1;
});
at("large").addEventListener("click", event => { if (event.target === at("large")) at("large").close(); });
at("close").onclick = () => at("large").close();
at("previous").onclick = () => enlarge(open - 1);
at("next").onclick = () => enlarge(open + 1);
let touch = null;
at("frame").addEventListener("touchstart", event => { touch = event.touches.length === 1 ? event.touches[0].clientX : null; }, { passive: true });
at("frame").addEventListener("touchend", event => {
  const moved = touch === null ? 0 : event.changedTouches[0].clientX - touch;
  if (Math.abs(moved) > 50) enlarge(open + (moved < 0 ? 1 : -1));
});

// ---------------------------------------------------------------- keys and controls

function focusTile(position) {
  const page = Math.floor(position / PAGE);
  if (position < 0 || position >= view.length) return;
  if (page !== state.page) { state.page = page; showPage(); }
  document.querySelector(`#grid [data-position="${position}"]`)?.focus();
}

document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (at("large").open) {
    if (step) { event.preventDefault(); enlarge(open + step); }
    return;
  }
  const position = document.activeElement?.dataset?.position;
  if (position !== undefined) {
    const columns = getComputedStyle(at("grid")).gridTemplateColumns.split(" ").length;
    const move = step || { ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (move) { event.preventDefault(); focusTile(Number(position) + move); }
  } else if (event.key === "/" && document.activeElement?.tagName !== "INPUT") {
    event.preventDefault();
    at("side").open = true;
    at("find").focus();
  }
});

function first() { state.page = 0; update(); }
function turn(page) { state.page = page; showPage(); scrollTo(0, 0); }
function choose(label) {
  state.chosen = state.chosen.includes(label) ? state.chosen.filter(other => other !== label) : [...state.chosen, label];
  first();
}

let waiting = false;
at("threshold").oninput = () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; first(); });
};
at("sort").onchange = () => { state.sort = at("sort").value; first(); };
at("find").oninput = showLabels;
at("previous-page").onclick = () => turn(state.page - 1);
at("next-page").onclick = () => turn(state.page + 1);
at("page").onchange = () => turn(Number(at("page").value) - 1 || 0);
const byName = meta.labels.map((name, label) => [name, label]).sort((a, b) => a[0].localeCompare(b[0]));
at("sort").append(...byName.map(([name, label]) => element("option", { value: label, textContent: `Score of ${name}` })));
if (innerWidth <= 700) at("side").open = false;
load(0, -Infinity);
