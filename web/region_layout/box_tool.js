// @ts-check
/** Boxes by pointer: draw, move, resize, select. */

import {
  between,
  cut,
  guides,
  inside,
  moved,
  resized,
  snap,
  snapMoved,
  snapResized,
} from "./geometry.js";
import { rectOf } from "./changes.js";
import { hit, hitBelow } from "./stack.js";

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Handle} Handle */
/** @typedef {import("./pointer.js").Drag} Drag */
/** @typedef {import("./pointer.js").Stage} Stage */

const REACH = 6; // pixels of the screen from which an edge is drawn to a guide,
const FARTHEST = 8; // and at most this far on the canvas, or a step of the grid

/** What a press begins. @param {Stage} stage @param {PointerEvent} event
 * @param {[number, number]} at
 * @param {string} gesture @returns {Drag} */
export function beginBox(stage, event, at, gesture) {
  const { state } = stage.session;
  const { handle } = /** @type {HTMLElement} */ (event.target).dataset;
  if (handle && state.box && !state.box.locked) {
    return resize(stage, at, gesture, /** @type {Handle} */ (handle));
  }
  const under = event.shiftKey ? -1 : hit(state.regions, at, state.canvas, state.selected);
  if (under < 0) return draw(stage, at, gesture);
  if (event.ctrlKey || event.metaKey) {
    state.toggle(under);
    return { move: () => {}, click: () => {} };
  }
  const isTop = under === state.selected && !state.others.length;
  const below = isTop ? hitBelow(state.regions, at, state.canvas, under) : under;
  if (!state.chosen.includes(under)) state.select(under);
  return move(stage, at, gesture, below);
}

/** How the grid and guides hold. @param {Stage} stage @param {PointerEvent} event
 * @param {Rect[]} others */
function snapping({ session, element }, event, others) {
  const free = event.altKey;
  const { canvas } = session.state;
  const pixel = canvas[0] / element.getBoundingClientRect().width;
  const step = free ? 1 : session.host.step();
  return {
    lines: free ? { x: [], y: [] } : guides(others, canvas),
    step,
    reach: free ? 0 : Math.min(REACH * pixel, Math.max(FARTHEST, step)),
  };
}

/** @param {Stage} stage */
function restOf({ session: { state } }) {
  const chosen = new Set(state.chosen);
  return state.regions.filter((box, i) => !chosen.has(i) && !box.hidden);
}

/** @param {Stage} stage @param {[number, number]} start @param {string} gesture @returns {Drag} */
function draw(stage, start, gesture) {
  const { state } = stage.session;
  let began = false;
  return {
    move(at, event) {
      const others = began ? state.regions.slice(0, -1) : state.regions;
      const { lines, step, reach } = snapping(stage, event, others);
      /** @param {[number, number]} point @returns {[number, number]} */
      const held = ([x, y]) => [snap(x, lines.x, step, reach), snap(y, lines.y, step, reach)];
      const rect = cut(between(held(start), held(at)), state.canvas);
      if (began) state.update(inside(rect, state.canvas), gesture);
      else state.add(rect, gesture);
      began = true;
    },
    click: () => state.select(-1),
  };
}

/** @param {Stage} stage @param {[number, number]} start @param {string} gesture
 * @param {number} below what a mere click selects @returns {Drag} */
function move(stage, start, gesture, below) {
  const { state } = stage.session;
  const from = state.regions;
  const rect = rectOf(from[state.selected]);
  return {
    move(at, event) {
      const { lines, step, reach } = snapping(stage, event, restOf(stage));
      const to = inside(moved(rect, at[0] - start[0], at[1] - start[1]), state.canvas);
      const held = inside(snapMoved(to, lines, step, reach), state.canvas);
      state.shift(held.x - rect.x, held.y - rect.y, gesture, from);
    },
    click(isAgain) {
      if (!isAgain) state.select(below);
    },
  };
}

/** @param {Stage} stage @param {[number, number]} start @param {string} gesture
 * @param {Handle} handle @returns {Drag} */
function resize(stage, start, gesture, handle) {
  const { state } = stage.session;
  const rect = rectOf(/** @type {import("./layout_json.js").Box} */ (state.box));
  return {
    move(at, event) {
      const { lines, step, reach } = snapping(stage, event, restOf(stage));
      const to = cut(resized(rect, handle, at[0] - start[0], at[1] - start[1]), state.canvas);
      state.update(snapResized(to, handle, lines, step, reach), gesture);
    },
    click: () => {},
  };
}
