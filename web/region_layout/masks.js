// @ts-check
/** Masks on a compact grid over the canvas, as mos_core/regions/mask_runs.py reads them. A mask is
 * never changed: painting makes another. */

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {[x: number, y: number]} Point pixels of the canvas */
/** @typedef {{size: Size, runs: number[]}} Mask size: columns and rows; runs: how many cells are
 *   black, then white, then black, ... row by row */

export const CELL = 4; // pixels of a cell, on canvases that are not too large for it
export const LONGEST = 256; // cells of the longer side
const LARGEST = 4096 * 4096;

/** @type {WeakMap<Mask, Uint8Array>} */
const known = new WeakMap();
/** What a mask was before it was moved and stretched, so that doing so often loses nothing.
 * @type {WeakMap<Mask, {mask: Mask, rect: Rect}>} */
const origins = new WeakMap();

/** Columns and rows of the grid of a canvas. @param {Size} canvas @returns {Size} */
export function gridOf([width, height]) {
  let cell = CELL;
  while (Math.max(width, height) / cell > LONGEST) cell *= 2;
  return [Math.ceil(width / cell), Math.ceil(height / cell)];
}

/** Whether a value of a layout is a mask. @param {any} value @returns {value is Mask} */
export function isMask(value) {
  const isCount = (/** @type {unknown} */ n) => Number.isInteger(n) && Number(n) >= 0;
  if (!Array.isArray(value?.size) || value.size.length !== 2 || !value.size.every(isCount))
    return false;
  const cells = value.size[0] * value.size[1];
  if (!cells || cells > LARGEST || !Array.isArray(value.runs) || !value.runs.every(isCount))
    return false;
  return (
    value.runs.reduce((/** @type {number} */ sum, /** @type {number} */ n) => sum + n, 0) === cells
  );
}

/** The cells of a mask, 0 or 1, row by row; to be read only. @param {Mask} mask */
export function bitsOf(mask) {
  let bits = known.get(mask);
  if (bits) return bits;
  bits = new Uint8Array(mask.size[0] * mask.size[1]);
  let at = 0;
  mask.runs.forEach((run, i) => {
    if (i % 2) /** @type {Uint8Array} */ (bits).fill(1, at, at + run);
    at += run;
  });
  known.set(mask, bits);
  return bits;
}

/** @param {Uint8Array} bits @param {Size} size @returns {Mask} */
export function maskOf(bits, size) {
  const runs = [];
  let [value, since] = [0, 0];
  for (let i = 0; i < bits.length; i++) {
    if (bits[i] === value) continue;
    runs.push(i - since);
    [value, since] = [bits[i], i];
  }
  runs.push(bits.length - since);
  return { size: [...size], runs };
}

/** First and last column and row that are white, the ends not counted in; null: none is.
 * @param {Mask} mask */
export function cellsOf(mask) {
  const [columns, rows] = mask.size;
  const bits = bitsOf(mask);
  let [left, top, right, bottom] = [columns, rows, 0, 0];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (!bits[y * columns + x]) continue;
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), y + 1];
    }
  }
  return right ? { left, top, right, bottom } : null;
}

/** The box around what is white, in whole pixels of the canvas; null: nothing is.
 * @param {Mask} mask @param {Size} canvas @returns {Rect | null} */
export function boundsOf(mask, canvas) {
  const cells = cellsOf(mask);
  if (!cells) return null;
  const [across, down] = [canvas[0] / mask.size[0], canvas[1] / mask.size[1]];
  const [x, y] = [Math.round(cells.left * across), Math.round(cells.top * down)];
  return {
    x,
    y,
    width: Math.round(cells.right * across) - x,
    height: Math.round(cells.bottom * down) - y,
  };
}

/** Whether a point of the canvas is white. @param {Mask} mask @param {Size} canvas
 * @param {number} x @param {number} y */
export function isWhite(mask, canvas, x, y) {
  const [column, row] = [
    Math.floor((x / canvas[0]) * mask.size[0]),
    Math.floor((y / canvas[1]) * mask.size[1]),
  ];
  if (column < 0 || row < 0 || column >= mask.size[0] || row >= mask.size[1]) return false;
  return bitsOf(mask)[row * mask.size[0] + column] === 1;
}

/** A mask with the cells for which `isInside` holds at their middles (pixels of the canvas).
 * @param {Size} size @param {Size} canvas @param {(x: number, y: number) => boolean} isInside */
function sampled(size, canvas, isInside) {
  const [columns, rows] = size;
  const bits = new Uint8Array(columns * rows);
  const [across, down] = [canvas[0] / columns, canvas[1] / rows];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      if (isInside((column + 0.5) * across, (row + 0.5) * down)) bits[row * columns + column] = 1;
    }
  }
  return maskOf(bits, size);
}

/** A box as a mask. @param {Rect} rect @param {Size} canvas @returns {Mask} */
export function maskOfRect({ x, y, width, height }, canvas) {
  return sampled(
    gridOf(canvas),
    canvas,
    (px, py) => px >= x && py >= y && px < x + width && py < y + height
  );
}

/** The mask on the grid of the canvas, where it is on another. @param {Mask} mask
 * @param {Size} canvas @returns {Mask} */
export function onGrid(mask, canvas) {
  const size = gridOf(canvas);
  if (mask.size[0] === size[0] && mask.size[1] === size[1]) return mask;
  return sampled(size, canvas, (x, y) => isWhite(mask, canvas, x, y));
}

/** The mask moved and stretched, so that what was in `from` is in `to`.
 * @param {Mask} mask @param {Rect} from @param {Rect} to @param {Size} canvas @returns {Mask} */
export function placed(mask, from, to, canvas) {
  const origin = origins.get(mask) ?? { mask: onGrid(mask, canvas), rect: from };
  const { rect } = origin;
  const cell = [canvas[0] / origin.mask.size[0], canvas[1] / origin.mask.size[1]];
  const isMoved = rect.width === to.width && rect.height === to.height;
  // A mask that keeps its size moves by whole cells, so its shape stays as it is.
  const [dx, dy] = [to.x - rect.x, to.y - rect.y].map(
    (by, i) => Math.round(by / cell[i]) * cell[i]
  );
  const made = sampled(origin.mask.size, canvas, (x, y) => {
    if (isMoved) return isWhite(origin.mask, canvas, x - dx, y - dy);
    return isWhite(
      origin.mask,
      canvas,
      rect.x + ((x - to.x) / to.width) * rect.width,
      rect.y + ((y - to.y) / to.height) * rect.height
    );
  });
  origins.set(made, origin);
  return made;
}

/** The mask with a stroke of a round brush, from one point to the other.
 * @param {Mask} mask @param {Size} canvas @param {Point} from @param {Point} to
 * @param {number} radius @param {boolean} isWhitening false: rubs out @returns {Mask} */
export function painted(mask, canvas, from, to, radius, isWhitening) {
  const [columns, rows] = mask.size;
  const bits = Uint8Array.from(bitsOf(mask));
  const [across, down] = [canvas[0] / columns, canvas[1] / rows];
  const reach = Math.max(radius, 0.75 * Math.max(across, down)); // the thinnest stroke has no gaps
  const low = (/** @type {number} */ n, /** @type {number} */ cell) =>
    Math.max(0, Math.floor(n / cell));
  const [dx, dy] = [to[0] - from[0], to[1] - from[1]];
  const long = dx * dx + dy * dy;
  for (let row = low(Math.min(from[1], to[1]) - reach, down); row < rows; row++) {
    const y = (row + 0.5) * down;
    if (y > Math.max(from[1], to[1]) + reach) break;
    for (let column = low(Math.min(from[0], to[0]) - reach, across); column < columns; column++) {
      const x = (column + 0.5) * across;
      if (x > Math.max(from[0], to[0]) + reach) break;
      const along = long ? ((x - from[0]) * dx + (y - from[1]) * dy) / long : 0;
      const part = Math.max(0, Math.min(1, along));
      const away = Math.hypot(x - from[0] - part * dx, y - from[1] - part * dy);
      if (away <= reach) bits[row * columns + column] = isWhitening ? 1 : 0;
    }
  }
  return maskOf(bits, mask.size);
}

/** The mask with what lies inside a closed line. @param {Mask} mask @param {Size} canvas
 * @param {Point[]} line @param {boolean} isWhitening false: cuts it out @returns {Mask} */
export function filled(mask, canvas, line, isWhitening) {
  const [columns, rows] = mask.size;
  const bits = Uint8Array.from(bitsOf(mask));
  const [across, down] = [canvas[0] / columns, canvas[1] / rows];
  for (let row = 0; row < rows; row++) {
    const y = (row + 0.5) * down;
    /** @type {number[]} */
    const crossings = [];
    line.forEach(([x0, y0], i) => {
      const [x1, y1] = line[(i + 1) % line.length];
      if (y0 <= y !== y1 <= y) crossings.push(x0 + ((y - y0) / (y1 - y0)) * (x1 - x0));
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      const first = Math.max(0, Math.ceil(crossings[i] / across - 0.5));
      const end = Math.min(columns, Math.ceil(crossings[i + 1] / across - 0.5));
      if (end > first) bits.fill(isWhitening ? 1 : 0, row * columns + first, row * columns + end);
    }
  }
  return maskOf(bits, mask.size);
}

/** A mask without a white cell. @param {Size} canvas @returns {Mask} */
export function blankMask(canvas) {
  const size = gridOf(canvas);
  return { size, runs: [size[0] * size[1]] };
}
