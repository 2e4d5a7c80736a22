// From a drawing to what the network takes, the way the data set itself was made: upright, full
// height, strokes of even width, on a 32 x 32 grid whose 4 x 4 blocks are counted.

const GRID = 32;
const WIDTH = 20; // the widest digit on it
const INK = 0.305; // the share of ink in the data set's images, nearly the same for every digit
const SPACING = 1 / 40; // between the points of a resampled stroke, as a share of the drawing

/**
 * The image [256], 16 x 16 values from 0 to 1, of a drawing.
 * @param {number[][][]} strokes  each a list of points [x, y], y down, in any unit
 * @returns {Float32Array | null}  null while there is too little to read
 */
export function imageOf(strokes) {
  const segments = upright(resample(strokes));
  if (segments.length < 4) return null;
  return enlarge(countBlocks(drawn(segments)));
}

/** Short segments [x0, y0, x1, y1] of even length along the strokes. */
export function resample(strokes) {
  const points = strokes.flat();
  if (points.length === 0) return [];
  const [left, top, right, bottom] = box(points);
  const step = Math.max(right - left, bottom - top) * SPACING;
  if (step === 0) return [];
  const segments = [];
  for (const stroke of strokes) {
    for (let i = 1; i < stroke.length; i++) {
      const [x0, y0] = stroke[i - 1], [x1, y1] = stroke[i];
      const parts = Math.max(1, Math.round(Math.hypot(x1 - x0, y1 - y0) / step));
      for (let p = 0; p < parts; p++) {
        const a = p / parts, b = (p + 1) / parts;
        segments.push([x0 + a * (x1 - x0), y0 + a * (y1 - y0), x0 + b * (x1 - x0), y0 + b * (y1 - y0)]);
      }
    }
  }
  return segments;
}

function box(points) {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

/** Shear, so that x no longer leans with y; of a drawing that leans by up to 35 degrees. */
export function upright(segments) {
  let weight = 0, meanX = 0, meanY = 0;
  const middles = segments.map(([x0, y0, x1, y1]) => [
    (x0 + x1) / 2, (y0 + y1) / 2, Math.hypot(x1 - x0, y1 - y0),
  ]);
  for (const [x, y, w] of middles) {
    weight += w;
    meanX += w * x;
    meanY += w * y;
  }
  meanX /= weight;
  meanY /= weight;
  let xy = 0, yy = 0;
  for (const [x, y, w] of middles) {
    xy += w * (x - meanX) * (y - meanY);
    yy += w * (y - meanY) ** 2;
  }
  const lean = yy === 0 ? 0 : Math.max(-0.7, Math.min(0.7, xy / yy));
  const moved = (x, y) => x - lean * (y - meanY);
  return segments.map(([x0, y0, x1, y1]) => [moved(x0, y0), y0, moved(x1, y1), y1]);
}

/** Bitmap [32 * 32] of 0 and 1, with the pen width that gives the data set's share of ink. */
export function drawn(segments) {
  let low = 1, high = 16, bitmap = null;
  for (let i = 0; i < 7; i++) {
    const pen = (low + high) / 2;
    bitmap = rasterise(fit(segments, pen), pen);
    const ink = bitmap.reduce((a, b) => a + b, 0) / bitmap.length;
    if (ink < INK) low = pen;
    else high = pen;
  }
  return bitmap;
}

/**
 * Scaled so that the ink is as high as the grid; its aspect is kept unless it would be wider than
 * the box of the data set's digits; centred from left to right.
 */
function fit(segments, pen) {
  const [left, top, right, bottom] = box(segments.flatMap(([a, b, c, d]) => [[a, b], [c, d]]));
  const scaleY = (GRID - pen) / Math.max(bottom - top, (right - left) / 3);
  const scaleX = Math.min(scaleY, (WIDTH - pen) / Math.max(right - left, 1e-6));
  const x = (value) => GRID / 2 + (value - (left + right) / 2) * scaleX;
  const y = (value) => GRID / 2 + (value - (top + bottom) / 2) * scaleY;
  return segments.map(([x0, y0, x1, y1]) => [x(x0), y(y0), x(x1), y(y1)]);
}

function rasterise(segments, pen) {
  const bitmap = new Uint8Array(GRID * GRID);
  const reach = pen / 2;
  for (const [x0, y0, x1, y1] of segments) {
    const firstX = Math.max(0, Math.floor(Math.min(x0, x1) - reach)), lastX = Math.min(GRID - 1, Math.ceil(Math.max(x0, x1) + reach));
    const firstY = Math.max(0, Math.floor(Math.min(y0, y1) - reach)), lastY = Math.min(GRID - 1, Math.ceil(Math.max(y0, y1) + reach));
    for (let y = firstY; y <= lastY; y++) {
      for (let x = firstX; x <= lastX; x++) {
        if (distance(x + 0.5, y + 0.5, x0, y0, x1, y1) <= reach) bitmap[y * GRID + x] = 1;
      }
    }
  }
  return bitmap;
}

/** From a point to a segment. */
function distance(x, y, x0, y0, x1, y1) {
  const dx = x1 - x0, dy = y1 - y0;
  const length = dx * dx + dy * dy;
  const t = length === 0 ? 0 : Math.max(0, Math.min(1, ((x - x0) * dx + (y - y0) * dy) / length));
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}

/** Set pixels in each 4 x 4 block: [64] of 0 to 16, as scikit-learn's digits are stored. */
export function countBlocks(bitmap) {
  const counts = new Uint8Array(64);
  for (let y = 0; y < GRID; y++) {
    for (let x = 0; x < GRID; x++) counts[(y >> 2) * 8 + (x >> 2)] += bitmap[y * GRID + x];
  }
  return counts;
}

/** [64] counts to [256] values from 0 to 1, bilinear, as `load_data("digits")` enlarges them. */
export function enlarge(counts) {
  const image = new Float32Array(256);
  const at = (i) => {
    const place = Math.max(0, (i + 0.5) / 2 - 0.5);
    const first = Math.floor(place);
    return [first, Math.min(7, first + 1), place - first];
  };
  for (let y = 0; y < 16; y++) {
    const [y0, y1, v] = at(y);
    for (let x = 0; x < 16; x++) {
      const [x0, x1, u] = at(x);
      const upper = counts[y0 * 8 + x0] * (1 - u) + counts[y0 * 8 + x1] * u;
      const lower = counts[y1 * 8 + x0] * (1 - u) + counts[y1 * 8 + x1] * u;
      image[y * 16 + x] = (upper * (1 - v) + lower * v) / 16;
    }
  }
  return image;
}
