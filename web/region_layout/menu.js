// @ts-check
/** A menu on the page, above everything, for mouse, finger and keyboard. */

import { make } from "./elements.js";

/** color: shown beside the text. hint: the key that does the same.
 * @typedef {{text: string, act: () => void, isOff?: boolean, isOn?: boolean, color?: string,
 *   hint?: string}} Item */
/** A line between groups is null. @typedef {(Item | null)[]} Items */

/** @type {(() => void) | null} */
let closeOpen = null;

/** Opens a menu at a point of the window. @param {string} name what a screen reader calls it
 * @param {Items} items @param {number} x @param {number} y
 * @param {() => void} [closed] gives the focus back */
export function openMenu(name, items, x, y, closed = () => {}) {
  closeOpen?.();
  const menu = make("div", { class: "mos-menu", role: "menu", "aria-label": name, tabindex: -1 });
  const close = () => {
    const hadFocus = menu.contains(document.activeElement);
    menu.remove();
    document.removeEventListener("pointerdown", closeOutside, true);
    closeOpen = null;
    if (hadFocus) closed();
  };
  /** @param {Event} event */
  const closeOutside = (event) => {
    if (!menu.contains(/** @type {Node} */ (event.target))) close();
  };
  menu.append(
    ...items.map((item) => (item ? makeItem(item, close) : make("hr", { role: "separator" })))
  );
  menu.addEventListener("keydown", (event) => {
    event.stopPropagation();
    if (event.key === "Escape" || event.key === "Tab") {
      event.preventDefault();
      close();
    } else if (walk(menu, event.key)) event.preventDefault();
  });
  for (const kind of ["pointerdown", "mousedown", "wheel", "contextmenu", "copy", "paste"]) {
    menu.addEventListener(kind, (event) => event.stopPropagation());
  }
  document.body.append(menu);
  const { width, height } = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(4, Math.min(x, window.innerWidth - width - 4))}px`;
  menu.style.top = `${Math.max(4, Math.min(y, window.innerHeight - height - 4))}px`;
  document.addEventListener("pointerdown", closeOutside, true);
  closeOpen = close;
  /** @type {HTMLElement | null} */ (menu.querySelector("button:not(:disabled)"))?.focus();
  return menu;
}

/** Opens a menu below an element. @param {string} name @param {Items} items
 * @param {HTMLElement} anchor */
export function openBelow(name, items, anchor) {
  const { left, bottom } = anchor.getBoundingClientRect();
  return openMenu(name, items, left, bottom + 2, () => anchor.focus());
}

/** @param {Item} item @param {() => void} close */
function makeItem({ text, act, isOff, isOn, color, hint }, close) {
  const swatch = make("i", { class: "mos-swatch" });
  if (color) swatch.style.background = color;
  return make(
    "button",
    {
      type: "button",
      role: isOn === undefined ? "menuitem" : "menuitemcheckbox",
      "aria-checked": isOn === undefined ? undefined : String(isOn),
      disabled: isOff,
      onclick: () => {
        close();
        act();
      },
    },
    make("span", { class: "mos-check", "aria-hidden": "true" }, isOn ? "✓" : ""),
    ...(color ? [swatch] : []),
    make("span", {}, text),
    make("kbd", {}, hint ?? "")
  );
}

/** @param {HTMLElement} menu @param {string} key
 * @returns {boolean} whether the key was for the menu */
function walk(menu, key) {
  const items = [
    .../** @type {NodeListOf<HTMLElement>} */ (menu.querySelectorAll("button:not(:disabled)")),
  ];
  const at = items.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 }[key];
  if (next === undefined) return false;
  items.at(next % items.length)?.focus();
  return true;
}
