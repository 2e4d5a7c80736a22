// Small pictures of one part: a layer's s and g, the selection, one layer, the donor of the gates.

import {
  activeChannels, assembleLayer, count, forward, fromBase64, gatesOf, meanGates, measure, normalized,
  predict, readNetwork, runLayer, select, travelling,
} from "./engine.js";
import { enlarge } from "./digits.js";
import {
  article, attribute, fateWords, forcedWords, furnish, gWords, hideStill, html, makeLoop, makeSpeaker,
  percent, showForce, text, value,
} from "./dom.js";
import { LANE, makeLane } from "./lane.js";
import {
  channelGrid, cutOf, drawChannels, drawKernels, drawLane, drawMap, drawSigned, interpolate, makeBrush,
  prepare,
} from "./view.js";

/**
 * @typedef {Object} Host   what every part is given
 * @property {Object} payload
 * @property {Object} state     digit, image, density, hand (Map), forced (Int8Array), channel, donor
 * @property {Object} network   with as many layers as the part needs
 * @property {Float32Array[]} samples  one test image of each class
 * @property {Object} brush
 * @property {(selector: string) => Element} $
 * @property {Function} on
 * @property {() => number} width
 * @property {(values?: Object) => void} change   takes values into the state and draws
 * @property {() => void} rest                    the hand rests: Python is told
 */

/** Puts the part that the payload names into `root`. See `mount` of app.js. */
export function mount(root, payload, options = {}) {
  const make = { saliency, selection, layer: oneLayer, donor: donors }[payload.part];
  const stop = new AbortController();
  const counts = fromBase64(payload.samples);
  const samples = payload.labels.map((_, i) => enlarge(counts.subarray(64 * i, 64 * i + 64)));
  const channels = payload.start.g?.length ?? payload.layers.at(-1).outputs;
  const state = {
    ...payload.start, channel: null, hand: new Map(),
    image: samples[payload.start.digit], forced: new Int8Array(channels),
  };
  const host = {
    payload, state, samples, root,
    network: payload.layers.length ? readNetwork(payload) : null,
    brush: makeBrush(payload.colours),
    coarse: window.matchMedia?.("(pointer: coarse)").matches ?? false,
    $: (selector) => root.querySelector(selector),
    on: (target, type, handler) => target.addEventListener(type, handler, { signal: stop.signal }),
    width: () => Math.max(200, Math.floor(root.querySelector(".fbs-body").clientWidth)),
    change(values = {}) {
      Object.assign(state, values);
      loop.update();
    },
    rest: () => options.onCommit?.(state),
  };
  const part = make(host);
  root.classList.add("fbs-part");
  furnish(root, payload.colours, `<p class="fbs-headline"></p><p class="fbs-sub"></p>
    <div class="fbs-body">${part.markup}</div>`);
  const speak = makeSpeaker(host.$(".fbs-status"));
  const draw = () => {
    part.draw();
    const [headline, sub] = part.said();
    html(host.$(".fbs-headline"), headline);
    html(host.$(".fbs-sub"), sub);
    speak(host.$(".fbs-headline").textContent);
  };
  const loop = makeLoop(root, { ...part, draw, ask: options.ask });
  listenToThumbs(host);
  listenToDensity(host);
  part.listen();
  host.on(root, "keydown", (event) => event.stopPropagation());
  loop.start();
  const watch = new ResizeObserver(() => { // as in app.js
    hideStill(root);
    loop.redraw();
  });
  watch.observe(host.$(".fbs-body"));
  return {
    travels: travels(host),
    state: () => state,
    result: part.result,
    set: host.change,
    destroy() {
      stop.abort();
      watch.disconnect();
      loop.end();
      part.end?.();
    },
  };
}

/** What Python reads and sets: traits, each with the way out of the state and the way in. */
function travels({ payload, state, samples }) {
  const own = {
    out: () => ({
      ...Object.fromEntries(state.hand),
      ...Object.fromEntries([...state.forced].flatMap((f, c) => (f ? [[c, f > 0 ? "on" : "off"]] : []))),
    }),
    into: (given) => ({
      hand: new Map(Object.entries(given).flatMap(([c, how]) => (typeof how === "number" ? [[Number(c), how]] : []))),
      forced: state.forced.map((_, c) => ({ on: 1, off: -1 })[given[c]] ?? 0),
    }),
  };
  const plain = (name) => ({ out: () => state[name], into: (given) => ({ [name]: given }) });
  const image = {
    out: () => [...state.image],
    into: (given) => ({ image: Float32Array.from(given), digit: samples.findIndex((s) => s.every((v, p) => Math.abs(v - given[p]) < 1e-5)) }),
  };
  const all = { image, density: plain("density"), own, donor: plain("donor"), where: plain("where"), way: plain("way") };
  return Object.fromEntries(payload.traits.map((name) => [name, all[name]]));
}

// Controls that several parts have.

function thumbs(name, words) {
  return `<div><span class="fbs-label">${words}</span>
    <div class="fbs-thumbs" role="group" aria-label="${words}" data-picks="${name}">${[...Array(10).keys()].map((d) => `
      <button type="button" data-digit="${d}" aria-label="${words}: ${article(d)} ${d}"><canvas></canvas></button>`).join("")}</div></div>`;
}

function listenToThumbs({ root, on, samples, change, rest }) {
  for (const button of root.querySelectorAll(".fbs-thumbs button")) {
    const digit = Number(button.dataset.digit), picks = button.parentElement.dataset.picks;
    drawMap(prepare(button.querySelector("canvas"), 32, 32), samples[digit], 16, 0, 0, 32, 1);
    on(button, "click", () => {
      change(picks === "donor" ? { donor: digit } : { digit, image: samples[digit], hand: new Map() });
      rest();
    });
  }
}

function showPicked({ root, state }) {
  for (const button of root.querySelectorAll(".fbs-thumbs button")) {
    const wanted = state[button.parentElement.dataset.picks];
    attribute(button, "aria-pressed", `${Number(button.dataset.digit) === wanted}`);
  }
}

const DENSITY = `<label><span class="fbs-k"></span>
  <input type="range" class="fbs-d" min="0.02" max="1" step="0.01" aria-label="Density d"></label>`;

function listenToDensity({ $, on, change, rest }) {
  if (!$(".fbs-d")) return;
  on($(".fbs-d"), "input", (event) => change({ density: Number(event.target.value) }));
  on($(".fbs-d"), "change", rest);
}

/** The chosen channel in words, and a slider for its value, for those who cannot drag. */
function one(name, buttons = "") {
  return `<div class="fbs-one"><p class="fbs-detail"></p>
    <label>its ${name} <input type="range" class="fbs-g" min="0" step="any"></label>${buttons}
    <button type="button" class="fbs-reset">Undo all changes</button></div>`;
}

function listenToOne(host, set) {
  const { $, on, state, change, rest } = host;
  on($(".fbs-g"), "input", (event) => set(state.channel, Number(event.target.value)));
  on($(".fbs-g"), "change", rest);
  on($(".fbs-reset"), "click", () => {
    state.forced.fill(0);
    change({ hand: new Map() });
    rest();
  });
}

function showOne({ $, state }, words, now, top) {
  text($(".fbs-detail"), words);
  attribute($(".fbs-g"), "max", top.toFixed(2));
  value($(".fbs-g"), now);
  $(".fbs-reset").disabled = state.hand.size === 0 && !state.forced.some(Boolean);
}

/** A top for an axis that stays where it is while bars move a little. */
function steady(highest, before) {
  return highest > before || highest < 0.4 * before ? 1.15 * Math.max(highest, 1e-3) : before;
}

const gridOf = (channels, width, bar, map) => {
  const grid = channelGrid(channels, width, false, channels <= 12 ? 76 : 44);
  const tile = map ? grid.cell - 4 : 0;
  return { ...grid, bar, map: tile, height: bar + (map ? tile + 18 : 24) };
};

/** The maps that reach the layer, and which of them were computed. */
function inputsOf(network, image, density) {
  let maps = normalized(network, image), live = new Uint8Array([1]);
  for (const layer of network.layers.slice(0, -1)) {
    const result = runLayer(layer, maps, live, { k: activeChannels(layer.outputs, density) });
    [maps, live] = [result.maps, result.winners];
  }
  return { maps, live };
}

const planes = (maps, size) => (c) => maps.subarray(c * size * size, (c + 1) * size * size);

// 1. What the predictor makes of s.

const MARKED = `. Blue bars above the cut win. <i class="fbs-diamond" style="--beside: var(--orange)"></i>a new winner`;

/** Drag an s bar: which outputs follow, and which of them win? */
function saliency(host) {
  const { payload, state, $, on, change, rest, brush, width } = host;
  const layer = host.network.layers.at(-1), k = payload.winners ?? 0;
  let inputs = null, result = null, tops = { s: 0, g: 0 }, lanes = null;

  function compute(measured = null) {
    inputs = inputsOf(host.network, state.image, state.density);
    finish(measured ?? measure(inputs.maps, layer.inputs));
  }

  function finish(measured) {
    const s = measured.map((value, i) => state.hand.get(i) ?? value);
    const g = predict(layer, s), before = predict(layer, measured), now = select(g, k);
    const fresh = [...g.keys()].filter((o) => now.winners[o] && !select(before, k).winners[o]);
    result = { measured, s, g, before, ...now, fresh };
  }

  function set(channel, wanted) {
    state.hand.set(channel, Math.max(0, Math.min(tops.s, wanted)));
    change({ channel });
  }

  const inputWords = (i) => {
    const was = state.hand.has(i) ? `, measured ${result.measured[i].toFixed(2)}` : "";
    const empty = inputs.live[i] ? "" : "; its map was skipped";
    return `Input ${i}: s = ${result.s[i].toFixed(2)}${was}${empty}`;
  };
  const weight = (o) => layer.predictorWeight[o * layer.inputs + state.channel];
  const outputWords = (o) => `Output ${o}: g = ${result.g[o].toFixed(2)}, weight from input ${state.channel} ${weight(o).toFixed(2)}`;

  function draw() {
    state.channel ??= result.s.indexOf(Math.max(...result.s));
    showPicked(host);
    tops = { s: steady(Math.max(...result.s), tops.s), g: steady(Math.max(...result.g, ...result.before), tops.g) };
    const plane = planes(inputs.maps, layer.sizeIn), grid = gridOf(layer.inputs, width(), 60, true);
    lanes.s.lay(`Inputs of ${layer.name}; arrow keys move, plus and minus change s`, layer.inputs, grid, state.channel);
    const items = [...result.s].map((s, i) => ({
      value: s, look: inputs.live[i] ? "input" : "skipped", map: inputs.live[i] ? plane(i) : undefined,
      before: state.hand.has(i) ? result.measured[i] : undefined,
    }));
    drawLane(lanes.s.canvas, grid, items, { top: tops.s, size: layer.sizeIn, brightest: Math.max(...inputs.maps), chosen: state.channel }, brush);
    attribute(lanes.s.canvas, "aria-label", `Measured saliency and map of ${layer.inputs} inputs`);
    const below = gridOf(layer.outputs, width(), 54, false);
    drawOutputs(below);
    showOne(host, `${inputWords(state.channel)}.`, result.s[state.channel], tops.s);
  }

  function drawOutputs(grid) {
    const moved = (o) => Math.abs(result.g[o] - result.before[o]) > 1e-6;
    const items = [...result.g].map((g, o) => ({
      value: g, look: k === 0 || result.winners[o] ? "won" : "lost",
      before: moved(o) ? result.before[o] : undefined, only: result.fresh.includes(o) ? "own" : undefined,
    }));
    lanes.g.lay(`Outputs of ${layer.name}; arrow keys read them`, layer.outputs, grid, 0);
    const cut = (k && cutOf(result, state.forced)) || undefined;
    drawLane(lanes.g.canvas, grid, items, { top: tops.g, cut, beside: brush.colours.orange }, brush);
    const context = lanes.g.canvas.getContext("2d");
    for (let row = 0; row < grid.rows; row++) {
      const part = [...Array(grid.columns).keys()].map((c) => weight(row * grid.columns + c));
      drawSigned(context, part, grid.cell, row * grid.height + grid.bar + 2, 20, brush);
    }
    const won = k ? `, of which ${k} win, ${result.fresh.length} of them new` : "";
    attribute(lanes.g.canvas, "aria-label", `Predicted saliency of ${layer.outputs} outputs${won}`);
  }

  function freshWords() {
    const { fresh } = result, several = fresh.length > 1;
    if (fresh.length === 0) return `The same ${k} outputs win as before.`;
    return `<b>${fresh.length}</b> of ${k} winners ${several ? "are" : "is"} new: output${several ? "s" : ""} ${fresh.join(", ")}.`;
  }

  function said() {
    const changed = [...result.g].map((g, o) => g - result.before[o]);
    const ups = changed.filter((d) => d > 1e-6).length, downs = changed.filter((d) => d < -1e-6).length;
    const sums = `Each g is a weighted sum of all ${layer.inputs} values of s, and never below 0.`;
    if (state.hand.size === 0) return [payload.question, k ? `${sums} The ${k} largest win.` : sums];
    const which = `${inputWords(state.channel)}. The outlines are g before the change.`;
    if (k) return [freshWords(), which];
    return [
      `${ups === 1 ? "1 output rises" : `${ups} outputs rise`}, ${downs} fall${downs === 1 ? "s" : ""}, the other ${changed.length - ups - downs} stay.`,
      which,
    ];
  }

  return {
    markup: `<div class="fbs-controls">${thumbs("digit", "Image")}</div>
      <p class="fbs-step"><b>s</b> measured: the mean of |x| over each input map. Drag a bar up or down.</p>
      <div class="fbs-channels" data-lane="s">${LANE}</div>
      <p class="fbs-step"><b>g</b> predicted: one bar for each output, and under it the weight that the chosen input has in its sum (up adds, down takes away)${k ? MARKED : ""}</p>
      <div class="fbs-channels" data-lane="g">${LANE}</div>${one("s")}`,
    listen() {
      lanes = {
        s: makeLane($('[data-lane="s"]'), on, {
          describe: inputWords, look: (channel) => change({ channel }), grab: (i) => result.s[i],
          drag: (i, from, share) => set(i, from + share * tops.s), rest,
        }),
        g: makeLane($('[data-lane="g"]'), on, { describe: outputWords, look: (o) => text($(".fbs-detail"), `${outputWords(o)}.`) }),
      };
      listenToOne(host, set);
    },
    compute: () => compute(),
    draw, said,
    request: () => ({ image: [...state.image], density: state.density }),
    take: (answer) => compute(answer.s),
    result: () => result,
    end: () => [lanes.s, lanes.g].forEach((lane) => lane.end()),
  };
}

// 2. The selection.

/** Drag g bars, move the density: see the cut, ties, and winners with nothing to say. */
function selection(host) {
  const { payload, state, $, on, change, rest, brush, width } = host;
  let result = null, top = 0, lane = null;
  const given = Float32Array.from(payload.start.g), total = given.length;
  const step = Math.max(...given) > 5 ? 0.5 : 0.05; // so that ties can be made by hand
  const rounded = (g) => Math.round(g / step) * step;

  function compute(pi = null) {
    const g = given.map((value, c) => state.hand.get(c) ?? value);
    const k = activeChannels(total, state.density);
    const { winners, order } = select(g, k);
    const ranks = new Uint16Array(total);
    order.forEach((channel, place) => { ranks[channel] = place + 1; });
    const own = g.map((value, c) => (winners[c] ? value : 0));
    result = { g, k, winners, order, ranks, pi: pi ?? own, wrong: differences(pi, own) };
  }

  const differences = (pi, own) => (pi ? [...own.keys()].filter((c) => Math.abs(pi[c] - own[c]) > 1e-5) : []);

  function set(channel, wanted) {
    state.hand.set(channel, Number(Math.max(0, Math.min(top, rounded(wanted))).toFixed(4)));
    change({ channel });
  }

  /** Channels that have the same g as the weakest winner, losers among them. */
  function tied() {
    const last = result.order[result.k - 1];
    const equal = [...result.g.keys()].filter((c) => result.g[c] === result.g[last]);
    return equal.some((c) => !result.winners[c]) ? equal : [];
  }

  const words = (c) => {
    const wins = result.winners[c], fate = wins ? (result.g[c] === 0 ? "wins with gate 0" : "wins") : "loses, so pi = 0";
    return `Channel ${c}: g = ${result.g[c].toFixed(2)}, rank ${result.ranks[c]} of ${total}; it ${fate}`;
  };

  function draw() {
    state.channel ??= result.order[result.k - 1]; // the last to win
    top = steady(Math.max(...result.g), top);
    const ties = new Set(tied()), grid = gridOf(total, width(), total > 16 ? 64 : 110, false);
    lane.lay("Channels; arrow keys move, plus and minus change g", total, grid, state.channel);
    const items = [...result.g].map((g, c) => ({
      value: g, look: result.winners[c] ? "won" : "lost", empty: result.winners[c] && g === 0,
      note: ties.has(c) ? "tie" : "", foot: `${result.ranks[c]}.`, before: state.hand.has(c) ? given[c] : undefined,
    }));
    const cut = cutOf(result, state.forced);
    drawLane(lane.canvas, grid, items, { top, cut: cut ?? undefined, chosen: state.channel }, brush);
    attribute(lane.canvas, "aria-label", `g of ${total} channels, ${result.k} of them above the cut`);
    drawPi(gridOf(total, width(), total > 16 ? 38 : 60, false));
    value($(".fbs-d"), state.density);
    if ($(".fbs-way")) value($(".fbs-way"), state.way);
    text($(".fbs-k"), `density d = ${state.density.toFixed(2)}`);
    showOne(host, `${words(state.channel)}.`, result.g[state.channel], top);
  }

  function drawPi(grid) {
    const written = (pi, places) => (pi > 0 ? pi.toFixed(places) : "0");
    const items = [...result.pi].map((pi, c) => ({
      value: pi, look: pi > 0 ? "won" : "skipped", foot: written(pi, grid.cell < 34 ? 0 : 2),
      note: result.wrong.includes(c) ? "≠" : "",
    }));
    drawLane($(".fbs-pi"), grid, items, { top }, brush);
    const gates = [...result.pi].map((pi) => written(pi, 2));
    attribute($(".fbs-pi"), "aria-label", `Gate of each channel: ${gates.join(", ")}`);
  }

  function said() {
    const k = `k = ⌈${state.density.toFixed(2)} × ${total}⌉ = <b>${result.k}</b>: ${result.k} of ${total} channels win.`;
    if (result.wrong.length) return [k, `${state.way ? `“${state.way}”` : "Your function"} gives another gate to ${channelList(result.wrong)} than the rule does.`];
    const ties = tied(), zero = [...result.winners.keys()].filter((c) => result.winners[c] && result.g[c] === 0);
    if (ties.length) return [k, `There is a tie at the cut: ${channelList(ties)} have the same g, and the lower number wins.`];
    if (zero.length) return [k, `${channelList(zero)} ${zero.length > 1 ? "win" : "wins"} with g = 0: computed for nothing (triangle).`];
    return [k, payload.question];
  }

  const menu = payload.ways.length < 2 ? "" : `<label>selected by <select class="fbs-way">${
    payload.ways.map((way) => `<option>${way}</option>`).join("")}</select></label>`;
  return {
    markup: `<div class="fbs-controls">${DENSITY}${menu}</div>
      <p class="fbs-step"><b>g</b> predicted saliency, with the rank of each channel under it. Drag a bar. The dashed line is the cut.</p>
      <div class="fbs-channels">${LANE}</div>
      <p class="fbs-step"><b>pi</b> the gate${payload.python ? " that your Python function returns" : ": g of the winners, 0 for the others"}</p>
      <canvas class="fbs-pi fbs-beneath" role="img"></canvas>${one("g")}`,
    listen() {
      lane = makeLane($(".fbs-channels"), on, {
        describe: words, look: (channel) => change({ channel }), grab: (c) => result.g[c],
        drag: (c, from, share) => set(c, from + share * top), rest,
      });
      listenToOne(host, set);
      if (menu) {
        on($(".fbs-way"), "change", (event) => {
          state.way = event.target.value;
          rest(); // Python selects by what it was told last
          change();
        });
      }
    },
    compute: () => compute(),
    draw, said,
    request: () => ({ g: [...given].map((value, c) => state.hand.get(c) ?? value), density: state.density }),
    take: (answer) => compute(answer.pi),
    result: () => result,
    end: () => lane.end(),
  };
}

function channelList(channels) {
  const names = channels.slice(0, 6).join(", ") + (channels.length > 6 ? " and more" : "");
  return `channel${channels.length > 1 ? "s" : ""} ${names}`;
}

// 3. One layer.

/** Everything that one layer does with one image. */
function oneLayer(host) {
  const { payload, state, $, on, change, rest, brush, width } = host;
  const layer = host.network.layers.at(-1);
  let inputs = null, result = null, tops = { s: 0, g: 0 }, lanes = null;
  const choice = () => ({ k: activeChannels(layer.outputs, state.density), forced: state.forced, g: state.hand });

  function compute() {
    inputs = inputsOf(host.network, state.image, state.density);
    result = runLayer(layer, inputs.maps, inputs.live, choice());
  }

  function take(answer) {
    const live = Uint8Array.from(answer.live);
    inputs = { maps: answer.x, live };
    result = assembleLayer(layer, answer, "own", live);
  }

  function set(channel, wanted) {
    if (payload.python) return;
    state.forced[channel] = 0;
    state.hand.set(channel, Math.max(0, Math.min(tops.g, wanted)));
    change({ channel });
  }

  function force(channel, how) {
    state.forced[channel] = how;
    state.hand.delete(channel);
    change({ channel });
    rest();
  }

  const turn = (c) => {
    if (payload.python) return change({ channel: c });
    force(c, state.forced[c] || state.hand.has(c) ? 0 : result.winners[c] ? -1 : 1);
  };
  const words = (c) => {
    const fate = result.winners[c] ? (result.pi[c] === 0 ? "wins with gate 0, so its map is empty" : `wins with gate ${result.pi[c].toFixed(2)}`) : "loses and is skipped";
    const g = gWords(result.g[c], state.hand.has(c), predicted(c));
    return `Output ${c}: ${g}; ${fateWords(state.forced[c], fate)}`;
  };
  /** What was predicted where the reader has set another g. */
  const predicted = (c) => (state.hand.has(c) ? predict(layer, result.s)[c] : undefined);
  const inputWords = (i) => `Input ${i}: s = ${result.s[i].toFixed(2)}${inputs.live[i] ? "" : ", skipped by the layer before"}`;

  function draw() {
    state.channel ??= result.order[0];
    showPicked(host);
    value($(".fbs-d"), state.density);
    text($(".fbs-k"), `density d = ${state.density.toFixed(2)}: k = ${activeChannels(layer.outputs, state.density)} of ${layer.outputs}`);
    tops = { s: steady(Math.max(...result.s), tops.s), g: steady(Math.max(...result.g), tops.g) };
    const side = layer.sizeOut, wide = width() > 560;
    const unit = Math.min(6, 200 / Math.max(layer.inputs, layer.outputs)) / side;
    drawKernels($(".fbs-kernel"), layer, result, { winners: inputs.live, order: [...inputs.live.keys()] }, unit, 0, { row: state.channel, column: null }, null, "", brush);
    const room = width() - (wide ? $(".fbs-kernels").offsetWidth + 18 : 0);
    drawInputLane(gridOf(layer.inputs, room, 40, true));
    const grid = gridOf(layer.outputs, room, 48, true);
    lanes.g.lay(`Outputs of ${layer.name}; arrow keys move, enter forces, plus and minus change g`, layer.outputs, grid, state.channel);
    drawChannels(lanes.g.canvas, layer, result, null, state.forced, { top: tops.g, chosen: state.channel, before: predicted }, grid, brush);
    attribute(lanes.g.canvas, "aria-label", `Predicted saliency and map of ${layer.outputs} outputs`);
    attribute($(".fbs-kernel"), "aria-label", `Kernels: ${count(result.winners)} of ${layer.outputs} rows and ${count(inputs.live)} of ${layer.inputs} columns are computed`);
    const swap = forcedWords(result.g, choice().k, state.forced, state.channel);
    showOne(host, `${words(state.channel)}.${swap}`, result.g[state.channel], tops.g);
    showForce(host.root, state.hand.has(state.channel) ? null : state.forced[state.channel]);
  }

  function drawInputLane(grid) {
    const plane = planes(inputs.maps, layer.sizeIn);
    const items = [...result.s].map((s, i) => ({ value: s, look: inputs.live[i] ? "input" : "skipped", map: inputs.live[i] ? plane(i) : undefined }));
    lanes.s.lay(`Inputs of ${layer.name}; arrow keys read them`, layer.inputs, grid, 0);
    drawLane(lanes.s.canvas, grid, items, { top: tops.s, size: layer.sizeIn, brightest: Math.max(...inputs.maps) }, brush);
    attribute(lanes.s.canvas, "aria-label", `Measured saliency and map of ${layer.inputs} inputs, ${count(inputs.live)} of them computed`);
  }

  function said() {
    const headline = `${count(result.winners)} of ${layer.outputs} outputs win, from ${count(inputs.live)} of ${layer.inputs} inputs: <b>${percent(result.macs / result.dense)}</b> of this layer’s MACs, because its cost is inputs kept × outputs kept.`;
    return [headline, payload.python ? `Your own layer computed this, in Python. ${payload.question}` : payload.question];
  }

  const buttons = payload.python ? "" : [["0", "as predicted"], ["1", "force on"], ["-1", "force off"]]
    .map(([how, words]) => `<button type="button" data-force="${how}">${words}</button>`).join("");
  return {
    markup: `<div class="fbs-controls">${thumbs("digit", "Image")}${DENSITY}</div>
      <div class="fbs-two"><div>
        <p class="fbs-step"><b>x</b> the ${layer.inputs} input maps, above each its measured saliency <b>s</b></p>
        <div class="fbs-channels" data-lane="s">${LANE}</div>
        <p class="fbs-step"><b>g</b> predicted from s, and under each winner its map in <b>y</b>.${payload.python ? "" : " Click to force, drag to change."}</p>
        <div class="fbs-channels" data-lane="g">${LANE}</div></div>
      <div class="fbs-kernels"><p class="fbs-step">kernels: rows are outputs</p><canvas class="fbs-kernel" role="img"></canvas></div></div>
      ${one("g", buttons)}`,
    listen() {
      lanes = {
        s: makeLane($('[data-lane="s"]'), on, { describe: inputWords, look: (i) => text($(".fbs-detail"), `${inputWords(i)}.`) }),
        g: makeLane($('[data-lane="g"]'), on, {
          describe: words, look: (channel) => change({ channel }), turn, rest,
          grab: (c) => result.g[c], drag: (c, from, share) => set(c, from + share * tops.g),
        }),
      };
      listenToOne(host, set);
      $(".fbs-g").disabled = Boolean(payload.python);
      for (const button of host.root.querySelectorAll("[data-force]")) {
        on(button, "click", () => force(state.channel, Number(button.dataset.force)));
      }
    },
    compute, draw, said, take,
    request: () => ({ image: [...state.image], density: state.density, choice: travelling(choice()) }),
    result: () => result,
    end: () => [lanes.s, lanes.g].forEach((lane) => lane.end()),
  };
}

// 4. Whose gates?

const WHOSE = ["own", "other", "mean"];

/** One image, computed with its own gates, with another image's, and with the mean gate. */
function donors(host) {
  const { payload, state, $, on, change, rest, brush } = host;
  const { network, root } = host, layers = payload.layers;
  const tones = { own: "blue", other: "purple", mean: "orange" };
  let result = null;

  function compute() {
    const plain = layers.map((layer) => ({ k: activeChannels(layer.outputs, state.density) }));
    const only = (gates) => plain.map((choice, i) => (state.where === 0 || state.where === i + 1 ? gates[i] : choice));
    const run = (choices) => forward(network, state.image, choices);
    result = {
      own: run(plain),
      other: run(only(gatesOf(forward(network, host.samples[state.donor], plain)))),
      mean: run(only(meanGates(network, plain.map((choice) => choice.k)))),
    };
  }

  const shown = () => (state.where || layers.length) - 1;
  const titles = () => ({
    own: "its own gates", other: `the gates of ${article(state.donor)} ${state.donor}`,
    mean: "the mean gate",
  });

  function draw() {
    showPicked(host);
    value($(".fbs-d"), state.density);
    text($(".fbs-k"), `density d = ${state.density.toFixed(2)}`);
    value($(".fbs-where"), state.where);
    for (const whose of WHOSE) drawColumn(root.querySelector(`[data-whose="${whose}"]`), whose);
  }

  function drawColumn(box, whose) {
    const run = result[whose];
    text(box.querySelector("h3"), `With ${titles()[whose]}: ${article(run.prediction)} ${run.prediction}`);
    box.querySelectorAll("li").forEach((row, d) => {
      const p = run.probabilities[d];
      row.querySelector("i").style.transform = `scaleX(${p.toFixed(3)})`;
      text(row.querySelector("b"), p < 0.005 ? "" : percent(p));
      row.classList.toggle("fbs-first", d === run.prediction);
    });
    text(box.querySelector("p"), gateWords(whose, run));
    drawStrip(box.querySelector("canvas"), run, whose, box.clientWidth);
  }

  function gateWords(whose, run) {
    const own = result.own.layers[shown()].winners, here = run.layers[shown()].winners;
    const shared = own.reduce((sum, win, c) => sum + (win && here[c]), 0);
    const name = `Gate of ${layers[shown()].name}`;
    return whose === "own" ? `${name}: ${count(own)} of ${own.length} channels win.` : `${name}: ${shared} of the ${count(own)} own winners win here, too.`;
  }

  /** Every gate of the layer as a thin bar. */
  function drawStrip(canvas, run, whose, width) {
    const height = 56, pi = run.layers[shown()].pi, context = prepare(canvas, width, height);
    const top = Math.max(...WHOSE.flatMap((w) => [...result[w].layers[shown()].pi]), 1e-6), step = width / pi.length;
    context.fillStyle = brush.colours.line;
    context.fillRect(0, height - 1, width, 1);
    context.fillStyle = brush.colours[tones[whose]];
    pi.forEach((gate, c) => context.fillRect(c * step, height - (gate / top) * (height - 2), Math.max(1, step - 1), (gate / top) * (height - 2)));
    attribute(canvas, "aria-label", `Gates of ${layers[shown()].name} with ${titles()[whose]}`);
  }

  function said() {
    const { own, other, mean } = result, say = (run) => `${article(run.prediction)} <b>${run.prediction}</b>`;
    const curve = (name) => percent(interpolate(payload.densities, payload.accuracy[name], Math.max(payload.densities[0], state.density)));
    return [
      `With its own gates it reads ${say(own)}, with those of ${article(state.donor)} ${state.donor} ${say(other)}, with the mean gate ${say(mean)}. Each computes ${percent(own.macs / own.dense)} of the MACs.`,
      `Of all ${payload.tested} test images, ${curve("own")} are right with their own gates, ${curve("shuffled")} with another image’s, ${curve("mean")} with the mean gate.`,
    ];
  }

  const column = (whose) => `<div data-whose="${whose}" style="--tone: var(--${tones[whose]})"><h3></h3>
    <ol class="fbs-bars">${[...Array(payload.classes).keys()].map((d) => `<li><span>${d}</span><div><i class="fbs-own"></i></div><b></b></li>`).join("")}</ol>
    <p></p><canvas role="img"></canvas></div>`;
  const places = layers.map((layer, i) => `<option value="${i + 1}">${layer.name} only</option>`).join("");
  return {
    markup: `<div class="fbs-controls">${thumbs("digit", "Image")}${thumbs("donor", "Donor of the gates")}${DENSITY}
      <label>gates replaced in <select class="fbs-where"><option value="0">all layers</option>${places}</select></label></div>
      <div class="fbs-three">${WHOSE.map(column).join("")}</div>
      <p class="fbs-step">The map of a winner is multiplied by its gate. So even at density 1, where all channels win, gates of another image differ in strength.</p>`,
    listen() {
      on($(".fbs-where"), "change", (event) => {
        change({ where: Number(event.target.value) });
        rest();
      });
    },
    compute, draw, said,
    result: () => result,
  };
}
