// @ts-check
/** Colours of the pack's own socket types, in both renderers of the editor. A colour palette of the
 * user's that names one of them wins. */

import { app } from "../../scripts/app.js";

/** @type {Record<string, string>} */
export const COLORS = {
  MOS_CONCEPTS: "#26c6da",
  MOS_REGIONS: "#c6d93f",
  MOS_FUSED: "#7c8cff",
  MOS_COMPOSER_LOG: "#c4a484",
};

/** Gives a table of colours ours. The editor writes "" for every type that its palette does not
 * name, each time that a palette is loaded; so an empty colour means ours.
 * @param {Record<string, string> | undefined} table */
function addColors(table) {
  if (!table) return;
  for (const [type, color] of Object.entries(COLORS)) {
    let chosen = table[type] ?? "";
    Object.defineProperty(table, type, {
      get: () => chosen || color,
      set: (value) => (chosen = value),
      enumerable: true,
      configurable: true,
    });
  }
}

app.registerExtension({
  name: "mix-of-show.socket-colors",
  setup: () => {
    addColors(app.canvas?.default_connection_color_byType); // sockets of the classic renderer
    addColors(app.canvas?.constructor?.link_type_colors);
    for (const [type, color] of Object.entries(COLORS)) {
      document.documentElement.style.setProperty(`--color-datatype-${type}`, color);
    }
  },
});
