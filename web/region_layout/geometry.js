// @ts-check
/** Rectangles on the canvas. Pixels of the picture, x to the right, y down; nothing here knows of
 * the screen. */

/** @typedef {{x: number, y: number, width: number, height: number}} Rect */
/** @typedef {[number, number]} Size width and height */
/** @typedef {"n" | "s" | "e" | "w" | "nw" | "ne" | "sw" | "se"} Handle */

/** @type {Handle[]} */
export const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];

/** Cells of the finest feature map (FINEST_CELL in mos_core/regions/layout_json.py). */
export const FINEST_CELL = 8;
export const SMALLEST_SIDE = 8;

const clamp = (/** @type {number} */ n, /** @type {number} */ low, /** @type {number} */ high) =>
  Math.max(low, Math.min(high, n));

/** The rectangle moved into the canvas, cut where it is larger, with whole numbers.
 * @param {Rect} rect @param {Size} canvas @returns {Rect} */
export function inside(rect, [width, height]) {
  const w = clamp(Math.round(rect.width), Math.min(SMALLEST_SIDE, width), width);
  const h = clamp(Math.round(rect.height), Math.min(SMALLEST_SIDE, height), height);
  return {
    x: clamp(Math.round(rect.x), 0, width - w),
    y: clamp(Math.round(rect.y), 0, height - h),
    width: w,
    height: h,
  };
}

/** The rectangle between two corners, in whatever order they were drawn.
 * @param {[number, number]} a @param {[number, number]} b @returns {Rect} */
export function between(a, b) {
  const [x, y] = [Math.min(a[0], b[0]), Math.min(a[1], b[1])];
  return { x, y, width: Math.abs(a[0] - b[0]), height: Math.abs(a[1] - b[1]) };
}

/** @param {Rect} rect @param {number} dx @param {number} dy @returns {Rect} */
export function moved(rect, dx, dy) {
  return { ...rect, x: rect.x + dx, y: rect.y + dy };
}

/** The rectangle with the side or corner `handle` dragged; it never turns inside out.
 * @param {Rect} rect @param {Handle} handle @param {number} dx @param {number} dy
 * @returns {Rect} */
export function resized(rect, handle, dx, dy) {
  let [x0, y0, x1, y1] = [rect.x, rect.y, rect.x + rect.width, rect.y + rect.height];
  if (handle.includes("w")) x0 = Math.min(x0 + dx, x1 - SMALLEST_SIDE);
  if (handle.includes("e")) x1 = Math.max(x1 + dx, x0 + SMALLEST_SIDE);
  if (handle.includes("n")) y0 = Math.min(y0 + dy, y1 - SMALLEST_SIDE);
  if (handle.includes("s")) y1 = Math.max(y1 + dy, y0 + SMALLEST_SIDE);
  return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
}

/** Cut to the canvas (for resizing: what is dragged over the edge ends there).
 * @param {Rect} rect @param {Size} canvas @returns {Rect} */
export function cut(rect, [width, height]) {
  const [x0, y0] = [clamp(rect.x, 0, width), clamp(rect.y, 0, height)];
  const [x1, y1] = [clamp(rect.x + rect.width, 0, width), clamp(rect.y + rect.height, 0, height)];
  return { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
}

/** @param {Rect} rect @param {number} x @param {number} y */
export function contains(rect, x, y) {
  return x >= rect.x && y >= rect.y && x < rect.x + rect.width && y < rect.y + rect.height;
}

/** Lines that edges are drawn to: sides of the canvas and of the other boxes.
 * @param {Rect[]} others @param {Size} canvas */
export function guides(others, [width, height]) {
  return {
    x: [0, width / 2, width, ...others.flatMap((r) => [r.x, r.x + r.width])],
    y: [0, height / 2, height, ...others.flatMap((r) => [r.y, r.y + r.height])],
  };
}

/** A coordinate on the nearest guide within reach, else on the grid.
 * @param {number} value @param {number[]} lines @param {number} step 1: no grid
 * @param {number} reach */
export function snap(value, lines, step, reach) {
  let best = Infinity;
  let at = value;
  for (const line of lines) {
    const distance = Math.abs(line - value);
    if (distance < best && distance <= reach) [best, at] = [distance, line];
  }
  return best < Infinity ? at : Math.round(value / step) * step;
}

/** A moved rectangle with one of its sides (the one that needs least) on a guide or the grid.
 * @param {Rect} rect @param {{x: number[], y: number[]}} lines @param {number} step
 * @param {number} reach @returns {Rect} */
export function snapMoved(rect, lines, step, reach) {
  /** @param {number} start @param {number} length @param {number[]} guide */
  const shift = (start, length, guide) => {
    const first = snap(start, guide, 0.001, reach);
    const last = snap(start + length, guide, 0.001, reach);
    const shifts = [];
    if (guide.includes(first)) shifts.push(first - start);
    if (guide.includes(last)) shifts.push(last - start - length);
    if (!shifts.length) return Math.round(start / step) * step - start;
    return shifts.sort((a, b) => Math.abs(a) - Math.abs(b))[0];
  };
  return moved(rect, shift(rect.x, rect.width, lines.x), shift(rect.y, rect.height, lines.y));
}

/** A resized rectangle with its dragged sides on guides or the grid.
 * @param {Rect} rect @param {Handle} handle @param {{x: number[], y: number[]}} lines
 * @param {number} step @param {number} reach @returns {Rect} */
export function snapResized(rect, handle, lines, step, reach) {
  const sides = { x0: rect.x, y0: rect.y, x1: rect.x + rect.width, y1: rect.y + rect.height };
  if (handle.includes("w")) sides.x0 = snap(sides.x0, lines.x, step, reach);
  if (handle.includes("e")) sides.x1 = snap(sides.x1, lines.x, step, reach);
  if (handle.includes("n")) sides.y0 = snap(sides.y0, lines.y, step, reach);
  if (handle.includes("s")) sides.y1 = snap(sides.y1, lines.y, step, reach);
  const [width, height] = [sides.x1 - sides.x0, sides.y1 - sides.y0];
  if (width < SMALLEST_SIDE || height < SMALLEST_SIDE) return rect;
  return { x: sides.x0, y: sides.y0, width, height };
}

/** Whether no whole cell of the finest feature map lies inside: such a box would do nothing.
 * @param {Rect} rect */
export function isTooSmall(rect) {
  /** @param {number} start @param {number} length */
  const cells = (start, length) =>
    Math.floor((start + length) / FINEST_CELL) - Math.ceil(start / FINEST_CELL);
  return cells(rect.x, rect.width) < 1 || cells(rect.y, rect.height) < 1;
}

/** @param {Rect} rect @param {Size} from @param {Size} to @returns {Rect} */
export function scaled(rect, from, to) {
  const [across, down] = [to[0] / from[0], to[1] / from[1]];
  const [x, y] = [Math.round(rect.x * across), Math.round(rect.y * down)];
  return {
    x,
    y,
    width: Math.round((rect.x + rect.width) * across) - x,
    height: Math.round((rect.y + rect.height) * down) - y,
  };
}
