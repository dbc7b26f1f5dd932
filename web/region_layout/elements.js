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
  front: "M2 2h8v8H2zM12 6h2v8H6v-2M4.5 6h3M6 4.5v3",
  back: "M6 6h8v8H6zM4 10H2V2h8v2M8.5 10h3",
  picture: "M2 3h12v10H2zM2 11l3.5-3.5L9 11l2-2 3 3M10.5 6h.01",
  box: "M2.5 3.5h11v9h-11zM1.5 2.5h2v2h-2zM12.5 11.5h2v2h-2z",
  brush:
    "M13.5 2.5 7 9M5.5 8.5c2 0 2.5 2 2 3-.7 1.6-3 2.5-5.5 2 1-.7 1-1.4 1.2-2.5.2-1.4 1-2.5 2.3-2.5z",
  lasso: "M8 2.5c3.5 0 6 1.7 6 4s-2.5 4-6 4-6-1.7-6-4 2.5-4 6-4zM5 10c-1 1.2-.5 2.5.5 3.5",
  eraser: "M9 3 14 8l-5 5H6L2.5 9.5zM5.7 6.3 10.7 11.3M6 13h8",
  align: "M2.5 1.5v13M5 4h8v3H5zM5 9.5h5v3H5z",
  closer: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 1 0 0-9zM10.3 10.3 14 14M7 5v4M5 7h4",
  farther: "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 1 0 0-9zM10.3 10.3 14 14M5 7h4",
  list: "M5.5 4h8.5M5.5 8h8.5M5.5 12h8.5M2 4h.01M2 8h.01M2 12h.01",
  help: "M8 1.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 1 0 0-13zM6 6.3c0-2.6 4-2.6 4 0 0 1.7-2 1.7-2 3.2M8 11.8h.01",
  popout: "M6 3H2.5v10.5H13V10M9 2.5h4.5V7M13.5 2.5 7.5 8.5",
  close: "M3.5 3.5l9 9M12.5 3.5l-9 9",
  locked: "M4 7h8v6.5H4zM5.5 7V4.8a2.5 2.5 0 0 1 5 0V7",
  unlocked: "M4 7h8v6.5H4zM5.5 7V4.8a2.5 2.5 0 0 1 4.8-1",
  hidden: "M2 8c2.5-4.5 9.5-4.5 12 0-2.5 4.5-9.5 4.5-12 0zM2.5 13.5l11-11",
  shown:
    "M2 8c2.5-4.5 9.5-4.5 12 0-2.5 4.5-9.5 4.5-12 0zM8 6.2a1.8 1.8 0 1 0 0 3.6 1.8 1.8 0 1 0 0-3.6z",
  more: "M4 6.5 8 10.5 12 6.5",
};

/** @typedef {keyof typeof ICONS} IconName */

/** @param {IconName} name @returns {SVGElement} */
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

/** A button with an icon. @param {IconName} name @param {string} tip
 * @param {(event: Event) => void} act
 * @param {Record<string, any>} [more] attributes */
export function iconButton(name, tip, act, more = {}) {
  return make(
    "button",
    { type: "button", class: "mos-button", title: tip, "aria-label": tip, onclick: act, ...more },
    icon(name)
  );
}

/** Puts another icon on a button. @param {HTMLElement} button @param {IconName} name
 * @param {string} tip */
export function setIcon(button, name, tip) {
  if (button.dataset.icon === name) return;
  button.dataset.icon = name;
  button.title = tip;
  button.setAttribute("aria-label", tip);
  button.replaceChildren(icon(name));
}

/** A list to choose from. @param {Record<string, string>} choices value to text
 * @param {string} tip @param {string} [title] shown while nothing is chosen */
export function choice(choices, tip, title) {
  const heading = title ? [make("option", { value: "", disabled: "", hidden: "" }, title)] : [];
  const options = Object.entries(choices).map(([value, text]) => make("option", { value }, text));
  return make(
    "select",
    { class: "mos-select", title: tip, "aria-label": tip },
    ...heading,
    ...options
  );
}

/** @param {Element} element @param {string} text */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
