// @ts-check
/** The fields of the selected box, below the stage. */

import { colorOf } from "./palette.js";
import { isTooSmall } from "./geometry.js";
import { make } from "./elements.js";

/** @typedef {import("./state.js").LayoutState} LayoutState */
/** @typedef {import("./state.js").Box} Box */

/** How a field is read from a box, and what a text in it means; undefined: nothing usable. */
const FIELDS = {
  prompt: textField((text) => text),
  negative: textField((text) => text),
  concept: textField((text) => text.trim() || null),
  weight: numberField((number) => Math.max(0, number)),
  x: numberField(Math.round),
  y: numberField(Math.round),
  width: numberField(Math.round),
  height: numberField(Math.round),
};

/** @param {(text: string) => any} mean */
function textField(mean) {
  return { read: (/** @type {any} */ value) => value ?? "", mean };
}

/** @param {(number: number) => number} mean */
function numberField(mean) {
  return {
    read: (/** @type {any} */ value) => String(value),
    mean: (/** @type {string} */ text) =>
      text.trim() && Number.isFinite(Number(text)) ? mean(Number(text)) : undefined,
  };
}

/** @param {LayoutState} state
 * @returns {{element: HTMLElement, draw: () => void, focus: () => void}} */
export function makeFields(state) {
  const rows = { rows: 2, spellcheck: false };
  /** @type {Record<keyof typeof FIELDS, HTMLInputElement | HTMLTextAreaElement>} */
  const inputs = {
    prompt: make("textarea", { ...rows, placeholder: "What this box shows: a photo of a <concept>" }),
    negative: make("textarea", { rows: 1, spellcheck: false, placeholder: "What it should not show" }),
    concept: make("input", { type: "text", placeholder: "from the prompt", spellcheck: false }),
    weight: make("input", { type: "number", min: 0, max: 10, step: 0.05 }),
    x: make("input", { type: "number", step: 8 }),
    y: make("input", { type: "number", step: 8 }),
    width: make("input", { type: "number", step: 8, min: 8 }),
    height: make("input", { type: "number", step: 8, min: 8 }),
  };
  /** @param {keyof typeof FIELDS} name @param {string} text @param {string} tip */
  const labelled = (name, text, tip) =>
    make("label", { class: `mos-field mos-${name}`, title: tip }, make("span", {}, text), inputs[name]);
  const element = make(
    "div",
    { class: "mos-fields" },
    labelled("prompt", "Prompt", "What the box shows. Concept tokens in it choose the concept."),
    labelled("negative", "Negative", "What the box should not show, beside the global negative."),
    make(
      "div",
      { class: "mos-numbers" },
      labelled("weight", "Weight", "1 replaces the global prompt, less mixes, 0 has no effect."),
      labelled("concept", "Concept", "Name of the concept; empty: found by the tokens."),
      labelled("x", "X", "Left edge in pixels"),
      labelled("y", "Y", "Upper edge in pixels"),
      labelled("width", "W", "Width in pixels"),
      labelled("height", "H", "Height in pixels")
    )
  );

  /** @param {(name: keyof typeof FIELDS, field: ReturnType<typeof textField>) => void} act */
  const forEach = (act) => {
    for (const [name, field] of Object.entries(FIELDS)) act(/** @type {any} */ (name), field);
  };

  forEach((name, field) => {
    const input = inputs[name];
    const isText = input instanceof HTMLTextAreaElement || input.type === "text";
    // Texts count while they are typed; half a number ("1" of "128") does not.
    input.addEventListener(isText ? "input" : "change", () => {
      const value = field.mean(input.value);
      if (value !== undefined) state.update({ [name]: value }, `${name} ${state.selected}`);
      draw();
    });
    input.addEventListener("blur", () => {
      state.endGesture();
      draw();
    });
  });

  const draw = () => {
    const box = state.box;
    element.classList.toggle("mos-idle", !box);
    element.style.setProperty("--mos-color", box ? colorOf(box.color) : "transparent");
    forEach((name, field) => {
      const input = inputs[name];
      const text = box ? field.read(box[name]) : "";
      // What is being typed may be another way to write the same: leave it.
      const isTyped = input === document.activeElement && field.mean(input.value) === box?.[name];
      if (!isTyped && input.value !== text) input.value = text;
      input.disabled = !box;
    });
  };

  return { element, draw, focus: () => inputs.prompt.focus({ preventScroll: true }) };
}

const HINT =
  "Drag on free canvas: a new box; with Shift, on top of others. Alt: no snapping. Arrows: move, " +
  "with Shift: resize.";

/** What is said under the fields: what is wrong, else how to go on.
 * @param {LayoutState} state @param {string[]} notes what the last run said of the layout
 * @param {number} first number of the first box
 * @returns {{text: string, isProblem: boolean}} */
export function statusOf(state, notes, first) {
  if (state.problem) {
    return { text: `${state.problem} Drawing starts a new layout.`, isProblem: true };
  }
  const small = state.regions.findIndex(isTooSmall);
  if (small >= 0) {
    const text = `Box ${first + small} is too small: no cell of 8 x 8 pixels lies wholly inside.`;
    return { text, isProblem: true };
  }
  const silent = state.regions.findIndex((box) => !box.prompt.trim());
  if (notes.length) return { text: notes.join(" "), isProblem: false };
  if (!state.regions.length) {
    return { text: "Drag on the canvas to draw a box, or choose a preset.", isProblem: false };
  }
  if (silent >= 0) return { text: `Box ${first + silent} has no prompt yet.`, isProblem: false };
  return { text: HINT, isProblem: false };
}
