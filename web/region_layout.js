// @ts-check
/** Region Layout's canvas: the widget of the type MOS_LAYOUT, in both renderers of the editor. Its
 * value is the layout's JSON; everything else is in region_layout/. */

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { RegionEditor } from "./region_layout/editor.js";
import {
  ConceptNames,
  conceptLoaders,
  isLinked,
  showsADrawing,
  shownBy,
  sourceOf,
  valueOf,
  viewOf,
} from "./region_layout/graph.js";
import { Session } from "./region_layout/session.js";

/** @typedef {any} GraphNode */
/** @typedef {import("./region_layout/geometry.js").Size} Size */

const SMALLEST = { width: 420, height: 520 };
const FIRST_SIZE = { minWidth: 480, minHeight: 840 };
const SINCE_THEN = 114; // pixels that nodes of 0.1.0 lack for what is beside the stage
const SIZE = 512; // of a canvas, where the node does not say
const GRID = 8;
// In the node's properties, because they must not make a run new:
const GRID_PROPERTY = "mos_grid";
const CANVAS_PROPERTY = "mos_canvas"; // nodes of 0.1.0 do not have it
const PICTURE_PROPERTY = "mos_picture"; // false: no picture behind the regions

/** All that are open. @type {Set<Session>} */
const sessions = new Set();
const refreshAll = () => sessions.forEach((session) => session.refresh());
const names = new ConceptNames((address) => api.fetchApi(address), refreshAll);
const address = (/** @type {string} */ route) => api.apiURL(route);

/** The picture that the graph drew last, or "". */
let lastDrawn = "";

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

/** Tells the graph that a saved value is another, for its undo and its mark of unsaved changes.
 * @param {GraphNode} node */
function tell(node) {
  node.graph?.setDirtyCanvas?.(true, false);
  app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();
}

/** What is to be seen at the node's background, or "". @param {GraphNode} node */
const linkedPicture = (node) => shownBy(sourceOf(node, "background"), app.nodeOutputs, address);

/** What the node says and keeps for its editor.
 * @param {GraphNode} node @param {() => void} changed */
function makeHost(node, changed) {
  const last = {
    canvas: /** @type {number[]} */ ([]),
    before: 0,
    picture: "",
    incoming: "",
    linked: "",
  };
  const isWide = () => ["width", "height"].some((side) => isLinked(node, side));
  /** @type {import("./region_layout/session.js").Host} */
  const host = {
    canvas: () => {
      const [width, height] = ["width", "height"].map(
        (side, i) => (isLinked(node, side) && last.canvas[i]) || Number(valueOf(node, side)) || SIZE
      );
      return [width, height];
    },
    get setCanvas() {
      return isWide() ? null : (/** @type {Size} */ size) => setSize(node, size);
    },
    before: () => (isLinked(node, "regions") ? last.before : 0),
    step: () => Number(node.properties?.[GRID_PROPERTY] ?? GRID),
    setStep: (step) => {
      node.properties[GRID_PROPERTY] = step;
      tell(node);
    },
    changed,
    picture: () => {
      const linked = linkedPicture(node);
      if (linked !== last.linked) last.picture = ""; // another file since the run
      last.linked = linked;
      const isBehind = isLinked(node, "background") || isLinked(node, "regions");
      return (isBehind && last.picture) || linked || lastDrawn;
    },
    isPictured: () => node.properties?.[PICTURE_PROPERTY] !== false,
    setPictured: (isPictured) => {
      node.properties[PICTURE_PROPERTY] = isPictured;
      tell(node);
    },
    concepts: () => names.of(conceptLoaders(node)),
    incoming: () => (isLinked(node, "regions") ? last.incoming : ""),
    takeOver: () => {
      node.disconnectInput(
        node.inputs.findIndex((/** @type {any} */ input) => input.name === "regions")
      );
      tell(node);
    },
  };
  return { host, last };
}

/** @param {GraphNode} node @param {Size} size */
function setSize(node, size) {
  for (const [i, side] of ["width", "height"].entries()) {
    const widget = node.widgets?.find((/** @type {any} */ w) => w.name === side);
    if (!widget) continue;
    widget.value = size[i];
    widget.callback?.(size[i]);
  }
}

/** @param {GraphNode} node @param {string} name */
function makeWidget(node, name) {
  let telling = 0;
  const { host, last } = makeHost(node, () => {
    widget.callback?.(widget.value);
    clearTimeout(telling);
    telling = window.setTimeout(() => tell(node), 300); // a drag is one change
  });
  node.properties[CANVAS_PROPERTY] = 2;
  const session = new Session(host);
  const editor = new RegionEditor(session);
  sessions.add(session);
  const widget = node.addDOMWidget(name, "MOS_LAYOUT", editor.element, {
    getValue: () => session.state.save(),
    setValue: (/** @type {string} */ value) => {
      session.refresh();
      session.state.load(String(value ?? ""));
    },
    getMinHeight: () => SMALLEST.height,
    hideOnZoom: false,
    serialize: true,
  });

  for (const side of ["width", "height"]) {
    const size = node.widgets?.find((/** @type {any} */ w) => w.name === side);
    if (size) follow(size, "callback", () => session.refresh());
  }
  follow(node, "onConfigure", (/** @type {any} */ saved) => {
    const isOlder = saved && !saved.properties?.[CANVAS_PROPERTY];
    if (isOlder) node.setSize?.([node.size[0], node.size[1] + SINCE_THEN]);
    session.refresh();
  });
  follow(node, "onRemoved", () => sessions.delete(session));
  follow(node, "onAdded", () => sessions.add(session));
  follow(node, "onResize", (/** @type {number[]} */ size) => {
    if (size?.[0] < SMALLEST.width) size[0] = SMALLEST.width;
  });
  follow(node, "onConnectionsChange", () => setTimeout(() => session.refresh()));
  follow(node, "onExecuted", (/** @type {any} */ output) => {
    const [picture] = output?.mos_background ?? [];
    last.picture = picture ? viewOf(picture, address) : "";
    last.linked = linkedPicture(node);
    last.canvas = output?.mos_canvas ?? [];
    last.before = output?.mos_before?.[0] ?? 0;
    last.incoming = output?.mos_incoming?.[0] ?? "";
    session.refresh();
    session.setNotes(output?.mos_notes ?? []);
  });
  forwardToGraph(editor.element);
  return { widget, ...FIRST_SIZE };
}

/** The classic renderer lays the editor over the graph: wheel and middle button go on to it.
 * @param {HTMLElement} element */
function forwardToGraph(element) {
  const isOverlay = () => Boolean(element.closest(".dom-widget"));
  element.addEventListener("wheel", (event) => {
    const target = /** @type {HTMLElement} */ (event.target);
    if (isOverlay() && !target.closest("textarea:focus, .mos-chips, .mos-list")) {
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

/** Follows what the graph draws, to show it behind the regions without a link. */
function followDrawings() {
  api.addEventListener("executed", (/** @type {CustomEvent} */ { detail }) => {
    const picture = detail?.output?.images?.find((/** @type {any} */ image) => image?.filename);
    const node = app.graph?.getNodeById?.(detail?.display_node ?? detail?.node);
    if (!picture || !showsADrawing(node)) return;
    lastDrawn = viewOf(picture, address);
    refreshAll();
  });
}

/** Two fingers on a canvas zoom it, and not the graph too, which listens before all elements. */
function keepTouches() {
  for (const name of ["touchstart", "touchmove", "touchend", "touchcancel"]) {
    window.addEventListener(
      name,
      (event) => {
        const { target } = event;
        if (target instanceof Element && target.closest(".mos-stage")) event.stopPropagation();
      },
      true
    );
  }
}

/** Ctrl and the wheel zoom a canvas, and not the graph, which in Nodes 2.0 listens before all
 * elements. */
function keepWheel() {
  const listen = (/** @type {WheelEvent} */ event) => {
    const { target, ctrlKey, metaKey } = event;
    const frame = target instanceof Element && target.closest(".mos-frame");
    if (!frame || !(ctrlKey || metaKey)) return;
    event.preventDefault();
    event.stopPropagation();
    frame.dispatchEvent(new CustomEvent("mos-zoom", { detail: event }));
  };
  window.addEventListener("wheel", listen, { capture: true, passive: false });
}

function loadStyle() {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = new URL("./region_layout/editor.css", import.meta.url).href;
  document.head.append(link);
}

app.registerExtension({
  name: "mix-of-show.region-layout",
  init: () => {
    loadStyle();
    followDrawings();
    keepTouches();
    keepWheel();
  },
  getCustomWidgets: () => ({ MOS_LAYOUT: makeWidget }),
});
