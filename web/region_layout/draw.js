// @ts-check
/** The regions on the stage and in the row of chips, as elements in percent of the canvas: the page
 * does the rest. What has not changed is not touched. */

import { HANDLES, isTooSmall } from "./geometry.js";
import { make, write } from "./elements.js";
import { bitsOf, cellsOf } from "./masks.js";
import { colorOf, inkOn } from "./palette.js";
import { stackOrder } from "./stack.js";

/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {import("./state.js").LayoutState} LayoutState */

/** What is said of the regions beside their own values.
 * @typedef {{first: number, problems: string[], clashing: Set<number>}} Marks first: number of the
 *   first one; problems: of each, or "" */

/** @param {number} part @param {number} whole */
const percent = (part, whole) => `${(100 * part) / whole}%`;

/** @type {WeakMap<Element, {box: Box, key: string}>} */
const drawn = new WeakMap();

/** Whether an element shows this already; remembers it. @param {Element} element @param {Box} box
 * @param {string} key what else it depends on */
function isDrawn(element, box, key) {
  const before = drawn.get(element);
  if (before?.box === box && before.key === key) return true;
  drawn.set(element, { box, key });
  return false;
}

/** How a region is called by a screen reader. @param {Box} box @param {number} number
 * @param {string} problem */
export function spokenName(box, number, problem = "") {
  const kind = box.mask ? "mask" : "box";
  const states = [box.locked && "locked", box.hidden && "hidden", problem].filter(Boolean);
  const place = `x ${box.x}, y ${box.y}, ${box.width} by ${box.height}`;
  const words = [`Region ${number}, ${kind}`, box.prompt.trim() || "no prompt", place, ...states];
  return words.join(", ");
}

/** Brings the elements below `layer` in step with the regions.
 * @param {HTMLElement} layer @param {LayoutState} state @param {Marks} marks */
export function drawBoxes(layer, state, marks) {
  while (layer.children.length > state.regions.length) layer.lastElementChild?.remove();
  const chosen = new Set(state.chosen);
  const order = stackOrder(state.regions);
  const place = new Map(order.map((index, i) => [index, i]));
  state.regions.forEach((box, i) => {
    const element = /** @type {HTMLElement} */ (layer.children[i] ?? layer.appendChild(newBox()));
    const flags = {
      "mos-selected": i === state.selected,
      "mos-chosen": chosen.has(i),
      "mos-clash": marks.clashing.has(i),
    };
    const key = JSON.stringify([
      ...[state.canvas, place.get(i), marks.first + i, marks.problems[i]],
      ...Object.values(flags),
    ]);
    if (isDrawn(element, box, key)) return;
    for (const [name, isOn] of Object.entries(flags)) element.classList.toggle(name, isOn);
    element.style.zIndex = chosen.has(i) ? String(order.length + 1) : String(place.get(i));
    drawBox(element, box, state.canvas);
    write(/** @type {Element} */ (element.querySelector(".mos-number")), String(marks.first + i));
    element.setAttribute("aria-label", spokenName(box, marks.first + i, marks.problems[i]));
    const mark = /** @type {HTMLElement} */ (element.querySelector(".mos-mark"));
    mark.hidden = !marks.problems[i];
    mark.title = marks.problems[i];
  });
}

function newBox() {
  const label = make(
    "div",
    { class: "mos-label" },
    make("b", { class: "mos-number" }),
    make("b", { class: "mos-mark", hidden: "" }, "?"),
    make("span", { class: "mos-text" })
  );
  const handles = HANDLES.map((handle) => make("i", { "data-handle": handle }));
  const mask = make("canvas", { class: "mos-mask", hidden: "" });
  return make("div", { class: "mos-box", role: "img" }, mask, label, ...handles);
}

/** @param {HTMLElement} element @param {Box} box @param {import("./geometry.js").Size} canvas */
function drawBox(element, box, [width, height]) {
  const color = colorOf(box.color);
  element.style.left = percent(box.x, width);
  element.style.top = percent(box.y, height);
  element.style.width = percent(box.width, width);
  element.style.height = percent(box.height, height);
  element.style.setProperty("--mos-color", color);
  element.style.setProperty("--mos-ink", inkOn(color));
  element.classList.toggle("mos-small", !box.mask && isTooSmall(box));
  element.classList.toggle("mos-off", box.weight === 0);
  element.classList.toggle("mos-hidden", box.hidden);
  element.classList.toggle("mos-locked", box.locked);
  element.classList.toggle("mos-masked", Boolean(box.mask));
  write(/** @type {Element} */ (element.querySelector(".mos-text")), box.prompt.trim());
  drawMask(/** @type {HTMLCanvasElement} */ (element.querySelector("canvas")), box, color);
}

/** @param {HTMLCanvasElement} canvas @param {Box} box @param {string} color "#rrggbb" */
function drawMask(canvas, box, color) {
  canvas.hidden = !box.mask;
  const cells = box.mask && cellsOf(box.mask);
  if (!box.mask || !cells) return;
  const columns = box.mask.size[0];
  const [width, height] = [cells.right - cells.left, cells.bottom - cells.top];
  const bits = bitsOf(box.mask);
  canvas.width = width;
  canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  const rgb = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const at = (y + cells.top) * columns + x + cells.left;
      if (!bits[at]) continue;
      const isInner = x && y && x < width - 1 && y < height - 1;
      const isEdge =
        !isInner || !(bits[at - 1] && bits[at + 1] && bits[at - columns] && bits[at + columns]);
      image.data.set([...rgb, isEdge ? 255 : 110], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/** The row of buttons, one for each region.
 * @param {HTMLElement} row @param {LayoutState} state @param {Marks} marks */
export function drawChips(row, state, marks) {
  while (row.children.length > state.regions.length) row.lastElementChild?.remove();
  const chosen = new Set(state.chosen);
  state.regions.forEach((box, i) => {
    const chip = /** @type {HTMLElement} */ (row.children[i] ?? row.appendChild(newChip()));
    const number = marks.first + i;
    if (isDrawn(chip, box, JSON.stringify([number, marks.problems[i], chosen.has(i)]))) return;
    const color = colorOf(box.color);
    chip.style.setProperty("--mos-color", color);
    chip.style.setProperty("--mos-ink", inkOn(color));
    chip.dataset.index = String(i);
    chip.title = [box.prompt.trim() || "without a prompt", marks.problems[i]]
      .filter(Boolean)
      .join("; ");
    chip.setAttribute("aria-pressed", String(chosen.has(i)));
    chip.setAttribute("aria-label", spokenName(box, number, marks.problems[i]));
    write(chip.children[0], String(number));
    write(chip.children[1], box.prompt.trim() || "no prompt yet");
    chip.classList.toggle("mos-empty", !box.prompt.trim());
    chip.classList.toggle("mos-marked", Boolean(marks.problems[i]));
    chip.classList.toggle("mos-hidden", box.hidden);
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
