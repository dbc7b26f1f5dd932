// @ts-check
/** What the editor knows: regions, which are selected, and the way back. No screen, no ComfyUI. */

import { aligned, around } from "./align.js";
import * as changes from "./changes.js";
import { inside, moved } from "./geometry.js";
import { History } from "./history.js";
import { emptyBox, formatLayout, parseLayout } from "./layout_json.js";
import { boundsOf } from "./masks.js";
import { depthFor } from "./stack.js";

/** @typedef {import("./geometry.js").Rect} Rect */
/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {import("./masks.js").Mask} Mask */
/** @typedef {"edit" | "select" | "load"} What */
/** @typedef {import("./history.js").Moment} Moment */

export class LayoutState {
  /** @param {Size} canvas @param {(what: What) => void} [changed] */
  constructor(canvas = [512, 512], changed) {
    this.canvas = canvas;
    /** @type {Set<(what: What) => void>} */
    this.listeners = new Set(changed ? [changed] : []);
    /** @type {Box[]} */
    this.regions = [];
    this.selected = -1;
    /** Those that are selected beside `selected`. @type {number[]} */
    this.others = [];
    /** Why the text that was loaded cannot be shown, or "". */
    this.problem = "";
    this.history = new History();
    this.text = "";
    /** What `text` or the last edit says; a change of the canvas is counted from here, so that
     * going back to an earlier size gives the same boxes. */
    this.base = this.#moment();
    /** @type {Record<string, unknown>} */
    this.rest = {};
    /** Gives the node another size, where a step or the way back asks for one.
     * @type {(canvas: Size) => void} */
    this.onresize = () => {};
  }

  /** @returns {Box | undefined} */
  get box() {
    return this.regions[this.selected];
  }

  /** All that are selected, in order. */
  get chosen() {
    return this.box ? [...this.others, this.selected].sort((a, b) => a - b) : [];
  }

  /** Takes the text of a saved layout. One that cannot be read stays as it is until the first edit;
   * `problem` then says why. @param {string} text */
  load(text) {
    if (text === this.text || text === this.save()) return;
    this.text = text;
    this.history = new History();
    this.problem = "";
    this.regions = [];
    this.others = [];
    this.base = this.#moment();
    try {
      const { canvas, regions, rest } = parseLayout(text);
      this.rest = rest;
      this.base = { canvas: canvas ?? this.canvas, regions, selected: -1 };
    } catch (error) {
      this.problem = /** @type {Error} */ (error).message;
    }
    this.regions = changes.fitted(this.base.regions, this.base.canvas, this.canvas);
    this.selected = Math.min(Math.max(this.selected, 0), this.regions.length - 1);
    this.#tell("load");
  }

  /** The text to save: what was loaded, as long as nothing was edited. */
  save() {
    const isUntouched = this.problem || changes.sameSize(this.base.canvas, this.canvas);
    return this.text !== "" && isUntouched ? this.text : this.#format();
  }

  /** A canvas of another size: the regions keep their place in it. @param {Size} canvas */
  setCanvas(canvas) {
    if (changes.sameSize(canvas, this.canvas) || !(canvas[0] > 0 && canvas[1] > 0)) return;
    this.canvas = canvas;
    this.regions = changes.fitted(this.base.regions, this.base.canvas, canvas);
    this.#tell("load");
  }

  /** @param {number} index -1: none */
  select(index) {
    if (index === this.selected && !this.others.length) return;
    this.selected = index;
    this.others = [];
    this.history.end();
    this.#tell("select");
  }

  /** Selects a region beside the others, or no longer. @param {number} index */
  toggle(index) {
    const rest = this.chosen.filter((i) => i !== index);
    this.#choose(rest.length === this.chosen.length ? [...rest, index] : rest);
    this.history.end();
    this.#tell("select");
  }

  selectAll() {
    this.#choose([...this.regions.keys()].filter((i) => !this.regions[i].hidden));
    this.#tell("select");
  }

  /** A change of the regions, one step back in the history. Changes that follow each other with the
   * same `gesture` (a drag, the typing in one field) are one step.
   * @param {(regions: Box[]) => Box[]} change @param {string} gesture
   * @param {number[]} chosen those that are selected then, the last one first among them */
  edit(change, gesture = "", chosen = [...this.others, this.selected]) {
    this.history.record(this.#moment(), gesture);
    this.regions = change(this.regions);
    this.#choose(chosen);
    this.#settle();
  }

  /** Takes a gesture back, as if it had not been. @param {string} gesture */
  cancel(gesture) {
    const before = this.history.cancel(gesture);
    if (before) this.#restore(before);
  }

  /** @param {Rect} rect @param {string} gesture @param {Mask | null} mask the shape in that box */
  add(rect, gesture = "", mask = null) {
    const place = mask ? rect : inside(rect, this.canvas);
    const box = { ...place, ...emptyBox(changes.freeColor(this.regions)), mask };
    this.edit((regions) => [...regions, box], gesture, [this.regions.length]);
  }

  /** @param {Partial<Box>} values of a region @param {string} gesture @param {number} index */
  update(values, gesture = "", index = this.selected) {
    const before = this.regions[index];
    if (!before) return;
    const box = changes.changed(before, values, this.canvas);
    if (JSON.stringify(box) === JSON.stringify(before)) return;
    this.edit((regions) => regions.with(index, box), gesture);
  }

  /** Gives a region another mask, or a new region a first one; without a white cell it goes.
   * @param {Mask} mask @param {number} index -1: a new one @param {string} gesture */
  setMask(mask, index, gesture = "") {
    const bounds = boundsOf(mask, this.canvas);
    const before = this.regions[index];
    if (!before) return bounds ? this.add(bounds, gesture, mask) : undefined;
    if (!bounds) return this.edit((regions) => regions.toSpliced(index, 1), gesture, []);
    this.edit((regions) => regions.with(index, { ...before, ...bounds, mask }), gesture, [index]);
  }

  /** Moves all that are selected from where they are in `from`, as far as none leaves the canvas.
   * @param {number} dx @param {number} dy @param {string} gesture @param {Box[]} from */
  shift(dx, dy, gesture = "", from = this.regions) {
    const chosen = this.chosen.filter((i) => from[i] && !from[i].locked);
    if (!chosen.length) return;
    const all = around(chosen.map((i) => from[i]));
    const { x, y } = inside(moved(all, dx, dy), this.canvas);
    const to = this.regions.map((box, i) => {
      if (!chosen.includes(i)) return box;
      const rect = moved(changes.rectOf(from[i]), x - all.x, y - all.y);
      return changes.changed(from[i], rect, this.canvas);
    });
    if (to.every((box, i) => changes.samePlace(box, this.regions[i]))) return;
    this.edit(() => to, gesture);
  }

  /** @param {import("./align.js").Alignment} how */
  align(how) {
    const chosen = this.chosen.filter((i) => !this.regions[i].locked);
    if (!chosen.length) return;
    const before = chosen.map((i) => changes.rectOf(this.regions[i]));
    const rects = aligned(before, how, this.canvas);
    this.#editEach(chosen, (box, i) => changes.changed(box, rects[chosen.indexOf(i)], this.canvas));
  }

  /** @param {"front" | "back" | "shared"} where */
  setDepth(where) {
    const depth = where === "shared" ? null : depthFor(this.regions, this.chosen, where);
    this.#editEach(this.chosen, (box) => ({ ...box, depth }));
  }

  /** Locks or hides what is selected, or no longer. @param {"locked" | "hidden"} key
   * @param {number[]} chosen */
  flip(key, chosen = this.chosen) {
    const isOn = !chosen.every((i) => this.regions[i][key]);
    this.#editEach(chosen, (box) => ({ ...box, [key]: isOn }));
  }

  /** Removes what is selected and not locked. */
  remove() {
    const gone = this.chosen.filter((i) => !this.regions[i].locked);
    if (!gone.length) return;
    const next = Math.min(this.selected, this.regions.length - gone.length - 1);
    this.edit((all) => all.filter((_, i) => !gone.includes(i)), "", [next]);
  }

  duplicate() {
    if (!this.chosen.length) return;
    const all = [...this.regions];
    const copies = this.chosen.map((index, i) => {
      all.splice(index + i + 1, 0, changes.copied(this.regions[index], all, this.canvas));
      return index + i + 1;
    });
    this.edit(() => all, "", copies);
  }

  /** Earlier or later among the regions. @param {number} by 1 or -1 */
  reorder(by) {
    const to = this.selected + by;
    if (!this.box || to < 0 || to >= this.regions.length) return;
    const box = this.box;
    this.edit((regions) => regions.toSpliced(this.selected, 1).toSpliced(to, 0, box), "", [to]);
  }

  /** @param {import("./presets.js").Preset} name */
  preset(name) {
    const selected = this.box ? this.selected : 0;
    this.edit((regions) => changes.presetOf(regions, name, this.canvas), "", [selected]);
  }

  /** @param {Box[]} regions @param {Size} canvas that they were on */
  paste(regions, canvas) {
    const all = changes.pasted(regions, canvas, this.regions, this.canvas);
    const added = regions.map((_, i) => this.regions.length + i);
    this.edit(() => all, "", added);
  }

  /** Another size of the canvas as a step that can be taken back. @param {Size} canvas */
  resize(canvas) {
    if (changes.sameSize(canvas, this.canvas)) return;
    this.history.record({ ...this.#moment(), isResize: true });
    this.#resizeTo(canvas);
    this.#settle();
  }

  undo() {
    const before = this.history.back(this.#moment());
    if (before) this.#restore(before);
  }

  redo() {
    const after = this.history.forth(this.#moment());
    if (after) this.#restore(after);
  }

  /** @param {number[]} chosen @param {(box: Box, index: number) => Box} change */
  #editEach(chosen, change) {
    const next = this.regions.map((box, i) => (chosen.includes(i) ? change(box, i) : box));
    if (JSON.stringify(next) !== JSON.stringify(this.regions)) this.edit(() => next);
  }

  /** @param {number[]} chosen */
  #choose(chosen) {
    const there = [...new Set(chosen)].filter((i) => i >= 0 && i < this.regions.length);
    this.selected = there.at(-1) ?? -1;
    this.others = there.slice(0, -1);
  }

  /** @returns {Moment} */
  #moment() {
    return { canvas: this.canvas, regions: this.regions, selected: this.selected };
  }

  /** @param {Size} canvas */
  #resizeTo(canvas) {
    this.regions = changes.fitted(this.regions, this.canvas, canvas);
    this.canvas = canvas;
    this.base = this.#moment();
    this.onresize(canvas);
  }

  /** @param {Moment} moment */
  #restore(moment) {
    this.history.end();
    if (moment.isResize) this.#resizeTo(moment.canvas);
    this.regions = changes.fitted(moment.regions, moment.canvas, this.canvas);
    this.#choose([moment.selected]);
    this.#settle();
  }

  #settle() {
    this.problem = "";
    this.base = this.#moment();
    this.text = this.#format();
    this.#tell("edit");
  }

  #format() {
    return formatLayout({ canvas: this.canvas, regions: this.regions, rest: this.rest });
  }

  /** @param {What} what */
  #tell(what) {
    for (const listener of [...this.listeners]) listener(what);
  }
}
