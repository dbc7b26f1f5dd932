// @ts-check
/** A window over the page that has the keyboard until it is closed. */

import { iconButton, make } from "./elements.js";

/** @param {string} name @param {HTMLElement} content @param {string} kind class of the window
 * @param {() => void} [closed] @returns {() => void} closes it */
export function openDialog(name, content, kind, closed = () => {}) {
  const before = /** @type {HTMLElement | null} */ (document.activeElement);
  const window = make(
    "div",
    {
      class: `mos-window ${kind}`,
      role: "dialog",
      "aria-modal": "true",
      "aria-label": name,
      tabindex: -1,
    },
    make(
      "header",
      {},
      make("b", {}, name),
      iconButton("close", "Close (Esc)", () => close())
    ),
    content
  );
  const shade = make("div", { class: "mos-shade" }, window);
  const close = () => {
    if (!shade.isConnected) return;
    shade.remove();
    closed();
    before?.focus({ preventScroll: true });
  };
  shade.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    if (event.target === shade) close();
  });
  shade.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.defaultPrevented) close();
    if (event.key === "Tab") keepInside(window, event);
    event.stopPropagation(); // the graph's keys would act below
  });
  for (const kind of ["wheel", "mousedown", "contextmenu", "copy", "cut", "paste"]) {
    shade.addEventListener(kind, (event) => event.stopPropagation());
  }
  document.body.append(shade);
  window.focus({ preventScroll: true });
  return close;
}

/** @param {HTMLElement} window @param {KeyboardEvent} event */
function keepInside(window, event) {
  const found = window.querySelectorAll("button, input, select, textarea, [tabindex='0']");
  const all = [.../** @type {NodeListOf<HTMLInputElement>} */ (found)].filter(
    (element) => !element.disabled && element.tabIndex >= 0 && element.getClientRects().length
  );
  const [first, last] = [all[0], all[all.length - 1]];
  const goes = event.shiftKey ? document.activeElement === first : document.activeElement === last;
  if (!goes || !first) return;
  event.preventDefault();
  (event.shiftKey ? last : first).focus();
}
