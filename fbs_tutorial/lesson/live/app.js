// The picture on a page: state, events, and one loop that computes once and draws once per frame.

import {
  activeChannels, assemble, count, forward, fromBase64, gatesOf, meanGates, nothing, predict, readNetwork,
  travelling,
} from "./engine.js";
import { enlarge, imageOf } from "./digits.js";
import {
  article, attribute, fateWords, forcedWords, furnish, gWords, hideStill, html, makeLoop, makeSpeaker,
  percent, showForce, text, value,
} from "./dom.js";
import { LANE, makeLane } from "./lane.js";
import {
  channelGrid, costOf, drawChannels, drawCurves, drawInputs, drawKernels, drawMap, drawPad, interpolate,
  makeBrush, prepare,
} from "./view.js";

const PAD = 184;
const PEN_STEP = 0.04; // of the pad, that an arrow key moves the pen

const OWN = "right with their own gates";

/** The page's parts, once. */
function skeleton(payload) {
  const digits = [...Array(payload.classes).keys()];
  const options = digits.map((d) => `<option value="${d}">${article(d)} ${d}</option>`).join("");
  const more = payload.few ? " data-more hidden" : ""; // what compares with other gates
  const layers = payload.layers.map((layer, i) => `
    <div class="fbs-layer" data-layer="${i}">
      <button type="button" class="fbs-open" aria-pressed="false">
        <span class="fbs-name">${layer.name}</span>
        <canvas role="img" aria-label="Kernels of ${layer.name}: rows are outputs, columns inputs"></canvas>
      </button>
      <label><span class="fbs-k"></span>
        <input type="range" min="1" max="${layer.outputs}" step="1"></label>
    </div>`).join("");
  return `
  <div class="fbs-head">
    <p class="fbs-headline"></p>
    <p class="fbs-sub"></p>
  </div>
  <div class="fbs-top">
    <section class="fbs-input" aria-label="Input">
      <h2>Draw a digit, or pick one</h2>
      <div class="fbs-pads">
        <canvas class="fbs-pad" tabindex="0" role="application" aria-label="Drawing pad. Draw with the mouse or a finger. With keys: arrows move the pen, space lowers and lifts it, 0 to 9 picks a test image, delete clears."></canvas>
        <div class="fbs-seen"><canvas role="img" aria-label="What the network sees"></canvas>
          <p>What the network sees: 16 × 16 pixels, upright and of full height, as its training images are.</p>
          <button type="button" class="fbs-clear">Clear the pad</button></div>
      </div>
      <div class="fbs-thumbs" role="group" aria-label="Test images">${digits.map((d) => `
        <button type="button" data-digit="${d}" aria-label="Test image of ${article(d)} ${d}; again for another"><canvas></canvas></button>`).join("")}</div>
    </section>
    <section class="fbs-density" aria-label="Density">
      <h2>Choose how much it may compute</h2>
      <canvas class="fbs-curves" role="img"></canvas>
      <input type="range" class="fbs-d" min="${payload.densities[0]}" max="1" step="0.01" aria-label="Density of all layers">
      <p class="fbs-readout"></p>
      <p class="fbs-note">Accuracies are those of the test digits; drawings differ from them, and may be read
        less well.</p>
      <ul class="fbs-legend">
        <li><i class="fbs-line-own"></i><span class="fbs-right">${payload.few ? "read correctly" : OWN}</span></li>
        <li${more}><i class="fbs-line-mean"></i>with the mean gate for all</li>
        <li${more}><i class="fbs-line-other"></i>with another image’s gates</li>
        <li><i class="fbs-line-macs"></i>MACs (multiplications with additions) that are left</li>
      </ul>
    </section>
    <section class="fbs-answer" aria-label="Answer">
      <h2>Read the answer</h2>
      <ol class="fbs-bars">${digits.map((d) => `
        <li><span>${d}</span><div><i class="fbs-own"></i><i class="fbs-other"></i></div><b></b></li>`).join("")}</ol>
      <button type="button" class="fbs-all"${payload.few ? "" : " hidden"}>Compare with other gates</button>
      <p class="fbs-beside"${more}><i class="fbs-key"></i><label>beside it, the same with
        <select class="fbs-compare">
          <option value="other">the gates of</option><option value="mean">the mean gate</option>
          <option value="dense">all channels</option><option value="none">nothing else</option>
        </select></label>
        <select class="fbs-donor" aria-label="The image whose gates are borrowed">${options}</select></p>
    </section>
  </div>
  <div class="fbs-bottom">
    <section class="fbs-kernels" aria-label="Kernels of all layers">
      <h2>See where the work goes</h2>
      <div class="fbs-strip">${layers}</div>
      <p class="fbs-caption">Each square is one kernel, from an input channel (column) to an output
        channel (row), and its area is what it costs. Blue squares are computed. A channel that loses
        takes away its row, and its column in the next layer.
        <button type="button" class="fbs-gather" aria-pressed="false">Move the winners together</button></p>
      <ul class="fbs-marks">
        <li><i class="fbs-blue"></i>computed</li>
        <li><i class="fbs-pale"></i>skipped: its row or its column has lost</li>
        <li><i class="fbs-hatched"></i>a channel that lost, so it has no map</li>
        <li${more}><i class="fbs-diamond"></i>wins here, but not in the one beside it</li>
        <li${more}><i class="fbs-diamond fbs-hollow"></i>wins only in the one beside it</li>
        <li><i class="fbs-before"></i>g as predicted, before you set it</li>
        <li${more}><i class="fbs-triangle"></i>wins with g = 0: computed for nothing</li>
        <li><i class="fbs-forced">on</i>forced by you</li>
      </ul>
    </section>
    <section class="fbs-inside" aria-label="Inside one layer">
      <h2 class="fbs-title"></h2>
      <p class="fbs-step"><b>s</b> <span class="fbs-says-s"></span></p>
      <canvas class="fbs-s" role="img"></canvas>
      <p class="fbs-step"><b>g</b> <span class="fbs-says-g"></span></p>
      <div class="fbs-channels">${LANE}</div>
      <div class="fbs-one">
        <p class="fbs-detail"></p>
        <label>its g <input type="range" class="fbs-g" min="0" step="0.01"></label>
        <button type="button" data-force="0">as predicted</button>
        <button type="button" data-force="1">force on</button>
        <button type="button" data-force="-1">force off</button>
      </div>
      <p class="fbs-step"><span class="fbs-dynamic"></span>
        <button type="button" class="fbs-reset" hidden>Undo all that was forced</button></p>
    </section>
  </div>`;
}

/** A state in which nothing was touched yet. */
function untouched(payload, samples) {
  return {
    strokes: null, // or the drawing: lists of points [x, y] from 0 to 1
    image: samples[4 * 3],
    digit: 4, turn: 0,
    density: 0.3,
    k: payload.layers.map((layer) => activeChannels(layer.outputs, 0.3)),
    forced: payload.layers.map((layer) => new Int8Array(layer.outputs)),
    g: payload.layers.map(() => new Map()),
    layer: payload.layers.length - 1,
    channel: null, // the strongest winner
    compare: "none", donor: 9,
    few: Boolean(payload.few), // without what compares with other gates
    gathered: 0,
    cursor: null,
  };
}

/**
 * Puts the picture into `root`.
 * @param {Object} [options]
 * @param {(state: Object) => void} [options.onCommit]  called when a stroke, a drag or a click ends
 * @param {(request: Object) => Promise<Object>} [options.ask]  Python, which computes instead
 * @returns {{set: Function, state: Function, destroy: Function}}
 */
export function mount(root, payload, options = {}) {
  const network = readNetwork(payload);
  const counts = fromBase64(payload.samples);
  const samples = payload.labels.map((_, i) => enlarge(counts.subarray(64 * i, 64 * i + 64)));
  const state = untouched(payload, samples);
  const brush = makeBrush(payload.colours);
  furnish(root, payload.colours, skeleton(payload));
  const $ = (selector) => root.querySelector(selector);
  const coarse = window.matchMedia?.("(pointer: coarse)").matches ?? false;
  const calm = window.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;
  const stop = new AbortController();
  const on = (target, type, handler) => target.addEventListener(type, handler, { signal: stop.signal });
  const top = payload.layers.map(() => 0); // of the axis of g, steady while bars move
  let result = null, other = null;
  const speak = makeSpeaker($(".fbs-status"));
  const loop = makeLoop(root, { compute, draw, soon: drawInput, ask: options.ask, request, take });
  const update = loop.update;

  const choices = () => state.k.map((k, i) => ({ k, forced: state.forced[i], g: state.g[i] }));
  const plain = () => state.k.map((k) => ({ k }));
  const commit = () => options.onCommit?.(state);

  /** The strongest winner of a layer: what is looked at first. */
  const first = (layer) => result.layers[layer].order[0];

  /** Nothing is drawn, or too little to read. */
  const blank = () => !state.image.some(Boolean);

  function compute() {
    result = forward(network, state.image, choices());
    other = beside();
    if (blank()) [result, other] = [nothing(result), null];
  }

  /** What Python is asked instead. */
  function request() {
    return {
      image: [...state.image], choices: choices().map(travelling),
      compare: state.compare, donor: [...samples[3 * state.donor]],
    };
  }

  function take(answer) {
    result = assemble(network, answer, "own");
    other = state.compare === "none" ? null : assemble(network, answer, "other");
    if (blank()) [result, other] = [nothing(result), null];
  }

  /** The same image with what the reader wants beside it. */
  function beside() {
    if (state.compare === "none") return null;
    if (state.compare === "dense") return forward(network, state.image, payload.layers.map((l) => ({ k: l.outputs })));
    const gates = state.compare === "mean"
      ? meanGates(network, state.k)
      : gatesOf(forward(network, samples[3 * state.donor], plain()));
    return forward(network, state.image, gates);
  }

  function draw() {
    state.channel ??= first(state.layer);
    drawInput();
    drawDensity();
    drawAnswer();
    drawStrip();
    drawInside();
    say();
  }

  function drawInput() {
    drawPad($(".fbs-pad"), PAD, state.strokes, state.image, brush, state.cursor);
    drawMap(prepare($(".fbs-seen canvas"), 80, 80), state.image, 16, 0, 0, 80, 1);
    root.querySelectorAll(".fbs-thumbs button").forEach((button, d) => {
      attribute(button, "aria-pressed", `${state.strokes === null && state.digit === d}`);
    });
  }

  function drawDensity() {
    const width = widthOf(".fbs-density");
    const macs = blank() ? costOf(payload.layers, state.k, payload.classes) : result.macs / result.dense;
    const measured = isOneDensity(payload, state) && !isForced();
    drawCurves($(".fbs-curves"), width, payload, state.density, { measured, macs, few: state.few }, brush);
    value($(".fbs-d"), state.density);
    const right = percent(interpolate(payload.densities, payload.accuracy.own, state.density));
    const known = measured
      ? `At density <b>${state.density.toFixed(2)}</b> the network is right on <b>${right}</b> of ${payload.tested} test images.`
      : "The accuracy of this setting was not measured: only that of one density for all layers, with nothing forced.";
    html($(".fbs-readout"), `${known} It computes <b>${percent(macs)}</b> of its MACs, because a layer’s cost is inputs kept × outputs kept.`);
    attribute($(".fbs-curves"), "aria-label", `Accuracy and MACs against density. ${$(".fbs-readout").textContent}`);
  }

  function drawAnswer() {
    root.querySelectorAll(".fbs-bars li").forEach((row, d) => {
      const p = result.probabilities[d];
      row.querySelector(".fbs-own").style.transform = `scaleX(${p.toFixed(3)})`;
      row.querySelector(".fbs-other").style.transform = `scaleX(${(other?.probabilities[d] ?? 0).toFixed(3)})`;
      text(row.querySelector("b"), p < 0.005 ? "" : percent(p));
      row.classList.toggle("fbs-first", d === result.prediction);
    });
    root.style.setProperty("--beside", besideColour());
    value($(".fbs-compare"), state.compare);
    value($(".fbs-donor"), state.donor);
    $(".fbs-donor").hidden = state.compare !== "other";
  }

  function drawStrip() {
    const width = widthOf(".fbs-strip");
    const [beside, parts] = width < 560 ? [120, 16] : [200, 4]; // pixels that are no kernels
    const unit = Math.max(1 / 4, Math.min(1, Math.floor((parts * (width - beside)) / 512) / parts));
    payload.layers.forEach((layer, i) => {
      const box = $(`[data-layer="${i}"]`);
      const marked = { row: i === state.layer ? state.channel : null, column: i === state.layer + 1 ? state.channel : null };
      drawKernels(box.querySelector("canvas"), layer, result.layers[i], result.layers[i - 1], unit, state.gathered, marked, marks(i), besideColour(), brush);
      attribute(box.querySelector(".fbs-open"), "aria-pressed", `${i === state.layer}`);
      text(box.querySelector(".fbs-k"), blank() ? `${state.k[i]} of ${layer.outputs} will win` : `${count(result.layers[i].winners)} of ${layer.outputs} win`);
      value(box.querySelector("input"), state.k[i]);
    });
  }

  function drawInside() {
    const i = state.layer, layer = payload.layers[i], here = result.layers[i];
    const highest = Math.max(...here.g, 0.01);
    if (!blank() && (highest > top[i] || highest < 0.6 * top[i])) top[i] = 1.12 * highest;
    const grid = channelGrid(layer.outputs, widthOf(".fbs-inside"), coarse);
    lane.lay(`Channels of ${layer.name}; arrow keys move, enter forces, plus and minus change g`, layer.outputs, grid, state.channel);
    text($(".fbs-title"), `Look inside ${layer.name}`);
    const inputs = layer.inputs === 1 ? "its one input" : `each of its ${layer.inputs} inputs`;
    const parts = `; below, what each <em class="fbs-adds">adds</em> to g of channel ${state.channel}
      or <em class="fbs-takes">takes away</em> from it`;
    html($(".fbs-says-s"), `measured: how strong ${inputs} is${network.layers[i].predictorWeight ? parts : ""}`);
    html($(".fbs-says-g"), `predicted from s: ${winWords(here)} Click one to force it on or off, drag its bar to change it.`);
    drawInputs($(".fbs-s"), widthOf(".fbs-inside"), network.layers[i], here, state.channel, brush);
    attribute($(".fbs-s"), "aria-label", `Measured saliency of ${layer.inputs} inputs, ${count(here.live)} of them computed`);
    const look = { few: state.few, top: top[i], chosen: state.channel, beside: besideColour(), before: predicted };
    drawChannels(lane.canvas, layer, here, marks(i), state.forced[i], look, grid, brush);
    attribute(lane.canvas, "aria-label", `Predicted saliency and map of ${layer.outputs} channels, ${count(here.winners)} of them computed`);
    drawOne(here);
    html($(".fbs-dynamic"), dynamicSentence(here));
    $(".fbs-reset").hidden = !isForced();
  }

  /** Who wins, and what becomes of a winner's map. */
  function winWords(here) {
    if (blank()) return "nothing yet, for there is nothing to read.";
    const k = count(here.winners), all = here.g.length, on = state.forced[state.layer].some((how) => how > 0);
    if (k === 0) return "all channels are forced off, so no map is computed.";
    if (k === all) return `all ${all} channels win, and the map of each is multiplied by its g.`;
    const above = on ? "above the cut or forced on" : "above the cut";
    if (k === 1) return `the one channel ${above} wins. Only its map is computed, and it is multiplied by its g.`;
    return `the ${k} channels ${above} win. Only their maps are computed, and each is multiplied by its g.`;
  }

  /** What the layer predicted where the reader has set another g. */
  function predicted(channel) {
    const layer = network.layers[state.layer];
    if (!state.g[state.layer].has(channel) || !layer.predictorWeight || blank()) return undefined;
    return predict(layer, result.layers[state.layer].s)[channel];
  }

  /** With all channels beside it every loser would differ: nothing is marked. */
  const marks = (layer) => (state.compare === "dense" ? null : other?.layers[layer]);

  function describe(channel) {
    if (blank()) return `Channel ${channel}: nothing to read yet`;
    const here = result.layers[state.layer], forced = state.forced[state.layer][channel];
    const fate = here.winners[channel]
      ? here.pi[channel] === 0 ? "wins with gate 0, so its map is empty" : "wins and is computed"
      : "loses and is skipped";
    const g = gWords(here.g[channel], state.g[state.layer].has(channel), predicted(channel));
    const rank = here.g.filter((g, c) => g > here.g[channel] || (g === here.g[channel] && c < channel)).length + 1;
    return `Channel ${channel}: ${g}, rank ${rank} of ${here.g.length}; ${fateWords(forced, fate)}`;
  }

  function drawOne(here) {
    const i = state.layer, swap = blank() ? "" : forcedWords(here.g, state.k[i], state.forced[i], state.channel);
    text($(".fbs-detail"), `${describe(state.channel)}.${swap}`);
    const slider = $(".fbs-g");
    slider.max = top[i].toFixed(2);
    value(slider, here.g[state.channel]);
    showForce(root, state.g[i].has(state.channel) ? null : state.forced[i][state.channel]);
  }

  /** How far the choice depends on the image: the point of it all. */
  function dynamicSentence(here) {
    if (blank()) return "";
    const own = here.winners, k = count(own);
    if (k === own.length) return `All ${k} channels win, for any image: what the image decides is how strong each g is.`;
    const only = state.layer === 0 ? "This layer has one input, hence one number to decide by: it always chooses the same." : "";
    if (other === null || state.compare === "dense") {
      const how = state.few ? "." : ": choose “the gates of” another digit to compare.";
      return only || `A different image would pick other winners${how}`;
    }
    const theirs = other.layers[state.layer].winners;
    const shared = own.reduce((sum, win, c) => sum + (win && theirs[c]), 0);
    const whom = state.compare === "mean" ? "with the mean gate" : `for that ${state.donor}`;
    if (k > 0 && shared === k) return `${k === 1 ? "Its one winner also wins" : `All its ${k} winners also win`} ${whom}. ${only}`;
    const rest = "filled marks are winners here only, hollow ones there only";
    return `<i class="fbs-diamond"></i>${shared} of its ${k} winner${k === 1 ? "" : "s"} also win${k === 1 ? "s" : ""} ${whom}; ${rest}. ${only}`;
  }

  const PURPOSE = "For each image the network guesses which channels will matter, and computes only those.";

  function say() {
    if (blank()) {
      html($(".fbs-headline"), "Draw a digit.");
      text($(".fbs-sub"), `There is nothing to read yet. ${PURPOSE}`);
      return speak("Draw a digit.");
    }
    const sure = percent(result.probabilities[result.prediction]);
    const share = percent(result.macs / result.dense);
    html($(".fbs-headline"), `It reads ${article(result.prediction)} <b>${result.prediction}</b>, and computes <b>${share}</b> of its MACs.`);
    const gates = { other: `the gates of ${article(state.donor)} ${state.donor}`, mean: "the mean gate", dense: "all channels" }[state.compare];
    const same = other?.macs === result.macs ? " at the same cost" : "";
    const beside = other === null ? "" : ` With ${gates} it reads ${article(other.prediction)} ${other.prediction} (${percent(other.probabilities[other.prediction])} sure)${same}.`;
    text($(".fbs-sub"), `It is ${sure} sure.${beside} ${PURPOSE}`);
    speak(`Reads ${result.prediction}, ${sure} sure, ${share} of the MACs.`);
  }

  const besideColour = () => payload.colours[{ mean: "orange", dense: "black" }[state.compare] ?? "purple"];
  const isForced = () => state.forced.some((f) => f.some(Boolean)) || state.g.some((g) => g.size > 0);
  const widthOf = (selector) => Math.max(200, Math.floor($(selector).clientWidth));

  // What the reader does.

  function pick(digit) {
    state.turn = state.strokes === null && state.digit === digit ? (state.turn + 1) % 3 : 0;
    Object.assign(state, { strokes: null, digit, image: samples[3 * digit + state.turn] });
    update();
    commit();
  }

  function setDensity(density) {
    state.density = density;
    state.k = payload.layers.map((layer) => activeChannels(layer.outputs, density));
    update();
  }

  function redraw() {
    state.image = imageOf(state.strokes) ?? new Float32Array(256);
    update();
  }

  function clear() {
    Object.assign(state, { strokes: [], image: new Float32Array(256) });
    update();
    commit();
  }

  function listenToPad() {
    const pad = $(".fbs-pad");
    const place = (event) => {
      const box = pad.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    };
    on(pad, "pointerdown", (event) => {
      pad.setPointerCapture(event.pointerId);
      state.cursor = null;
      state.strokes = [...(state.strokes ?? []), [place(event)]];
      redraw();
    });
    on(pad, "pointermove", (event) => {
      if (!pad.hasPointerCapture(event.pointerId)) return;
      const events = event.getCoalescedEvents?.() ?? [];
      state.strokes.at(-1).push(...(events.length ? events : [event]).map(place));
      redraw();
    });
    on(pad, "lostpointercapture", commit);
    on(pad, "keydown", padKey);
    on(pad, "blur", () => {
      state.cursor = null;
      update();
    });
  }

  function padKey(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in moves) movePen(...moves[event.key]);
    else if (event.key === " ") lowerPen();
    else if (/^[0-9]$/.test(event.key)) pick(Number(event.key));
    else if (event.key === "Delete" || event.key === "Backspace") clear();
    else return;
    event.preventDefault();
  }

  function movePen(x, y) {
    const pen = (state.cursor ??= { x: 0.5, y: 0.2, down: false });
    const inside = (place) => Math.max(0.04, Math.min(0.96, place));
    pen.x = inside(pen.x + x * PEN_STEP);
    pen.y = inside(pen.y + y * PEN_STEP);
    if (!pen.down) return update();
    state.strokes.at(-1).push([pen.x, pen.y]);
    redraw();
  }

  function lowerPen() {
    const pen = (state.cursor ??= { x: 0.5, y: 0.2, down: false });
    pen.down = !pen.down;
    if (!pen.down) return commit();
    state.strokes = [...(state.strokes ?? []), [[pen.x, pen.y]]];
    redraw();
  }

  function listenToControls() {
    on($(".fbs-clear"), "click", clear);
    on($(".fbs-d"), "input", (event) => setDensity(Number(event.target.value)));
    on($(".fbs-d"), "change", commit);
    on($(".fbs-compare"), "change", (event) => change({ compare: event.target.value }));
    on($(".fbs-donor"), "change", (event) => change({ donor: Number(event.target.value) }));
    on($(".fbs-all"), "click", showAll);
    on($(".fbs-gather"), "click", gather);
    on($(".fbs-reset"), "click", reset);
    for (const button of root.querySelectorAll(".fbs-thumbs button")) {
      on(button, "click", () => pick(Number(button.dataset.digit)));
    }
    root.querySelectorAll(".fbs-layer").forEach((box, i) => {
      on(box.querySelector(".fbs-open"), "click", () => change({ layer: i, channel: null }));
      on(box.querySelector("input"), "input", (event) => {
        state.k[i] = Number(event.target.value);
        change(i === state.layer ? {} : { layer: i, channel: null });
      });
      on(box.querySelector("input"), "change", commit);
    });
  }

  function change(values) {
    Object.assign(state, values);
    update();
  }

  /** From now on with what compares with other gates. */
  function showAll() {
    for (const part of root.querySelectorAll("[data-more]")) part.hidden = false;
    $(".fbs-all").hidden = true;
    text($(".fbs-right"), OWN);
    change({ few: false });
    $(".fbs-compare").focus();
  }

  function gather() {
    const target = state.gathered < 0.5 ? 1 : 0, start = performance.now(), from = state.gathered;
    attribute($(".fbs-gather"), "aria-pressed", `${target === 1}`);
    text($(".fbs-gather"), target ? "Put them back in place" : "Move the winners together");
    const move = (now) => {
      const share = calm ? 1 : Math.min(1, (now - start) / 400);
      state.gathered = from + (target - from) * share * share * (3 - 2 * share);
      if (result) drawStrip();
      if (share < 1 && !stop.signal.aborted) requestAnimationFrame(move);
    };
    requestAnimationFrame(move);
  }

  function reset() {
    state.forced.forEach((forced) => forced.fill(0));
    state.g.forEach((g) => g.clear());
    update();
    commit();
  }

  /** 1 wins, -1 loses, 0 as g says. */
  function force(channel, how) {
    state.forced[state.layer][channel] = how;
    state.g[state.layer].delete(channel);
    change({ channel });
    commit();
  }

  function turnAround(channel) {
    const forced = state.forced[state.layer][channel];
    force(channel, forced || state.g[state.layer].has(channel) ? 0 : result.layers[state.layer].winners[channel] ? -1 : 1);
  }

  function setG(channel, wanted) {
    state.forced[state.layer][channel] = 0;
    state.g[state.layer].set(channel, Math.max(0, Math.min(top[state.layer], wanted)));
    change({ channel });
  }

  /** A click forces a channel, a drag upwards or downwards sets its g. */
  const lane = makeLane($(".fbs-channels"), on, {
    describe,
    look: (channel) => change({ channel }),
    turn: turnAround,
    grab: (channel) => result.layers[state.layer].g[channel],
    drag: (channel, from, share) => setG(channel, from + share * top[state.layer]),
    rest: commit,
  });

  function listenToOne() {
    on($(".fbs-g"), "input", (event) => setG(state.channel, Number(event.target.value)));
    on($(".fbs-g"), "change", commit);
    for (const button of root.querySelectorAll("[data-force]")) {
      on(button, "click", () => force(state.channel, Number(button.dataset.force)));
    }
  }

  /** Thumbnails never change: drawn once. */
  function drawThumbs() {
    root.querySelectorAll(".fbs-thumbs canvas").forEach((canvas, d) => {
      drawMap(prepare(canvas, 32, 32), samples[3 * d], 16, 0, 0, 32, 1);
    });
  }

  listenToPad();
  listenToControls();
  listenToOne();
  on(root, "keydown", (event) => event.stopPropagation()); // a notebook would take them for its own
  drawThumbs();
  loop.start();
  const watch = new ResizeObserver(() => { // it came into the page or into sight, or has a new width
    hideStill(root);
    loop.redraw();
  });
  watch.observe(root);

  return {
    travels: travels(payload, state),
    state: () => state,
    result: () => result,
    set(values) {
      if (values.density !== undefined) setDensity(values.density);
      change(values);
    },
    destroy() {
      stop.abort();
      watch.disconnect();
      loop.end();
      lane.end();
    },
  };
}

/** What Python reads and sets: traits, each with the way out of the state and the way in. */
function travels(payload, state) {
  const into = (name) => (value) => fromPython(payload, name, value);
  return {
    image: { out: () => [...state.image], into: into("image") },
    density: { out: () => densityOf(payload, state), into: into("density") },
    forced: { out: () => forcedOf(payload, state), into: into("forced") },
  };
}

/** Every layer has as many winners as the one slider for all says. */
function isOneDensity(payload, state) {
  return payload.layers.every((l, i) => state.k[i] === activeChannels(l.outputs, state.density));
}

/** Names of the layers in the payload, as keys of what travels. */
function densityOf(payload, state) {
  if (isOneDensity(payload, state)) return state.density;
  return Object.fromEntries(payload.layers.map((l, i) => [l.name, state.k[i] / l.outputs]));
}

function forcedOf(payload, state) {
  const layers = payload.layers.map((layer, i) => {
    const forced = Object.fromEntries(state.g[i]);
    state.forced[i].forEach((how, c) => {
      if (how) forced[c] = how > 0 ? "on" : "off";
    });
    return [layer.name, forced];
  });
  return Object.fromEntries(layers.filter(([, forced]) => Object.keys(forced).length));
}

function fromPython(payload, name, value) {
  if (name === "image") return { strokes: null, digit: null, image: Float32Array.from(value) };
  if (name === "density" && typeof value === "number") return { density: value };
  const by = (make) => payload.layers.map((layer) => make(layer, value[layer.name] ?? {}));
  if (name === "density") return { k: payload.layers.map((l) => activeChannels(l.outputs, value[l.name])) };
  return {
    forced: by((layer, given) => {
      const flags = new Int8Array(layer.outputs);
      for (const [c, how] of Object.entries(given)) flags[c] = { on: 1, off: -1 }[how] ?? 0;
      return flags;
    }),
    g: by((_, given) => new Map(Object.entries(given)
      .filter(([, how]) => typeof how === "number").map(([c, how]) => [Number(c), how]))),
  };
}
