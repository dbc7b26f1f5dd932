// @ts-check
/** Zoom and pan of the stage inside its frame. */

/** zoom: 1 shows all. x, y: how far the stage is moved, in parts of its zoomed size.
 * @typedef {{zoom: number, x: number, y: number}} View */

export const WHOLE = Object.freeze({ zoom: 1, x: 0, y: 0 });
export const CLOSEST = 16;

/** @param {View} view @returns {View} */
function limited({ zoom, x, y }) {
  const farthest = (1 - 1 / zoom) / 2;
  const limit = (/** @type {number} */ n) => Math.max(-farthest, Math.min(farthest, n)) || 0;
  return { zoom, x: limit(x), y: limit(y) };
}

/** Closer by a factor, with the point (x, y) of the stage (0..1) staying where it is on the screen.
 * @param {View} view @param {number} factor @param {[number, number]} at @returns {View} */
export function zoomed(view, factor, [x, y] = [0.5, 0.5]) {
  const zoom = Math.max(1, Math.min(CLOSEST, view.zoom * factor));
  const by = view.zoom / zoom;
  return limited({
    zoom,
    x: (x - 0.5 + view.x) * by - (x - 0.5),
    y: (y - 0.5 + view.y) * by - (y - 0.5),
  });
}

/** Moved by parts of the zoomed stage. @param {View} view @param {number} dx @param {number} dy
 * @returns {View} */
export function panned(view, dx, dy) {
  return limited({ zoom: view.zoom, x: view.x + dx, y: view.y + dy });
}
