// @ts-check
/** The keyboard on the stage. */

import { cut, inside, moved, resized, SMALLEST_SIDE } from "./geometry.js";

/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** What a key does; null where the editor has no use for it.
 * @param {KeyboardEvent} event @param {import("./state.js").LayoutState} state
 * @param {{step: number, cancelDrag: () => boolean, write: () => void}} editor
 * @returns {(() => void) | null} */
export function actionOf(event, state, editor) {
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (command && key === "z") return () => (event.shiftKey ? state.redo() : state.undo());
  if (command && key === "y") return () => state.redo();
  if (command && key === "d") return () => state.duplicate();
  if (command) return null;
  if (key in ARROWS) return () => arrow(event, ARROWS[key], state, editor.step);
  switch (key) {
    case "Delete":
    case "Backspace":
      return () => state.remove();
    case "PageUp":
      return () => state.reorder(1);
    case "PageDown":
      return () => state.reorder(-1);
    case "n":
    case "Insert":
      return () => state.add(inTheMiddle(state.canvas));
    case "Enter":
      return () => editor.write();
    case "Escape":
      return () => void (editor.cancelDrag() || state.select(-1));
    default:
      return null;
  }
}

/** Moves the selected box by a step, with Shift its right or lower edge; with Alt by one pixel.
 * @param {KeyboardEvent} event @param {[number, number]} direction
 * @param {import("./state.js").LayoutState} state @param {number} step */
function arrow(event, [right, down], state, step) {
  const box = state.box;
  if (!box) return;
  const by = event.altKey ? 1 : step;
  const gesture = `arrow ${state.selected} ${event.shiftKey}`;
  if (event.shiftKey) {
    const rect = cut(resized(box, "se", right * by, down * by), state.canvas);
    if (rect.width < SMALLEST_SIDE || rect.height < SMALLEST_SIDE) return;
    state.update(rect, gesture);
  } else {
    state.update(inside(moved(box, right * by, down * by), state.canvas), gesture);
  }
}

/** @param {import("./geometry.js").Size} canvas */
function inTheMiddle([width, height]) {
  const grid = (/** @type {number} */ n) => Math.round(n / 8) * 8;
  return { x: grid(width / 4), y: grid(height / 4), width: grid(width / 2), height: grid(height / 2) };
}
