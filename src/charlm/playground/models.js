// The models of charlm in plain JavaScript: one character at a time, as `forward` does in Python.
//
// A model is {kind, block, sizes, tensors}: the architecture, the training block, the sizes of its
// entry in params.yaml, and its weights by the names that they have in Python. For each kind there is
// a pair of functions:
//
//   start(model)            -> state before a text
//   step(model, state, id)  -> logits of the next character, one for each symbol; changes the state
//
// Letters as in Python: V symbols, D width, H hidden width, K width of a head.
"use strict";

const KINDS = {};
const GOLDEN = -7046029254386353131n;  // as in charlm/models/base.py

// --- From the archive ---------------------------------------------------------------------------

const TYPES = { int8: Int8Array, uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

/** A view of one array of the archive. */
function view(archive, number) {
  const { type, shape, at } = archive.arrays[number];
  const length = shape.reduce((product, each) => product * each, 1);
  return { shape, data: new TYPES[type](archive.bytes, at, length) };
}

/** A tensor as float32; int8 has a scale for each row. */
function tensor(archive, { values, scales }) {
  const found = view(archive, values);
  if (scales === undefined) return found;
  const by = view(archive, scales).data, [rows, width] = found.shape, data = new Float32Array(rows * width);
  for (let r = 0, at = 0; r < rows; r++) for (let i = 0; i < width; i++, at++) data[at] = by[r] * found.data[at];
  return { shape: found.shape, data };
}

/** Numbers of seven bits a byte, the highest of which says that more follow. */
function varints(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; at++) {
    let number = 0, power = 1;
    for (; bytes[at] > 127; at++, power *= 128) number += (bytes[at] & 127) * power;
    found.push(number + bytes[at] * power);
  }
  return found;
}

/** A model from what charlm/playground/pack.py says of it. */
function unpack(archive, packed) {
  const model = { ...packed, tensors: {} };
  for (const [name, stored] of Object.entries(packed.tensors)) model.tensors[name] = tensor(archive, stored);
  model.members = packed.members?.map(member => unpack(archive, member));
  model.discounts = packed.counts?.map(level => level.discounts);
  model.counts = packed.counts?.map(level => {
    const first = [0];
    for (const size of varints(view(archive, level.sizes).data)) first.push(first.at(-1) + size);
    return {
      first: Int32Array.from(first),
      symbols: view(archive, level.symbols).data,
      counts: Int32Array.from(varints(view(archive, level.counts).data)),
    };
  });
  return model;
}

// --- Numbers ------------------------------------------------------------------------------------

const zeros = length => new Float64Array(length);

/** Row `index` of a matrix. */
function row(matrix, index) {
  const width = matrix.shape[1];
  return matrix.data.subarray(index * width, (index + 1) * width);
}

/** W x + b, W outputs x inputs, as torch.nn.Linear has it. */
function linear(weight, x, bias) {
  const [outputs, inputs] = weight.shape, found = zeros(outputs), w = weight.data;
  for (let o = 0, at = 0; o < outputs; o++) {
    let sum = bias ? bias.data[o] : 0;
    for (let i = 0; i < inputs; i++) sum += w[at++] * x[i];
    found[o] = sum;
  }
  return found;
}

/** x W, W inputs x outputs, as a matrix that Python multiplies from the left. */
function product(x, weight) {
  const [inputs, outputs] = weight.shape, found = zeros(outputs), w = weight.data;
  for (let i = 0, at = 0; i < inputs; i++) {
    const each = x[i];
    for (let o = 0; o < outputs; o++) found[o] += each * w[at++];
  }
  return found;
}

const sum = (...vectors) => {
  const found = zeros(vectors[0].length);
  for (const vector of vectors) for (let i = 0; i < found.length; i++) found[i] += vector[i];
  return found;
};

const sigmoid = x => 1 / (1 + Math.exp(-x));

/** The error function to 1.2e-7 (Numerical Recipes, erfc by a Chebyshev fit). */
function erf(x) {
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const powers = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807,
    -1.13520398, 1.48851587, -0.82215223, 0.17087277];
  const inner = powers.reduceRight((so_far, power) => so_far * t + power, 0);
  const tail = t * Math.exp(-x * x + inner);
  return x >= 0 ? 1 - tail : tail - 1;
}

const gelu = x => 0.5 * x * (1 + erf(x / Math.SQRT2));

function layerNorm(x, gain, bias) {
  let mean = 0, square = 0;
  for (const each of x) mean += each / x.length;
  for (const each of x) square += (each - mean) ** 2 / x.length;
  const scale = 1 / Math.sqrt(square + 1e-5);
  return x.map((each, i) => (each - mean) * scale * gain.data[i] + (bias ? bias.data[i] : 0));
}

function rmsNorm(x, gain) {
  let square = 0;
  for (const each of x) square += each * each / x.length;
  const scale = 1 / Math.sqrt(square + 1.1920929e-7);
  return x.map((each, i) => each * scale * gain.data[i]);
}

/** log p of each symbol from logits. */
function logSoftmax(logits) {
  let largest = -Infinity, total = 0;
  for (const each of logits) if (each > largest) largest = each;
  for (const each of logits) total += Math.exp(each - largest);
  const shift = largest + Math.log(total);
  return logits.map(each => each - shift);
}

// --- Models without memory ----------------------------------------------------------------------

KINDS.bigram = {
  start: () => ({}),
  step: (model, state, id) => Float64Array.from(row(model.tensors["logits.weight"], id)),
};

KINDS.perceptron = {
  start: () => ({}),
  step: (model, state, id) => sum(row(model.tensors.weight_VV, id), model.tensors.bias_V.data),
};

KINDS.mlp = {
  start: () => ({ past: [] }),
  step(model, state, id) {
    const { weight1_VH, bias1_H, weight2_HV, bias2_V } = model.tensors;
    const symbols = weight2_HV.shape[1];
    state.past = [id, ...state.past].slice(0, model.sizes.context);
    const rows = state.past.map((each, back) => row(weight1_VH, back * symbols + each));
    return sum(product(sum(bias1_H.data, ...rows).map(gelu), weight2_HV), bias2_V.data);
  },
};

// --- Models of a block ---------------------------------------------------------------------------

/** A model whose cache cannot slide: with the block full, its newer half is read again. */
function ofBlocks(begin, extend) {
  return {
    start: model => ({ ids: [], cache: begin(model) }),
    step(model, state, id) {
      if (state.ids.length === model.block) {
        const kept = state.ids.slice(model.block - (model.block >> 1));
        state.ids = [];
        state.cache = begin(model);
        for (const each of kept) {
          extend(model, state.cache, each, state.ids.length);
          state.ids.push(each);
        }
      }
      const logits = extend(model, state.cache, id, state.ids.length);
      state.ids.push(id);
      return logits;
    },
  };
}

/** What a query finds: the mean of the values, weighted by softmax of its products with the keys. */
function attend(query, keys, values, scale) {
  const scores = keys.map(key => scale * key.reduce((total, each, i) => total + each * query[i], 0));
  const weights = logSoftmax(Float64Array.from(scores)).map(Math.exp);
  const found = zeros(values[0].length);
  values.forEach((value, place) => {
    for (let i = 0; i < found.length; i++) found[i] += weights[place] * value[i];
  });
  return { found, weights };
}

KINDS.averaging = ofBlocks(model => ({ total: zeros(model.sizes.width) }), (model, cache, id, place) => {
  cache.total = sum(cache.total, row(model.tensors["embedding.weight"], id));
  const mean = cache.total.map(each => each / (place + 1));
  return linear(model.tensors["output.weight"], mean, model.tensors["output.bias"]);
});

KINDS.attention = ofBlocks(() => ({ keys: [], values: [] }), (model, cache, id, place) => {
  const of = model.tensors;
  const x = sum(row(of["embedding.weight"], id), row(of["positions.weight"], place));
  cache.keys.push(linear(of["key.weight"], x));
  cache.values.push(linear(of["value.weight"], x));
  const query = linear(of["query.weight"], x);
  const { found, weights } = attend(query, cache.keys, cache.values, query.length ** -0.5);
  model.watched = [[weights]];
  return linear(of["output.weight"], found, of["output.bias"]);
});

const caches = model => Array.from({ length: model.sizes.layers }, () => ({
  heads: Array.from({ length: model.sizes.heads }, () => ({ keys: [], values: [] })),
}));

/** Attention of one layer: each head on its own part of the width. */
function heads(model, cache, name, x, turn, kind = "softmax", scaled = true) {
  const width = model.sizes.width, size = width / model.sizes.heads;
  const joined = linear(model.tensors[`${name}.query_key_value.weight`], x,
    model.tensors[`${name}.query_key_value.bias`]);
  const found = zeros(width), watched = [];
  cache.heads.forEach((head, number) => {
    const part = which => {
      const first = (kind === "average" ? 0 : which * width) + number * size;
      return joined.slice(first, first + size);
    };
    head.keys.push(turn(part(1)));
    head.values.push(part(2));
    const scale = kind === "average" ? 0 : scaled ? size ** -0.5 : 1;
    const seen = attend(turn(part(0)), head.keys, head.values, scale);
    watched.push(seen.weights);
    found.set(seen.found, number * size);
  });
  model.watched.push(watched);
  return linear(model.tensors[`${name}.projection.weight`], found, model.tensors[`${name}.projection.bias`]);
}

KINDS.gpt = ofBlocks(caches, (model, cache, id, place) => {
  const of = model.tensors;
  model.watched = [];
  let x = sum(row(of["embedding.weight"], id), row(of["positions.weight"], place));
  cache.forEach((layer, number) => {
    const name = `layers.${number}`, norm = (which, y) =>
      layerNorm(y, of[`${name}.${which}.weight`], of[`${name}.${which}.bias`]);
    x = sum(x, heads(model, layer, `${name}.attention`, norm("norm1", x), y => y));
    const hidden = linear(of[`${name}.expand.weight`], norm("norm2", x), of[`${name}.expand.bias`]).map(gelu);
    x = sum(x, linear(of[`${name}.projection.weight`], hidden, of[`${name}.projection.bias`]));
  });
  return linear(of["embedding.weight"], layerNorm(x, of["norm.weight"], of["norm.bias"]));
});

/** Rotary positions: pair k of features turns by place * 10000^(-2k / K). */
const rotated = place => x => {
  const half = x.length / 2, found = zeros(x.length);
  for (let k = 0; k < half; k++) {
    const angle = place * 10000 ** (-2 * k / x.length), cos = Math.cos(angle), sin = Math.sin(angle);
    found[k] = x[k] * cos - x[k + half] * sin;
    found[k + half] = x[k + half] * cos + x[k] * sin;
  }
  return found;
};

KINDS.transformer = ofBlocks(caches, (model, cache, id, place) => {
  const of = model.tensors, sizes = model.sizes;
  model.watched = [];
  const norm = (name, x) => {
    const gain = of[`${name}.weight`];
    return sizes.norm === "none" ? x : sizes.norm === "rms" ? rmsNorm(x, gain) : layerNorm(x, gain);
  };
  const part = (name, x, work) => {
    const before = sizes.norm_place === "before";
    const found = work(before ? norm(name, x) : x), total = sizes.residual ? sum(x, found) : found;
    return before ? total : norm(name, total);
  };
  let x = Float64Array.from(row(of["embedding.weight"], id));
  if (sizes.positions === "learned") x = sum(x, row(of["positions.weight"], place));
  const turn = sizes.positions === "rotary" ? rotated(place) : y => y;
  cache.forEach((layer, number) => {
    const name = `layers.${number}`;
    x = part(`${name}.norm1`, x, y =>
      heads(model, layer, `${name}.attention`, y, turn, sizes.attention, sizes.scaled));
    if (sizes.mlp === "none") return;
    x = part(`${name}.norm2`, x, y => {
      let hidden = linear(of[`${name}.mlp.expand.weight`], y);
      if (sizes.mlp === "gelu") hidden = hidden.map(gelu);
      else if (sizes.mlp === "squared_relu") hidden = hidden.map(each => Math.max(0, each) ** 2);
      else {
        const gate = linear(of[`${name}.mlp.gate.weight`], y);
        hidden = hidden.map((each, i) => each * gate[i] * sigmoid(gate[i]));
      }
      return linear(of[`${name}.mlp.projection.weight`], hidden);
    });
  });
  return linear(of["output.weight"], sizes.norm_place === "before" ? norm("norm", x) : x);
});

// --- Recurrent models ----------------------------------------------------------------------------

/** Change h and c of an LSTM cell, given all gates before their squashing (i, f, g, o). */
function lstmCell(gates, cell) {
  const size = cell.h.length;
  for (let i = 0; i < size; i++) {
    const kept = sigmoid(gates[size + i]) * cell.c[i];
    cell.c[i] = kept + sigmoid(gates[i]) * Math.tanh(gates[2 * size + i]);
    cell.gate[i] = sigmoid(gates[3 * size + i]);
    cell.h[i] = cell.gate[i] * Math.tanh(cell.c[i]);
  }
}

/** Change h of a GRU cell, given the input's and the recurrent share of the gates (r, z, n). */
function gruCell(input, recurrent, cell) {
  const size = cell.h.length;
  for (let i = 0; i < size; i++) {
    const reset = sigmoid(input[i] + recurrent[i]);
    const update = sigmoid(input[size + i] + recurrent[size + i]);
    const fresh = Math.tanh(input[2 * size + i] + reset * recurrent[2 * size + i]);
    cell.h[i] = fresh + update * (cell.h[i] - fresh);
  }
}

const newCell = size => ({ h: zeros(size), c: zeros(size), gate: zeros(size) });

/** One layer of torch.nn.LSTM, GRU or RNN. */
function torchLayer(model, name, layer, cell, x, kind = "lstm") {
  const of = which => model.tensors[`${name}.${which}_l${layer}`];
  const input = linear(of("weight_ih"), x, of("bias_ih"));
  const recurrent = linear(of("weight_hh"), cell.h, of("bias_hh"));
  if (kind === "lstm") lstmCell(sum(input, recurrent), cell);
  else if (kind === "gru") gruCell(input, recurrent, cell);
  else cell.h = sum(input, recurrent).map(Math.tanh);
  return cell.h;
}

/** The vector of a pair of characters; pairs share rows by Fibonacci hashing if there are few. */
function pair(weight, symbols, last, id) {
  let code = last * symbols + id;
  const rows = weight.shape[0];
  if (rows < symbols * symbols) {
    const hash = Number(BigInt.asIntN(64, BigInt(code) * GOLDEN) >> 32n);  // of 64 bits, as in Python
    code = (hash % rows + rows) % rows;
  }
  return row(weight, code);
}

KINDS.rnn = {
  start: model => newCell(model.sizes.hidden),
  step(model, cell, id) {
    const of = model.tensors;
    cell.h = sum(row(of.weight_xh_VH, id), of.bias_h_H.data, product(cell.h, of.weight_hh_HH)).map(Math.tanh);
    return linear(of["output.weight"], cell.h, of["output.bias"]);
  },
};

KINDS.gru = {
  start: model => newCell(model.sizes.hidden),
  step(model, cell, id) {
    const of = model.tensors;
    const input = sum(row(of.weight_x_V3H, id), of.bias_x_3H.data);
    gruCell(input, sum(product(cell.h, of.weight_h_H3H), of.bias_h_3H.data), cell);
    return linear(of["output.weight"], cell.h, of["output.bias"]);
  },
};

KINDS.lstm_scratch = {
  start: model => newCell(model.sizes.hidden),
  step(model, cell, id) {
    const of = model.tensors;
    const input = sum(row(of.weight_x_V4H, id), of.bias_x_4H.data, of.bias_h_4H.data);
    lstmCell(sum(input, product(cell.h, of.weight_h_H4H)), cell);
    const read = model.sizes.readout === "hidden" ? cell.h : cell.gate;
    return linear(of["output.weight"], read, of["output.bias"]);
  },
};

KINDS.lmnet = {
  start: model => newCell(model.sizes.n_embd),
  step(model, cell, id) {
    const of = model.tensors;
    const h = torchLayer(model, "lstm", 0, cell, row(of["embedding.weight"], id));
    return linear(of["output.weight"], h, of["output.bias"]);
  },
};

const layersOf = model => Array.from({ length: model.sizes.layers }, () => newCell(model.sizes.hidden));

KINDS.shake_lstm = {
  start: layersOf,
  step(model, cells, id) {
    const of = model.tensors;
    let x = layerNorm(Float64Array.from(row(of["embedding.weight"], id)), of["norm.weight"], of["norm.bias"]);
    cells.forEach((cell, layer) => { x = torchLayer(model, "lstm", layer, cell, x); });
    return linear(of["output.weight"], x, of["output.bias"]);
  },
};

KINDS.recurrent = {
  start: model => ({ cells: layersOf(model), last: 0 }),
  step(model, state, id) {
    const of = model.tensors, pairs = of["pairs.weight"];
    let x = row(of["embedding.weight"], id);
    if (pairs) x = sum(x, pair(pairs, model.symbols, state.last, id));
    state.cells.forEach((cell, layer) => {
      x = torchLayer(model, "layers", layer, cell, x, model.sizes.cell);
    });
    state.last = id;
    return linear(of["output.weight"], x, of["output.bias"]);
  },
};

KINDS.lstm = {
  start: model => ({ cells: layersOf(model), last: 0 }),
  step(model, state, id) {
    const of = model.tensors, read = [];
    let x = sum(row(of["embedding.weight"], id), pair(of["pairs.weight"], model.symbols, state.last, id));
    state.cells.forEach((cell, layer) => {
      x = torchLayer(model, `layers.${layer}`, 0, cell, x);
      read.push(...x);
    });
    state.last = id;
    return linear(of["output.weight"], read, of["output.bias"]);
  },
};

// --- Counting ------------------------------------------------------------------------------------

// `counts` is [{first, symbols, counts}, ...] for n = 1, 2, ...: the successors of context c of the
// order below lie at first[c] to first[c + 1]; the place of an n-gram there is its number.

/** The place of the n-gram that goes on from a context with a symbol, or -1. */
function successor(level, context, symbol) {
  if (context < 0) return -1;
  for (let at = level.first[context]; at < level.first[context + 1]; at++) {
    if (level.symbols[at] === symbol) return at;
  }
  return -1;
}

/** Go on with places[n], the place of the n-gram that ends at the last character, n = 0, 1, ... */
function readOn(levels, places, id) {
  const found = [0];
  levels.forEach((level, n) => found.push(successor(level, places[n] ?? -1, id)));
  return found;
}

const countsStart = levels => [0, ...levels.map(() => -1)];

/** Interpolated Kneser-Ney: probabilities of every symbol, from the shortest context upwards. */
function kneserNey(levels, discounts, places, symbols) {
  const p = zeros(symbols).fill(1 / symbols);
  levels.forEach((level, n) => {
    const context = places[n];
    if (context < 0) return;
    const first = level.first[context], last = level.first[context + 1];
    let total = 0, taken = 0;
    for (let at = first; at < last; at++) {
      total += level.counts[at];
      if (level.counts[at]) taken += discounts[n][Math.min(level.counts[at], 3) - 1];
    }
    if (!total) return;
    for (let v = 0; v < symbols; v++) p[v] *= taken / total;
    for (let at = first; at < last; at++) {
      const count = level.counts[at];
      if (count) p[level.symbols[at]] += (count - discounts[n][Math.min(count, 3) - 1]) / total;
    }
  });
  return p;
}

KINDS.kneser_ney = {
  start: model => ({ places: countsStart(model.counts) }),
  step(model, state, id) {
    state.places = readOn(model.counts, state.places, id);
    return kneserNey(model.counts, model.discounts, state.places, model.symbols).map(Math.log);
  },
};

KINDS.add_one = {
  start: model => ({ places: countsStart(model.counts) }),
  step(model, state, id) {
    state.places = readOn(model.counts, state.places, id);
    const top = model.counts.length - 1, level = model.counts[top], context = state.places[top];
    const p = zeros(model.symbols).fill(1);
    let total = model.symbols;
    if (context >= 0) {
      for (let at = level.first[context]; at < level.first[context + 1]; at++) {
        p[level.symbols[at]] += level.counts[at];
        total += level.counts[at];
      }
    }
    return p.map(each => Math.log(each / total));
  },
};

// --- Counts under a network ----------------------------------------------------------------------

const LATEST = 32;  // earlier places that the match model looks at

/** What followed the earlier occurrences of the last characters, by how many agree; and where. */
function followers(past, reach, lengths, symbols) {
  const now = past.length - 1, shortest = lengths[0];
  const counts = lengths.map(() => zeros(symbols)), places = [];
  for (let then = now - 1; then >= 0 && places.length < LATEST; then--) {
    const possible = Math.min(now + 1, reach) - (now - then);
    if (possible < shortest) break;
    let agree = 0;
    const most = Math.min(possible, lengths.at(-1));
    while (agree < most && past[now - agree] === past[then - agree]) agree++;
    if (agree < shortest) continue;
    const kind = lengths.filter(length => length <= agree).length - 1;
    counts[kind][past[then + 1]] += 1;
    places.push({ then, agree, symbol: past[then + 1], kind });
  }
  return { counts, places };
}

KINDS.ngram_lstm = {
  start: model => ({ cell: newCell(model.sizes.hidden), last: 0, past: [], places: countsStart(model.counts) }),
  step(model, state, id) {
    const of = model.tensors, { reach, matches } = model.sizes;
    state.places = readOn(model.counts, state.places, id);
    state.past.push(id);
    state.past = state.past.slice(-Math.max(1, reach));
    const p = kneserNey(model.counts, model.discounts, state.places, model.symbols);
    const found = followers(state.past, reach, matches, model.symbols);
    const features = [p.map(Math.log), ...found.counts.map(counts => counts.map(Math.log1p))];
    const x = sum(row(of["embedding.weight"], id), pair(of["pairs.weight"], model.symbols, state.last, id),
      linear(of["prediction.weight"], p));
    const h = torchLayer(model, "lstm", 0, state.cell, x);
    state.last = id;
    const trust = linear(of["trust.weight"], h, of["trust.bias"]);
    const network = linear(of["correction.weight"], h, of["correction.bias"]);
    const parts = features.map((feature, k) => feature.map(each => trust[k] * each));
    // Whom it trusts: shown beside the text.
    model.parts = { network, counts: parts[0], matches: sum(...parts.slice(1)), places: found.places,
      last: state.past.length - 1, longest: matches.at(-1) };
    return sum(network, ...parts);
  },
};

KINDS.ensemble = {
  start: model => model.members.map(member => KINDS[member.kind].start(member)),
  step(model, states, id) {
    const weights = model.tensors.weights_K.data;
    const log_p = model.members.map((member, k) => logSoftmax(KINDS[member.kind].step(member, states[k], id)));
    if (model.sizes.mixing === "geometric") return sum(...log_p.map((each, k) => each.map(l => weights[k] * l)));
    return log_p[0].map((_, v) => Math.log(log_p.reduce((total, each, k) => total + weights[k] * Math.exp(each[v]), 0)));
  },
};
