// @ts-check
/** Masks by pointer: brush, eraser and lasso. */

import { blankMask, filled, maskOfRect, onGrid, painted } from "./masks.js";

/** @typedef {import("./pointer.js").Drag} Drag */
/** @typedef {import("./pointer.js").Stage} Stage */
/** @typedef {[number, number]} Point */

/** What is painted on: the selected region's shape, or a blank one for a new region.
 * @param {Stage} stage @param {boolean} isNew */
function ground({ session: { state } }, isNew) {
  const { box, canvas } = state;
  if (!box || isNew) return { index: -1, mask: blankMask(canvas) };
  const mask = box.mask ? onGrid(box.mask, canvas) : maskOfRect(box, canvas);
  return { index: state.selected, mask };
}

/** @param {Stage} stage @param {PointerEvent} event @param {Point} at @param {string} gesture
 * @returns {Drag | null} null: the region is locked */
export function beginPaint(stage, event, at, gesture) {
  const { session } = stage;
  if (session.state.box?.locked && !event.shiftKey) return null;
  if (session.tool === "lasso") return lasso(stage, event, at, gesture);
  return brush(stage, event, at, gesture);
}

/** @param {Stage} stage @param {PointerEvent} event @param {Point} start @param {string} gesture
 * @returns {Drag} */
function brush(stage, event, start, gesture) {
  const { session } = stage;
  const { state } = session;
  const isWhitening = session.tool === "brush" && !event.altKey;
  let { index, mask } = ground(stage, event.shiftKey && isWhitening);
  let before = start;
  /** @param {Point} at */
  const stroke = (at) => {
    if (!isWhitening && index < 0) return;
    mask = painted(mask, state.canvas, before, at, session.radius, isWhitening);
    before = at;
    if (mask.runs.length === 1) return; // rubbed out: the region goes when the stroke ends
    state.setMask(mask, index, gesture);
    if (index < 0) index = state.selected;
  };
  return {
    move: stroke,
    click: () => stroke(start),
    end() {
      if (index >= 0 && mask.runs.length === 1) state.setMask(mask, index, gesture);
    },
  };
}

/** @param {Stage} stage @param {PointerEvent} event @param {Point} start @param {string} gesture
 * @returns {Drag} */
function lasso(stage, event, start, gesture) {
  const { state } = stage.session;
  const isWhitening = !event.altKey;
  /** @type {Point[]} */
  const line = [start];
  return {
    move(at) {
      line.push(at);
      stage.showLine(line);
    },
    click: () => state.select(-1),
    end() {
      stage.showLine([]);
      if (line.length < 3) return;
      const { index, mask } = ground(stage, event.shiftKey && isWhitening);
      if (!isWhitening && index < 0) return;
      state.setMask(filled(mask, state.canvas, line, isWhitening), index, gesture);
    },
    cancel: () => stage.showLine([]),
  };
}
