// The page around models.js: what models say of a typed text, what they write, and a game.
"use strict";

const $ = id => document.getElementById(id);
const data = JSON.parse($("models").textContent);
const symbols = [...data.symbols], ids = new Map(symbols.map((symbol, id) => [symbol, id]));
const lineEnd = ids.get("\n") ?? 0;
const shown = symbol => symbol === "\n" ? "↵" : symbol === " " ? "␣" : symbol;
const create = (tag, properties = {}, ...children) => {
  const found = Object.assign(document.createElement(tag), properties);
  found.append(...children);
  return found;
};
const pause = () => new Promise(resolve => setTimeout(resolve));

// --- The archive, and models when they are first wanted ----------------------------------------

async function openArchive() {
  const text = atob($("archive").textContent.trim()), packed = Uint8Array.from(text, c => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return { arrays: data.arrays, bytes: await new Response(stream).arrayBuffer() };
}

let archive = null;
const opened = new Map();

function modelOf(name) {
  if (!opened.has(name)) opened.set(name, unpack(archive, data.models[name].packed));
  return opened.get(name);
}

// --- A reader: a model, what it has read, and what it said at each character -------------------

class Reader {
  constructor(name) {
    this.name = name;
    this.model = modelOf(name);
    this.restart();
  }

  restart() {
    this.state = KINDS[this.model.kind].start(this.model);
    this.read = [];
    this.steps = [];
    this.bits = 0;
    this.hear(lineEnd);
  }

  /** Read a symbol; `next` is then log p of what follows, and `heard` what was behind it. */
  hear(id) {
    this.next = logSoftmax(KINDS[this.model.kind].step(this.model, this.state, id));
    this.heard = { cells: cellsOf(this.state).map(cell => Float32Array.from(cell.h)), parts: partsOf(this.model),
      watched: this.model.watched?.map(heads => heads.map(weights => Float32Array.from(weights))) };
  }

  add(id) {
    const order = [...this.next.keys()].sort((a, b) => this.next[b] - this.next[a]);
    this.steps.push({ id, bits: -this.next[id] / Math.LN2, order: order.slice(0, 5), rank: order.indexOf(id) + 1,
      p: order.slice(0, 5).map(symbol => Math.exp(this.next[symbol])), trust: trustIn(this.heard.parts, id),
      watched: this.heard.watched });
    this.bits += this.steps.at(-1).bits;
    this.read.push(id);
    this.hear(id);
    this.steps.at(-1).cells = this.heard.cells;
  }
}

/** The recurrent cells in a state, whatever it looks like. */
function cellsOf(state) {
  if (state?.h) return [state];
  if (state?.cell) return [state.cell];
  if (state?.cells) return state.cells;
  return Array.isArray(state) && state.every(cell => cell.h) ? state : [];
}

/** What an n-gram LSTM, or one in an ensemble, said last. */
function partsOf(model) {
  return model.parts ?? model.members?.map(partsOf).find(parts => parts) ?? null;
}

/** How far each part lifted the symbol that came above the mean of all symbols, in nats. */
function trustIn(parts, id) {
  if (!parts) return null;
  const over = part => part[id] - part.reduce((total, each) => total + each, 0) / part.length;
  const best = parts.places.filter(place => place.symbol === id).sort((a, b) => b.agree - a.agree)[0];
  return { network: over(parts.network), counts: over(parts.counts), matches: over(parts.matches), best: best ?? null,
    last: parts.last, longest: parts.longest };
}

// --- Cards: one for each chosen model ------------------------------------------------------------

const cards = new Map();
let run = 0;  // a newer one ends an older one

class Card {
  constructor(name) {
    this.reader = new Reader(name);
    this.at = -1;
    this.note = create("p", { className: "note" });
    this.text = create("pre", { tabIndex: 0 });
    this.text.setAttribute("aria-label", `What ${name} thinks of each character; arrow keys move through it`);
    this.lines = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.lines.setAttribute("class", "lines");
    this.next = create("div", { className: "next" });
    this.bits = create("span");
    this.controls = create("div", { className: "row" });
    const picture = create("div", { className: "picture" }, this.text);
    picture.append(this.lines);
    this.article = create("article", {}, create("header", {}, create("h3", { textContent: name }), this.bits),
      picture, this.note, this.controls, this.next);
    this.article.dataset.model = name;
    this.text.addEventListener("pointerover", event => this.point(event));
    this.text.addEventListener("click", event => this.point(event));
    this.text.addEventListener("keydown", event => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9 }[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      this.select(Math.max(0, Math.min(this.reader.steps.length - 1, this.at + step)));
      event.preventDefault();
    });
    this.offer();
  }

  /** Controls that only some models have: heads to watch, cells to colour by. */
  offer() {
    const { watched, cells } = this.reader.heard;
    if (watched) {
      const options = watched.flatMap((heads, layer) => heads.map((_, head) =>
        create("option", { value: `${layer} ${head}`, textContent: `layer ${layer + 1}, head ${head + 1}` })));
      this.head = create("select", {}, ...options);
      this.head.addEventListener("change", () => this.select(this.at));
      this.controls.append(create("label", {}, "Attention ", this.head));
    }
    if (cells.length) {
      this.cell = create("select", {}, create("option", { value: "", textContent: "bits" }));
      this.cell.addEventListener("change", () => this.colour());
      const find = create("button", { type: "button", textContent: "Find cells" });
      find.addEventListener("click", () => findCells(this, find));
      this.controls.append(create("label", {}, "Colour by ", this.cell), find);
    }
  }

  /** Forget what was read, and what was shown of it. */
  restart() {
    this.reader.restart();
    this.text.replaceChildren();
    this.lines.replaceChildren();
    this.note.replaceChildren();
    this.at = -1;
  }

  point(event) {
    const span = event.target.closest("span[data-at]");
    if (span) this.select(Number(span.dataset.at));
  }

  /** Show what was said before the character at a place. */
  select(at) {
    this.text.querySelector(".here")?.classList.remove("here");
    this.lines.replaceChildren();
    this.at = at;
    const step = this.reader.steps[at];
    if (!step) return;
    const span = this.text.children[at];
    span.classList.add("here");
    const list = step.order.map((symbol, rank) => `${shown(symbols[symbol])} ${(100 * step.p[rank]).toFixed(1)} %`);
    this.note.textContent = `${shown(symbols[step.id])}: ${step.bits.toFixed(2)} bits; expected ${list.join(" · ")}`;
    if (step.trust) this.showTrust(step.trust, at);
    if (this.head && step.watched) {
      const [layer, head] = this.head.value.split(" ").map(Number), weights = step.watched[layer][head];
      // The last key is the character before the one that is predicted.
      weights.forEach((weight, key) => this.line(at, at - weights.length + key, weight));
    }
  }

  showTrust(trust, at) {
    const bar = (name, nats) => `${name} ${nats >= 0 ? "+" : "−"}${Math.abs(nats / Math.LN2).toFixed(2)}`;
    const parts = [bar("counts", trust.counts), bar("matches", trust.matches), bar("network", trust.network)];
    this.note.append(create("br"), `lifted above the mean of all symbols, in bits: ${parts.join(" · ")}`);
    if (!trust.best) return;
    const from = at - (trust.last - trust.best.then);
    const agree = trust.best.agree, most = trust.longest;
    this.note.append(create("br"), `copied: the ${agree}${agree === most ? " or more" : ""} characters before it stood there too`);
    this.line(at, from, 1, "copied");
  }

  /** Draw a line from a character to an earlier one. */
  line(at, to, weight, kind = "") {
    const [a, b] = [this.text.children[at], this.text.children[to]];
    if (!a || !b || weight < 0.02) return;
    const box = this.text.getBoundingClientRect();
    const middle = span => {
      const of = span.getClientRects()[0] ?? span.getBoundingClientRect();
      return [of.left + of.width / 2 - box.left, of.top - box.top + this.text.scrollTop];
    };
    const [[x1, y1], [x2, y2]] = [middle(a), middle(b)];
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${x1} ${y1} Q${(x1 + x2) / 2} ${Math.min(y1, y2) - 18} ${x2} ${y2}`);
    path.setAttribute("opacity", Math.min(1, weight).toFixed(2));
    path.setAttribute("class", kind);
    this.lines.append(path);
    this.lines.style.height = `${this.text.scrollHeight}px`;
  }

  /** Show what was read since the last call, and what may follow. */
  draw(typed) {
    const { steps, next } = this.reader;
    const known = this.text.children.length;
    for (let at = known; at < steps.length; at++) {
      const symbol = symbols[steps[at].id];
      const span = create("span", { className: at < typed ? "read" : "" }, symbol === "\n" ? "↵\n" : symbol);
      span.dataset.at = at;
      this.text.append(span);
    }
    this.colour(known);
    this.bits.textContent = steps.length ? `${(this.reader.bits / steps.length).toFixed(3)} bits per character` : "";
    const order = [...next.keys()].sort((a, b) => next[b] - next[a]).slice(0, 8);
    this.next.replaceChildren(...order.map(symbol => {
      const percent = 100 * Math.exp(next[symbol]);
      const bar = create("i");
      bar.style.width = `${percent}%`;
      return create("div", {}, create("b", { textContent: shown(symbols[symbol]) }), create("span", {}, bar),
        create("small", { textContent: `${percent.toFixed(1)} %` }));
    }));
  }

  /** Colour the characters from a place on. */
  colour(first = 0) {
    const chosen = this.cell?.value ? this.cell.value.split(" ").map(Number) : null;
    for (let at = first; at < this.text.children.length; at++) {
      const step = this.reader.steps[at];
      const value = chosen ? step.cells[chosen[0]][chosen[1]] : Math.min(step.bits / 8, 1);
      const colour = value < 0 ? "9 105 218" : "217 72 15";
      this.text.children[at].style.background = `rgb(${colour} / ${(Math.abs(value) * 0.65).toFixed(2)})`;
    }
  }
}

// --- Cells that follow something, found by correlation (Karpathy et al., 2015) ------------------

/** The place of the last of some symbols before each character, or -1. */
function lastOf(text, ...wanted) {
  let last = -1;
  return text.map((symbol, at) => {
    const before = last;
    if (wanted.includes(symbol)) last = at;
    return before;
  });
}

// Each of a text as an array of symbols.
const FEATURES = {
  "inside a speaker's name": text => lastOf(text, "\n").map(before => {
    const end = text.indexOf("\n", before + 1), line = text.slice(before + 1, end < 0 ? undefined : end).join("");
    return Number(/^[A-Z][A-Za-z' ]*:$/.test(line));
  }),
  "place in the line": text => lastOf(text, "\n").map((before, at) => at - before),
  "inside quotation marks": text => {
    let open = 0;
    return text.map(symbol => symbol === '"' ? open = 1 - open : open);
  },
  "place in the word": text => lastOf(text, " ", "\n").map((before, at) => at - before),
  "after a line end": text => text.map(symbol => Number(symbol === "\n")),
};

function correlation(a, b) {
  const mean = x => x.reduce((total, each) => total + each, 0) / x.length, [ma, mb] = [mean(a), mean(b)];
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) {
    ab += (a[i] - ma) * (b[i] - mb); aa += (a[i] - ma) ** 2; bb += (b[i] - mb) ** 2;
  }
  return aa && bb ? ab / Math.sqrt(aa * bb) : 0;
}

async function findCells(card, button) {
  const text = [...data.unseen].slice(0, 2000), reader = new Reader(card.reader.name), mine = ++run;
  button.disabled = true;
  for (const [place, symbol] of text.entries()) {
    reader.add(ids.get(symbol));
    if (place % 100 === 0) {
      button.textContent = `Reading ${Math.round(100 * place / text.length)} %`;
      await pause();
      if (mine !== run) break;
    }
  }
  const read = text.slice(0, reader.steps.length);
  card.cell.replaceChildren(create("option", { value: "", textContent: "bits" }));
  for (const [name, feature] of Object.entries(FEATURES)) {
    const wanted = feature(read);
    let best = { size: 0 };
    reader.steps[0].cells.forEach((cells, layer) => cells.forEach((_, cell) => {
      const found = correlation(reader.steps.map(step => step.cells[layer][cell]), wanted);
      if (Math.abs(found) > best.size) best = { size: Math.abs(found), found, layer, cell };
    }));
    if (!best.size) continue;
    card.cell.append(create("option", { value: `${best.layer} ${best.cell}`,
      textContent: `${name}: cell ${best.cell + 1} (correlation ${best.found.toFixed(2)})` }));
  }
  button.disabled = false;
  button.textContent = "Find cells";
  card.cell.selectedIndex = Math.min(1, card.cell.length - 1);
  card.colour();
}

// --- Reading and writing -------------------------------------------------------------------------

const chosen = () => [...document.querySelectorAll("#which input:checked")].map(input => input.value);

function typedIds() {
  const unknown = [...new Set([...$("prompt").value].filter(symbol => !ids.has(symbol)))];
  $("unknown").textContent = unknown.length ? `left out, no model knows: ${unknown.join(" ")}` : "";
  return [...$("prompt").value].filter(symbol => ids.has(symbol)).map(symbol => ids.get(symbol));
}

function arrange() {
  for (const name of cards.keys()) if (!chosen().includes(name)) cards.delete(name);
  for (const name of chosen()) if (!cards.has(name)) cards.set(name, new Card(name));
  $("texts").replaceChildren(...chosen().map(name => cards.get(name).article));
}

/** Read the typed text with every chosen model, a little at a time. */
async function readAll() {
  const mine = ++run, wanted = typedIds();
  arrange();
  for (const card of cards.values()) {
    const { read } = card.reader;
    if (read.length > wanted.length || read.some((id, place) => id !== wanted[place])) card.restart();
  }
  let began = performance.now();
  for (const card of cards.values()) {
    while (card.reader.read.length < wanted.length) {
      card.reader.add(wanted[card.reader.read.length]);
      if (performance.now() - began > 30) {
        card.draw(wanted.length);
        await pause();
        if (mine !== run) return false;
        began = performance.now();
      }
    }
    card.draw(wanted.length);
  }
  return true;
}

/** Numbers in [0, 1) from a seed (mulberry32). */
function random(seed) {
  return () => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

function draw(next, temperature, number) {
  if (!temperature) return next.indexOf(Math.max(...next));
  const p = logSoftmax(next.map(each => each / temperature)).map(Math.exp);
  let id = 0;
  for (let sum = p[0]; sum < number && id < p.length - 1; sum += p[id]) id++;
  return id;
}

async function writeAll() {
  if (!await readAll()) return;
  const mine = ++run, typed = typedIds().length, temperature = Number($("temperature").value);
  const dice = new Map([...cards.keys()].map(name => [name, random(Number($("seed").value))]));
  for (let count = 0; count < Number($("length").value); count++) {
    for (const [name, card] of cards) {
      card.reader.add(draw(card.reader.next, temperature, dice.get(name)()));
      card.draw(typed);
    }
    await pause();
    if (mine !== run) return;
  }
}

// --- A game: guess the next character, as Shannon's readers did (1951) --------------------------

const SHOWN = 300;  // characters that one may read before the first guess
const game = { at: 0, begin: 0, tried: [], ranks: [], left: 1, bits: 0, readers: [] };

function newGame() {
  const unseen = [...data.unseen], starts = [];
  unseen.forEach((symbol, at) => {
    if (symbol === "\n" && unseen[at + 1] !== "\n" && at >= SHOWN && at < unseen.length - 400) starts.push(at + 1);
  });
  const anywhere = Math.floor(Math.random() * unseen.length / 2) || 1;
  game.begin = game.at = starts[Math.floor(Math.random() * starts.length)] ?? anywhere;
  game.tried = [];
  game.ranks = [];
  game.left = 1;
  game.bits = 0;
  game.readers = data.players.map(name => {
    const reader = new Reader(name);
    for (const symbol of unseen.slice(Math.max(0, game.at - SHOWN), game.at)) reader.add(ids.get(symbol));
    reader.steps = [];
    reader.bits = 0;
    return reader;
  });
  showGame();
}

function guess(symbol) {
  const right = [...data.unseen][game.at];
  if (right === undefined) return;  // the text has ended
  const stake = Number($("stake").value);
  if (symbol === null) reveal(symbols.length, game.left / (symbols.length - game.tried.length));
  else if (symbol === right) reveal(game.tried.length + 1, game.left * stake);
  else if (ids.has(symbol) && !game.tried.includes(symbol) && game.tried.length < symbols.length - 1) {
    game.tried.push(symbol);
    game.left *= 1 - stake;
  }
  showGame();
}

/**
 * Show the next character. `rank` is the number of the guess; `share` is what was staked on the
 * character, of all that the reader had: the bets on all symbols sum to 1, so they are a code, and
 * its length bounds the reader's entropy from above (Cover and King, 1978).
 */
function reveal(rank, share) {
  game.ranks.push(rank);
  game.bits -= Math.log2(share);
  game.left = 1;
  game.tried = [];
  const right = ids.get([...data.unseen][game.at]);
  for (const reader of game.readers) reader.add(right);
  game.at += 1;
}

/** Shannon's bounds on the entropy of a reader, from how often each number of guesses was needed. */
function bounds(ranks) {
  const share = symbols.map((_, rank) => ranks.filter(each => each === rank + 1).length / ranks.length);
  // A number that was rarer than a higher one would make the lower bound meaningless.
  const q = share.slice().sort((a, b) => b - a);
  const upper = q.reduce((total, each) => each ? total - each * Math.log2(each) : total, 0);
  const lower = q.reduce((total, each, i) => total + (i + 1) * (each - (q[i + 1] ?? 0)) * Math.log2(i + 1), 0);
  return { upper, lower };
}

function showGame() {
  const unseen = [...data.unseen], before = unseen.slice(Math.max(0, game.begin - SHOWN), game.begin).join("");
  $("board").replaceChildren(create("i", { textContent: before }),
    create("b", { textContent: unseen.slice(game.begin, game.at).join("") }), create("span", { className: "cursor" }));
  $("board").scrollTop = $("board").scrollHeight;
  $("tried").textContent = game.tried.length ? `not: ${game.tried.map(shown).join(" ")}` : "";
  const rows = game.readers.map(reader => [reader.name,
    reader.steps.length ? (reader.bits / reader.steps.length).toFixed(2) : "–",
    reader.steps.length ? `${Math.round(100 * reader.steps.filter(step => step.rank === 1).length / reader.steps.length)} %` : "–"]);
  const { upper, lower } = game.ranks.length ? bounds(game.ranks) : {};
  const staked = game.ranks.length ? (game.bits / game.ranks.length).toFixed(2) : "–";
  rows.unshift(["you, betting", `at most ${staked}`, ""]);
  rows.unshift(["you", game.ranks.length ? `${lower.toFixed(2)} to ${upper.toFixed(2)}` : "–",
    game.ranks.length ? `${Math.round(100 * game.ranks.filter(rank => rank === 1).length / game.ranks.length)} %` : "–"]);
  $("scores").tBodies[0].replaceChildren(...rows.map(cells => {
    const [name, ...rest] = cells.map((cell, place) => create(place ? "td" : "th", { textContent: cell }));
    name.scope = "row";
    return create("tr", {}, name, ...rest);
  }));
  const over = game.at >= unseen.length ? "; the text has ended" : "";
  $("played").textContent = `${game.ranks.length} characters played${over}`;
}

// --- Begin ---------------------------------------------------------------------------------------

async function begin() {
  archive = await openArchive();
  for (const [name, { bits }] of Object.entries(data.models)) {
    const input = create("input", { type: "checkbox", value: name, checked: data.chosen.includes(name) });
    const small = create("small", { textContent: bits === null ? "" : ` ${bits.toFixed(2)}` });
    $("which").append(create("label", {}, input, name, small));
    input.addEventListener("change", readAll);
  }
  $("prompt").addEventListener("input", readAll);
  $("write").addEventListener("click", writeAll);
  $("stop").addEventListener("click", () => { run++; });
  $("guess").addEventListener("input", () => {
    const symbol = [...$("guess").value].at(-1);
    $("guess").value = "";
    if (symbol !== undefined) guess(symbol);
  });
  $("guess").addEventListener("keydown", event => {
    if (event.key !== "Enter") return;
    guess("\n");
    event.preventDefault();
  });
  $("show").addEventListener("click", () => guess(null));
  $("again").addEventListener("click", newGame);
  await readAll();
  newGame();
  document.body.dataset.ready = "yes";
}

begin();
