// @ts-check
/** Small pieces of the page. */

/** An element with attributes, listeners (on...) and children.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {Record<string, any>} [given] @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]} */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  element.append(...children);
  return element;
}

/** Lines of the icons, in a square of 16 x 16. */
const ICONS = {
  undo: "M6 3.5 3 6.5l3 3M3.3 6.5H9a4 4 0 0 1 0 8H6.5",
  redo: "m10 3.5 3 3-3 3M12.7 6.5H7a4 4 0 0 0 0 8h2.5",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  remove: "M2.5 4.5h11M6 4.5v-2h4v2M4 4.5l.7 9h6.6l.7-9M6.7 7v4M9.3 7v4",
  up: "M8 13.5v-9M4.2 8 8 4.2 11.8 8M3 2h10",
  down: "M8 2.5v9M4.2 8 8 11.8 11.8 8M3 14h10",
  picture: "M2 3h12v10H2zM2 11l3.5-3.5L9 11l2-2 3 3M10.5 6h.01",
  presets: "M2 2.5h5v11H2zM9 2.5h5v4.7H9zM9 9h5v4.5H9z",
  grid: "M2 2h12v12H2zM6 2v12M10 2v12M2 6h12M2 10h12",
  warning: "M8 2 15 14H1zM8 6.5v3.5M8 12h.01",
};

/** @param {keyof typeof ICONS} name @returns {SVGElement} */
export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
