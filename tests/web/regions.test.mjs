// Several regions at once, the view and the shape of the canvas, without a page:
// node --test tests/web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { aligned } from "../../web/region_layout/align.js";
import { ratioSize, RATIOS } from "../../web/region_layout/presets.js";
import { LayoutState } from "../../web/region_layout/state.js";
import { panned, WHOLE, zoomed } from "../../web/region_layout/view.js";

const CANVAS = [512, 512];
const rect = (x, y, width, height) => ({ x, y, width, height });
const places = (state) => state.regions.map(({ x, y, width, height }) => [x, y, width, height]);

function withBoxes(...rects) {
  const state = new LayoutState(CANVAS);
  for (const one of rects) state.add(one);
  return state;
}

// ------------------------------------------------------------------------- several at once

test("several are selected, moved together, and none leaves the canvas or its place beside the others", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(100, 8, 64, 64), rect(300, 300, 64, 64));
  state.select(0);
  state.toggle(1);
  assert.deepEqual(state.chosen, [0, 1]);
  state.shift(10, -50);
  assert.deepEqual(places(state), [[10, 0, 64, 64], [110, 8, 64, 64], [300, 300, 64, 64]]);
  state.toggle(1);
  assert.deepEqual([state.chosen, state.selected], [[0], 0]);
  state.selectAll();
  assert.equal(state.chosen.length, 3);
  state.remove();
  assert.equal(state.regions.length, 0);
  state.undo();
  assert.equal(state.regions.length, 3);
});

test("a locked region is neither moved nor removed, but written to", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(100, 0, 64, 64));
  state.select(0);
  state.flip("locked");
  state.toggle(1);
  state.shift(8, 8);
  state.align("right");
  assert.deepEqual(places(state)[0], [0, 0, 64, 64]);
  state.update({ x: 50, prompt: "a wall" }, "", 0);
  assert.deepEqual([state.regions[0].x, state.regions[0].prompt], [0, "a wall"]);
  state.preset("columns2");
  assert.deepEqual(places(state)[0], [0, 0, 64, 64]);
  state.selectAll();
  state.remove();
  assert.deepEqual(state.regions.map((one) => one.prompt), ["a wall"]);
  state.flip("locked");
  state.remove();
  assert.equal(state.regions.length, 0);
});

test("hiding several hides all of them, and shows them again", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(100, 0, 64, 64));
  state.selectAll();
  state.flip("hidden", [0]);
  state.flip("hidden");
  assert.deepEqual(state.regions.map((one) => one.hidden), [true, true]);
  state.flip("hidden");
  assert.deepEqual(state.regions.map((one) => one.hidden), [false, false]);
});

test("copies go to another layout, fitted to its canvas and beside what is there", () => {
  const state = withBoxes(rect(0, 0, 256, 512));
  state.update({ prompt: "a <wizard>", color: 4 });
  const other = new LayoutState([1024, 256]);
  other.paste(state.regions, state.canvas);
  other.paste(state.regions, state.canvas);
  assert.deepEqual(places(other)[0], [0, 0, 512, 256]);
  assert.notDeepEqual(places(other)[1], places(other)[0]);
  assert.deepEqual(other.regions.map((one) => [one.prompt, one.color]), [["a <wizard>", 4], ["a <wizard>", 4]]);
  assert.deepEqual(other.chosen, [1]);
  other.undo();
  assert.equal(other.regions.length, 1);
});

test("copies of several stand one after each original", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(100, 0, 64, 64));
  state.update({ prompt: "b" });
  state.selectAll();
  state.duplicate();
  assert.deepEqual(state.regions.map((one) => one.prompt), ["", "", "b", "b"]);
  assert.deepEqual(state.chosen, [1, 3]);
  assert.equal(new Set(state.regions.map((one) => one.color)).size, 4);
});

// ------------------------------------------------------------------------- in line

test("one is aligned with the canvas, several with the box around them", () => {
  assert.deepEqual(aligned([rect(10, 10, 100, 50)], "center", CANVAS), [rect(206, 10, 100, 50)]);
  assert.deepEqual(aligned([rect(10, 10, 100, 50)], "bottom", CANVAS), [rect(10, 462, 100, 50)]);
  const two = [rect(10, 20, 100, 50), rect(200, 100, 40, 40)];
  assert.deepEqual(aligned(two, "left", CANVAS).map((r) => r.x), [10, 10]);
  assert.deepEqual(aligned(two, "right", CANVAS).map((r) => r.x), [140, 200]);
  assert.deepEqual(aligned(two, "top", CANVAS).map((r) => r.y), [20, 20]);
  assert.deepEqual(aligned(two, "middle", CANVAS).map((r) => r.y), [55, 60]);
});

test("distributing makes the gaps equal, whatever the order", () => {
  const three = [rect(400, 0, 100, 9), rect(0, 0, 50, 9), rect(60, 0, 50, 9)];
  const xs = aligned(three, "across", CANVAS).map((r) => r.x);
  assert.deepEqual(xs, [400, 0, 200]);
  const two = [rect(0, 7, 9, 100), rect(0, 0, 9, 112)];
  assert.deepEqual(aligned(two, "down", CANVAS).map((r) => r.y), [312, 100]);
});

test("aligning is one step", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(100, 200, 64, 64));
  const before = state.save();
  state.selectAll();
  state.align("top");
  assert.deepEqual(places(state).map((p) => p[1]), [0, 0]);
  state.undo();
  assert.equal(state.save(), before);
});

// ------------------------------------------------------------------------- the canvas and the view

test("another shape has about as many pixels and is taken back with the regions", () => {
  for (const ratio of Object.keys(RATIOS).filter((key) => key !== "turn")) {
    const [width, height] = ratioSize(ratio, [1024, 1024]);
    const [across, down] = ratio.split(":").map(Number);
    assert.ok(Math.abs((width * height) / 2 ** 20 - 1) < 0.1, ratio);
    assert.ok(Math.abs(width / height / (across / down) - 1) < 0.1, ratio);
    assert.equal(width % 64 + height % 64, 0);
  }
  const state = withBoxes(rect(0, 0, 256, 512));
  const sizes = [];
  state.onresize = (size) => sizes.push(size);
  state.resize(ratioSize("16:9", CANVAS));
  assert.deepEqual(state.canvas, [704, 384]);
  assert.deepEqual(places(state), [[0, 0, 352, 384]]);
  state.undo();
  assert.deepEqual([state.canvas, places(state)], [CANVAS, [[0, 0, 256, 512]]]);
  state.redo();
  assert.deepEqual(sizes, [[704, 384], CANVAS, [704, 384]]);
  assert.deepEqual(ratioSize("turn", [704, 384]), [384, 704]);
});

test("the point under the pointer stays where it is when the view comes closer", () => {
  const at = [0.75, 0.4];
  const where = ({ zoom, x, y }) => [(at[0] - 0.5 + x) * zoom, (at[1] - 0.5 + y) * zoom];
  const before = zoomed(WHOLE, 2, at);
  const after = zoomed(before, 1.7, at);
  for (const i of [0, 1]) assert.ok(Math.abs(where(before)[i] - where(after)[i]) < 1e-9);
  assert.deepEqual(zoomed(after, 0.01, at), { ...WHOLE });
  assert.equal(zoomed(after, 1e9, at).zoom, 16);
});

test("the view does not leave the canvas", () => {
  const close = zoomed(WHOLE, 4);
  assert.deepEqual(panned(close, 9, -9), { zoom: 4, x: 0.375, y: -0.375 });
  assert.deepEqual(panned(WHOLE, 9, 9), { ...WHOLE });
});
