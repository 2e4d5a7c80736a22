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

/** A grey picture of `values` [size * size] from 0 (paper) to `top` (ink), enlarged without blur. */
export function drawMap(context, values, size, x, y, side, top, power = 1) {
  scratch.width = scratch.height = size;
  const small = scratch.getContext("2d");
  const pixels = small.createImageData(size, size);
  for (let p = 0; p < values.length; p++) {
    const share = top > 0 ? Math.min(1, values[p] / top) ** power : 0;
    for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = 255 - 221 * share;
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

/** Accuracy and MACs against density, above the slider that shares its axis. */
export function drawCurves(canvas, width, payload, density, brush) {
  const height = 150, edge = 9, top = 14, base = height - 4;
  const context = prepare(canvas, width, height);
  const [first, last] = [payload.densities[0], payload.densities.at(-1)];
  const x = (d) => edge + ((d - first) / (last - first)) * (width - 2 * edge);
  const y = (share) => base - share * (base - top);
  drawLevels(context, width, y, brush);
  const macs = payload.densities.map((d) => macShare(payload.layers, d, payload.classes));
  line(context, payload.densities.map(x), macs.map(y), brush.colours.grey, [], 0, base);
  const looks = [["mean", "green", [1, 3]], ["shuffled", "orange", [6, 3]], ["own", "blue", []]];
  for (const [name, colour, dash] of looks) {
    line(context, payload.densities.map(x), payload.accuracy[name].map(y), brush.colours[colour], dash, 2.2);
  }
  context.strokeStyle = brush.colours.black;
  context.lineWidth = 1;
  context.setLineDash([]);
  context.beginPath();
  context.moveTo(x(density), top - 6);
  context.lineTo(x(density), height);
  context.stroke();
  dot(context, x(density), y(interpolate(payload.densities, payload.accuracy.own, density)), brush.colours.blue);
  dot(context, x(density), y(macShare(payload.layers, density, payload.classes)), brush.colours.darkGrey);
}

function drawLevels(context, width, y, brush) {
  context.font = brush.font;
  context.textAlign = "right";
  for (const share of [0, 0.5, 1]) {
    context.fillStyle = "#e8e8e8";
    context.fillRect(0, Math.round(y(share)), width, 1);
    context.fillStyle = "#595959";
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

function dot(context, x, y, colour) {
  context.beginPath();
  context.arc(x, y, 4.5, 0, 7);
  context.fillStyle = colour;
  context.fill();
  context.strokeStyle = "white";
  context.lineWidth = 1.5;
  context.stroke();
}

/** The MACs of all layers at one density, as a share of the dense ones. */
export function macShare(layers, density, classes) {
  let live = 1, inputs = 1, macs = 0, dense = 0;
  for (const layer of layers) {
    const k = activeChannels(layer.outputs, density), positions = 9 * layer.sizeOut ** 2;
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
 */
export function drawKernels(canvas, layer, result, before, unit, gathered, marked, other, brush) {
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
      context.fillStyle = brush.colours.orange;
      context.fillRect(layer.inputs * side + 2, rows[o] * side, 4, Math.max(1.5, side - gap));
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
export function channelGrid(channels, width, coarse) {
  const smallest = coarse ? 32 : 25;
  const fitting = [64, 32, 16, 8, 4].filter((n) => n <= channels && width / n >= smallest);
  const columns = fitting[0] ?? 4;
  const cell = Math.min(44, Math.floor(width / columns));
  return { columns, cell, bar: 44, map: cell - 4, height: 44 + cell + 8, rows: channels / columns };
}

/** The predicted saliency of every output as a bar, the cut, and under each bar its map. */
export function drawChannels(canvas, layer, result, other, choice, chosen, top, grid, brush) {
  const context = prepare(canvas, grid.columns * grid.cell, grid.rows * grid.height);
  const cut = cutOf(result, choice);
  const brightest = Math.max(...result.maps);
  const size = layer.sizeOut;
  for (let o = 0; o < layer.outputs; o++) {
    const x = (o % grid.columns) * grid.cell, y = Math.floor(o / grid.columns) * grid.height;
    const differs = other && other.winners[o] !== result.winners[o];
    drawBar(context, x, y, result, o, top, grid, brush);
    if (differs) mark(context, x + grid.cell - 8, y + 7, brush.colours.orange);
    const map = result.maps.subarray(o * size * size, (o + 1) * size * size);
    drawTile(context, x + 1, y + grid.bar + 2, map, size, result.winners[o], brightest, grid, brush);
    if (choice.forced[o]) drawForced(context, x, y, choice.forced[o], grid, brush);
    if (o === chosen) frame(context, x, y, grid, brush);
  }
  drawCut(context, cut, top, grid, brush);
}

function drawBar(context, x, y, result, o, top, grid, brush) {
  const height = Math.min(1, result.g[o] / top) * (grid.bar - 8);
  const width = grid.cell - 5;
  context.fillStyle = "#e4e4e4";
  context.fillRect(x + 1, y + grid.bar - 1, width + 1, 1);
  if (result.winners[o]) {
    context.fillStyle = brush.colours.blue;
    context.fillRect(x + 2, y + grid.bar - height, width - 1, height);
    if (result.pi[o] === 0) triangle(context, x + grid.cell / 2 - 1, y + grid.bar - 2, brush.colours.orange);
  } else {
    context.fillStyle = brush.hatch;
    context.fillRect(x + 2, y + grid.bar - height, width - 1, height);
    context.strokeStyle = brush.colours.darkGrey;
    context.lineWidth = 0.8;
    if (height > 0) context.strokeRect(x + 2.5, y + grid.bar - height, width - 2, height);
  }
}

function drawTile(context, x, y, map, size, wins, brightest, grid, brush) {
  if (wins) {
    drawMap(context, map, size, x, y, grid.map, brightest, 0.6); // so that weak values show, too
    context.strokeStyle = brush.colours.blue;
    context.lineWidth = 1.5;
  } else {
    context.fillStyle = brush.hatch;
    context.fillRect(x, y, grid.map, grid.map);
    context.strokeStyle = "#dcdcdc";
    context.lineWidth = 1;
  }
  context.strokeRect(x + 0.5, y + 0.5, grid.map - 1, grid.map - 1);
}

function drawForced(context, x, y, forced, grid, brush) {
  context.fillStyle = brush.colours.purple;
  context.fillRect(x + 1, y + grid.height - 7, grid.cell - 4, 4);
  context.fillStyle = brush.colours.black;
  context.font = "bold 11px system-ui, sans-serif";
  context.textAlign = "left";
  context.fillText(forced > 0 ? "on" : "off", x + 2, y + 10);
}

function frame(context, x, y, grid, brush) {
  context.strokeStyle = brush.colours.black;
  context.lineWidth = 2;
  context.strokeRect(x, y + 1, grid.cell - 2, grid.height - 9);
}

function mark(context, x, y, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(x, y - 4.5);
  context.lineTo(x + 4.5, y);
  context.lineTo(x, y + 4.5);
  context.lineTo(x - 4.5, y);
  context.fill();
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
export function cutOf(result, choice) {
  const free = [...result.order].filter((channel) => !choice.forced[channel]);
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
  drawParts(context, layer, result, chosen, cell, lane, brush);
}

function drawParts(context, layer, result, chosen, cell, lane, brush) {
  const parts = [...result.s].map((s, i) => s * layer.predictorWeight[chosen * layer.inputs + i]);
  const largest = Math.max(...parts.map(Math.abs), 1e-6);
  const middle = lane + lane / 2 + 2;
  parts.forEach((part, i) => {
    const high = (part / largest) * (lane / 2 - 2);
    context.fillStyle = part >= 0 ? brush.colours.green : brush.colours.purple;
    context.fillRect(i * cell + 1, Math.min(middle, middle - high), cell - 2, Math.abs(high));
  });
  context.fillStyle = "#aaaaaa";
  context.fillRect(0, middle, layer.inputs * cell, 1);
}
