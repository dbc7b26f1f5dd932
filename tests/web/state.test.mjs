// The editor's state, without a page: node --test tests/web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { LayoutState } from "../../web/region_layout/state.js";

const rect = (x, y, width, height) => ({ x, y, width, height });
const saved = (state) => JSON.parse(state.save());
const places = (state) => state.regions.map(({ x, y, width, height }) => [x, y, width, height]);

/** A state of 512 x 512 with one box for each rectangle, the last one selected. */
function withBoxes(...rects) {
  const state = new LayoutState([512, 512]);
  for (const one of rects) state.add(one);
  return state;
}

// ------------------------------------------------------------------------- the layout's text

test("a layout that is loaded and not edited is saved as the same text", () => {
  const text =
    '{"version": 1, "regions": [{"x": 1, "y": 2, "width": 30, "height": 40, "prompt": "a"}]}';
  const state = new LayoutState([512, 512]);
  state.load(text);
  assert.equal(state.save(), text);
});

test("a new layout has the canvas and what the interface says of a region", () => {
  const state = withBoxes(rect(32, 0, 200, 480));
  assert.deepEqual(saved(state), {
    version: 2,
    canvas: [512, 512],
    regions: [
      { x: 32, y: 0, width: 200, height: 480, prompt: "", negative: "", weight: 1, concept: null, color: 0 },
    ],
  });
});

test("keys that the editor does not know outlive an edit", () => {
  const state = new LayoutState([512, 512]);
  state.load(
    '{"version":1,"theme":"x","regions":[{"x":0,"y":0,"width":64,"height":64,"rotation":3}]}'
  );
  state.select(0);
  state.update({ prompt: "a" });
  assert.equal(saved(state).theme, "x");
  assert.equal(saved(state).regions[0].rotation, 3);
});

for (const [text, words] of [
  ["{", /cannot be read/],
  ["[]", /no list of regions/],
  ['{"version": 3, "regions": []}', /version 3/],
  ['{"version": 1, "regions": [{"x": 0}]}', /Region 1.*number as its y/],
  ['{"version": 1, "regions": [null]}', /Region 1/],
]) {
  test(`the text ${text} is kept until the first edit, and said to be wrong`, () => {
    const state = new LayoutState([512, 512]);
    state.load(text);
    assert.match(state.problem, words);
    assert.equal(state.save(), text);
    state.add(rect(0, 0, 64, 64));
    assert.equal(state.problem, "");
    assert.equal(saved(state).regions.length, 1);
    state.undo();
    assert.equal(saved(state).regions.length, 0);
  });
}

test("the value that the editor itself reports does not reset it", () => {
  const state = withBoxes(rect(0, 0, 64, 64));
  state.load(state.save());
  assert.equal(state.history.past.length, 1);
  state.load('{"version":1,"regions":[]}');
  assert.equal(state.history.past.length, 0);
});

// ------------------------------------------------------------------------- undo and redo

test("every change can be undone and redone, back to the same text", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(100, 100, 64, 64));
  const changes = [
    () => state.update({ prompt: "a" }),
    () => state.duplicate(),
    () => state.reorder(-1),
    () => (state.select(0), state.remove()),
    () => state.preset("grid"),
  ];
  const texts = [state.save()];
  for (const change of changes) {
    change();
    texts.push(state.save());
  }
  assert.equal(new Set(texts).size, texts.length, "every change shows in the text");
  for (const text of texts.slice(0, -1).reverse()) {
    state.undo();
    assert.equal(state.save(), text);
  }
  for (const text of texts.slice(1)) {
    state.redo();
    assert.equal(state.save(), text);
  }
  state.redo();
  assert.equal(state.save(), texts.at(-1));
});

test("a drag is one step back, and so is typing; two drags are two", () => {
  const state = withBoxes(rect(0, 0, 64, 64));
  for (const x of [8, 16, 24]) state.update({ x }, "drag 1");
  for (const x of [32, 40]) state.update({ x }, "drag 2");
  for (const prompt of ["a", "ab", "abc"]) state.update({ prompt }, "prompt 0");
  state.undo();
  assert.deepEqual([state.box.prompt, state.box.x], ["", 40]);
  state.undo();
  assert.equal(state.box.x, 24);
  state.undo();
  assert.equal(state.box.x, 0);
});

test("typing again after leaving a field is a step of its own", () => {
  const state = withBoxes(rect(0, 0, 64, 64));
  state.update({ prompt: "a" }, "prompt 0");
  state.history.end();
  state.update({ prompt: "ab" }, "prompt 0");
  state.undo();
  assert.equal(state.box.prompt, "a");
});

test("a cancelled drag leaves no trace", () => {
  const state = withBoxes(rect(0, 0, 64, 64));
  const before = state.save();
  state.add(rect(100, 100, 10, 10), "drag 1");
  state.update({ width: 90 }, "drag 1");
  state.cancel("drag 1");
  assert.equal(state.save(), before);
  state.redo();
  assert.equal(state.save(), before);
});

test("a change after an undo forgets what was undone", () => {
  const state = withBoxes(rect(0, 0, 64, 64));
  state.undo();
  state.add(rect(8, 8, 64, 64));
  state.redo();
  assert.deepEqual(places(state), [[8, 8, 64, 64]]);
});

test("an update that changes nothing is no step", () => {
  const state = withBoxes(rect(0, 0, 64, 64));
  state.update({ x: 0, prompt: "" });
  assert.equal(state.history.past.length, 1);
});

// ------------------------------------------------------------------------- boxes

test("a new box takes the first colour that is free, a moved one keeps its own", () => {
  const state = withBoxes(rect(0, 0, 64, 64), rect(64, 0, 64, 64), rect(128, 0, 64, 64));
  state.select(1);
  state.remove();
  state.add(rect(200, 0, 64, 64));
  assert.deepEqual(state.regions.map((box) => box.color), [0, 2, 1]);
  state.reorder(-1);
  assert.deepEqual(state.regions.map((box) => box.color), [0, 1, 2]);
  assert.equal(state.selected, 1);
});

test("a copy stands beside its original, inside the canvas, with everything but the colour", () => {
  const state = withBoxes(rect(448, 448, 64, 64));
  state.update({ prompt: "a <wizard>", weight: 0.5, concept: "wizard" });
  state.duplicate();
  const [original, copy] = state.regions;
  assert.deepEqual([copy.x, copy.y], [432, 432]);
  assert.deepEqual({ ...copy, x: 448, y: 448, color: 0 }, original);
  assert.equal(state.selected, 1);
});

test("a preset moves the boxes in order, keeps their prompts and adds those that are missing", () => {
  const state = withBoxes(rect(300, 300, 64, 64), rect(0, 0, 64, 64));
  state.update({ prompt: "second" });
  state.preset("columns3");
  assert.deepEqual(places(state), [
    [0, 0, 168, 512],
    [168, 0, 176, 512],
    [344, 0, 168, 512],
  ]);
  assert.deepEqual(state.regions.map((box) => box.prompt), ["", "second", ""]);
  assert.equal(new Set(state.regions.map((box) => box.color)).size, 3);
});

test("a preset with fewer places drops boxes without a prompt only", () => {
  const state = withBoxes(...[0, 1, 2, 3].map((i) => rect(64 * i, 0, 64, 64)));
  state.select(2);
  state.update({ prompt: "kept" });
  state.preset("rows2");
  assert.deepEqual(state.regions.map((box) => box.prompt), ["", "", "kept"]);
});

test("a hundred boxes are a hundred regions", () => {
  const state = withBoxes(...Array.from({ length: 100 }, (_, i) => rect((i % 10) * 50, 0, 48, 48)));
  assert.equal(saved(state).regions.length, 100);
});

// ------------------------------------------------------------------------- the canvas

test("boxes keep their place when the canvas changes, and come back with it", () => {
  const state = withBoxes(rect(0, 0, 171, 512), rect(171, 0, 341, 512));
  const before = places(state);
  for (const width of [516, 640, 71, 1024]) state.setCanvas([width, 512]);
  assert.deepEqual(places(state), [
    [0, 0, 342, 512],
    [342, 0, 682, 512],
  ]);
  state.setCanvas([512, 512]);
  assert.deepEqual(places(state), before);
});

test("the text says the canvas that the boxes are on", () => {
  const state = withBoxes(rect(0, 0, 256, 256));
  state.setCanvas([1024, 512]);
  assert.deepEqual(saved(state).canvas, [1024, 512]);
  assert.deepEqual(saved(state).regions[0].width, 512);
});

test("a step back from before a change of the canvas fits the canvas of today", () => {
  const state = withBoxes(rect(0, 0, 256, 256));
  state.remove();
  state.setCanvas([1024, 512]);
  state.undo();
  assert.deepEqual(places(state), [[0, 0, 512, 256]]);
});

test("a text for another canvas is scaled to this one", () => {
  const state = new LayoutState([1024, 512]);
  state.load(
    '{"version":1,"canvas":[512,512],"regions":[{"x":0,"y":0,"width":256,"height":256}]}'
  );
  assert.deepEqual(places(state), [[0, 0, 512, 256]]);
});
