// @ts-check
/** The editor: toolbar, stage, chips and fields around one LayoutState. Knows the page, and of
 * ComfyUI only what `host` gives it. */

import { drawBoxes, drawChips } from "./draw.js";
import { icon, make } from "./elements.js";
import { makeFields, statusOf } from "./fields.js";
import { actionOf } from "./keys.js";
import { followPointers } from "./pointer.js";
import { LayoutState } from "./state.js";

/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./geometry.js").Preset} Preset */

/** What the editor needs of its node.
 * @typedef {object} Host
 * @property {() => Size} canvas width and height of the picture
 * @property {() => number} before how many regions come in before the boxes, if known
 * @property {() => void} changed the layout is another
 * @property {() => number} step of the grid in pixels; 1: none
 * @property {(step: number) => void} setStep */

const PRESETS = {
  columns2: "Two side by side",
  columns3: "Three side by side",
  rows2: "Two rows",
  rows3: "Three rows",
  grid: "Grid of four",
};
const GRIDS = { 1: "No grid", 8: "Grid 8", 64: "Grid 64" };

export class RegionEditor {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.state = new LayoutState(host.canvas(), (what) => this.#changed(what));
    /** @type {string[]} */
    this.notes = [];
    this.fields = makeFields(this.state);
    this.layer = make("div", { class: "mos-layer" });
    this.backdrop = make("img", { class: "mos-backdrop", alt: "", draggable: "false" });
    // Keys go to an input: the graph leaves alone what is typed into one, Delete and Ctrl+Z too.
    this.keys = make("input", {
      class: "mos-keys",
      readonly: "",
      inputmode: "none",
      "aria-label": "Canvas of the regions. Arrows move the selected box, with Shift they resize it.",
    });
    this.stage = make("div", { class: "mos-stage" }, this.backdrop, this.layer);
    this.chips = make("div", { class: "mos-chips", role: "group", "aria-label": "Regions" });
    this.status = make("div", { class: "mos-status", role: "status" });
    this.file = make("input", { type: "file", accept: "image/*", class: "mos-file", tabindex: -1 });
    this.buttons = this.#makeButtons();
    this.grid = this.#makeGrid();
    this.element = make(
      "div",
      { class: "mos-layout" },
      this.#makeToolbar(),
      make("div", { class: "mos-frame" }, this.keys, this.stage),
      this.chips,
      this.fields.element,
      this.status,
      this.file
    );
    this.pointers = followPointers(this.stage, this.state, {
      step: () => host.step(),
      onpress: () => this.focus(),
    });
    this.#listen();
    this.draw();
  }

  focus() {
    this.keys.focus({ preventScroll: true });
  }

  /** Takes over the node's width and height. */
  refresh() {
    this.state.setCanvas(this.host.canvas());
    this.grid.value = String(this.host.step());
    this.draw();
  }

  /** A picture behind the boxes. @param {string} url "" for none */
  setBackdrop(url) {
    if (this.backdrop.src.startsWith("blob:")) URL.revokeObjectURL(this.backdrop.src);
    if (url) this.backdrop.src = url;
    else this.backdrop.removeAttribute("src");
    this.stage.classList.toggle("mos-pictured", Boolean(url));
    this.buttons.picture.setAttribute("aria-pressed", String(Boolean(url)));
  }

  /** What the last run said of the layout. @param {string[]} notes */
  setNotes(notes) {
    this.notes = notes;
    this.draw();
  }

  draw() {
    const { state } = this;
    const [width, height] = state.canvas;
    this.element.style.setProperty("--mos-width", String(width));
    this.element.style.setProperty("--mos-height", String(height));
    const step = this.host.step() < 64 ? 64 : this.host.step(); // lines closer than 64 are a haze
    this.stage.style.setProperty("--mos-column", `${(100 * step) / width}cqw`);
    this.stage.style.setProperty("--mos-row", `${(100 * step) / height}cqh`);
    const first = this.host.before() + 1;
    drawBoxes(this.layer, state, first);
    drawChips(this.chips, state, first);
    this.fields.draw();
    const { text, isProblem } = statusOf(state, this.notes, first);
    this.status.textContent = this.status.title = text;
    this.status.classList.toggle("mos-problem", isProblem);
    this.buttons.undo.disabled = !state.past.length;
    this.buttons.redo.disabled = !state.future.length;
    this.buttons.copy.disabled = this.buttons.remove.disabled = !state.box;
    this.buttons.up.disabled = !state.box || state.selected === state.regions.length - 1;
    this.buttons.down.disabled = !state.box || state.selected === 0;
  }

  /** @param {"edit" | "select" | "load"} what */
  #changed(what) {
    if (!this.element) return; // still being made
    if (what === "edit") this.notes = [];
    this.draw();
    if (what === "edit") this.host.changed();
  }

  #makeButtons() {
    const { state } = this;
    /** @param {Parameters<typeof icon>[0]} name @param {string} tip @param {() => void} act */
    const button = (name, tip, act) =>
      make(
        "button",
        { type: "button", class: "mos-button", title: tip, "aria-label": tip, onclick: act },
        icon(name)
      );
    return {
      undo: button("undo", "Undo (Ctrl+Z)", () => state.undo()),
      redo: button("redo", "Redo (Ctrl+Y)", () => state.redo()),
      copy: button("copy", "Duplicate (Ctrl+D)", () => state.duplicate()),
      remove: button("remove", "Delete (Del)", () => state.remove()),
      up: button("up", "One up (Page Up)", () => state.reorder(1)),
      down: button("down", "One down (Page Down)", () => state.reorder(-1)),
      picture: button(
        "picture",
        "Picture behind the boxes: from a file, not saved in the workflow; again: without",
        () => this.#choosePicture()
      ),
    };
  }

  #makePresets() {
    const presets = choice(PRESETS, "Arrange the boxes; their prompts stay", "Presets");
    presets.value = "";
    presets.addEventListener("change", () => {
      this.state.preset(/** @type {Preset} */ (presets.value));
      presets.value = "";
      this.focus();
    });
    return presets;
  }

  #makeGrid() {
    const grid = choice(GRIDS, "Edges snap to this grid, in pixels; hold Alt for free hand");
    grid.value = String(this.host.step());
    grid.addEventListener("change", () => {
      this.host.setStep(Number(grid.value));
      this.draw();
    });
    return grid;
  }

  #makeToolbar() {
    const { undo, redo, copy, remove, up, down, picture } = this.buttons;
    const gap = () => make("span", { class: "mos-gap" });
    return make(
      "div",
      { class: "mos-toolbar", role: "toolbar" },
      ...[this.#makePresets(), this.grid, gap(), undo, redo, gap(), copy, remove, up, down],
      ...[gap(), picture]
    );
  }

  #choosePicture() {
    if (this.stage.classList.contains("mos-pictured")) this.setBackdrop("");
    else this.file.click();
  }

  #listen() {
    const { element, state } = this;
    this.chips.addEventListener("click", (event) => {
      const chip = /** @type {HTMLElement} */ (event.target).closest(".mos-chip");
      if (!chip) return;
      state.select(Number(/** @type {HTMLElement} */ (chip).dataset.index));
      this.focus();
    });
    this.file.addEventListener("change", () => {
      const file = this.file.files?.[0];
      if (file) this.setBackdrop(URL.createObjectURL(file));
      this.file.value = "";
    });
    this.stage.addEventListener("dragover", (event) => event.preventDefault());
    this.stage.addEventListener("drop", (event) => {
      const file = [...(event.dataTransfer?.files ?? [])].find((f) => f.type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      this.setBackdrop(URL.createObjectURL(file));
    });
    element.addEventListener("pointerenter", () => this.refresh());
    // The graph would drag the node, and take keys for commands of its own.
    for (const name of ["pointerdown", "mousedown", "dblclick"]) {
      element.addEventListener(name, (event) => {
        if (/** @type {MouseEvent} */ (event).button === 0) event.stopPropagation();
      });
    }
    for (const name of ["copy", "cut", "paste"]) {
      element.addEventListener(name, (event) => event.stopPropagation());
    }
    element.addEventListener("keydown", (event) => this.#press(event));
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (target !== this.keys) {
      if (event.key === "Escape") this.focus();
      if (!event.ctrlKey && !event.metaKey) event.stopPropagation();
      return;
    }
    const act = actionOf(event, this.state, {
      step: this.host.step(),
      cancelDrag: () => this.pointers.cancel(),
      write: () => this.fields.focus(),
    });
    const isCommand = event.ctrlKey || event.metaKey;
    if (!act && (isCommand || event.key === "Tab" || event.key.startsWith("F"))) return;
    event.stopPropagation();
    if (!act) return;
    event.preventDefault();
    act();
  }
}

/** A list to choose from. @param {Record<string, string>} choices value to text
 * @param {string} tip @param {string} [title] shown while nothing is chosen */
function choice(choices, tip, title) {
  const heading = title ? [make("option", { value: "", disabled: "", hidden: "" }, title)] : [];
  const options = Object.entries(choices).map(([value, text]) => make("option", { value }, text));
  return make(
    "select",
    { class: "mos-select", title: tip, "aria-label": tip },
    ...heading,
    ...options
  );
}
