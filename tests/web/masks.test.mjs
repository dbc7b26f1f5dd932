// Masks and what is in front of what, without a page: node --test tests/web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { formatLayout, parseLayout } from "../../web/region_layout/layout_json.js";
import {
  bitsOf,
  blankMask,
  boundsOf,
  filled,
  gridOf,
  isMask,
  isWhite,
  maskOf,
  maskOfRect,
  onGrid,
  painted,
  placed,
} from "../../web/region_layout/masks.js";
import { hit, hitBelow, stackOrder } from "../../web/region_layout/stack.js";
import { LayoutState } from "../../web/region_layout/state.js";

const CANVAS = [512, 512];
const rect = (x, y, width, height) => ({ x, y, width, height });
const area = (mask) => bitsOf(mask).reduce((sum, bit) => sum + bit, 0);
const saved = (state) => JSON.parse(state.save());

/** A state with a mask, a ring of radius 100 around the middle, selected. */
function withMask() {
  const state = new LayoutState(CANVAS);
  const disc = painted(blankMask(CANVAS), CANVAS, [256, 256], [256, 256], 100, true);
  state.setMask(painted(disc, CANVAS, [256, 256], [256, 256], 60, false), -1);
  return state;
}

// ------------------------------------------------------------------------- masks

test("the grid has cells of 4 pixels, and coarser ones on large canvases", () => {
  assert.deepEqual(gridOf([512, 344]), [128, 86]);
  assert.deepEqual(gridOf([1024, 1024]), [256, 256]);
  assert.deepEqual(gridOf([1032, 64]), [129, 8]);
  assert.deepEqual(gridOf([4104, 64]), [129, 2]);
});

test("runs and cells say the same, whichever comes first", () => {
  for (const bits of [[0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]) {
    const mask = maskOf(Uint8Array.from(bits), [2, 2]);
    assert.ok(isMask(mask));
    assert.deepEqual([...bitsOf({ ...mask })], bits);
  }
  assert.deepEqual(maskOf(Uint8Array.from([1, 0, 0, 0]), [2, 2]).runs, [0, 1, 3]);
});

test("what is no mask is told apart", () => {
  for (const wrong of [
    null,
    {},
    { size: [2, 2], runs: [3] },
    { size: [2], runs: [2] },
    { size: [0, 2], runs: [] },
    { size: [2, 2], runs: [5, -1] },
    { size: [2, 2], runs: "4" },
    { size: [1e5, 1e5], runs: [1e10] },
  ]) {
    assert.equal(isMask(wrong), false, JSON.stringify(wrong));
  }
});

test("a stroke is as wide as the brush and has round ends", () => {
  const stroke = painted(blankMask(CANVAS), CANVAS, [100, 200], [300, 240], 30, true);
  const expected = (Math.hypot(200, 40) * 60 + Math.PI * 900) / 16;
  assert.ok(Math.abs(area(stroke) / expected - 1) < 0.02);
  assert.deepEqual(boundsOf(stroke, CANVAS), rect(72, 172, 256, 96));
  assert.ok(isWhite(stroke, CANVAS, 76, 200));
  assert.ok(!isWhite(stroke, CANVAS, 74, 174), "a corner of the box around it");
  assert.equal(area(painted(stroke, CANVAS, [100, 200], [300, 240], 30, false)), 0);
});

test("the thinnest brush leaves no gaps", () => {
  const line = painted(blankMask(CANVAS), CANVAS, [10, 10], [490, 300], 0.1, true);
  assert.ok(area(line) >= 120);
});

test("a closed line is filled, and cut out", () => {
  const line = [[100, 100], [300, 100], [300, 300], [100, 300]];
  const square = filled(blankMask(CANVAS), CANVAS, line, true);
  assert.deepEqual(boundsOf(square, CANVAS), rect(100, 100, 200, 200));
  assert.equal(area(square), 50 * 50);
  const half = filled(square, CANVAS, [[0, 0], [200, 0], [200, 512], [0, 512]], false);
  assert.deepEqual(boundsOf(half, CANVAS), rect(200, 100, 100, 200));
});

test("a box becomes the same shape as a mask, and another grid keeps the shape", () => {
  const box = maskOfRect(rect(32, 64, 128, 256), CANVAS);
  assert.deepEqual(boundsOf(box, CANVAS), rect(32, 64, 128, 256));
  const coarse = { size: [16, 16], runs: maskOf(new Uint8Array(256).fill(1, 0, 32), [16, 16]).runs };
  assert.equal(area(onGrid(coarse, CANVAS)), 32 * 64);
});

test("a moved mask keeps its shape, and stretching to and fro loses nothing", () => {
  const ring = withMask().box;
  const from = rect(ring.x, ring.y, ring.width, ring.height);
  const moved = placed(ring.mask, from, { ...from, x: from.x + 8, y: from.y - 16 }, CANVAS);
  assert.equal(area(moved), area(ring.mask));
  const small = placed(ring.mask, from, rect(0, 0, 24, 24), CANVAS);
  assert.ok(area(small) < area(ring.mask) / 20);
  const back = placed(small, boundsOf(small, CANVAS), from, CANVAS);
  assert.deepEqual(back.runs, ring.mask.runs);
});

// ------------------------------------------------------------------------- masks as regions

test("a painted region is saved with its box and its runs, and read again", () => {
  const state = withMask();
  const [entry] = saved(state).regions;
  assert.deepEqual([entry.x, entry.y, entry.width, entry.height], [156, 156, 200, 200]);
  assert.deepEqual(entry.mask.size, [128, 128]);
  const other = new LayoutState(CANVAS);
  other.load(state.save());
  assert.deepEqual(other.box.mask, state.box.mask);
  assert.equal(other.save(), state.save());
});

test("a mask moves, resizes and scales like a box", () => {
  const state = withMask();
  state.shift(-40, 20);
  assert.deepEqual([state.box.x, state.box.y, state.box.width], [116, 176, 200]);
  state.shift(-9999, 0);
  assert.deepEqual([state.box.x, state.box.width], [0, 200]);
  state.update({ width: 100 });
  assert.deepEqual([state.box.x, state.box.width, state.box.height], [0, 100, 200]);
  const before = area(state.box.mask);
  state.setCanvas([1024, 512]);
  assert.deepEqual([state.box.x, state.box.width, state.box.height], [0, 200, 200]);
  assert.equal(area(state.box.mask), before);
});

test("a prompt of a mask changes nothing else", () => {
  const state = withMask();
  const { mask, x, width } = state.box;
  state.update({ prompt: "a ring" });
  assert.equal(state.box.mask, mask);
  assert.deepEqual([state.box.x, state.box.width], [x, width]);
});

test("a region whose mask is rubbed out goes, and comes back with undo", () => {
  const state = withMask();
  const text = state.save();
  state.setMask(blankMask(CANVAS), 0);
  assert.equal(state.regions.length, 0);
  state.undo();
  assert.equal(state.save(), text);
});

test("a box that is painted on becomes a mask, and a preset makes it a box again", () => {
  const state = new LayoutState(CANVAS);
  state.add(rect(64, 64, 128, 128));
  const mask = maskOfRect(state.box, CANVAS);
  state.setMask(painted(mask, CANVAS, [64, 64], [64, 64], 32, false), 0);
  assert.ok(state.box.mask);
  state.preset("columns2");
  assert.equal(state.box.mask, null);
  assert.equal("mask" in saved(state).regions[0], false);
});

test("a mask without a box beside it is read, a broken one is named", () => {
  const mask = { size: [4, 4], runs: [5, 2, 2, 2, 5] };
  const [box] = parseLayout(JSON.stringify({ version: 2, canvas: CANVAS, regions: [{ mask }] })).regions;
  assert.deepEqual([box.x, box.y, box.width, box.height], [128, 128, 256, 256]);
  const broken = { version: 2, regions: [{ x: 0, y: 0, width: 8, height: 8, mask: { size: [4, 4] } }] };
  assert.throws(() => parseLayout(JSON.stringify(broken)), /mask of region 1/);
});

test("values that say nothing are not written", () => {
  const entry = { x: 0, y: 0, width: 64, height: 64, depth: 2, strength: 0.5, hidden: true, locked: true };
  const layout = parseLayout(JSON.stringify({ version: 2, regions: [entry] }));
  const [again] = JSON.parse(formatLayout(layout)).regions;
  assert.deepEqual([again.depth, again.strength, again.hidden, again.locked], [2, 0.5, true, true]);
  assert.deepEqual(["mask", "reference"].filter((key) => key in again), []);
});

// ------------------------------------------------------------------------- depth

test("the deeper lies above, then the later; a press means the topmost", () => {
  const all = [
    { ...rect(0, 0, 100, 100), depth: 1 },
    { ...rect(0, 0, 100, 100), depth: null },
    { ...rect(0, 0, 100, 100), depth: -1 },
    { ...rect(0, 0, 100, 100), depth: 0 },
  ];
  assert.deepEqual(stackOrder(all), [2, 1, 3, 0]);
  assert.equal(hit(all, [5, 5], CANVAS), 0);
  assert.equal(hitBelow(all, [5, 5], CANVAS, 0), 3);
  assert.equal(hitBelow(all, [5, 5], CANVAS, 2), 0);
});

test("a press goes through holes of masks, hidden and locked regions", () => {
  const mask = maskOfRect(rect(0, 0, 40, 40), CANVAS);
  const all = [rect(0, 0, 100, 100), { ...rect(0, 0, 100, 100), mask }];
  assert.equal(hit(all, [10, 10], CANVAS), 1);
  assert.equal(hit(all, [60, 60], CANVAS), 0);
  all[1] = { ...all[1], locked: true };
  assert.equal(hit(all, [10, 10], CANVAS), 0);
  assert.equal(hit(all, [10, 10], CANVAS, 1, true), 1, "the menu reaches it");
  all[1] = { ...all[1], locked: false, hidden: true };
  assert.equal(hit(all, [10, 10], CANVAS), 0);
});

test("to the front, to the back, and shared again", () => {
  const state = new LayoutState(CANVAS);
  for (const x of [0, 8, 16]) state.add(rect(x, 0, 64, 64));
  state.select(0);
  state.setDepth("front");
  assert.deepEqual(stackOrder(state.regions), [1, 2, 0]);
  state.select(2);
  state.setDepth("back");
  assert.deepEqual(stackOrder(state.regions), [2, 1, 0]);
  state.setDepth("shared");
  assert.equal(state.box.depth, null);
  state.undo();
  assert.deepEqual(stackOrder(state.regions), [2, 1, 0]);
});
