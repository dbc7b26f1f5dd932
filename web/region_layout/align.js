// @ts-check
/** Rectangles in line with each other, or with the canvas. */

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {"left" | "center" | "right" | "top" | "middle" | "bottom" | "across" | "down"}
 * Alignment */

/** The smallest rectangle around others. @param {Rect[]} rects @returns {Rect} */
export function around(rects) {
  const x = Math.min(...rects.map((r) => r.x));
  const y = Math.min(...rects.map((r) => r.y));
  return {
    x,
    y,
    width: Math.max(...rects.map((r) => r.x + r.width)) - x,
    height: Math.max(...rects.map((r) => r.y + r.height)) - y,
  };
}

/** The rectangles aligned: one alone with the canvas, several with the box around them. across and
 * down make the gaps between them equal; the outermost stay.
 * @param {Rect[]} rects @param {Alignment} how @param {Size} canvas @returns {Rect[]} */
export function aligned(rects, how, canvas) {
  if (how === "across") return distributed(rects, "x", "width", canvas[0]);
  if (how === "down") return distributed(rects, "y", "height", canvas[1]);
  const all =
    rects.length > 1 ? around(rects) : { x: 0, y: 0, width: canvas[0], height: canvas[1] };
  return rects.map((rect) => {
    switch (how) {
      case "left":
        return { ...rect, x: all.x };
      case "center":
        return { ...rect, x: Math.round(all.x + (all.width - rect.width) / 2) };
      case "right":
        return { ...rect, x: all.x + all.width - rect.width };
      case "top":
        return { ...rect, y: all.y };
      case "middle":
        return { ...rect, y: Math.round(all.y + (all.height - rect.height) / 2) };
      default:
        return { ...rect, y: all.y + all.height - rect.height };
    }
  });
}

/** @param {Rect[]} rects @param {"x" | "y"} start @param {"width" | "height"} length
 * @param {number} whole of the canvas, between whose sides fewer than three are distributed */
function distributed(rects, start, length, whole) {
  const order = rects.map((_, i) => i).sort((a, b) => rects[a][start] - rects[b][start] || a - b);
  const [first, last] = [rects[order[0]], rects[/** @type {number} */ (order.at(-1))]];
  const inner = rects.length > 2;
  const [from, to] = inner ? [first[start], last[start] + last[length]] : [0, whole];
  const free = to - from - rects.reduce((sum, rect) => sum + rect[length], 0);
  const gap = free / (inner ? rects.length - 1 : rects.length + 1);
  const placed = [...rects];
  let at = inner ? from : from + gap;
  for (const i of order) {
    placed[i] = { ...rects[i], [start]: Math.round(at) };
    at += rects[i][length] + gap;
  }
  return placed;
}
