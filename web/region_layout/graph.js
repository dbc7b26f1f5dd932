// @ts-check
/** What the graph around a node knows: values, loaded concepts, pictures. It is ComfyUI's: every
 * part of it may be missing, or be another in another version. */

/** @typedef {import("./concepts.js").Known} Known */
/** A node of the graph. @typedef {any} GraphNode */

/** Nodes that bring concepts from a file, and the widget that names it.
 * @type {Record<string, string>} */
const SOURCES = { MOS_LoadEDLoRA: "lora_name", MOS_LoadFused: "fused_name" };
const SILENT = [2, 4]; // modes of a node: never, bypassed
const TOKEN = /<[^<>\s]+>/g;

/** The value of a node's widget. @param {GraphNode} node @param {string} name */
export const valueOf = (node, name) =>
  node.widgets?.find((/** @type {any} */ w) => w.name === name)?.value;

/** Whether an input's value comes from another node. @param {GraphNode} node
 * @param {string} name */
export const isLinked = (node, name) =>
  Boolean(
    node.inputs?.some((/** @type {any} */ input) => input.name === name && input.link != null)
  );

/** The node at an input, if any. @param {GraphNode} node @param {string} name
 * @returns {GraphNode} */
export function sourceOf(node, name) {
  const slot = node.inputs?.findIndex((/** @type {any} */ input) => input.name === name) ?? -1;
  return slot >= 0 && node.graph ? node.getInputNode?.(slot) : null;
}

/** @param {GraphNode} node @returns {GraphNode[]} */
const inputsOf = (node) => slotsOf(node, "inputs").map((i) => node.getInputNode?.(i));

/** @param {GraphNode} node @returns {GraphNode[]} */
const outputsOf = (node) => slotsOf(node, "outputs").flatMap((i) => node.getOutputNodes?.(i) ?? []);

/** Numbers of a node's sockets; none of a node that is in no graph.
 * @param {GraphNode} node @param {"inputs" | "outputs"} side @returns {number[]} */
const slotsOf = (node, side) => (node.graph ? [...(node[side] ?? []).keys()] : []);

/** All nodes that can be reached, each after those that it leads to.
 * @param {GraphNode[]} starts @param {(node: GraphNode) => GraphNode[]} next */
function reach(starts, next) {
  /** @type {Set<GraphNode>} */
  const seen = new Set();
  /** @type {GraphNode[]} */
  const found = [];
  /** @param {GraphNode} node */
  const visit = (node) => {
    if (!node || seen.has(node)) return;
    seen.add(node);
    next(node).forEach(visit);
    found.push(node);
  };
  starts.forEach(visit);
  return found;
}

/** The loaders of the concepts that the node's regions are drawn with, in the order of their chain:
 * those before the nodes that take its regions; all of the graph where none is found so.
 * @param {GraphNode} node @returns {GraphNode[]} */
export function conceptLoaders(node) {
  const isLoader = (/** @type {GraphNode} */ n) => n.type in SOURCES && !SILENT.includes(n.mode);
  const takers = reach([node], outputsOf).filter((n) => n !== node);
  const before = reach(takers, inputsOf).filter(isLoader);
  return before.length ? before : (node.graph?._nodes ?? node.graph?.nodes ?? []).filter(isLoader);
}

/** Names and tokens of the concepts of files, asked of the server once for each. */
export class ConceptNames {
  /** @param {(address: string) => Promise<Response>} ask @param {() => void} learnt */
  constructor(ask, learnt) {
    this.ask = ask;
    this.learnt = learnt;
    /** @type {Map<string, {name: string, tokens: string[]}[]>} */
    this.known = new Map();
  }

  /** What is known of the loaders' concepts by now. @param {GraphNode[]} loaders
   * @returns {Known[]} */
  of(loaders) {
    const all = loaders.flatMap((loader) => this.#ofLoader(loader));
    const names = new Set();
    const first = all.filter(({ name }) => !names.has(name) && names.add(name));
    return first.map((concept, color) => ({ ...concept, color }));
  }

  /** @param {GraphNode} loader */
  #ofLoader(loader) {
    const parameter = SOURCES[loader.type];
    const file = String(valueOf(loader, parameter) ?? "");
    if (!file) return [];
    const found = this.known.get(file) ?? this.#learn(parameter, file);
    const [name, words] = ["name", "trigger_words"].map((key) => valueOf(loader, key));
    return found.map((concept) => ({
      name: typeof name === "string" && name.trim() ? name.trim() : concept.name,
      tokens: typeof words === "string" && replaces(words, concept) ? wordsOf(words) : concept.tokens,
    }));
  }

  /** @param {string} parameter @param {string} file */
  #learn(parameter, file) {
    const stem = file
      .replace(/^demo: /, "")
      .replace(/^.*[/\\]/, "")
      .replace(/\.\w+$/, "");
    const guess = [{ name: stem, tokens: /** @type {string[]} */ ([]) }];
    this.known.set(file, guess);
    this.ask(`/mix_of_show/concepts?${new URLSearchParams({ [parameter]: file })}`)
      .then((answer) => (answer.ok ? answer.json() : guess))
      .then((concepts) => {
        this.known.set(file, concepts);
        this.learnt();
      })
      .catch(() => {}); // the server is away: the file's name is all there is
    return guess;
  }
}

/** Whether a loader's own words stand for its file's: concept tokens stay, they are what the file's
 * embeddings are called. @param {string} words @param {{tokens: string[]}} concept */
function replaces(words, { tokens }) {
  return Boolean(words.trim()) && !tokens.some((token) => token.match(TOKEN));
}

/** @param {string} words as a loader's field has them */
function wordsOf(words) {
  return (
    words.match(TOKEN) ??
    words
      .split(",")
      .map((word) => word.trim())
      .filter(Boolean)
  );
}

/** The address of a picture as the server tells of it. @param {any} picture
 * @param {(route: string) => string} address */
export function viewOf({ filename, subfolder, type }, address) {
  return address(
    `/view?${new URLSearchParams({ filename, subfolder: subfolder ?? "", type: type ?? "output" })}`
  );
}

/** The picture that a node at an image input shows: Load Image its file, others what they drew
 * last; "" where there is none. @param {GraphNode} source
 * @param {Record<string, any>} outputs of nodes @param {(route: string) => string} address */
export function shownBy(source, outputs, address) {
  if (!source) return "";
  const file = source.type === "LoadImage" ? String(valueOf(source, "image") ?? "") : "";
  if (file) {
    const [, subfolder, filename] = /** @type {string[]} */ (/^(?:(.*)\/)?([^/]*)$/.exec(file));
    return viewOf({ filename, subfolder, type: "input" }, address);
  }
  const [picture] = outputs?.[source.id]?.images ?? [];
  return picture ? viewOf(picture, address) : (source.imgs?.[0]?.src ?? "");
}

/** Whether what a node shows is a picture that was drawn, not one that explains: a layout,
 * attention maps, a mask. @param {GraphNode} node */
export function showsADrawing(node) {
  if (!node) return true; // inside a subgraph: not to be known
  if (/mask/i.test(node.type) || node.type === "LoadImage") return false;
  if (node.type.startsWith("MOS_")) return node.type === "MOS_DetailRegions";
  return inputsOf(node).every(
    (source) => !source || !source.type.startsWith("MOS_") || source.type === "MOS_DetailRegions"
  );
}
