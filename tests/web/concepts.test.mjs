// The loaded concepts in a layout's regions, and the graph that they come from, without a page:
// node --test tests/web/

import assert from "node:assert/strict";
import { test } from "node:test";

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

const CANVAS = [512, 512];
const rect = (x, y, width, height) => ({ x, y, width, height });
const box = (place, values = {}) => ({ ...place, ...emptyBox(0), ...values });

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

const KNIGHT = { name: "Sir", tokens: ["shining knight", "knight"], color: 0 };
const ROBOT = { name: "Robbie", tokens: ["robot", "red (steel)"], color: 1 };

test("a region's ordinary LoRA is told by its trigger words, as whole words", () => {
  const known = [KNIGHT, ROBOT];
  const found = (prompt, concept) => conceptOf(box({}, { prompt, concept }), known);
  assert.equal(found("a Shining Knight"), KNIGHT);
  assert.equal(found("a robot, red"), ROBOT);
  assert.equal(found("RED (steel) at sea"), ROBOT);
  assert.equal(found("robots of the knighthood"), undefined);
  assert.equal(found("he", "robbie"), ROBOT);
  assert.equal(found("a robot", "Sir"), KNIGHT, "a name goes before words");
  const twin = { ...KNIGHT, name: "Sir 2", tokens: ["knight"] };
  const both = [KNIGHT, twin];
  assert.equal(conceptOf(box({}, { prompt: "a knight" }), both), undefined, "both have that word");
  assert.equal(conceptOf(box({}, { concept: "sir 2", prompt: "a knight" }), both), twin);
});

test("choosing an ordinary LoRA puts its trigger words in place of another's", () => {
  const chosen = (prompt, concept) => withConcept(box({}, { prompt }), concept, [KNIGHT, ROBOT, WIZARD]);
  assert.equal(chosen("", KNIGHT).prompt, "a photo of a shining knight, knight");
  assert.equal(chosen("a Robot at sea", KNIGHT).prompt, "a shining knight, knight at sea");
  assert.equal(chosen("at sea, shining knight, knight", ROBOT).prompt, "at sea, robot, red (steel)");
  assert.equal(chosen("a knight", WIZARD).prompt, "a <wizard>");
  assert.equal(chosen("robots", KNIGHT).prompt, "robots shining knight, knight");
  assert.deepEqual(chosen("a robot", ROBOT), { concept: "Robbie", color: 1, prompt: "a robot" });
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

test("concept tokens stay, whatever words a loader has; loaders of one file are told by name", async () => {
  const answer = { ok: true, json: async () => [{ name: "potter", tokens: ["<p1>", "<p2>"] }] };
  const names = new ConceptNames(async () => answer, () => {});
  const [lora_name, trigger_words] = ["potter.safetensors", "harry"];
  const loaders = Object.values(
    graphOf({
      first: { type: "MOS_LoadEDLoRA", widgets: { lora_name, trigger_words } },
      second: { type: "MOS_LoadEDLoRA", widgets: { lora_name, name: "young potter" } },
    })
  );
  names.of(loaders);
  await new Promise((resolve) => setTimeout(resolve));
  assert.deepEqual(names.of(loaders), [
    { name: "potter", tokens: ["<p1>", "<p2>"], color: 0 },
    { name: "young potter", tokens: ["<p1>", "<p2>"], color: 1 },
  ]);
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
