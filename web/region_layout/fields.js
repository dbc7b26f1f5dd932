// @ts-check
/** The fields of one region: of the selected one below the stage, and of each in the list. */

import { withConcept } from "./concepts.js";
import { iconButton, make, setIcon } from "./elements.js";
import { openBelow } from "./menu.js";
import { colorOf, PALETTE } from "./palette.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {"prompt" | "negative" | "concept" | "weight" | "strength" | "depth" | "reference" |
 *   "x" | "y" | "width" | "height"} FieldName */

/** How a field is read from a region, and what a text in it means; undefined: nothing usable.
 * @typedef {{read: (value: any) => string, mean: (text: string) => any}} Field */

/** @param {(text: string) => string | null} mean @returns {Field} */
const textField = (mean) => ({ read: (value) => value ?? "", mean });

/** @param {(number: number) => number} mean @param {null} [blank] what an empty field means
 * @returns {Field} */
const numberField = (mean, blank) => ({
  read: (value) => (value === null ? "" : String(value)),
  mean: (text) => {
    if (!text.trim()) return blank;
    return Number.isFinite(Number(text)) ? mean(Number(text)) : undefined;
  },
});

const notNegative = (/** @type {number} */ number) => Math.max(0, number);

/** @type {Record<FieldName, Field>} */
const FIELDS = {
  prompt: textField((text) => text),
  negative: textField((text) => text),
  concept: textField((text) => text.trim() || null),
  weight: numberField(notNegative),
  strength: numberField(notNegative),
  depth: numberField((number) => number, null),
  reference: textField((text) => text.trim() || null),
  x: numberField(Math.round),
  y: numberField(Math.round),
  width: numberField(Math.round),
  height: numberField(Math.round),
};
const NAMES = /** @type {FieldName[]} */ (Object.keys(FIELDS));
const PLACE = ["x", "y", "width", "height"];

function makeInputs() {
  const text = { spellcheck: false };
  const pixels = { type: "number", step: 8 };
  const number = { type: "number", min: 0, max: 10, step: 0.05 };
  return {
    prompt: make("textarea", {
      ...{ ...text, rows: 2 },
      placeholder: "What this region shows: a photo of a <concept>",
    }),
    negative: make("textarea", { ...text, rows: 1, placeholder: "What it should not show" }),
    concept: make("input", { ...text, type: "text", placeholder: "from the prompt" }),
    weight: make("input", number),
    strength: make("input", number),
    depth: make("input", { type: "number", step: 1, placeholder: "shared" }),
    reference: make("input", { ...text, type: "text", placeholder: "none" }),
    x: make("input", pixels),
    y: make("input", pixels),
    width: make("input", { ...pixels, min: 8 }),
    height: make("input", { ...pixels, min: 8 }),
  };
}

/** @param {Session} session @param {() => number} index of the region; -1: none
 * @returns {{element: HTMLElement, draw: () => void, focus: (isWriting?: boolean) => void}}
 *   focus: to the prompt; isWriting: a letter follows */
export function makeFields(session, index) {
  const { state } = session;
  const inputs = makeInputs();
  const now = () => /** @type {Box | undefined} */ (state.regions[index()]);
  /** @param {FieldName} name @param {string} text @param {string} tip @param {Node[]} more */
  const labelled = (name, text, tip, ...more) =>
    make(
      "label",
      { class: `mos-field mos-${name}`, title: tip },
      make("span", {}, text),
      inputs[name],
      ...more
    );

  const concepts = iconButton(
    "more",
    "Choose among the loaded concepts",
    (event) => {
      event.preventDefault();
      openBelow("Concepts", conceptItems(session, index()), concepts);
    },
    { "aria-haspopup": "menu" }
  );
  const color = make("button", {
    ...{ type: "button", class: "mos-button mos-color", "aria-haspopup": "menu" },
    ...{ title: "Colour", "aria-label": "Colour" },
    onclick: () => openBelow("Colour", colorItems(session, index()), color),
  });
  const lock = iconButton("unlocked", "Lock", () => state.flip("locked", [index()]));
  const hide = iconButton("shown", "Hide", () => state.flip("hidden", [index()]));
  const element = make(
    "div",
    { class: "mos-fields" },
    labelled("prompt", "Prompt", "What the region shows. Concept tokens in it choose the concept."),
    labelled(
      "negative",
      "Negative",
      "What the region should not show, beside the global negative."
    ),
    make(
      "div",
      { class: "mos-numbers" },
      labelled("concept", "Concept", "Name of the concept; empty: found by the tokens.", concepts),
      labelled("weight", "Weight", "1 replaces the global prompt, less mixes, 0 has no effect."),
      labelled(
        "strength",
        "Strength",
        "Of the concept's LoRA in this region; 1: as it was loaded."
      ),
      labelled(
        "depth",
        "Depth",
        "Where regions overlap, the larger depth is in front; empty: shared."
      ),
      labelled(
        "reference",
        "Reference",
        "Number of the region's reference picture, for models that edit pictures; empty: none."
      )
    ),
    make(
      "div",
      { class: "mos-numbers mos-place" },
      labelled("x", "X", "Left edge in pixels"),
      labelled("y", "Y", "Upper edge in pixels"),
      labelled("width", "W", "Width in pixels"),
      labelled("height", "H", "Height in pixels"),
      make("div", { class: "mos-flags" }, color, lock, hide)
    )
  );

  for (const name of NAMES) {
    const input = inputs[name];
    const field = FIELDS[name];
    const isText = input instanceof HTMLTextAreaElement || input.type === "text";
    // Texts count while they are typed; half a number ("1" of "128") does not.
    input.addEventListener(isText ? "input" : "change", () => {
      const value = field.mean(input.value);
      if (value !== undefined) state.update({ [name]: value }, `${name} ${index()}`, index());
      draw();
    });
    input.addEventListener("blur", () => {
      state.history.end();
      draw();
    });
  }

  const draw = () => {
    const box = now();
    element.classList.toggle("mos-idle", !box);
    element.style.setProperty("--mos-color", box ? colorOf(box.color) : "transparent");
    for (const name of NAMES) {
      const input = inputs[name];
      const field = FIELDS[name];
      const text = box ? field.read(box[name]) : "";
      // What is being typed may be another way to write the same: leave it.
      const isTyped = input === document.activeElement && field.mean(input.value) === box?.[name];
      if (!isTyped && input.value !== text) input.value = text;
      input.disabled = !box || (box.locked && PLACE.includes(name));
    }
    for (const button of [concepts, color, lock, hide]) button.disabled = !box;
    setIcon(
      lock,
      box?.locked ? "locked" : "unlocked",
      box?.locked ? "Unlock" : "Lock: not to be moved"
    );
    setIcon(
      hide,
      box?.hidden ? "hidden" : "shown",
      box?.hidden ? "Show" : "Hide: left out of the run"
    );
    lock.setAttribute("aria-pressed", String(Boolean(box?.locked)));
    hide.setAttribute("aria-pressed", String(Boolean(box?.hidden)));
  };

  const focus = (isWriting = false) => {
    const { prompt } = inputs;
    prompt.focus({ preventScroll: true });
    if (isWriting && /\S$/.test(prompt.value)) prompt.value += " "; // words that go on are apart
    prompt.setSelectionRange(prompt.value.length, prompt.value.length);
  };
  return { element, draw, focus };
}

/** The loaded concepts, to choose one for a region. @param {Session} session @param {number} index
 * @returns {import("./menu.js").Items} */
export function conceptItems(session, index) {
  const { state, known } = session;
  const box = state.regions[index];
  if (!box) return [];
  /** @param {import("./concepts.js").Known | null} concept */
  const choose = (concept) => () => state.update(withConcept(box, concept, known), "", index);
  if (!known.length) return [{ text: "No Load ED-LoRA is connected", act: () => {}, isOff: true }];
  return [
    { text: "From the prompt's tokens", act: choose(null), isOn: !box.concept },
    null,
    ...known.map((concept) => ({
      text: [concept.name, ...concept.tokens].join("  "),
      act: choose(concept),
      isOn: box.concept === concept.name,
      color: colorOf(concept.color),
    })),
  ];
}

/** @param {Session} session @param {number} index @returns {import("./menu.js").Items} */
export function colorItems({ state }, index) {
  const names = ["Orange", "Sky", "Green", "Yellow", "Blue", "Vermilion", "Pink"];
  const own = state.regions[index]?.color ?? 0;
  return PALETTE.map((color, i) => ({
    text: names[i],
    act: () => state.update({ color: i }, "", index),
    isOn: colorOf(own) === color,
    color,
  }));
}
