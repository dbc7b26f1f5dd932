// @ts-check
/** Changes of one region or of all, as functions from regions to regions. */

import { inside, moved, scaled } from "./geometry.js";
import { emptyBox } from "./layout_json.js";
import { boundsOf, placed } from "./masks.js";
import { presetRects } from "./presets.js";

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {import("./presets.js").Preset} Preset */

const COPY_OFFSET = 16;

/** @param {Rect} rect @returns {Rect} */
export const rectOf = ({ x, y, width, height }) => ({ x, y, width, height });

/** @param {Rect} a @param {Rect} b */
export const samePlace = (a, b) =>
  a.x === b.x && a.y === b.y && a.width === b.width && a.height === b.height;

/** The region with other values, inside the canvas, its mask moved and stretched with it. A locked
 * one stays where it is. @param {Box} box @param {Partial<Box>} values @param {Size} canvas
 * @returns {Box} */
export function changed(box, values, canvas) {
  const next = { ...box, ...values };
  if (box.locked && next.locked) return { ...next, ...rectOf(box), mask: box.mask };
  if (samePlace(next, box)) return next;
  Object.assign(next, inside(next, canvas));
  if (!next.mask || next.mask !== box.mask || samePlace(next, box)) return next;
  const mask = placed(next.mask, rectOf(box), rectOf(next), canvas);
  const bounds = boundsOf(mask, canvas);
  return bounds ? { ...next, ...bounds, mask } : box;
}

/** The smallest colour number that no region has. @param {Box[]} regions */
export function freeColor(regions) {
  const taken = new Set(regions.map((box) => box.color));
  let color = 0;
  while (taken.has(color)) color++;
  return color;
}

/** A copy beside its original, in a colour of its own. @param {Box} box @param {Box[]} regions
 * @param {Size} canvas @returns {Box} */
export function copied(box, regions, canvas) {
  const free = { ...box, locked: false };
  const rect = rectOf(box);
  const down = inside(moved(rect, COPY_OFFSET, COPY_OFFSET), canvas);
  const beside = samePlace(down, rect) ? moved(rect, -COPY_OFFSET, -COPY_OFFSET) : down;
  return { ...changed(free, beside, canvas), locked: box.locked, color: freeColor(regions) };
}

/** Regions from elsewhere, fitted to this canvas; not exactly on those that are there.
 * @param {Box[]} brought @param {Size} from the canvas that they were on @param {Box[]} regions
 * @param {Size} canvas @returns {Box[]} */
export function pasted(brought, from, regions, canvas) {
  const all = [...regions];
  for (const entry of fitted(brought, from, canvas)) {
    let box = { ...entry, locked: false };
    for (let i = 0; i < 9 && all.some((other) => samePlace(other, box)); i++) {
      box = { ...copied(box, all, canvas), color: box.color };
    }
    all.push({ ...box, locked: entry.locked });
  }
  return all;
}

/** Regions on another canvas: each keeps its place in the picture.
 * @param {Box[]} regions @param {Size} from @param {Size} to */
export function fitted(regions, from, to) {
  if (sameSize(from, to)) return regions;
  return regions.map((box) => ({
    ...box,
    ...((box.mask && boundsOf(box.mask, to)) ?? scaled(box, from, to)),
  }));
}

/** Regions where a preset has them, in order, with new ones for those that are missing; regions too
 * many go if they have no prompt. Masks become boxes, locked regions stay.
 * @param {Box[]} regions @param {Preset} name @param {Size} canvas */
export function presetOf(regions, name, canvas) {
  const rects = presetRects(name, canvas);
  const kept = regions.filter((box, i) => box.locked || i < rects.length || box.prompt.trim());
  let free = 0;
  const made = kept.map((box) => {
    if (box.locked) return box;
    const rect = rects[free++];
    return rect ? { ...box, ...rect, mask: null } : box;
  });
  for (const rect of rects.slice(free)) made.push({ ...rect, ...emptyBox(freeColor(made)) });
  return made;
}

/** @param {Size} a @param {Size} b */
export function sameSize(a, b) {
  return a[0] === b[0] && a[1] === b[1];
}
