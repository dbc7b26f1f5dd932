// @ts-check
/** Which region lies above which, and which one a press means. */

import { contains } from "./geometry.js";
import { isWhite } from "./masks.js";

/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {Pick<Box, "x" | "y" | "width" | "height"> & Partial<Box>} Placed */

/** @param {{depth?: number | null}} box */
export const depthOf = (box) => box.depth ?? 0;

/** Numbers of the regions from the one behind to the one in front: by depth, then in order.
 * @param {Placed[]} regions */
export function stackOrder(regions) {
  return regions
    .map((_, i) => i)
    .sort((a, b) => depthOf(regions[a]) - depthOf(regions[b]) || a - b);
}

/** @param {Placed} box @param {number} x @param {number} y @param {Size} canvas */
function lies(box, x, y, canvas) {
  return !box.hidden && contains(box, x, y) && (!box.mask || isWhite(box.mask, canvas, x, y));
}

/** Which region a press means: the selected one where it lies there, else the topmost that is not
 * locked; -1 for none. Hidden ones are never meant.
 * @param {Placed[]} regions @param {[number, number]} at @param {Size} canvas
 * @param {number} selected @param {boolean} lockedToo */
export function hit(regions, [x, y], canvas, selected = -1, lockedToo = false) {
  const can = (/** @type {number} */ i) =>
    regions[i] && (lockedToo || !regions[i].locked) && lies(regions[i], x, y, canvas);
  if (can(selected)) return selected;
  return stackOrder(regions).findLast(can) ?? -1;
}

/** The region below `index` at a point, or the topmost after the lowest: clicking on goes through
 * all of them. @param {Placed[]} regions @param {[number, number]} at @param {Size} canvas
 * @param {number} index */
export function hitBelow(regions, at, canvas, index) {
  const order = stackOrder(regions);
  const below = order
    .slice(0, order.indexOf(index))
    .findLast((i) => !regions[i].locked && lies(regions[i], ...at, canvas));
  return below ?? hit(regions, at, canvas);
}

/** The depth that brings regions in front of all others, or behind them.
 * @param {Placed[]} regions @param {number[]} chosen @param {"front" | "back"} where */
export function depthFor(regions, chosen, where) {
  const others = regions.filter((_, i) => !chosen.includes(i)).map(depthOf);
  if (!others.length) return null;
  return where === "front" ? Math.max(...others) + 1 : Math.min(...others) - 1;
}
