// @ts-check
/** Ready-made layouts and shapes of the canvas. */

import { FINEST_CELL } from "./geometry.js";

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {keyof typeof PRESETS} Preset */

const ROUND = 64; // pixels that the sides of a new canvas are multiples of

/** @satisfies {Record<string, {text: string, places: [columns: number, rows: number]}>} */
export const PRESETS = {
  columns2: { text: "Two side by side", places: [2, 1] },
  columns3: { text: "Three side by side", places: [3, 1] },
  columns4: { text: "Four side by side", places: [4, 1] },
  columns5: { text: "Five side by side", places: [5, 1] },
  rows2: { text: "Two rows", places: [1, 2] },
  rows3: { text: "Three rows", places: [1, 3] },
  grid: { text: "Grid of four", places: [2, 2] },
  grid6: { text: "Grid of six", places: [3, 2] },
  grid9: { text: "Grid of nine", places: [3, 3] },
};

export const RATIOS = {
  "1:1": "1 : 1",
  "4:3": "4 : 3",
  "3:2": "3 : 2",
  "16:9": "16 : 9",
  "21:9": "21 : 9",
  "3:4": "3 : 4",
  "2:3": "2 : 3",
  "9:16": "9 : 16",
  turn: "Turned by 90°",
};

/** The rectangles of a preset, row by row, with edges on whole cells.
 * @param {Preset} name @param {Size} canvas @returns {Rect[]} */
export function presetRects(name, [width, height]) {
  const [columns, rows] = PRESETS[name].places;
  /** @param {number} i @param {number} n @param {number} length */
  const edge = (i, n, length) =>
    i === n ? length : Math.round((length * i) / n / FINEST_CELL) * FINEST_CELL;
  const rects = [];
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const [x, y] = [edge(column, columns, width), edge(row, rows, height)];
      const [right, bottom] = [edge(column + 1, columns, width), edge(row + 1, rows, height)];
      rects.push({ x, y, width: right - x, height: bottom - y });
    }
  }
  return rects;
}

/** A canvas of another shape and about as many pixels.
 * @param {string} ratio a key of RATIOS @param {Size} canvas @returns {Size} */
export function ratioSize(ratio, [width, height]) {
  if (ratio === "turn") return [height, width];
  const [across, down] = ratio.split(":").map(Number);
  const unit = Math.sqrt((width * height) / (across * down));
  const side = (/** @type {number} */ n) => Math.max(ROUND, Math.round((n * unit) / ROUND) * ROUND);
  return [side(across), side(down)];
}
