// @ts-check
/** The way back and forth. */

/** @typedef {import("./geometry.js").Size} Size */
/** @typedef {import("./layout_json.js").Box} Box */
/** isResize: the step after this moment gave the canvas another size.
 * @typedef {{canvas: Size, regions: Box[], selected: number, isResize?: boolean}} Moment */

const STEPS_BACK = 200;

export class History {
  constructor() {
    /** @type {Moment[]} */
    this.past = [];
    /** @type {Moment[]} */
    this.future = [];
    this.gesture = "";
  }

  /** A step begins at `moment`; one of the same gesture as the last goes on with that.
   * @param {Moment} moment @param {string} gesture */
  record(moment, gesture = "") {
    if (!gesture || gesture !== this.gesture) {
      this.past.push(moment);
      this.past.splice(0, this.past.length - STEPS_BACK);
    }
    this.gesture = gesture;
    this.future = [];
  }

  /** Ends a gesture: the next change is a step of its own. */
  end() {
    this.gesture = "";
  }

  /** Where a gesture began, which is then forgotten; undefined: it is not the last.
   * @param {string} gesture */
  cancel(gesture) {
    return this.gesture === gesture ? this.past.pop() : undefined;
  }

  /** @param {Moment} now */
  back(now) {
    const before = this.past.pop();
    if (before) this.future.push({ ...now, isResize: before.isResize });
    return before;
  }

  /** @param {Moment} now */
  forth(now) {
    const after = this.future.pop();
    if (after) this.past.push({ ...now, isResize: after.isResize });
    return after;
  }
}
