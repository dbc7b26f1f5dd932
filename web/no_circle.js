// @ts-check
/** A picture that is made from a layout cannot go into the same layout: ComfyUI refuses such a circle
 * with no more than "failed validation". Here the link is not made, and the user hears why. */

import { app } from "../../scripts/app.js";

/** Whether a node's inputs lead back to `target`.
 * @param {any} node @param {any} target @param {Set<any>} [seen] @returns {boolean} */
export function dependsOn(node, target, seen = new Set()) {
  if (!node || seen.has(node)) return false;
  if (node === target) return true;
  seen.add(node);
  return (node.inputs ?? []).some((/** @type {any} */ input, /** @type {number} */ slot) =>
    input.link == null ? false : dependsOn(node.getInputNode?.(slot), target, seen)
  );
}

const REASON = {
  background:
    "That picture is made from this layout. It needs no link: after a run, the canvas shows the " +
    "picture that was drawn last behind the boxes.",
  regions: "Those regions are made from this layout.",
};

app.registerExtension({
  name: "mix-of-show.no-circle",
  beforeRegisterNodeDef: (/** @type {any} */ type, /** @type {any} */ data) => {
    if (data.name !== "MOS_RegionLayout") return;
    const before = type.prototype.onConnectInput;
    type.prototype.onConnectInput = function (/** @type {any[]} */ ...given) {
      const [slot, , , source] = given;
      const name = /** @type {keyof typeof REASON} */ (this.inputs?.[slot]?.name);
      if (name in REASON && dependsOn(source, this)) {
        app.extensionManager?.toast?.add({
          severity: "warn",
          summary: "Region Layout: this would be a circle",
          detail: REASON[name],
          life: 10000,
        });
        return false;
      }
      return before?.apply(this, given) ?? true;
    };
  },
});
