// The FBS digits network in plain arithmetic: no page, no drawing, no state.
// Equations (1) to (4) are those of the four lines in the README.

/**
 * @typedef {Object} Layer
 * @property {string} name
 * @property {number} inputs     C_in
 * @property {number} outputs    C_out
 * @property {number} stride
 * @property {number} sizeIn     height and width of the input maps
 * @property {number} sizeOut    height and width of the output maps
 * @property {Float32Array} weight           [C_out, C_in, 3, 3]
 * @property {Float32Array} predictorWeight  [C_out, C_in]
 * @property {Float32Array} predictorBias    [C_out]
 * @property {Float32Array} scale  [C_out] 1 / standard deviation of the norm
 * @property {Float32Array} shift  [C_out] beta - mean * scale
 *
 * @typedef {Object} Choice  what the reader asks of one layer
 * @property {number} k                    how many channels win
 * @property {Int8Array} [forced]          [C_out] 1 wins, -1 loses, 0 as g says
 * @property {Map<number, number>} [g]     predictions that the reader has set by hand
 * @property {Float32Array} [pi]           [C_out] gates of somewhere else, with `winners`
 * @property {Uint8Array} [winners]        [C_out] who wins with them
 *
 * @typedef {Object} Selection
 * @property {Uint8Array} winners  [C_out] 1 or 0
 * @property {Uint16Array} order   [C_out] channels, the first to win first
 *
 * @typedef {Object} LayerResult
 * @property {Float32Array} s        [C_in] measured saliency of the inputs
 * @property {Float32Array} g        [C_out] predicted saliency of the outputs
 * @property {Float32Array} pi       [C_out] gate
 * @property {Uint8Array} winners    [C_out]
 * @property {Uint16Array} order     [C_out]
 * @property {Uint8Array} live       [C_in] inputs that were computed
 * @property {Float32Array} maps     [C_out, sizeOut, sizeOut]
 * @property {number} macs
 * @property {number} dense          the same with nothing skipped
 */

/** The whole network from the payload that Python wrote. */
export function readNetwork(payload) {
  const bytes = fromBase64(payload.tensors);
  const floats = new Float32Array(bytes.buffer);
  const part = (name) => {
    if (!(name in payload.index)) return null; // a part of the network is enough for some pictures
    const [start, length] = payload.index[name];
    return floats.subarray(start, start + length);
  };
  const layers = payload.layers.map((layer) => ({
    ...layer,
    weight: part(`${layer.name}.weight`),
    predictorWeight: part(`${layer.name}.predictor.weight`),
    predictorBias: part(`${layer.name}.predictor.bias`),
    scale: part(`${layer.name}.scale`),
    shift: part(`${layer.name}.shift`),
  }));
  return {
    layers,
    mean: payload.normalize.mean,
    std: payload.normalize.std,
    classes: payload.classes,
    classifierWeight: part("classifier.weight"),
    classifierBias: part("classifier.bias"),
    densities: payload.densities,
    meanGates: part("mean_gates"),
  };
}

/** Bytes of base64 text, in a buffer of their own so that floats are aligned. */
export function fromBase64(text) {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** k = ceil(d C), at least 1, without a float slip: `active_channels` of the package. */
export function activeChannels(channels, density) {
  return Math.max(1, Math.ceil((density - 1e-7) * channels));
}

/** Mean |x| of every plane: `maps` [channels, positions]. */
export function measure(maps, channels) {
  const positions = maps.length / channels;
  const s = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    let sum = 0;
    for (let p = c * positions; p < (c + 1) * positions; p++) sum += Math.abs(maps[p]);
    s[c] = sum / positions;
  }
  return s;
}

/** g = relu(predictor(s)), with the reader's own values in place of some. */
export function predict(layer, s, own = new Map()) {
  const g = new Float32Array(layer.outputs);
  for (let o = 0; o < layer.outputs; o++) {
    let sum = layer.predictorBias[o];
    for (let i = 0; i < layer.inputs; i++) sum += layer.predictorWeight[o * layer.inputs + i] * s[i];
    g[o] = own.has(o) ? own.get(o) : Math.max(0, sum);
  }
  return g;
}

/**
 * Winner-take-all: the k largest win, among equals the lower index.
 * A channel forced on takes the place of the weakest winner; one forced off never wins.
 * @returns {Selection}
 */
export function select(g, k, forced = new Int8Array(g.length)) {
  const order = Uint16Array.from(g, (_, i) => i);
  order.sort((a, b) => forced[b] - forced[a] || g[b] - g[a] || a - b);
  const on = forced.filter((f) => f > 0).length;
  const off = forced.filter((f) => f < 0).length;
  const count = Math.min(Math.max(k, on), g.length - off);
  const winners = new Uint8Array(g.length);
  for (const channel of order.subarray(0, count)) winners[channel] = 1;
  return { winners, order };
}

/**
 * What a force changes: the channel that wins instead of `channel`, or that gives way to it.
 * @returns {number | null | undefined}  null if nothing changes, undefined if no other is concerned
 */
export function rival(g, k, forced, channel) {
  const free = Int8Array.from(forced);
  free[channel] = 0;
  const now = select(g, k, forced).winners, before = select(g, k, free).winners;
  if (now[channel] === before[channel]) return null;
  return [...now.keys()].find((c) => c !== channel && now[c] !== before[c]);
}

/** y = relu(pi (norm(conv(x)) + beta)) of the winners alone, from the inputs that are not empty. */
export function convolve(layer, maps, pi) {
  const { inputs, outputs, sizeIn, sizeOut, stride } = layer;
  const padded = pad(maps, inputs, sizeIn);
  const y = new Float32Array(outputs * sizeOut * sizeOut);
  const sums = new Float64Array(sizeOut * sizeOut);
  for (let o = 0; o < outputs; o++) {
    if (pi[o] === 0) continue;
    sums.fill(0);
    for (const { channel, plane } of padded) {
      addConvolved(sums, plane, layer.weight, (o * inputs + channel) * 9, sizeIn + 2, sizeOut, stride);
    }
    const start = o * sums.length;
    for (let p = 0; p < sums.length; p++) {
      y[start + p] = Math.max(0, pi[o] * (sums[p] * layer.scale[o] + layer.shift[o]));
    }
  }
  return y;
}

/** The planes that are not empty, each with a border of zeros. */
function pad(maps, channels, size) {
  const planes = [];
  for (let channel = 0; channel < channels; channel++) {
    const rows = maps.subarray(channel * size * size, (channel + 1) * size * size);
    if (!rows.some((value) => value !== 0)) continue;
    const plane = new Float32Array((size + 2) * (size + 2));
    for (let y = 0; y < size; y++) plane.set(rows.subarray(y * size, (y + 1) * size), (y + 1) * (size + 2) + 1);
    planes.push({ channel, plane });
  }
  return planes;
}

function addConvolved(sums, plane, weight, at, width, size, stride) {
  const w0 = weight[at], w1 = weight[at + 1], w2 = weight[at + 2];
  const w3 = weight[at + 3], w4 = weight[at + 4], w5 = weight[at + 5];
  const w6 = weight[at + 6], w7 = weight[at + 7], w8 = weight[at + 8];
  for (let y = 0; y < size; y++) {
    let a = y * stride * width;
    for (let x = 0; x < size; x++, a += stride) {
      const b = a + width, c = b + width;
      sums[y * size + x] +=
        w0 * plane[a] + w1 * plane[a + 1] + w2 * plane[a + 2] +
        w3 * plane[b] + w4 * plane[b + 1] + w5 * plane[b + 2] +
        w6 * plane[c] + w7 * plane[c + 1] + w8 * plane[c + 2];
    }
  }
}

/**
 * One image through the network.
 * @param {Float32Array} image     [256] from 0, paper, to 1, ink
 * @param {Choice[]} choices       one for each layer
 * @returns {{layers: LayerResult[], logits: Float32Array, probabilities: Float32Array,
 *            prediction: number, macs: number, dense: number}}
 */
export function forward(network, image, choices) {
  let maps = normalized(network, image);
  let live = new Uint8Array([1]);
  const layers = network.layers.map((layer, i) => {
    const result = runLayer(layer, maps, live, choices[i]);
    maps = result.maps;
    live = result.winners;
    return result;
  });
  return summed(network, layers, classify(network, maps));
}

/** A result from all its layers: the answer, and what it cost. */
function summed(network, layers, logits) {
  const probabilities = softmax(logits);
  const live = layers.at(-1).winners;
  const inputs = network.layers.at(-1).outputs;
  const total = (key, last) => layers.reduce((sum, layer) => sum + layer[key], last * network.classes);
  return {
    layers,
    logits,
    probabilities,
    prediction: logits.indexOf(Math.max(...logits)),
    macs: total("macs", count(live)),
    dense: total("dense", inputs),
  };
}

/** The result of a blank image: nothing is read, nobody wins, nothing is computed. */
export function nothing(result) {
  const empty = (values) => values.slice().fill(0);
  const layers = result.layers.map((layer) => ({
    ...layer, macs: 0,
    ...Object.fromEntries(["s", "g", "pi", "winners", "live", "maps"].map((key) => [key, empty(layer[key])])),
  }));
  return { ...result, layers, probabilities: empty(result.probabilities), prediction: null, macs: 0 };
}

/** One layer: `maps` [inputs, sizeIn, sizeIn], of which those that are `live` were computed. */
export function runLayer(layer, maps, live, choice) {
  const s = measure(maps, layer.inputs);
  const g = predict(layer, s, choice.g);
  const selection = select(g, choice.k, choice.forced);
  const winners = choice.winners ?? selection.winners;
  const pi = choice.pi ?? g.map((value, o) => (winners[o] ? value : 0));
  const result = { s, g, pi, winners, live, order: selection.order, maps: convolve(layer, maps, pi) };
  return { ...result, ...costs(layer, live, winners) };
}

function costs(layer, live, winners) {
  const perPair = 9 * layer.sizeOut * layer.sizeOut;
  return { macs: count(live) * count(winners) * perPair, dense: layer.inputs * layer.outputs * perPair };
}

/** A choice as Python takes it: lists and plain objects. */
export function travelling(choice) {
  return { k: choice.k, forced: [...(choice.forced ?? [])], g: Object.fromEntries(choice.g ?? []) };
}

/** The same result as `forward`'s, of numbers that Python has computed. */
export function assemble(network, answer, of) {
  let live = new Uint8Array([1]);
  const layers = network.layers.map((layer) => {
    const result = assembleLayer(layer, answer, `${of}.${layer.name}`, live);
    live = result.winners;
    return result;
  });
  return summed(network, layers, answer[`${of}.logits`]);
}

/** One layer's numbers: `${of}.s`, g, pi, winners and maps. */
export function assembleLayer(layer, answer, of, live) {
  const [s, g, pi, won, maps] = ["s", "g", "pi", "winners", "maps"].map((name) => answer[`${of}.${name}`]);
  const winners = Uint8Array.from(won);
  const order = Uint16Array.from(g, (_, i) => i);
  order.sort((a, b) => winners[b] - winners[a] || g[b] - g[a] || a - b);
  return { s, g, pi, winners, live, order, maps, ...costs(layer, live, winners) };
}

/** The image as the first layer takes it. */
export function normalized(network, image) {
  return image.map((value) => (value - network.mean) / network.std);
}

/** Mean of every map, then one linear layer. */
function classify(network, maps) {
  const inputs = network.layers.at(-1).outputs;
  const features = measure(maps, inputs); // nothing is negative after a ReLU: mean |x| is the mean
  return Float32Array.from({ length: network.classes }, (_, c) => {
    let sum = network.classifierBias[c];
    for (let i = 0; i < inputs; i++) sum += network.classifierWeight[c * inputs + i] * features[i];
    return sum;
  });
}

export function softmax(logits) {
  const top = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
}

export function count(flags) {
  let sum = 0;
  for (const flag of flags) sum += flag;
  return sum;
}

/** Choices with the gates that another result has chosen. */
export function gatesOf(result) {
  return result.layers.map(({ pi, winners }) => ({ k: count(winners), pi, winners }));
}

/**
 * Choices with the mean gate of the training images, at the stored density that is nearest to each
 * layer's own; its k largest win, so that the MACs are the same.
 */
export function meanGates(network, winners) {
  const channels = network.meanGates.length / network.densities.length;
  let first = 0;
  return network.layers.map((layer, i) => {
    const row = nearest(network.densities, winners[i] / layer.outputs);
    const start = row * channels + first;
    first += layer.outputs;
    const gate = network.meanGates.slice(start, start + layer.outputs);
    const won = select(gate, winners[i]).winners;
    return { k: winners[i], pi: gate.map((value, o) => (won[o] ? value : 0)), winners: won };
  });
}

export function nearest(values, wanted) {
  let best = 0;
  values.forEach((value, i) => {
    if (Math.abs(value - wanted) < Math.abs(values[best] - wanted)) best = i;
  });
  return best;
}
