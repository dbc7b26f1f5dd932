// @ts-check
/** The layout's JSON, as mos_core/regions/layout_json.py reads it. Unknown keys are kept. */

import { boundsOf, isMask } from "./masks.js";

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./masks.js").Mask} Mask */

/** A region: its box, or the box around its mask, and what is said of it.
 * @typedef {Rect & {prompt: string, negative: string, weight: number, concept: string | null,
 *   color: number, depth: number | null, strength: number, reference: string | null,
 *   hidden: boolean, locked: boolean, mask: Mask | null}} Box */
/** @typedef {{canvas: Size | null, regions: Box[], rest: Record<string, unknown>}} Layout */

export const VERSION = 2;

/** What is not written, because a region without it is the same. */
const PLAIN = {
  depth: null,
  strength: 1,
  reference: null,
  hidden: false,
  locked: false,
  mask: null,
};

/** @param {unknown} value */
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** @param {unknown} value @returns {value is Size} */
const isSize = (value) =>
  Array.isArray(value) && value.length === 2 && value.every((n) => isNumber(n) && n > 0);

/** What a new region has beside its place. @param {number} color */
export function emptyBox(color) {
  return { prompt: "", negative: "", weight: 1, concept: null, color, ...PLAIN };
}

/** The layout in a text; throws an Error with a sentence for the user.
 * @param {string} text @returns {Layout} */
export function parseLayout(text) {
  if (!String(text ?? "").trim()) return { canvas: null, regions: [], rest: {} };
  let read;
  try {
    read = JSON.parse(text);
  } catch (error) {
    throw new Error(`The layout cannot be read: ${/** @type {Error} */ (error).message}`);
  }
  if (typeof read !== "object" || !Array.isArray(read?.regions)) {
    throw new Error("The layout has no list of regions.");
  }
  const { version, canvas, regions, ...rest } = read;
  if (version > VERSION) {
    throw new Error(
      `The layout is of version ${version}; this pack reads versions up to ${VERSION}. Update it.`
    );
  }
  return {
    canvas: isSize(canvas) ? canvas : null,
    regions: regions.map((/** @type {any} */ entry, /** @type {number} */ i) =>
      parseBox(entry, i, isSize(canvas) ? canvas : [512, 512])
    ),
    rest,
  };
}

/** @param {any} entry @param {number} number @param {Size} canvas @returns {Box} */
function parseBox(entry, number, canvas) {
  const mask = entry?.mask ?? null;
  if (mask !== null && !isMask(mask)) {
    throw new Error(`The mask of region ${number + 1} cannot be read: its runs must be its cells.`);
  }
  const around = mask && boundsOf(mask, canvas);
  for (const side of ["x", "y", "width", "height"]) {
    if (!around && !isNumber(entry?.[side])) {
      throw new Error(`Region ${number + 1} needs a number as its ${side}.`);
    }
  }
  return {
    ...entry,
    ...around,
    prompt: String(entry.prompt ?? ""),
    negative: String(entry.negative ?? ""),
    weight: isNumber(entry.weight) ? entry.weight : 1,
    concept: entry.concept ? String(entry.concept) : null,
    color: Number.isInteger(entry.color) ? entry.color : number,
    depth: isNumber(entry.depth) ? entry.depth : null,
    strength: isNumber(entry.strength) ? entry.strength : 1,
    reference: entry.reference ? String(entry.reference) : null,
    hidden: entry.hidden === true,
    locked: entry.locked === true,
    mask,
  };
}

/** @param {Layout} layout @returns {string} */
export function formatLayout({ canvas, regions, rest }) {
  return JSON.stringify({
    ...rest,
    version: VERSION,
    ...(canvas && { canvas }),
    regions: regions.map(formatBox),
  });
}

/** @param {Box} box */
function formatBox(box) {
  /** @type {Record<string, unknown>} */
  const entry = { ...box };
  for (const [key, value] of Object.entries(PLAIN)) if (entry[key] === value) delete entry[key];
  return entry;
}
