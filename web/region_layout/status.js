// @ts-check
/** What is said under the fields: what is wrong, else how to go on. */

import { clashes, conceptProblem } from "./concepts.js";
import { isTooSmall } from "./geometry.js";

/** @typedef {import("./session.js").Session} Session */

const HINTS = {
  box:
    "Drag on free canvas: a new box; with Shift, on top of others. Type: its prompt. Alt: no " +
    "snapping. Double click: prompt. Right click: menu. ?: all keys.",
  brush: "Drag: paint on the selected region; with Shift, a new one. Alt: rub out. [ and ]: size.",
  lasso: "Draw around a place: added to the selected region; with Shift, a new one. Alt: cut out.",
  eraser: "Drag: rub out of the selected region. [ and ]: size.",
};

/** What is said of each region. @param {Session} session @returns {import("./draw.js").Marks} */
export function marksOf({ state, known, host }) {
  return {
    first: host.before() + 1,
    problems: state.regions.map((box) => conceptProblem(box, known)),
    clashing: new Set(clashes(state.regions, known, state.canvas).flat()),
  };
}

/** @param {Session} session @param {import("./draw.js").Marks} marks
 * @returns {{text: string, isProblem: boolean}} */
export function statusOf(session, { first, problems }) {
  const { state, known, notes } = session;
  if (state.problem) {
    return { text: `${state.problem} Drawing starts a new layout.`, isProblem: true };
  }
  const isLost = (/** @type {import("./layout_json.js").Box} */ box) =>
    !box.mask && !box.hidden && isTooSmall(box);
  const small = state.regions.findIndex(isLost);
  if (small >= 0) {
    const text = `Box ${first + small} is too small: no cell of 8 x 8 pixels lies wholly inside.`;
    return { text, isProblem: true };
  }
  const [clash] = clashes(state.regions, known, state.canvas);
  if (clash) {
    const [a, b] = clash.map((i) => first + i);
    const text =
      `Regions ${a} and ${b} overlap and show two concepts, which mix there. Move them apart, or ` +
      "bring one to the front.";
    return { text, isProblem: true };
  }
  const lost = problems.findIndex(Boolean);
  if (lost >= 0) return { text: `Region ${first + lost} ${problems[lost]}.`, isProblem: true };
  const text = notes.join(" ") || hintOf(session, first);
  return { text, isProblem: false };
}

/** @param {Session} session @param {number} first */
function hintOf({ state, tool }, first) {
  if (!state.regions.length) return "Drag on the canvas to draw a box, or choose a preset.";
  const silent = state.regions.findIndex((box) => !box.prompt.trim() && !box.hidden);
  if (tool === "box" && silent >= 0) return `Region ${first + silent} has no prompt yet: type it.`;
  return HINTS[tool];
}
