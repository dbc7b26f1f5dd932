// @ts-check
/** Regions on their way from one layout to another, in this page or the next. */

import { formatLayout, parseLayout } from "./layout_json.js";

/** @typedef {import("./state.js").LayoutState} LayoutState */

const PLACE = "mix-of-show.regions"; // in the page's storage
let carried = "";

/** @param {LayoutState} state */
export function copyRegions(state) {
  const regions = state.chosen.map((i) => state.regions[i]);
  if (!regions.length) return;
  carried = formatLayout({ canvas: state.canvas, regions, rest: {} });
  try {
    localStorage.setItem(PLACE, carried);
  } catch {
    // No room or no storage: other pages do not get it.
  }
}

/** @returns {string} the layout that was copied last, or "" */
export function copiedText() {
  try {
    return localStorage.getItem(PLACE) ?? carried;
  } catch {
    return carried;
  }
}

/** @param {LayoutState} state */
export function pasteRegions(state) {
  try {
    const { canvas, regions } = parseLayout(copiedText());
    if (regions.length) state.paste(regions, canvas ?? state.canvas);
  } catch {
    // Another version of the pack left it there.
  }
}
