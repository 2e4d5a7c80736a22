// Drawing as a function of state: every canvas of the picture, and nothing that listens.

import { activeChannels, count } from "./engine.js";

/**
 * @typedef {Object} Brush   what every drawing needs
 * @property {Object<string, string>} colours  from lesson/plots/style.py
 * @property {CanvasPattern} hatch
 */

export function makeBrush(colours) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const context = tile.getContext("2d");
  context.strokeStyle = colours.grey;
  context.beginPath();
  for (const shift of [-6, 0, 6]) {
    context.moveTo(shift, 6);
    context.lineTo(shift + 6, 0);
  }
  context.stroke();
  return { colours, hatch: context.createPattern(tile, "repeat"), font: "11px system-ui, sans-serif" };
}

/** A context for a canvas of this size in CSS pixels, sharp on any screen, wiped. */
export function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const w = Math.round(width * ratio), h = Math.round(height * ratio);
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

const scratch = typeof document === "undefined" ? null : document.createElement("canvas");

const DARKEST = 0x22; // of BLACK: white is 255
const SMALL = "9px system-ui, sans-serif"; // of numbers

/** A grey picture of `values` [size * size] from 0 (paper) to `top` (ink), enlarged without blur. */
export function drawMap(context, values, size, x, y, side, top, power = 1) {
  scratch.width = scratch.height = size;
  const small = scratch.getContext("2d");
  const pixels = small.createImageData(size, size);
  for (let p = 0; p < values.length; p++) {
    const share = top > 0 ? Math.min(1, values[p] / top) ** power : 0;
    for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = 255 - (255 - DARKEST) * share;
    pixels.data[4 * p + 3] = 255;
  }
  small.putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(scratch, x, y, side, side);
}

/** The drawing as it is, or the image as the network has it. */
export function drawPad(canvas, side, strokes, image, brush, cursor) {
  const context = prepare(canvas, side, side);
  if (strokes === null) drawMap(context, image, 16, 0, 0, side, 1);
  else drawStrokes(context, strokes, brush, side);
  if (cursor) {
    context.strokeStyle = brush.colours.orange;
    context.lineWidth = 2;
    context.beginPath();
    context.arc(cursor.x * side, cursor.y * side, cursor.down ? 5 : 9, 0, 7);
    context.stroke();
  }
}

function drawStrokes(context, strokes, brush, side) {
  context.strokeStyle = brush.colours.black;
  context.lineWidth = side / 13;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    stroke.forEach(([x, y], i) => (i ? context.lineTo(x * side, y * side) : context.moveTo(x * side, y * side)));
    if (stroke.length === 1) context.lineTo(stroke[0][0] * side + 0.1, stroke[0][1] * side);
    context.stroke();
  }
}

/**
 * Accuracy and MACs against density, above the slider that shares its axis.
 * @param {{measured: boolean, macs: number, few: boolean}} setting  whether its accuracy is known,
 *   its cost, and whether the curve of the images' own gates stands alone
 */
export function drawCurves(canvas, width, payload, density, setting, brush) {
  const height = 150, edge = 9, top = 14, base = height - 4;
  const context = prepare(canvas, width, height);
  const [first, last] = [payload.densities[0], payload.densities.at(-1)];
  const x = (d) => edge + ((d - first) / (last - first)) * (width - 2 * edge);
  const y = (share) => base - share * (base - top);
  drawLevels(context, width, y, brush);
  const macs = payload.densities.map((d) => macShare(payload.layers, d, payload.classes));
  line(context, payload.densities.map(x), macs.map(y), brush.colours.grey, [], 0, base);
  const looks = [["mean", "orange", [1, 3]], ["shuffled", "purple", [6, 3]], ["own", "blue", []]];
  for (const [name, colour, dash] of setting.few ? looks.slice(-1) : looks) {
    line(context, payload.densities.map(x), payload.accuracy[name].map(y), brush.colours[colour], dash, 2.2);
  }
  context.strokeStyle = setting.measured ? brush.colours.black : brush.colours.grey;
  context.lineWidth = 1;
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(x(density), top - 6);
  context.lineTo(x(density), height);
  context.stroke();
  dot(context, x(density), y(interpolate(payload.densities, payload.accuracy.own, density)), setting.measured ? brush.colours.blue : brush.colours.grey, brush);
  dot(context, x(density), y(setting.macs), brush.colours.darkGrey, brush);
}

function drawLevels(context, width, y, brush) {
  context.font = brush.font;
  context.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    context.fillStyle = brush.colours.line;
    context.fillRect(0, Math.round(y(share)), width, 1);
    context.fillStyle = brush.colours.text;
    context.fillText(`${100 * share} %`, width - 2, y(share) - 3);
  }
}

function line(context, xs, ys, colour, dash, width, base = null) {
  context.beginPath();
  xs.forEach((x, i) => (i ? context.lineTo(x, ys[i]) : context.moveTo(x, ys[i])));
  context.setLineDash(dash);
  context.lineCap = "round";
  if (base === null) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  } else {
    context.lineTo(xs.at(-1), base);
    context.lineTo(xs[0], base);
    context.globalAlpha = 0.45;
    context.fillStyle = colour;
    context.fill();
    context.globalAlpha = 1;
  }
}

function dot(context, x, y, colour, brush) {
  context.beginPath();
  context.arc(x, y, 4.5, 0, 7);
  context.fillStyle = colour;
  context.fill();
  context.strokeStyle = brush.colours.white;
  context.lineWidth = 1.5;
  context.stroke();
}

/** The MACs of all layers at one density, as a share of the dense ones. */
export function macShare(layers, density, classes) {
  return costOf(layers, layers.map((layer) => activeChannels(layer.outputs, density)), classes);
}

/** The same with k winners in each layer. */
export function costOf(layers, ks, classes) {
  let live = 1, inputs = 1, macs = 0, dense = 0;
  for (const [i, layer] of layers.entries()) {
    const k = ks[i], positions = 9 * layer.sizeOut ** 2;
    macs += live * k * positions;
    dense += inputs * layer.outputs * positions;
    [live, inputs] = [k, layer.outputs];
  }
  return (macs + live * classes) / (dense + inputs * classes);
}

export function interpolate(xs, ys, x) {
  const i = Math.max(1, xs.findIndex((value) => value >= x - 1e-9));
  const share = (x - xs[i - 1]) / (xs[i] - xs[i - 1]);
  return ys[i - 1] + share * (ys[i] - ys[i - 1]);
}

/**
 * The kernels of one layer, rows for outputs and columns for inputs, each as large as its MACs.
 * @param {number} unit    pixels per unit of length; a kernel of a 16 x 16 map is 16 units wide
 * @param {number} gathered  from 0, in place, to 1, the winners moved together
 * @param {{row: number | null, column: number | null}} marked  the chosen channel
 * @param {LayerResult} [other]  beside it: rows that win in one of the two only are marked,
 *                               with a frame that is filled where they win without it
 * @param {string} [beside]      the colour of `other`
 */
export function drawKernels(canvas, layer, result, before, unit, gathered, marked, other, beside, brush) {
  const side = layer.sizeOut * unit;
  const context = prepare(canvas, layer.inputs * side + 8, layer.outputs * side);
  const rows = places(result.winners, result.order, gathered);
  const columns = before ? places(before.winners, before.order, gathered) : [0];
  const gap = side >= 6 ? 1 : 0.5;
  for (let o = 0; o < layer.outputs; o++) {
    for (let i = 0; i < layer.inputs; i++) {
      const wins = result.winners[o], live = result.live[i];
      context.fillStyle = wins && live ? brush.colours.blue : wins || live ? brush.colours.pale : brush.colours.faint;
      context.fillRect(columns[i] * side, rows[o] * side, side - gap, side - gap);
    }
    if (other && other.winners[o] !== result.winners[o]) {
      const here = [layer.inputs * side + 2, rows[o] * side, 4, Math.max(1.5, side - gap)];
      [context.fillStyle, context.strokeStyle, context.lineWidth] = [beside, beside, 1];
      if (result.winners[o]) context.fillRect(...here);
      else context.strokeRect(here[0] + 0.5, here[1] + 0.5, 3, Math.max(0.5, here[3] - 1));
    }
  }
  outline(context, layer, marked, rows, columns, side, brush);
}

function outline(context, layer, marked, rows, columns, side, brush) {
  context.strokeStyle = brush.colours.black;
  context.lineWidth = 1.5;
  if (marked.row !== null) context.strokeRect(0, rows[marked.row] * side - 0.5, layer.inputs * side, side);
  if (marked.column !== null) {
    context.strokeRect(columns[marked.column] * side - 0.5, 0.5, side, layer.outputs * side - 1);
  }
}

/** Where each channel stands: in its own place, or winners first. */
function places(winners, order, gathered) {
  const k = count(winners);
  const target = new Float32Array(winners.length);
  let won = 0, lost = k;
  for (let channel = 0; channel < winners.length; channel++) {
    target[channel] = winners[channel] ? won++ : lost++;
  }
  return target.map((place, channel) => channel + gathered * (place - channel));
}

/** How the channels of a layer are set in rows: columns, their width, heights of bar and map. */
export function channelGrid(channels, width, coarse, largest = 44) {
  const smallest = coarse ? 32 : 25;
  const fitting = [channels, 64, 32, 16, 8, 4].filter((n) => n <= channels && width / n >= smallest);
  const columns = fitting[0] ?? 4;
  const cell = Math.min(largest, Math.floor(width / columns));
  const rows = Math.ceil(channels / columns);
  return { columns, cell, bar: 44, map: cell - 4, height: 44 + cell + 14, rows };
}

/**
 * @typedef {Object} Item   one channel of a lane
 * @property {number} value
 * @property {"won" | "lost" | "input" | "skipped"} look
 * @property {Float32Array} [map]    under the bar; without, a frame that is hatched
 * @property {number} [before]       an outline: the value as it was
 * @property {boolean} [empty]       it wins with gate 0
 * @property {"own" | "other"} [only]  it wins in this one of the two compared
 * @property {string} [note]         over the bar, such as "on" or "tie"
 * @property {string} [foot]         under the bar, where there is no map
 *
 * @typedef {Object} Lane
 * @property {number} top            the value of a bar of full height
 * @property {number} [cut]          a dashed line
 * @property {number} [chosen]
 * @property {number} [size]         of the maps
 * @property {number} [brightest]    of the maps
 * @property {string} [beside]       colour of the marks of those that differ
 */

/** Channels in rows: a bar for each, and under it its map and number, or its foot. */
export function drawLane(canvas, grid, items, lane, brush) {
  const context = prepare(canvas, grid.columns * grid.cell, grid.rows * grid.height);
  drawScale(context, items[0].note ? "" : String(Number(lane.top.toPrecision(2))), grid, brush);
  items.forEach((item, o) => {
    const x = (o % grid.columns) * grid.cell, y = Math.floor(o / grid.columns) * grid.height;
    drawBar(context, x, y, item, lane.top, grid, brush);
    if (item.only) mark(context, x + grid.cell - 8, y + 7, lane.beside, item.only === "other");
    if (grid.map) drawTile(context, x + 1, y + grid.bar + 2, item, lane, grid, brush);
    const middle = x + grid.cell / 2 - 1;
    if (grid.map) write(context, String(o), middle, y + grid.bar + grid.map + 11, SMALL, brush);
    if (item.foot) write(context, item.foot, middle, y + grid.bar + 13, brush.font, brush);
    if (item.note) write(context, item.note, middle, y + 10, `bold ${brush.font}`, brush);
    if (o === lane.chosen) frame(context, x, y, grid, brush);
  });
  drawCut(context, lane.cut ?? null, lane.top, grid, brush);
}

/** A line where a bar is full, with its value, in the first row. */
function drawScale(context, value, grid, brush) {
  context.fillStyle = brush.colours.line;
  context.fillRect(0, 8, grid.columns * grid.cell, 1);
  context.fillStyle = brush.colours.text;
  context.font = SMALL;
  context.textAlign = "left";
  context.fillText(value, 1, 7);
}

function write(context, words, x, y, font, brush) {
  context.fillStyle = brush.colours.black;
  context.font = font;
  context.textAlign = "center";
  context.fillText(words, x, y);
}

/**
 * The predicted saliency of every output as a bar, the cut, and under each bar its map.
 * `lane.before(channel)` is its prediction where the reader has set another value.
 */
export function drawChannels(canvas, layer, result, other, forced, lane, grid, brush) {
  const size = layer.sizeOut;
  const items = [...result.g].map((value, o) => ({
    value,
    look: result.winners[o] ? "won" : "lost",
    map: result.winners[o] ? result.maps.subarray(o * size * size, (o + 1) * size * size) : undefined,
    empty: !lane.few && result.winners[o] && result.pi[o] === 0,
    only: !other || other.winners[o] === result.winners[o] ? undefined : result.winners[o] ? "own" : "other",
    before: lane.before?.(o),
    note: { 1: "on", "-1": "off" }[forced[o]],
  }));
  const brightest = Math.max(...result.maps);
  drawLane(canvas, grid, items, { size, brightest, cut: cutOf(result, forced), ...lane }, brush);
}

function drawBar(context, x, y, item, top, grid, brush) {
  const tall = (value) => Math.max(0, Math.min(1, value / top)) * (grid.bar - 8);
  const height = tall(item.value), width = grid.cell - 5;
  context.fillStyle = brush.colours.line;
  context.fillRect(x + 1, y + grid.bar - 1, width + 1, 1);
  const solid = { won: brush.colours.blue, input: brush.colours.darkGrey }[item.look];
  context.fillStyle = solid ?? brush.hatch;
  context.fillRect(x + 2, y + grid.bar - height, width - 1, height);
  context.setLineDash([]);
  if (item.look === "lost" && height > 0) {
    context.strokeStyle = brush.colours.darkGrey;
    context.lineWidth = 0.8;
    context.strokeRect(x + 2.5, y + grid.bar - height, width - 2, height);
  }
  if (item.empty) triangle(context, x + grid.cell / 2 - 1, y + grid.bar - 1, brush.colours.black);
  if (item.before === undefined) return;
  context.strokeStyle = brush.colours.black;
  context.lineWidth = 1;
  context.strokeRect(x + 1.5, y + grid.bar - tall(item.before) - 0.5, width, tall(item.before));
}

function drawTile(context, x, y, item, lane, grid, brush) {
  context.lineWidth = 1;
  context.strokeStyle = brush.colours.line;
  if (item.map) {
    drawMap(context, item.map, lane.size, x, y, grid.map, lane.brightest, 0.6); // weak values show, too
    if (item.look === "won") [context.strokeStyle, context.lineWidth] = [brush.colours.blue, 1.5];
  } else {
    context.fillStyle = brush.hatch;
    context.fillRect(x, y, grid.map, grid.map);
  }
  context.strokeRect(x + 0.5, y + 0.5, grid.map - 1, grid.map - 1);
}

function frame(context, x, y, grid, brush) {
  context.strokeStyle = brush.colours.black;
  context.lineWidth = 2;
  context.strokeRect(x, y + 1, grid.cell - 2, grid.height - 3);
}

function mark(context, x, y, colour, hollow) {
  [context.fillStyle, context.strokeStyle, context.lineWidth] = [colour, colour, 1.5];
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(x, y - 4.5);
  context.lineTo(x + 4.5, y);
  context.lineTo(x, y + 4.5);
  context.lineTo(x - 4.5, y);
  context.closePath();
  if (hollow) context.stroke();
  else context.fill();
}

function triangle(context, x, y, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(x, y - 8);
  context.lineTo(x + 5, y);
  context.lineTo(x - 5, y);
  context.fill();
}

function drawCut(context, cut, top, grid, brush) {
  if (cut === null) return;
  context.strokeStyle = brush.colours.black;
  context.setLineDash([4, 3]);
  context.lineWidth = 1;
  for (let row = 0; row < grid.rows; row++) {
    const y = row * grid.height + grid.bar - Math.min(1, cut / top) * (grid.bar - 8);
    context.beginPath();
    context.moveTo(0, Math.round(y) + 0.5);
    context.lineTo(grid.columns * grid.cell, Math.round(y) + 0.5);
    context.stroke();
  }
  context.setLineDash([]);
}

/** Half-way between the weakest winner and the strongest loser of those that g decides. */
export function cutOf(result, forced) {
  const free = [...result.order].filter((channel) => !forced[channel]);
  const lowest = free.filter((channel) => result.winners[channel]).at(-1);
  const highest = free.find((channel) => !result.winners[channel]);
  if (lowest === undefined || highest === undefined) return null;
  return (result.g[lowest] + result.g[highest]) / 2;
}

/** What a layer measures of its inputs, and what each adds to g of one channel. */
export function drawInputs(canvas, width, layer, result, chosen, brush) {
  const lane = 40;
  const context = prepare(canvas, width, 2 * lane + 2);
  const cell = Math.min(28, width / layer.inputs);
  const largest = Math.max(...result.s, 1e-6);
  for (let i = 0; i < layer.inputs; i++) {
    const high = (result.s[i] / largest) * (lane - 4);
    const tall = result.live[i] ? Math.max(1, high) : 6;
    context.fillStyle = result.live[i] ? brush.colours.darkGrey : brush.hatch;
    context.fillRect(i * cell + 1, lane - tall, cell - 2, tall);
  }
  if (!layer.predictorWeight) return;
  const parts = [...result.s].map((s, i) => s * layer.predictorWeight[chosen * layer.inputs + i]);
  drawSigned(context, parts, cell, lane + 2, lane, brush);
}

/** Bars up for what adds, down for what takes away, around a line in the middle. */
export function drawSigned(context, parts, cell, y, height, brush) {
  const largest = Math.max(...parts.map(Math.abs), 1e-6);
  const middle = y + height / 2;
  parts.forEach((part, i) => {
    const high = (part / largest) * (height / 2 - 2);
    context.fillStyle = part >= 0 ? brush.colours.blue : brush.colours.black;
    context.fillRect(i * cell + 1, Math.min(middle, middle - high), cell - 2, Math.abs(high));
  });
  context.fillStyle = brush.colours.grey;
  context.fillRect(0, middle, parts.length * cell, 1);
}
