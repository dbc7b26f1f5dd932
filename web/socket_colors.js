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
    // The new renderer's. In a sheet of their own: what a palette names, and what newer editors take
    // away for types that it does not name, is the root's own style, which comes before any sheet.
    const sheet = document.head.appendChild(document.createElement("style"));
    sheet.textContent = `:root { ${Object.entries(COLORS)
      .map(([type, color]) => `--color-datatype-${type}: ${color};`)
      .join(" ")} }`;
  },
});
