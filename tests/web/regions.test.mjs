// Several regions at once, concepts, the view and the shape of the canvas, without a page:
// node --test tests/web/

import assert from "node:assert/strict";
import { test } from "node:test";

import { aligned } from "../../web/region_layout/align.js";
import {
  clashes,
  conceptOf,
  conceptProblem,
  overlap,
  withConcept,
} from "../../web/region_layout/concepts.js";
import { conceptLoaders, ConceptNames, showsADrawing, shownBy } from "../../web/region_layout/graph.js";
import { emptyBox } from "../../web/region_layout/layout_json.js";
import { maskOfRect } from "../../web/region_layout/masks.js";
import { ratioSize, RATIOS } from "../../web/region_layout/presets.js";
import { LayoutState } from "../../web/region_layout/state.js";
import { panned, WHOLE, zoomed } from "../../web/region_layout/view.js";

const CANVAS = [512, 512];
const rect = (x, y, width, height) => ({ x, y, width, height });
const places = (state) => state.regions.map(({ x, y, width, height }) => [x, y, width, height]);
const box = (place, values = {}) => ({ ...place, ...emptyBox(0), ...values });

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

// ------------------------------------------------------------------------- concepts

const WIZARD = { name: "wizard", tokens: ["<wizard>"], color: 0 };
const POTTER = { name: "potter", tokens: ["<potter1>", "<potter2>"], color: 1 };
const STYLE = { name: "style", tokens: [], color: 2 };

test("a region's concept is the one that it names, else that of its tokens", () => {
  const known = [WIZARD, POTTER];
  assert.equal(conceptOf(box({}, { concept: "Wizard", prompt: "<potter1>" }), known), WIZARD);
  assert.equal(conceptOf(box({}, { concept: "<potter2>" }), known), POTTER);
  assert.equal(conceptOf(box({}, { prompt: "a <Potter1> <Potter2>" }), known), POTTER);
  assert.equal(conceptOf(box({}, { prompt: "a cat" }), known), undefined);
});

test("a region that names no loaded concept is marked, if any is loaded", () => {
  const known = [WIZARD, POTTER];
  assert.match(conceptProblem(box({}, { prompt: "a cat" }), known), /none of the loaded/);
  assert.match(conceptProblem(box({}, { concept: "zebra" }), known), /'zebra', which is not loaded/);
  assert.match(conceptProblem(box({}, { prompt: "a <zebra>" }), known), /<zebra>, which no loaded/);
  for (const fine of [{ prompt: "" }, { prompt: "<wizard>" }, { prompt: "a cat", hidden: true }]) {
    assert.equal(conceptProblem(box({}, fine), known), "");
  }
  assert.equal(conceptProblem(box({}, { prompt: "a cat" }), []), "");
  assert.equal(conceptProblem(box({}, { prompt: "a <zebra>" }), [STYLE]), "", "its words are not known");
});

test("choosing a concept gives name, colour and tokens, in place of those of another", () => {
  const known = [WIZARD, POTTER, STYLE];
  const chosen = (prompt, concept) => withConcept(box({}, { prompt }), concept, known).prompt;
  assert.equal(chosen("", POTTER), "a photo of a <potter1> <potter2>");
  assert.equal(chosen("at sea", WIZARD), "at sea <wizard>");
  assert.equal(chosen("a <wizard> at sea", POTTER), "a <potter1> <potter2> at sea");
  assert.equal(chosen("a <potter1> <potter2> at sea", WIZARD), "a <wizard> at sea");
  assert.equal(chosen("a <WIZARD>", WIZARD), "a <WIZARD>");
  assert.equal(chosen("a <other>", STYLE), "a <other>");
  assert.deepEqual(withConcept(box({}, { prompt: "x" }), POTTER, known).color, 1);
  assert.deepEqual(withConcept(box({}, { prompt: "x", concept: "potter" }), null, known), { concept: null });
});

test("two concepts on one place clash, unless one is in front, hidden or without weight", () => {
  const known = [WIZARD, POTTER];
  const a = box(rect(0, 0, 256, 512), { prompt: "<wizard>" });
  const b = box(rect(128, 0, 256, 512), { prompt: "<potter1>" });
  assert.deepEqual(clashes([a, b], known, CANVAS), [[0, 1]]);
  assert.deepEqual(clashes([a, { ...b, prompt: "another <wizard>" }], known, CANVAS), []);
  assert.deepEqual(clashes([a, { ...b, prompt: "a tree" }], known, CANVAS), []);
  for (const values of [{ depth: 1 }, { hidden: true }, { weight: 0 }, { x: 250 }]) {
    assert.deepEqual(clashes([a, { ...b, ...values }], known, CANVAS), [], JSON.stringify(values));
  }
});

test("masks overlap where both are white", () => {
  const left = rect(0, 0, 128, 512);
  const frame = { ...rect(0, 0, 512, 512), mask: maskOfRect(rect(128, 0, 384, 512), CANVAS) };
  assert.ok(overlap(box(left), box(frame, { mask: frame.mask }), CANVAS) < 0.02);
  assert.ok(overlap(box(rect(100, 0, 128, 512)), box(frame, { mask: frame.mask }), CANVAS) > 0.7);
});

// ------------------------------------------------------------------------- the graph

/** Nodes of a graph that are linked as {name: {type, inputs: {name: source}}} says. */
function graphOf(given) {
  const nodes = Object.fromEntries(Object.keys(given).map((id) => [id, { id }]));
  const graph = { _nodes: Object.values(nodes) };
  for (const [id, { type, inputs = {}, widgets = {}, mode = 0 }] of Object.entries(given)) {
    Object.assign(nodes[id], {
      ...{ type, mode, graph },
      inputs: Object.keys(inputs).map((name) => ({ name, link: 1 })),
      outputs: [{}],
      widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
      getInputNode: (slot) => nodes[Object.values(inputs)[slot]] ?? null,
      getOutputNodes: () =>
        graph._nodes.filter((other) => Object.values(given[other.id].inputs ?? {}).includes(id)),
    });
  }
  return nodes;
}

const GRAPH = {
  layout: { type: "MOS_RegionLayout" },
  first: { type: "MOS_LoadEDLoRA", widgets: { lora_name: "people/potter.safetensors" } },
  second: { type: "MOS_LoadEDLoRA", inputs: { concepts: "first" }, widgets: { lora_name: "demo: wizard.safetensors" } },
  off: { type: "MOS_LoadEDLoRA", mode: 4, inputs: { concepts: "second" }, widgets: { lora_name: "off.safetensors" } },
  elsewhere: { type: "MOS_LoadEDLoRA", widgets: { lora_name: "zebra.safetensors" } },
  compose: { type: "MOS_ComposerAttention", inputs: { concepts: "off", regions: "layout" } },
  sample: { type: "KSampler", inputs: { model: "compose" } },
};

test("the concepts are those before the nodes that take the regions, in the order of the chain", () => {
  assert.deepEqual(conceptLoaders(graphOf(GRAPH).layout).map((n) => n.id), ["first", "second"]);
});

test("a layout that leads nowhere yet is offered all loaders of its graph", () => {
  const alone = { ...GRAPH, compose: { type: "MOS_ComposerAttention", inputs: { concepts: "off" } } };
  assert.deepEqual(conceptLoaders(graphOf(alone).layout).map((n) => n.id), ["first", "second", "elsewhere"]);
});

test("links in a circle, missing nodes and a node without a graph are survived", () => {
  const nodes = graphOf({
    layout: { type: "MOS_RegionLayout", inputs: { background: "compose", regions: "gone" } },
    compose: { type: "X", inputs: { regions: "layout" } },
  });
  assert.deepEqual(conceptLoaders(nodes.layout), []);
  assert.deepEqual(conceptLoaders({ type: "MOS_RegionLayout", graph: null, outputs: [{}] }), []);
});

test("names are the server's, once it has answered; the file's until then", async () => {
  const asked = [];
  let learnt = 0;
  const names = new ConceptNames(
    async (address) => {
      asked.push(address);
      const isKnown = address.includes("potter");
      return { ok: isKnown, json: async () => [{ name: "Potter", tokens: ["<p1>", "<p2>"] }] };
    },
    () => learnt++
  );
  const loaders = conceptLoaders(graphOf(GRAPH).layout);
  assert.deepEqual(names.of(loaders).map((c) => c.name), ["potter", "wizard"]);
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(names.of(loaders), [
    { name: "Potter", tokens: ["<p1>", "<p2>"], color: 0 },
    { name: "wizard", tokens: [], color: 1 },
  ]);
  assert.deepEqual([asked.length, learnt], [2, 2]);
});

test("a loader's own name and words go before the file's", () => {
  const names = new ConceptNames(async () => ({ ok: false }), () => {});
  const widgets = { lora_name: "x.safetensors", name: "Anna", trigger_words: "anna, red hair" };
  const [loader] = Object.values(graphOf({ load: { type: "MOS_LoadEDLoRA", widgets } }));
  assert.deepEqual(names.of([loader]), [{ name: "Anna", tokens: ["anna", "red hair"], color: 0 }]);
});

test("a picture is a drawing unless a node of the pack explains something with it", () => {
  const nodes = graphOf({
    decode: { type: "VAEDecode" },
    save: { type: "SaveImage", inputs: { images: "decode" } },
    layout: { type: "MOS_RegionLayout" },
    preview: { type: "PreviewImage", inputs: { images: "layout" } },
    detail: { type: "MOS_DetailRegions" },
    shown: { type: "PreviewImage", inputs: { images: "detail" } },
    mask: { type: "MaskPreview" },
    load: { type: "LoadImage", widgets: { image: "a b/c&d.png" } },
  });
  const drawings = Object.values(nodes).filter(showsADrawing).map((node) => node.id);
  assert.deepEqual(drawings, ["decode", "save", "detail", "shown"]);
  const view = (node, outputs) => shownBy(node, outputs, (route) => route);
  assert.equal(view(nodes.load, {}), "/view?filename=c%26d.png&subfolder=a+b&type=input");
  const outputs = { decode: { images: [{ filename: "x.png", type: "temp" }] } };
  assert.equal(view(nodes.decode, outputs), "/view?filename=x.png&subfolder=&type=temp");
  assert.equal(view(nodes.save, {}), "");
  assert.equal(view(null, {}), "");
});
