// @ts-check
/** Mouse, pen and fingers on the stage: they go to the tool that is chosen. Two fingers, or Space
 * and the mouse, move and zoom the view. */

import { beginBox } from "./box_tool.js";
import { beginPaint } from "./paint_tool.js";

const CLICK = 4; // pixels of the screen that a click may wander
const LONG = 550; // milliseconds after which a finger that rests asks for the menu
const AGAIN = 400; // milliseconds between the two clicks of a double click

/** @typedef {[number, number]} Point */

/** What a press began. Points are pixels of the canvas.
 * @typedef {{move: (at: Point, event: PointerEvent) => void, click: (isAgain: boolean) => void,
 *   end?: () => void, cancel?: () => void}} Drag move: only beyond a click; end: after moves */

/** What pointers need of the editor.
 * @typedef {{element: HTMLElement, session: import("./session.js").Session,
 *   showLine: (line: Point[]) => void, isPanning: () => boolean, onpress: () => void,
 *   onwrite: (index: number) => void, onmenu: (at: Point, x: number, y: number) => void,
 *   pan: (dx: number, dy: number) => void, zoom: (factor: number, at: Point) => void}} Stage
 *   pan: by parts of the stage; zoom: at a point of 0..1 */

/** @param {Stage} stage @returns {{cancel: () => boolean}} cancel: takes a drag back; false where
 * there is none */
export function followPointers(stage) {
  const { element, session } = stage;
  const { state } = session;
  /** @type {{drag: Drag, began: boolean, gesture: string, pointer: number, screen: Point}
   *   | null} */
  let press = null;
  /** @type {Map<number, Point>} */
  const fingers = new Map();
  let gestures = 0;
  let rest = 0;
  let lastPress = 0;
  let meant = -1; // the region that the first press of a double click selected

  /** A point of the stage, 0..1. @param {number} x @param {number} y @returns {Point} */
  const part = (x, y) => {
    const shown = element.getBoundingClientRect(); // the graph may be zoomed
    return [(x - shown.left) / shown.width, (y - shown.top) / shown.height];
  };
  /** @param {{clientX: number, clientY: number}} event @returns {Point} pixels of the canvas */
  const place = ({ clientX, clientY }) => {
    const [x, y] = part(clientX, clientY);
    return [x * state.canvas[0], y * state.canvas[1]];
  };

  element.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") fingers.set(event.pointerId, [event.clientX, event.clientY]);
    if (fingers.size > 1) {
      event.stopPropagation();
      return void cancel(); // two fingers: the view
    }
    if (event.button !== 0 || press) return;
    event.preventDefault();
    event.stopPropagation();
    stage.onpress();
    element.setPointerCapture(event.pointerId);
    const gesture = `drag ${++gestures}`;
    const drag = begin(event, gesture);
    if (performance.now() - lastPress >= AGAIN) meant = state.selected;
    if (!drag) return;
    const screen = /** @type {Point} */ ([event.clientX, event.clientY]);
    press = { drag, began: false, gesture, pointer: event.pointerId, screen };
    clearTimeout(rest);
    if (event.pointerType === "touch") rest = window.setTimeout(() => askMenu(event), LONG);
  });

  /** @param {PointerEvent} event @param {string} gesture @returns {Drag | null} */
  function begin(event, gesture) {
    if (stage.isPanning()) return panning(event);
    const at = place(event);
    return session.tool === "box"
      ? beginBox(stage, event, at, gesture)
      : beginPaint(stage, event, at, gesture);
  }

  /** @param {PointerEvent} event @returns {Drag} */
  function panning({ clientX, clientY }) {
    let before = [clientX, clientY];
    return {
      move(_, event) {
        const shown = element.getBoundingClientRect();
        const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
        stage.pan(dx / shown.width, dy / shown.height);
        before = [event.clientX, event.clientY];
      },
      click: () => {},
    };
  }

  element.addEventListener("pointermove", (event) => {
    if (fingers.has(event.pointerId) && fingers.size > 1) return pinch(event);
    if (!press || event.pointerId !== press.pointer) return;
    event.stopPropagation();
    const [x, y] = press.screen;
    if (!press.began && Math.hypot(event.clientX - x, event.clientY - y) < CLICK) return;
    clearTimeout(rest);
    // A pen tells more places between two frames than one.
    const fine = session.tool === "box" ? [] : (event.getCoalescedEvents?.() ?? []);
    for (const step of fine.length ? fine : [event]) press.drag.move(place(step), event);
    press.began = true;
  });

  /** Two fingers: the view follows their middle and their distance. @param {PointerEvent} event */
  function pinch(event) {
    event.stopPropagation();
    const [a, b] = [...fingers.values()];
    const [middle, distance] = [
      [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2],
      Math.hypot(a[0] - b[0], a[1] - b[1]),
    ];
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const [c, d] = [...fingers.values()];
    const [x, y] = [(c[0] + d[0]) / 2, (c[1] + d[1]) / 2];
    const shown = element.getBoundingClientRect();
    stage.pan((x - middle[0]) / shown.width, (y - middle[1]) / shown.height);
    if (distance > 0) stage.zoom(Math.hypot(c[0] - d[0], c[1] - d[1]) / distance, part(x, y));
  }

  /** @param {PointerEvent} event */
  const end = (event) => {
    fingers.delete(event.pointerId);
    clearTimeout(rest);
    if (!press || event.pointerId !== press.pointer) return;
    event.stopPropagation();
    const { drag, began } = press;
    const now = performance.now();
    if (!began) drag.click(now - lastPress < AGAIN);
    drag.end?.();
    state.history.end();
    lastPress = now;
    press = null;
  };
  element.addEventListener("pointerup", end);
  element.addEventListener("dblclick", (event) => {
    event.stopPropagation();
    if (session.tool === "box" && meant >= 0) stage.onwrite(meant);
  });
  element.addEventListener("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    cancel();
  });

  /** @param {{clientX: number, clientY: number}} event */
  function askMenu(event) {
    cancel();
    stage.onmenu(place(event), event.clientX, event.clientY);
  }
  element.addEventListener("contextmenu", (event) => {
    event.preventDefault();
    event.stopPropagation();
    if (!(event instanceof PointerEvent && event.pointerType === "touch")) askMenu(event);
  });

  function cancel() {
    clearTimeout(rest);
    if (!press) return false;
    const { drag, began, gesture, pointer } = press;
    press = null;
    drag.cancel?.();
    if (began) state.cancel(gesture);
    if (element.hasPointerCapture(pointer)) element.releasePointerCapture(pointer);
    return true;
  }

  return { cancel };
}
