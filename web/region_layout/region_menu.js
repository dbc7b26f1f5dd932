// @ts-check
/** What can be done with the selected regions, as menus. */

import { copiedText, copyRegions, pasteRegions } from "./clipboard.js";
import { colorItems, conceptItems } from "./fields.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./menu.js").Items} Items */
/** @typedef {import("./align.js").Alignment} Alignment */

/** @type {Record<Alignment, string>} */
const ALIGNMENTS = {
  left: "Left edges",
  center: "Middles, side by side",
  right: "Right edges",
  top: "Upper edges",
  middle: "Middles, one below the other",
  bottom: "Lower edges",
  across: "Distribute from left to right",
  down: "Distribute from top to bottom",
};

/** @param {Session} session @returns {Items} */
export function alignItems({ state }) {
  return Object.entries(ALIGNMENTS).map(([how, text]) => ({
    text,
    act: () => state.align(/** @type {Alignment} */ (how)),
    isOff: !state.box,
  }));
}

/** @param {Session} session
 * @param {{write: () => void, choose: (name: string, items: Items) => void}}
 * editor choose: opens another menu in the place of this one @returns {Items} */
export function regionItems(session, { write, choose }) {
  const { state } = session;
  const { box, selected } = state;
  const paste = {
    text: "Paste",
    act: () => pasteRegions(state),
    isOff: !copiedText(),
    hint: "Ctrl+V",
  };
  const all = {
    text: "Select all",
    act: () => state.selectAll(),
    isOff: !state.regions.length,
    hint: "Ctrl+A",
  };
  if (!box) return [paste, all, null, ...hiddenItems(session)];
  return [
    { text: "Write the prompt", act: write, hint: "Enter" },
    { text: "Concept …", act: () => choose("Concept", conceptItems(session, selected)) },
    { text: "Colour …", act: () => choose("Colour", colorItems(session, selected)) },
    { text: "Align …", act: () => choose("Align", alignItems(session)) },
    null,
    { text: "Bring to the front", act: () => state.setDepth("front"), hint: "]" },
    { text: "Send to the back", act: () => state.setDepth("back"), hint: "[" },
    { text: "Share overlaps", act: () => state.setDepth("shared"), isOn: box.depth === null },
    null,
    { text: "Earlier in the order", act: () => state.reorder(-1), isOff: !selected, hint: "PgDn" },
    {
      ...{ text: "Later in the order", act: () => state.reorder(1), hint: "PgUp" },
      isOff: selected === state.regions.length - 1,
    },
    null,
    { text: "Locked", act: () => state.flip("locked"), isOn: box.locked, hint: "Ctrl+L" },
    { text: "Hidden", act: () => state.flip("hidden"), isOn: box.hidden, hint: "Ctrl+H" },
    {
      ...{ text: "Mask to box", act: () => state.update({ mask: null }) },
      isOff: !box.mask || box.locked,
    },
    null,
    { text: "Duplicate", act: () => state.duplicate(), hint: "Ctrl+D" },
    { text: "Copy", act: () => copyRegions(state), hint: "Ctrl+C" },
    paste,
    { text: "Delete", act: () => state.remove(), isOff: box.locked, hint: "Del" },
  ];
}

/** @param {Session} session @returns {Items} */
function hiddenItems({ state }) {
  const hidden = state.regions.map((_, i) => i).filter((i) => state.regions[i].hidden);
  return [
    {
      text: "Show all that are hidden",
      act: () => state.flip("hidden", hidden),
      isOff: !hidden.length,
    },
  ];
}

/** @param {Session} session @param {() => void} chooseFile @returns {Items} */
export function pictureItems(session, chooseFile) {
  const { host, file } = session;
  const isOn = host.isPictured();
  const show = () => {
    host.setPictured(true);
    session.setFile("");
  };
  return [
    { text: "The linked picture, else the last one drawn", act: show, isOn: isOn && !file },
    {
      text: "From a file … (not saved in the workflow)",
      act: chooseFile,
      isOn: isOn && Boolean(file),
    },
    {
      text: "No picture",
      act: () => {
        session.setFile("");
        host.setPictured(false);
        session.draw();
      },
      isOn: !isOn,
    },
    null,
    {
      text: "Edit the regions that come in here",
      act: () => session.takeIncoming(),
      isOff: !host.incoming(),
    },
  ];
}
