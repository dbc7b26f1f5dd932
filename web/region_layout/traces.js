// @ts-check
/** What the tools show on the stage while they work: the lasso's line, the brush's ring. */

import { make } from "./elements.js";

const FINEST = 2048; // pixels of the longer side of the line's picture

/** @typedef {[number, number]} Point */

/** @param {import("./session.js").Session} session
 * @returns {{elements: HTMLElement[], showLine: (line: Point[]) => void}} for the stage */
export function makeTraces(session) {
  const canvas = make("canvas", { class: "mos-line", hidden: "" });
  const ring = make("div", { class: "mos-ring", hidden: "" });
  const stage = () => /** @type {HTMLElement} */ (canvas.parentElement);

  /** @param {Point[]} line pixels of the canvas; empty: none */
  const showLine = (line) => {
    const { canvas: size } = session.state;
    canvas.hidden = line.length < 2;
    const { offsetWidth, offsetHeight } = stage();
    const scale = Math.min(2, FINEST / Math.max(offsetWidth, offsetHeight));
    [canvas.width, canvas.height] = [offsetWidth * scale, offsetHeight * scale];
    const context = canvas.getContext("2d");
    if (!context || canvas.hidden) return;
    const [across, down] = [canvas.width / size[0], canvas.height / size[1]];
    const path = new Path2D();
    for (const [x, y] of line) path.lineTo(x * across, y * down);
    for (const [color, width] of /** @type {const} */ ([
      ["#000", 4],
      ["#fff", 2],
    ])) {
      context.strokeStyle = color;
      context.lineWidth = width * scale;
      context.stroke(path);
    }
  };

  /** @param {PointerEvent | null} event */
  const showRing = (event) => {
    const { tool, radius, state } = session;
    ring.hidden = !event || tool === "box" || tool === "lasso";
    if (!event || ring.hidden) return;
    const shown = stage().getBoundingClientRect();
    ring.style.left = `${(100 * (event.clientX - shown.left)) / shown.width}%`;
    ring.style.top = `${(100 * (event.clientY - shown.top)) / shown.height}%`;
    ring.style.width = `${(200 * radius) / state.canvas[0]}%`;
  };

  queueMicrotask(() => {
    stage().addEventListener("pointermove", showRing);
    stage().addEventListener("pointerleave", () => showRing(null));
  });
  return { elements: [canvas, ring], showLine };
}
