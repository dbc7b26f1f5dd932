// @ts-check
/** Mouse, pen and finger on the stage: draw, move, resize, select. */

import {
  between,
  cut,
  guides,
  hit,
  hitBelow,
  inside,
  moved,
  resized,
  snap,
  snapMoved,
  snapResized,
} from "./geometry.js";

const CLICK = 4; // pixels of the screen that a click may wander
const REACH = 6; // pixels of the screen from which an edge is drawn to a guide,
const FARTHEST = 8; // and at most this far on the canvas, or a step of the grid

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {{kind: "draw" | "move" | "resize", handle: any, start: [number, number],
 *   screen: [number, number], rect: Rect, began: boolean, gesture: string, pointer: number,
 *   below: number}} Drag */

/** Follows pointers on `stage`, an element with the shape of the canvas.
 * @param {HTMLElement} stage @param {import("./state.js").LayoutState} state
 * @param {{step: () => number, onpress: () => void}} editor step: of the grid, 1 for none
 * @returns {{cancel: () => boolean}} cancel: takes a drag back; false where there is none */
export function followPointers(stage, state, editor) {
  /** @type {Drag | null} */
  let drag = null;
  let gestures = 0;

  /** @param {PointerEvent} event @returns {[number, number]} pixels of the canvas */
  const place = (event) => {
    const shown = stage.getBoundingClientRect(); // the graph may be zoomed
    return [
      ((event.clientX - shown.left) / shown.width) * state.canvas[0],
      ((event.clientY - shown.top) / shown.height) * state.canvas[1],
    ];
  };

  /** How the grid and guides hold. @param {PointerEvent} event @param {Rect[]} others */
  const snapping = (event, others) => {
    const free = event.altKey;
    const pixel = state.canvas[0] / stage.getBoundingClientRect().width;
    const step = free ? 1 : editor.step();
    return {
      lines: free ? { x: [], y: [] } : guides(others, state.canvas),
      step,
      reach: free ? 0 : Math.min(REACH * pixel, Math.max(FARTHEST, step)),
    };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drag) return;
    event.preventDefault();
    event.stopPropagation();
    editor.onpress();
    stage.setPointerCapture(event.pointerId);
    const at = place(event);
    const target = /** @type {HTMLElement} */ (event.target);
    const handle = target.dataset.handle;
    const under = event.shiftKey ? -1 : hit(state.regions, at[0], at[1], state.selected);
    const below = under >= 0 && under === state.selected ? hitBelow(state.regions, ...at, under) : -1;
    if (!handle && under >= 0) state.select(under);
    drag = {
      kind: handle ? "resize" : under >= 0 ? "move" : "draw",
      handle,
      start: at,
      screen: [event.clientX, event.clientY],
      rect: { ...(state.box ?? { x: 0, y: 0, width: 0, height: 0 }) },
      began: false,
      gesture: `drag ${++gestures}`,
      pointer: event.pointerId,
      below,
    };
  });

  stage.addEventListener("pointermove", (event) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    event.stopPropagation();
    const wandered = Math.hypot(event.clientX - drag.screen[0], event.clientY - drag.screen[1]);
    if (!drag.began && wandered < CLICK) return;
    const at = place(event);
    if (drag.kind === "draw") draw(event, at, drag);
    else if (drag.kind === "move") move(event, at, drag);
    else resize(event, at, drag);
    drag.began = true;
  });

  /** @param {PointerEvent} event @param {[number, number]} at @param {Drag} drag */
  function draw(event, at, drag) {
    const others = drag.began ? state.regions.slice(0, -1) : state.regions;
    const { lines, step, reach } = snapping(event, others);
    /** @param {[number, number]} point @returns {[number, number]} */
    const held = ([x, y]) => [snap(x, lines.x, step, reach), snap(y, lines.y, step, reach)];
    const rect = cut(between(held(drag.start), held(at)), state.canvas);
    if (drag.began) state.update(inside(rect, state.canvas), drag.gesture);
    else state.add(rect, drag.gesture);
  }

  /** @param {PointerEvent} event @param {[number, number]} at @param {Drag} drag */
  function move(event, at, drag) {
    const { lines, step, reach } = snapping(event, others());
    let [dx, dy] = [at[0] - drag.start[0], at[1] - drag.start[1]];
    const rect = inside(moved(drag.rect, dx, dy), state.canvas);
    state.update(inside(snapMoved(rect, lines, step, reach), state.canvas), drag.gesture);
  }

  /** @param {PointerEvent} event @param {[number, number]} at @param {Drag} drag */
  function resize(event, at, drag) {
    const { lines, step, reach } = snapping(event, others());
    const [dx, dy] = [at[0] - drag.start[0], at[1] - drag.start[1]];
    const rect = cut(resized(drag.rect, drag.handle, dx, dy), state.canvas);
    state.update(snapResized(rect, drag.handle, lines, step, reach), drag.gesture);
  }

  const others = () => state.regions.filter((_, i) => i !== state.selected);

  /** @param {PointerEvent} event */
  const end = (event) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    event.stopPropagation();
    if (drag.began) state.endGesture();
    else if (drag.kind === "draw") state.select(-1);
    else if (drag.below >= 0) state.select(drag.below);
    drag = null;
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", () => cancel());

  function cancel() {
    if (!drag) return false;
    if (drag.began) state.cancel(drag.gesture);
    if (stage.hasPointerCapture(drag.pointer)) stage.releasePointerCapture(drag.pointer);
    drag = null;
    return true;
  }

  return { cancel };
}
