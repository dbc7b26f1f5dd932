// @ts-check
/** Region Layout's canvas: the widget of the type MOS_LAYOUT, in both renderers of the editor. Its
 * value is the layout's JSON; everything else is in region_layout/. */

// @ts-ignore: served by ComfyUI
import { app } from "../../scripts/app.js";
// @ts-ignore
import { api } from "../../scripts/api.js";
import { RegionEditor } from "./region_layout/editor.js";

const SMALLEST_HEIGHT = 480;
const FIRST_SIZE = { minWidth: 460, minHeight: 700 };
const SIZE = 512; // of a canvas, where the node does not say
const GRID = 8;
const GRID_PROPERTY = "mos_grid"; // in the node's properties: the grid must not make a run new

/** The editor's value of a widget of the node. @param {any} node @param {string} name */
const valueOf = (node, name) => node.widgets?.find((/** @type {any} */ w) => w.name === name)?.value;

/** Whether a widget's value comes from another node. @param {any} node @param {string} name */
const isLinked = (node, name) =>
  node.inputs?.some((/** @type {any} */ input) => input.name === name && input.link != null);

/** Lets `after` follow each call of a method or callback that may not be there.
 * @param {any} object @param {string} name @param {(...given: any[]) => void} after */
function follow(object, name, after) {
  const before = object[name];
  object[name] = function (/** @type {any[]} */ ...given) {
    const result = before?.apply(this, given);
    after(...given);
    return result;
  };
}

/** The picture that a linked Load Image shows, or "".  @param {any} node */
function linkedPicture(node) {
  const slot = node.inputs?.findIndex((/** @type {any} */ input) => input.name === "background");
  const source = slot >= 0 && node.graph ? node.getInputNode(slot) : null;
  const file = source?.type === "LoadImage" ? String(valueOf(source, "image") ?? "") : "";
  if (!file) return "";
  const [, subfolder, filename] = /** @type {string[]} */ (/^(?:(.*)\/)?([^/]*)$/.exec(file));
  const query = new URLSearchParams({ filename, subfolder: subfolder ?? "", type: "input" });
  return api.apiURL(`/view?${query}`);
}

/** Tells the graph that a saved value is another, for its undo and its mark of unsaved changes.
 * @param {any} node */
function tell(node) {
  node.graph?.setDirtyCanvas?.(true, false);
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
}

/** @param {any} node @param {string} name */
function makeWidget(node, name) {
  let telling = 0;
  /** @type {number[]} Width and height of the last run. */
  let ran = [];
  let before = 0; // regions that came in at the last run
  const editor = new RegionEditor({
    canvas: () => {
      const [width, height] = ["width", "height"].map(
        (side, i) => (isLinked(node, side) && ran[i]) || Number(valueOf(node, side)) || SIZE
      );
      return [width, height];
    },
    before: () => (isLinked(node, "regions") ? before : 0),
    step: () => Number(node.properties?.[GRID_PROPERTY] ?? GRID),
    setStep: (step) => {
      node.properties[GRID_PROPERTY] = step;
      tell(node);
    },
    changed: () => {
      widget.callback?.(widget.value);
      clearTimeout(telling);
      telling = window.setTimeout(() => tell(node), 300); // a drag is one change
    },
  });
  const widget = node.addDOMWidget(name, "MOS_LAYOUT", editor.element, {
    getValue: () => editor.state.save(),
    setValue: (/** @type {string} */ value) => {
      editor.refresh();
      editor.state.load(String(value ?? ""));
    },
    getMinHeight: () => SMALLEST_HEIGHT,
    hideOnZoom: false,
    serialize: true,
  });

  for (const side of ["width", "height"]) {
    const size = node.widgets?.find((/** @type {any} */ w) => w.name === side);
    if (size) follow(size, "callback", () => editor.refresh());
  }
  follow(node, "onConfigure", () => editor.refresh());
  let linked = "";
  const showLinked = () => {
    const picture = linkedPicture(node);
    if (picture !== linked) editor.setBackdrop(picture);
    linked = picture;
  };
  follow(node, "onConnectionsChange", () => setTimeout(showLinked));
  editor.element.addEventListener("pointerenter", showLinked);
  follow(node, "onExecuted", (/** @type {any} */ output) => {
    const [picture] = output?.mos_background ?? [];
    if (picture) editor.setBackdrop(api.apiURL(`/view?${new URLSearchParams(picture)}`));
    ran = output?.mos_canvas ?? [];
    before = output?.mos_before?.[0] ?? 0;
    editor.refresh();
    editor.setNotes(output?.mos_notes ?? []);
  });
  forwardToGraph(editor.element);
  return { widget, ...FIRST_SIZE };
}

/** The classic renderer lays the editor over the graph: the wheel and the middle button go on to it.
 * @param {HTMLElement} element */
function forwardToGraph(element) {
  const isOverlay = () => Boolean(element.closest(".dom-widget"));
  element.addEventListener("wheel", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (isOverlay() && !target.closest("textarea:focus, .mos-chips")) {
      app.canvas.processMouseWheel(event);
    }
  });
  for (const [name, method] of [
    ["pointerdown", "processMouseDown"],
    ["pointermove", "processMouseMove"],
    ["pointerup", "processMouseUp"],
  ]) {
    element.addEventListener(name, (event) => {
      const { button, buttons } = /** @type {PointerEvent} */ (event);
      if (isOverlay() && (button === 1 || buttons === 4)) app.canvas[method](event);
    });
  }
}

function loadStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./region_layout/editor.css", import.meta.url).href;
  document.head.append(link);
}

app.registerExtension({
  name: "mix-of-show.region-layout",
  init: loadStyle,
  getCustomWidgets: () => ({ MOS_LAYOUT: makeWidget }),
});
