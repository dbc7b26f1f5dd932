// @ts-check
/** The keyboard on the stage. */

import { cut, resized, SMALLEST_SIDE } from "./geometry.js";
import { rectOf } from "./changes.js";

/** @typedef {import("./session.js").Session} Session */

/** What keys need of the editor beside the session.
 * @typedef {{cancelDrag: () => boolean, write: () => void, help: () => void, zoom: (factor: number)
 *   => void, copy: () => void, paste: () => void, menu: () => void}} Commands
 *   zoom: 0 shows all */

/** @type {Record<string, [number, number]>} */
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const WRITABLE = /^[\p{L}\p{N}<("'*]$/u;

/** The help page of the keys: what is pressed, and what it does. */
export const HELP = [
  ["Drag", "a new box; on a box: move it; on a handle: resize it"],
  ["Shift + drag", "a new box, or a new mask, on top of others"],
  ["Alt + drag", "neither grid nor edges attract; brush and lasso rub out"],
  ["Click, Ctrl + click", "select; select several. Clicking again: the one beneath"],
  ["Double click, Enter", "to the prompt; Esc comes back"],
  ["Letters", "with a region selected, write into its prompt"],
  ["Right click, long press, Menu", "all that can be done with a region"],
  ["Arrows", "move by a step of the grid; Shift: resize; Alt: one pixel"],
  ["Insert", "a new box in the middle"],
  ["V, B, L, E", "box, brush, lasso, eraser (with Alt, or with nothing selected)"],
  ["[ and ]", "smaller or larger brush; box tool: send back, bring to the front"],
  ["Ctrl + A, C, X, V, D", "select all, copy, cut, paste (into other nodes too), duplicate"],
  ["Del", "delete"],
  ["Page Up, Page Down", "later or earlier in the order of the regions"],
  ["Ctrl + L, Ctrl + H", "lock, hide"],
  ["Ctrl + Z, Ctrl + Y", "undo, redo"],
  ["+, -, 0", "closer, farther, all (0: with nothing selected)"],
  ["Ctrl + wheel, two fingers", "zoom; Space + drag, two fingers: move the view"],
  ["?", "this help"],
];

/** What a key does; null where the editor has no use for it.
 * @param {KeyboardEvent} event @param {Session} session @param {Commands} commands
 * @returns {(() => void) | null} */
export function actionOf(event, session, commands) {
  const { state } = session;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) return withControl(key, event.shiftKey, session, commands);
  if (key in ARROWS) return () => arrow(event, ARROWS[key], session);
  switch (key) {
    case "Delete":
    case "Backspace":
      return () => state.remove();
    case "PageUp":
      return () => state.reorder(1);
    case "PageDown":
      return () => state.reorder(-1);
    case "Insert":
      return () => state.add(inTheMiddle(state.canvas));
    case "Enter":
      return () => commands.write();
    case "ContextMenu":
      return () => commands.menu();
    case "Escape":
      return () => void (commands.cancelDrag() || state.select(-1));
    case "+":
    case "=":
      return () => commands.zoom(1.5);
    case "-":
      return () => commands.zoom(1 / 1.5);
    case "?":
      return () => commands.help();
    case "[":
    case "]":
      return () => bracket(key === "]", session);
    default:
      return letter(event, key, session, commands);
  }
}

/** Whether a key is text for the prompt of the selected region.
 * @param {KeyboardEvent} event @param {Session} session */
export function isWriting(event, { state }) {
  const isCommand = event.ctrlKey || event.metaKey || event.altKey;
  return Boolean(state.box) && !isCommand && WRITABLE.test(event.key);
}

/** @param {string} key @param {boolean} shift @param {Session} session
 * @param {Commands} commands */
function withControl(key, shift, { state }, commands) {
  switch (key) {
    case "z":
      return () => (shift ? state.redo() : state.undo());
    case "y":
      return () => state.redo();
    case "d":
      return () => state.duplicate();
    case "a":
      return () => state.selectAll();
    case "c":
      return () => commands.copy();
    case "x":
      return () => {
        commands.copy();
        state.remove();
      };
    case "v":
      return () => commands.paste();
    case "l":
      return () => state.flip("locked");
    case "h":
      return () => state.flip("hidden");
    default:
      return null;
  }
}

/** @param {KeyboardEvent} event @param {string} key @param {Session} session
 * @param {Commands} commands */
function letter(event, key, session, commands) {
  if (session.state.box && !event.altKey) return null;
  switch (event.altKey ? event.code.replace("Key", "").toLowerCase() : key) {
    case "v":
      return () => session.setTool("box");
    case "b":
      return () => session.setTool("brush");
    case "l":
      return () => session.setTool("lasso");
    case "e":
      return () => session.setTool("eraser");
    case "n":
      return () => session.state.add(inTheMiddle(session.state.canvas));
    case "0":
      return () => commands.zoom(0);
    default:
      return null;
  }
}

/** @param {boolean} more @param {Session} session */
function bracket(more, session) {
  if (session.tool === "box") session.state.setDepth(more ? "front" : "back");
  else session.setRadius(session.radius * (more ? 1.25 : 0.8));
}

/** Moves what is selected by a step, with Shift its right or lower edge; with Alt by one pixel.
 * @param {KeyboardEvent} event @param {[number, number]} direction @param {Session} session */
function arrow(event, [right, down], { state, host }) {
  const { box } = state;
  if (!box) return;
  const step = box.mask ? Math.max(host.step(), 4) : host.step(); // a mask moves by whole cells
  const by = event.altKey ? 1 : step;
  const gesture = `arrow ${state.selected} ${event.shiftKey}`;
  if (!event.shiftKey) return state.shift(right * by, down * by, gesture);
  const rect = cut(resized(rectOf(box), "se", right * by, down * by), state.canvas);
  if (rect.width >= SMALLEST_SIDE && rect.height >= SMALLEST_SIDE) state.update(rect, gesture);
}

/** @param {import("./geometry.js").Size} canvas */
function inTheMiddle([width, height]) {
  const grid = (/** @type {number} */ n) => Math.round(n / 8) * 8;
  return {
    x: grid(width / 4),
    y: grid(height / 4),
    width: grid(width / 2),
    height: grid(height / 2),
  };
}
