// @ts-check
/** The boxes on the stage, as elements in percent of the canvas: the page does the rest. */

import { HANDLES, isTooSmall } from "./geometry.js";
import { colorOf, inkOn } from "./palette.js";
import { make } from "./elements.js";

/** @param {number} part @param {number} whole */
const percent = (part, whole) => `${(100 * part) / whole}%`;

/** Brings the elements below `layer` in step with the boxes.
 * @param {HTMLElement} layer @param {import("./state.js").LayoutState} state
 * @param {number} first number of the first box */
export function drawBoxes(layer, state, first) {
  while (layer.children.length > state.regions.length) layer.lastElementChild?.remove();
  state.regions.forEach((box, i) => {
    const element = /** @type {HTMLElement} */ (layer.children[i] ?? layer.appendChild(newBox()));
    drawBox(element, box, i, state);
    write(/** @type {Element} */ (element.querySelector(".mos-number")), String(first + i));
  });
}

function newBox() {
  const label = make(
    "div",
    { class: "mos-label" },
    make("b", { class: "mos-number" }),
    make("span", { class: "mos-text" })
  );
  const handles = HANDLES.map((handle) => make("i", { "data-handle": handle }));
  return make("div", { class: "mos-box" }, label, ...handles);
}

/** @param {HTMLElement} element @param {import("./state.js").Box} box @param {number} index
 * @param {import("./state.js").LayoutState} state */
function drawBox(element, box, index, state) {
  const [width, height] = state.canvas;
  const color = colorOf(box.color);
  element.style.left = percent(box.x, width);
  element.style.top = percent(box.y, height);
  element.style.width = percent(box.width, width);
  element.style.height = percent(box.height, height);
  element.style.setProperty("--mos-color", color);
  element.style.setProperty("--mos-ink", inkOn(color));
  element.classList.toggle("mos-selected", index === state.selected);
  element.classList.toggle("mos-small", isTooSmall(box));
  element.classList.toggle("mos-off", box.weight === 0);
  write(/** @type {Element} */ (element.querySelector(".mos-text")), box.prompt.trim());
}

/** @param {Element} element @param {string} text */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** The row of buttons, one for each box.
 * @param {HTMLElement} row @param {import("./state.js").LayoutState} state
 * @param {number} first number of the first box */
export function drawChips(row, state, first) {
  while (row.children.length > state.regions.length) row.lastElementChild?.remove();
  state.regions.forEach((box, i) => {
    const chip = /** @type {HTMLElement} */ (row.children[i] ?? row.appendChild(newChip()));
    const color = colorOf(box.color);
    chip.style.setProperty("--mos-color", color);
    chip.style.setProperty("--mos-ink", inkOn(color));
    chip.dataset.index = String(i);
    chip.title = box.prompt.trim() || "without a prompt";
    chip.setAttribute("aria-pressed", String(i === state.selected));
    write(chip.children[0], String(first + i));
    write(chip.children[1], box.prompt.trim() || "no prompt yet");
    chip.classList.toggle("mos-empty", !box.prompt.trim());
  });
}

function newChip() {
  return make(
    "button",
    { class: "mos-chip", type: "button" },
    make("b", { class: "mos-number" }),
    make("span", {})
  );
}
