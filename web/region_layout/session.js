// @ts-check
/** What the editor in the node and the large one share: the regions, tools, pictures and notes. */

import { LayoutState } from "./state.js";

/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {"box" | "brush" | "lasso" | "eraser"} Tool */

/** What the editor needs of its node.
 * @typedef {object} Host
 * @property {() => Size} canvas width and height of the picture
 * @property {((canvas: Size) => void) | null} setCanvas null: they come from other nodes
 * @property {() => number} before how many regions come in before the boxes, if known
 * @property {() => void} changed the layout is another
 * @property {() => number} step of the grid in pixels; 1: none
 * @property {(step: number) => void} setStep
 * @property {() => string} picture address of the picture behind the boxes, or ""
 * @property {() => boolean} isPictured whether pictures are wanted behind the boxes
 * @property {(isPictured: boolean) => void} setPictured
 * @property {() => import("./concepts.js").Known[]} concepts those that are loaded, as far as known
 * @property {() => string} incoming the regions that come in, as a layout; "": not known
 * @property {() => void} takeOver the regions that come in are now in the layout */

const RADIUS = 24; // pixels of the canvas, of a new brush

export class Session {
  /** @param {Host} host */
  constructor(host) {
    this.host = host;
    this.state = new LayoutState(host.canvas(), (what) => this.#changed(what));
    this.state.onresize = (canvas) => host.setCanvas?.(canvas);
    /** What the last run said of the layout. @type {string[]} */
    this.notes = [];
    /** @type {import("./concepts.js").Known[]} */
    this.known = [];
    /** A picture from a file, shown before any other. */
    this.file = "";
    /** @type {Tool} */
    this.tool = "box";
    this.radius = RADIUS;
    /** @type {Set<{draw: () => void}>} */
    this.editors = new Set();
  }

  /** Takes over what the node says now. */
  refresh() {
    this.known = this.host.concepts();
    this.state.setCanvas(this.host.canvas());
    this.draw();
  }

  /** @param {string[]} notes */
  setNotes(notes) {
    this.notes = notes;
    this.draw();
  }

  draw() {
    for (const editor of this.editors) editor.draw();
  }

  /** @param {Tool} tool */
  setTool(tool) {
    this.tool = tool;
    this.draw();
  }

  /** @param {number} radius */
  setRadius(radius) {
    this.radius = Math.max(2, Math.min(256, Math.round(radius)));
    this.draw();
  }

  /** A picture behind the boxes. @param {string} url "" for none from a file */
  setFile(url) {
    if (this.file) URL.revokeObjectURL(this.file);
    this.file = url;
    if (url) this.host.setPictured(true);
    this.draw();
  }

  /** The address of the picture behind the boxes, or "". */
  get picture() {
    return this.host.isPictured() ? this.file || this.host.picture() : "";
  }

  /** Makes the regions that come in regions of this layout, before the others. */
  takeIncoming() {
    const text = this.host.incoming();
    if (!text) return;
    const taken = new LayoutState(this.state.canvas);
    taken.load(text);
    this.state.edit((regions) => [...taken.regions, ...regions], "", [0]);
    this.host.takeOver();
  }

  /** @param {import("./state.js").What} what */
  #changed(what) {
    if (what === "edit") this.notes = [];
    this.draw();
    if (what === "edit") this.host.changed();
  }
}
