// @ts-check
/** The buttons and lists above the stage. */

import { choice, iconButton, make } from "./elements.js";
import { openBelow } from "./menu.js";
import { PRESETS, RATIOS, ratioSize } from "./presets.js";
import { alignItems, pictureItems } from "./region_menu.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").Tool} Tool */

/** @type {[Tool, string][]} */
const TOOLS = [
  ["box", "Boxes (V)"],
  ["brush", "Brush (B)"],
  ["lasso", "Lasso (L)"],
  ["eraser", "Eraser (E)"],
];
const GRIDS = { 1: "No grid", 8: "Grid 8", 16: "Grid 16", 32: "Grid 32", 64: "Grid 64" };

/** What the toolbar asks of the editor.
 * @typedef {{focus: () => void, zoom: (factor: number) => void, help: () => void,
 *   toggleList: () => void, isListed: () => boolean, popOut: (() => void) | null,
 *   chooseFile: () => void, zoomNow: () => number}} Actions popOut: null in the large editor */

/** @param {Session} session @param {Actions} actions
 * @returns {{element: HTMLElement, draw: () => void}} */
export function makeToolbar(session, actions) {
  const { state, host } = session;
  const tools = TOOLS.map(([tool, tip]) =>
    iconButton(
      tool,
      tip,
      () => {
        session.setTool(tool);
        actions.focus();
      },
      { "data-tool": tool }
    )
  );
  const radius = make("input", {
    ...{ type: "range", class: "mos-radius", min: 2, max: 128 },
    ...{ title: "Size of the brush ([ and ])", "aria-label": "Size of the brush" },
    oninput: () => session.setRadius(Number(radius.value)),
  });
  const buttons = {
    undo: iconButton("undo", "Undo (Ctrl+Z)", () => state.undo()),
    redo: iconButton("redo", "Redo (Ctrl+Y)", () => state.redo()),
    copy: iconButton("copy", "Duplicate (Ctrl+D)", () => state.duplicate()),
    remove: iconButton("remove", "Delete (Del)", () => state.remove()),
    front: iconButton("front", "Bring to the front (])", () => state.setDepth("front")),
    back: iconButton("back", "Send to the back ([)", () => state.setDepth("back")),
    align: iconButton("align", "Align and distribute", () =>
      openBelow("Align", alignItems(session), buttons.align)
    ),
    picture: iconButton("picture", "Picture behind the regions", () =>
      openBelow("Picture", pictureItems(session, actions.chooseFile), buttons.picture)
    ),
    farther: iconButton("farther", "Farther (-)", () => actions.zoom(1 / 1.5)),
    closer: iconButton("closer", "Closer (+)", () => actions.zoom(1.5)),
    list: iconButton("list", "List of all regions with all fields", () => actions.toggleList()),
    help: iconButton("help", "Keys and mouse (?)", () => actions.help()),
    popout: iconButton("popout", "Large editor", () => actions.popOut?.()),
  };
  for (const name of /** @type {const} */ (["align", "picture"])) {
    buttons[name].setAttribute("aria-haspopup", "menu");
  }
  const names = Object.fromEntries(Object.entries(PRESETS).map(([key, { text }]) => [key, text]));
  const presets = picking(names, "Arrange the regions; their prompts stay", "Presets", (name) =>
    state.preset(/** @type {import("./presets.js").Preset} */ (name))
  );
  const ratios = picking(RATIOS, "Shape of the canvas, with as many pixels", "Shape", (name) =>
    state.resize(ratioSize(name, state.canvas))
  );
  const grid = choice(GRIDS, "Edges snap to this grid, in pixels; hold Alt for free hand");
  grid.addEventListener("change", () => {
    host.setStep(Number(grid.value));
    session.draw();
  });

  /** @param {Record<string, string>} choices @param {string} tip @param {string} title
   * @param {(name: string) => void} act */
  function picking(choices, tip, title, act) {
    const list = choice(choices, tip, title);
    list.value = "";
    list.addEventListener("change", () => {
      act(list.value);
      list.value = "";
      actions.focus();
    });
    return list;
  }

  const gap = () => make("span", { class: "mos-gap" });
  const { undo, redo, copy, remove, front, back, align, picture } = buttons;
  const { farther, closer, list, help, popout } = buttons;
  const element = make(
    "div",
    { class: "mos-toolbar", role: "toolbar", "aria-label": "Region tools" },
    ...[...tools, radius, gap(), undo, redo, gap(), farther, closer, gap()],
    ...[list, help, ...(actions.popOut ? [popout] : []), make("span", { class: "mos-break" })],
    ...[presets, ratios, grid, gap(), copy, remove, gap(), front, back, align, gap(), picture]
  );

  const draw = () => {
    const { box } = state;
    for (const button of tools) {
      button.setAttribute("aria-pressed", String(button.dataset.tool === session.tool));
    }
    radius.hidden = session.tool === "box" || session.tool === "lasso";
    radius.value = String(session.radius);
    grid.value = String(host.step());
    ratios.disabled = !host.setCanvas;
    undo.disabled = !state.history.past.length;
    redo.disabled = !state.history.future.length;
    for (const button of [copy, remove, front, back, align]) button.disabled = !box;
    remove.disabled ||= Boolean(box?.locked);
    picture.setAttribute("aria-pressed", String(Boolean(session.picture)));
    list.setAttribute("aria-pressed", String(actions.isListed()));
    farther.disabled = actions.zoomNow() <= 1;
  };
  return { element, draw };
}
