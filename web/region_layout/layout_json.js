// @ts-check
/** The layout's JSON, as mos_core/regions/layout_json.py reads it. Unknown keys are kept. */

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {Rect & {prompt: string, negative: string, weight: number, concept: string | null,
 *   color: number}} Box */
/** @typedef {{canvas: Size | null, regions: Box[], rest: Record<string, unknown>}} Layout */

export const VERSION = 2;

/** @param {unknown} value */
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** @param {unknown} value @returns {value is Size} */
const isSize = (value) =>
  Array.isArray(value) && value.length === 2 && value.every((n) => isNumber(n) && n > 0);

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
    throw new Error(`The layout is of version ${version}; this pack reads ${VERSION}. Update it.`);
  }
  return {
    canvas: isSize(canvas) ? canvas : null,
    regions: regions.map((/** @type {any} */ entry, /** @type {number} */ i) => parseBox(entry, i)),
    rest,
  };
}

/** @param {any} entry @param {number} number @returns {Box} */
function parseBox(entry, number) {
  for (const side of ["x", "y", "width", "height"]) {
    if (!isNumber(entry?.[side])) {
      throw new Error(`Region ${number + 1} needs a number as its ${side}.`);
    }
  }
  return {
    ...entry,
    prompt: String(entry.prompt ?? ""),
    negative: String(entry.negative ?? ""),
    weight: isNumber(entry.weight) ? entry.weight : 1,
    concept: entry.concept ? String(entry.concept) : null,
    color: Number.isInteger(entry.color) ? entry.color : number,
  };
}

/** @param {Layout} layout @returns {string} */
export function formatLayout({ canvas, regions, rest }) {
  return JSON.stringify({ ...rest, version: VERSION, ...(canvas && { canvas }), regions });
}
