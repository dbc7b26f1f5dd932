// @ts-check
/** All regions one below the other, each with all its fields. */

import { spokenName } from "./draw.js";
import { iconButton, make, write } from "./elements.js";
import { makeFields } from "./fields.js";
import { colorOf, inkOn } from "./palette.js";

/** @typedef {import("./draw.js").Marks} Marks */
/** @typedef {{element: HTMLElement, head: HTMLElement, problem: HTMLElement, draw: () => void,
 *   focus: (isWriting?: boolean) => void, box: import("./layout_json.js").Box | null, key:
 * string}} Row */

/** @param {import("./session.js").Session} session */
export function makeList(session) {
  const { state } = session;
  const element = make("div", {
    class: "mos-list",
    role: "list",
    "aria-label": "Regions with all their fields",
  });
  /** @type {Row[]} */
  const rows = [];

  /** @param {number} index @returns {Row} */
  const makeRow = (index) => {
    const fields = makeFields(session, () => index);
    const head = make("b", { class: "mos-number" });
    const problem = make("span", { class: "mos-problem" });
    const act = (/** @type {() => void} */ doIt) => () => {
      state.select(index);
      doIt();
    };
    const title = make(
      "div",
      { class: "mos-row-head" },
      ...[head, problem],
      iconButton(
        "front",
        "Bring to the front",
        act(() => state.setDepth("front"))
      ),
      iconButton(
        "back",
        "Send to the back",
        act(() => state.setDepth("back"))
      ),
      iconButton(
        "copy",
        "Duplicate",
        act(() => state.duplicate())
      ),
      iconButton(
        "remove",
        "Delete",
        act(() => state.remove())
      )
    );
    const row = make("div", { class: "mos-row", role: "listitem" }, title, fields.element);
    row.addEventListener("focusin", () => {
      if (!state.chosen.includes(index)) state.select(index);
    });
    return {
      element: row,
      head,
      problem,
      draw: fields.draw,
      focus: fields.focus,
      box: null,
      key: "",
    };
  };

  /** @param {Marks} marks */
  const draw = (marks) => {
    while (rows.length > state.regions.length) rows.pop()?.element.remove();
    const chosen = new Set(state.chosen);
    state.regions.forEach((box, i) => {
      if (!rows[i]) {
        rows[i] = makeRow(i);
        element.append(rows[i].element);
      }
      const row = rows[i];
      const key = JSON.stringify([marks.first, marks.problems[i], chosen.has(i)]);
      if (row.box === box && row.key === key) return;
      [row.box, row.key] = [box, key];
      row.element.setAttribute("aria-label", spokenName(box, marks.first + i));
      row.element.style.setProperty("--mos-color", colorOf(box.color));
      row.element.style.setProperty("--mos-ink", inkOn(colorOf(box.color)));
      row.element.classList.toggle("mos-chosen", chosen.has(i));
      write(row.head, String(marks.first + i));
      write(row.problem, marks.problems[i]);
      row.draw();
    });
  };
  /** To the prompt of a region. @param {number} index
   * @param {boolean} isWriting a letter follows */
  const focus = (index, isWriting = false) => {
    rows[index]?.element.scrollIntoView({ block: "nearest" });
    rows[index]?.focus(isWriting);
  };
  return { element, draw, focus };
}
