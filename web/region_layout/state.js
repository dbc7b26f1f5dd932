// @ts-check
/** What the editor knows: boxes, which one is selected, and the way back. No screen, no ComfyUI. */

import { inside, moved, presetRects, scaled } from "./geometry.js";
import { formatLayout, parseLayout } from "./layout_json.js";

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {{canvas: Size, regions: Box[], selected: number}} Moment */

const STEPS_BACK = 200;
const COPY_OFFSET = 16;

export class LayoutState {
  /** @param {Size} canvas @param {(what: "edit" | "select" | "load") => void} changed */
  constructor(canvas = [512, 512], changed = () => {}) {
    this.canvas = canvas;
    this.changed = changed;
    /** @type {Box[]} */
    this.regions = [];
    this.selected = -1;
    /** Why the text that was loaded cannot be shown, or "". */
    this.problem = "";
    /** @type {Moment[]} */
    this.past = [];
    /** @type {Moment[]} */
    this.future = [];
    this.text = "";
    /** What `text` or the last edit says; a change of the canvas is counted from here, so that
     * going back to an earlier size gives the same boxes. */
    this.base = this.#moment();
    /** @type {Record<string, unknown>} */
    this.rest = {};
    this.gesture = "";
  }

  /** @returns {Box | undefined} */
  get box() {
    return this.regions[this.selected];
  }

  /** Takes the text of a saved layout. One that cannot be read stays as it is until the first edit;
   * `problem` then says why. @param {string} text */
  load(text) {
    if (text === this.text || text === this.save()) return;
    this.text = text;
    this.past = [];
    this.future = [];
    this.gesture = "";
    this.problem = "";
    this.regions = [];
    this.base = this.#moment();
    try {
      const { canvas, regions, rest } = parseLayout(text);
      this.rest = rest;
      this.base = { canvas: canvas ?? this.canvas, regions, selected: -1 };
    } catch (error) {
      this.problem = /** @type {Error} */ (error).message;
    }
    this.regions = fitted(this.base, this.canvas);
    this.selected = Math.min(Math.max(this.selected, 0), this.regions.length - 1);
    this.changed("load");
  }

  /** The text to save: what was loaded, as long as nothing was edited. */
  save() {
    if (this.text !== "" && (this.problem || sameSize(this.base.canvas, this.canvas))) {
      return this.text;
    }
    return formatLayout({ canvas: this.canvas, regions: this.regions, rest: this.rest });
  }

  /** A canvas of another size: the boxes keep their place in it. @param {Size} canvas */
  setCanvas(canvas) {
    if (sameSize(canvas, this.canvas) || !(canvas[0] > 0 && canvas[1] > 0)) return;
    this.canvas = canvas;
    this.regions = fitted(this.base, canvas);
    this.changed("load");
  }

  /** @param {number} index -1: none */
  select(index) {
    if (index === this.selected) return;
    this.selected = index;
    this.gesture = "";
    this.changed("select");
  }

  /** A change of the boxes, one step back in the history. Changes that follow each other with the
   * same `gesture` (a drag, the typing in one field) are one step.
   * @param {(regions: Box[]) => Box[]} change @param {string} gesture
   * @param {number} selected */
  edit(change, gesture = "", selected = this.selected) {
    if (!gesture || gesture !== this.gesture) {
      this.past.push(this.#moment());
      this.past.splice(0, this.past.length - STEPS_BACK);
    }
    this.gesture = gesture;
    this.future = [];
    this.regions = change(this.regions);
    this.selected = Math.max(-1, Math.min(selected, this.regions.length - 1));
    this.#settle();
  }

  /** Ends a gesture: the next change is a step of its own. */
  endGesture() {
    this.gesture = "";
  }

  /** Takes a gesture back, as if it had not been. @param {string} gesture */
  cancel(gesture) {
    if (this.gesture !== gesture) return;
    const before = this.past.pop();
    if (before) this.#restore(before);
  }

  /** @param {Rect} rect @param {string} gesture */
  add(rect, gesture = "") {
    const box = { ...inside(rect, this.canvas), ...emptyBox(this.#freeColor()) };
    this.edit((regions) => [...regions, box], gesture, this.regions.length);
  }

  /** @param {Partial<Box>} values of the selected box @param {string} gesture */
  update(values, gesture = "") {
    if (!this.box) return;
    const box = { ...this.box, ...values };
    Object.assign(box, inside(box, this.canvas));
    if (JSON.stringify(box) === JSON.stringify(this.box)) return;
    this.edit((regions) => regions.with(this.selected, box), gesture);
  }

  remove() {
    if (this.box) this.edit((regions) => regions.toSpliced(this.selected, 1));
  }

  duplicate() {
    if (!this.box) return;
    const shifted = inside(moved(this.box, COPY_OFFSET, COPY_OFFSET), this.canvas);
    if (shifted.x === this.box.x && shifted.y === this.box.y) {
      Object.assign(shifted, inside(moved(this.box, -COPY_OFFSET, -COPY_OFFSET), this.canvas));
    }
    const copy = { ...this.box, ...shifted, color: this.#freeColor() };
    this.edit((regions) => regions.toSpliced(this.selected + 1, 0, copy), "", this.selected + 1);
  }

  /** Later boxes lie above earlier ones. @param {number} by 1: up, -1: down */
  reorder(by) {
    const to = this.selected + by;
    if (!this.box || to < 0 || to >= this.regions.length) return;
    const box = this.box;
    this.edit((regions) => regions.toSpliced(this.selected, 1).toSpliced(to, 0, box), "", to);
  }

  /** Puts the boxes where the preset has them, in order, with new ones for those that are missing;
   * boxes too many go if they have no prompt.
   * @param {import("./geometry.js").Preset} name */
  preset(name) {
    const rects = presetRects(name, this.canvas);
    this.edit((regions) => {
      const kept = regions.filter((box, i) => i < rects.length || box.prompt.trim());
      const placed = kept.map((box, i) => ({ ...box, ...rects[i] }));
      for (const rect of rects.slice(kept.length)) {
        placed.push({ ...rect, ...emptyBox(freeColor(placed)) });
      }
      return placed;
    }, "", this.box ? this.selected : 0);
  }

  undo() {
    const before = this.past.pop();
    if (!before) return;
    this.future.push(this.#moment());
    this.#restore(before);
  }

  redo() {
    const after = this.future.pop();
    if (!after) return;
    this.past.push(this.#moment());
    this.#restore(after);
  }

  #freeColor() {
    return freeColor(this.regions);
  }

  /** @returns {Moment} */
  #moment() {
    return { canvas: this.canvas, regions: this.regions, selected: this.selected };
  }

  /** @param {Moment} moment */
  #restore(moment) {
    this.gesture = "";
    this.regions = fitted(moment, this.canvas);
    this.selected = Math.min(moment.selected, this.regions.length - 1);
    this.#settle();
  }

  #settle() {
    this.problem = "";
    this.base = this.#moment();
    this.text = formatLayout({ canvas: this.canvas, regions: this.regions, rest: this.rest });
    this.changed("edit");
  }
}

/** @param {number} color */
function emptyBox(color) {
  return { prompt: "", negative: "", weight: 1, concept: null, color };
}

/** The smallest colour number that no box has. @param {Box[]} regions */
function freeColor(regions) {
  const taken = new Set(regions.map((box) => box.color));
  let color = 0;
  while (taken.has(color)) color++;
  return color;
}

/** The boxes of a moment, on another canvas. @param {Moment} moment @param {Size} to */
function fitted({ canvas, regions }, to) {
  if (sameSize(canvas, to)) return regions;
  return regions.map((box) => ({ ...box, ...scaled(box, canvas, to) }));
}

/** @param {Size} a @param {Size} b */
function sameSize(a, b) {
  return a[0] === b[0] && a[1] === b[1];
}
