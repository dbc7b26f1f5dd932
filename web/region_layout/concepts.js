// @ts-check
/** Which loaded concept a region draws, as far as the editor can tell. */

import { depthOf } from "./stack.js";
import { isWhite } from "./masks.js";

/** @typedef {import("./layout_json.js").Box} Box */
/** @typedef {import("./geometry.js").Size} Size */

/** A loaded concept. tokens: its words in a prompt; empty: not known.
 * @typedef {{name: string, tokens: string[], color: number}} Known */

const TOKEN = /<[^<>\s]+>/g;
const OVERLAP = 0.1; // of the smaller region; less is no matter

const folded = (/** @type {string} */ text) => text.trim().toLowerCase();
const has = (/** @type {string[]} */ words, /** @type {string} */ word) =>
  words.some((other) => folded(other) === folded(word));

/** Where any of these words stands in a text, as the server finds it: a concept token anywhere, a
 * trigger word not inside of another word; the longest first. @param {string[]} words */
function patternOf(words) {
  const escaped = (/** @type {string} */ word) => word.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");
  const whole = words
    .map((word) => word.trim())
    .filter(Boolean)
    .sort((a, b) => b.length - a.length)
    .map((word) => {
      const before = /^[\p{L}\p{N}]/u.test(word) ? "(?<![\\p{L}\\p{N}_])" : "";
      const after = /[\p{L}\p{N}]$/u.test(word) ? "(?![\\p{L}\\p{N}_])" : "";
      return before + escaped(word) + after;
    });
  return new RegExp(whole.join("|") || "(?!)", "giu");
}

/** The words that call this concept and no other one. @param {Known} concept
 * @param {Known[]} known */
const ownWords = (concept, known) =>
  concept.tokens.filter((t) => !known.some((c) => c !== concept && has(c.tokens, t)));

/** The concept that a region draws: the one that it names, else the one whose tokens or trigger
 * words are in its prompt; undefined: none that is known. @param {Box} box @param {Known[]} known */
export function conceptOf(box, known) {
  const asked = folded(box.concept ?? "");
  if (asked) {
    return (
      known.find((c) => folded(c.name) === asked) ??
      known.find((c) => has(ownWords(c, known), asked))
    );
  }
  return known.find((c) => patternOf(ownWords(c, known)).test(box.prompt));
}

/** What the concept of a region is called, known or not; "": it has none. @param {Box} box
 * @param {Known[]} known */
export function nameOf(box, known) {
  const found = conceptOf(box, known);
  if (found) return folded(found.name);
  return folded(box.concept ?? "") || (box.prompt.match(TOKEN) ?? []).map(folded).join(" ");
}

/** What is wrong with a region's concept, or "". @param {Box} box @param {Known[]} known */
export function conceptProblem(box, known) {
  if (box.hidden || !known.length || conceptOf(box, known)) return "";
  if (box.concept) return `names '${box.concept}', which is not loaded`;
  const tokens = box.prompt.match(TOKEN);
  if (!tokens) return box.prompt.trim() ? "names none of the loaded concepts" : "";
  // Concepts whose words are not known may have these.
  if (known.some((concept) => !concept.tokens.length)) return "";
  return `names ${tokens.join(" ")}, which no loaded concept has`;
}

/** What a region gets when a concept is chosen for it: its name and colour, and its words in the
 * prompt, in place of those of another. @param {Box} box @param {Known | null} chosen
 * @param {Known[]} known @returns {Partial<Box>} */
export function withConcept(box, chosen, known) {
  if (!chosen) return { concept: null };
  const { name, color, tokens } = chosen;
  return { concept: name, color, prompt: withWords(box.prompt, tokens, known) };
}

/** A prompt with these words, in place of those of other concepts. @param {string} prompt
 * @param {string[]} tokens @param {Known[]} known */
function withWords(prompt, tokens, known) {
  if (!tokens.length || patternOf(tokens).test(prompt)) return prompt;
  const text = tokens.join(tokens.every((token) => token.match(TOKEN)) ? " " : ", ");
  const others = patternOf(known.flatMap((c) => c.tokens).filter((t) => !has(tokens, t)));
  let isFirst = true;
  const replaced = prompt.replace(others, () => {
    const word = isFirst ? text : "";
    isFirst = false;
    return word;
  });
  if (isFirst) return prompt.trim() ? `${prompt.trimEnd()} ${text}` : `a photo of a ${text}`;
  return replaced
    .replace(/,(\s*,)+/g, ",")
    .replace(/ {2,}/g, " ")
    .replace(/[\s,]+$/, "")
    .trim();
}

/** Pairs of regions that overlap, show two concepts, and lie at the same depth: what they share
 * would be an average of both. @param {Box[]} regions @param {Known[]} known @param {Size} canvas
 * @returns {[number, number][]} */
export function clashes(regions, known, canvas) {
  const names = regions.map((box) => (box.hidden || box.weight === 0 ? "" : nameOf(box, known)));
  /** @type {[number, number][]} */
  const found = [];
  regions.forEach((a, i) => {
    for (let j = i + 1; names[i] && j < regions.length; j++) {
      const b = regions[j];
      if (!names[j] || names[i] === names[j] || depthOf(a) !== depthOf(b)) continue;
      if (overlap(a, b, canvas) > OVERLAP) found.push([i, j]);
    }
  });
  return found;
}

/** How much of the smaller of two regions lies in the other, 0..1.
 * @param {Box} a @param {Box} b @param {Size} canvas */
export function overlap(a, b, canvas) {
  const [x0, y0] = [Math.max(a.x, b.x), Math.max(a.y, b.y)];
  const [x1, y1] = [
    Math.min(a.x + a.width, b.x + b.width),
    Math.min(a.y + a.height, b.y + b.height),
  ];
  if (x1 <= x0 || y1 <= y0) return 0;
  if (!a.mask && !b.mask) {
    return ((x1 - x0) * (y1 - y0)) / Math.min(a.width * a.height, b.width * b.height);
  }
  const share = Math.max(part(a, b, canvas), part(b, a, canvas));
  return share;
}

const SAMPLES = 24; // a side, of a region whose shape is asked for

/** How much of `a` lies in `b`. @param {Box} a @param {Box} b @param {Size} canvas */
function part(a, b, canvas) {
  let [own, both] = [0, 0];
  for (let i = 0; i < SAMPLES * SAMPLES; i++) {
    const x = a.x + (((i % SAMPLES) + 0.5) / SAMPLES) * a.width;
    const y = a.y + ((Math.floor(i / SAMPLES) + 0.5) / SAMPLES) * a.height;
    if (a.mask && !isWhite(a.mask, canvas, x, y)) continue;
    own++;
    const isInBox = x >= b.x && y >= b.y && x < b.x + b.width && y < b.y + b.height;
    if (isInBox && (!b.mask || isWhite(b.mask, canvas, x, y))) both++;
  }
  return own ? both / own : 0;
}
