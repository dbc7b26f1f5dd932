// @ts-check
/** The editor: toolbar, stage, chips, fields and list around one Session. Knows the page, and of
 * ComfyUI only what the session's host gives it. */

import { copyRegions, pasteRegions } from "./clipboard.js";
import { openDialog } from "./dialog.js";
import { drawBoxes, drawChips, spokenName } from "./draw.js";
import { make, write } from "./elements.js";
import { makeFields } from "./fields.js";
import { actionOf, HELP, isWriting } from "./keys.js";
import { makeList } from "./list.js";
import { openMenu } from "./menu.js";
import { followPointers } from "./pointer.js";
import { regionItems } from "./region_menu.js";
import { hit } from "./stack.js";
import { marksOf, statusOf } from "./status.js";
import { makeToolbar } from "./toolbar.js";
import { makeTraces } from "./traces.js";
import { panned, WHOLE, zoomed } from "./view.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {[number, number]} Point */

export class RegionEditor {
  /** @param {Session} session @param {boolean} isLarge over the whole page, with the list beside */
  constructor(session, isLarge = false) {
    this.session = session;
    this.isLarge = isLarge;
    this.isListed = isLarge;
    this.isPanning = false;
    /** @type {import("./view.js").View} */
    this.view = WHOLE;
    this.fields = makeFields(session, () => session.state.selected);
    this.list = makeList(session);
    this.layer = make("div", { class: "mos-layer" });
    this.backdrop = make("img", { class: "mos-backdrop", alt: "", draggable: "false" });
    this.hint = make("div", { class: "mos-hint" });
    this.traces = makeTraces(session);
    // Keys go to an input: the graph leaves alone what is typed into one, Delete and Ctrl+Z too.
    this.keys = make("input", { class: "mos-keys", readonly: "", inputmode: "none" });
    this.stage = make(
      "div",
      { class: "mos-stage", role: "group", "aria-label": "Canvas" },
      ...[this.backdrop, this.layer, ...this.traces.elements, this.hint]
    );
    this.frame = make("div", { class: "mos-frame" }, this.keys, this.stage);
    this.chips = make("div", { class: "mos-chips", role: "group", "aria-label": "Regions" });
    this.status = make("div", { class: "mos-status", role: "status" });
    this.file = make("input", { type: "file", accept: "image/*", class: "mos-file", tabindex: -1 });
    this.toolbar = makeToolbar(session, {
      focus: () => this.focus(),
      zoom: (factor) => this.zoom(factor),
      zoomNow: () => this.view.zoom,
      help: () => this.help(),
      toggleList: () => this.#toggleList(),
      isListed: () => this.isListed,
      popOut: isLarge ? null : () => this.popOut(),
      chooseFile: () => this.file.click(),
    });
    const below = [this.chips, this.fields.element, this.status];
    this.element = make(
      "div",
      { class: isLarge ? "mos-layout mos-large" : "mos-layout" },
      this.toolbar.element,
      make("div", { class: "mos-body" }, this.frame, this.list.element),
      ...[...below, this.file]
    );
    this.pointers = followPointers({
      element: this.stage,
      session,
      showLine: (line) => this.traces.showLine(line),
      isPanning: () => this.isPanning,
      onpress: () => this.focus(),
      onwrite: (index) => this.write(index),
      onmenu: (at, x, y) => this.menu(at, x, y),
      pan: (dx, dy) => this.#look(panned(this.view, dx, dy)),
      zoom: (factor, at) => this.#look(zoomed(this.view, factor, at)),
    });
    this.#listen();
    session.editors.add(this);
    this.draw();
  }

  focus() {
    this.keys.focus({ preventScroll: true });
  }

  /** To the prompt of a region. @param {number} index
   * @param {boolean} isWriting a letter follows */
  write(index = this.session.state.selected, isWriting = false) {
    this.session.state.select(index);
    if (this.isListed) this.list.focus(index, isWriting);
    else this.fields.focus(isWriting);
  }

  /** @param {number} factor 0: shows all @param {Point} [at] */
  zoom(factor, at) {
    this.#look(factor ? zoomed(this.view, factor, at) : WHOLE);
  }

  help() {
    const rows = HELP.map(([keys, text]) =>
      make("tr", {}, make("th", {}, keys), make("td", {}, text))
    );
    openDialog("Keys and mouse", make("table", {}, ...rows), "mos-help", () => this.focus());
  }

  /** The same layout in a window over the page. */
  popOut() {
    const large = new RegionEditor(this.session, true);
    openDialog("Region Layout", large.element, "mos-popout", () => {
      this.session.editors.delete(large);
      this.draw();
      this.focus();
    });
    large.focus();
  }

  /** The menu of the region at a point, or of the selected one where there is no point.
   * @param {Point | null} at @param {number} x @param {number} y */
  menu(at, x, y) {
    const { state } = this.session;
    if (at) {
      const index = hit(state.regions, at, state.canvas, state.selected, true);
      if (!state.chosen.includes(index)) state.select(index);
    }
    const back = () => this.focus();
    const choose = (/** @type {string} */ name, /** @type {import("./menu.js").Items} */ items) =>
      void openMenu(name, items, x, y, back);
    const items = regionItems(this.session, { write: () => this.write(), choose });
    openMenu("Region", items, x, y, back);
  }

  draw() {
    const { session } = this;
    const { state, host } = session;
    const [width, height] = state.canvas;
    const marks = marksOf(session);
    this.element.style.setProperty("--mos-width", String(width));
    this.element.style.setProperty("--mos-height", String(height));
    const step = host.step() < 64 ? 64 : host.step(); // lines closer than 64 are a haze
    this.stage.style.setProperty("--mos-column", `${(100 * step) / width}cqw`);
    this.stage.style.setProperty("--mos-row", `${(100 * step) / height}cqh`);
    this.stage.dataset.tool = session.tool;
    drawBoxes(this.layer, state, marks);
    drawChips(this.chips, state, marks);
    this.fields.draw();
    this.toolbar.draw();
    this.element.classList.toggle("mos-listed", this.isListed);
    if (this.isListed) this.list.draw(marks);
    this.#drawBackdrop();
    const { text, isProblem } = statusOf(session, marks);
    write(this.status, text);
    this.status.title = text;
    this.status.classList.toggle("mos-problem", isProblem);
    this.hint.hidden = Boolean(state.regions.length || state.problem);
    write(this.hint, "Drag to draw a box for each character, then type what it shows.");
    const { box } = state;
    const now = box
      ? spokenName(box, marks.first + state.selected, marks.problems[state.selected])
      : "nothing selected";
    this.keys.setAttribute(
      "aria-label",
      `Canvas of ${state.regions.length} regions; ${now}. Press ? for all keys.`
    );
  }

  #drawBackdrop() {
    const url = this.session.picture;
    if (url === (this.backdrop.getAttribute("src") ?? "")) return;
    if (url) this.backdrop.src = url;
    else this.backdrop.removeAttribute("src");
    this.stage.classList.toggle("mos-pictured", Boolean(url));
  }

  #toggleList() {
    this.isListed = !this.isListed;
    this.draw();
  }

  /** @param {import("./view.js").View} view */
  #look(view) {
    this.view = view;
    this.stage.style.setProperty("--mos-zoom", String(view.zoom));
    this.stage.style.transform = `translate(${100 * view.x}%, ${100 * view.y}%)`;
    this.toolbar.draw();
  }

  #listen() {
    const { element, session, stage } = this;
    const { state } = session;
    this.chips.addEventListener("click", (event) => {
      const chip = /** @type {HTMLElement | null} */ (
        /** @type {HTMLElement} */ (event.target).closest(".mos-chip")
      );
      if (!chip) return;
      const index = Number(chip.dataset.index);
      if (event.ctrlKey || event.metaKey) state.toggle(index);
      else state.select(index);
      this.focus();
    });
    this.chips.addEventListener("contextmenu", (event) => {
      const chip = /** @type {HTMLElement} */ (event.target).closest(".mos-chip");
      if (!chip) return;
      event.preventDefault();
      event.stopPropagation();
      state.select(Number(/** @type {HTMLElement} */ (chip).dataset.index));
      this.menu(null, event.clientX, event.clientY);
    });
    this.file.addEventListener("change", () => {
      const file = this.file.files?.[0];
      if (file) session.setFile(URL.createObjectURL(file));
      this.file.value = "";
    });
    stage.addEventListener("dragover", (event) => event.preventDefault());
    stage.addEventListener("drop", (event) => {
      const file = [...(event.dataTransfer?.files ?? [])].find((f) => f.type.startsWith("image/"));
      if (!file) return;
      event.preventDefault();
      event.stopPropagation();
      session.setFile(URL.createObjectURL(file));
    });
    this.frame.addEventListener("mos-zoom", (event) =>
      this.#wheel(/** @type {CustomEvent<WheelEvent>} */ (event).detail)
    );
    if (this.isLarge) this.frame.addEventListener("wheel", (event) => this.#wheel(event));
    element.addEventListener("pointerenter", () => session.refresh());
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
    element.addEventListener("keyup", (event) => {
      if (event.key === " ") this.#setPanning(false);
    });
    this.keys.addEventListener("blur", () => this.#setPanning(false));
  }

  /** @param {boolean} isPanning */
  #setPanning(isPanning) {
    this.isPanning = isPanning;
    this.stage.classList.toggle("mos-panning", isPanning);
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    const shown = this.stage.getBoundingClientRect();
    const at = /** @type {Point} */ ([
      (event.clientX - shown.left) / shown.width,
      (event.clientY - shown.top) / shown.height,
    ]);
    this.zoom(Math.exp(-0.002 * event.deltaY), at);
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const { session } = this;
    const target = /** @type {HTMLElement} */ (event.target);
    // After a click on a button the canvas's commands go on. They are pressed in the input: the
    // graph would take what it did last back, too.
    const isCommand = event.ctrlKey || event.metaKey;
    if (isCommand && target.matches("button")) this.focus();
    else if (target !== this.keys) {
      if (event.key === "Escape") {
        event.preventDefault();
        this.focus();
      }
      if (!isCommand) event.stopPropagation();
      return;
    }
    if (isWriting(event, session)) {
      event.stopPropagation();
      return this.write(undefined, true); // before the letter is written, so it goes there
    }
    const shown = this.stage.getBoundingClientRect();
    const act =
      event.key === " "
        ? () => this.#setPanning(true)
        : actionOf(event, session, {
            cancelDrag: () => this.pointers.cancel(),
            write: () => this.write(),
            help: () => this.help(),
            zoom: (factor) => this.zoom(factor),
            copy: () => copyRegions(session.state),
            paste: () => pasteRegions(session.state),
            menu: () => this.menu(null, shown.left + 20, shown.top + 20),
          });
    if (!act && (isCommand || event.key === "Tab" || event.key.startsWith("F"))) return;
    if (event.key === "Escape" && this.isLarge && !session.state.box) return; // closes the window
    event.stopPropagation();
    if (!act) return;
    event.preventDefault();
    act();
  }
}
