// @ts-check
/** Colours of boxes: Okabe and Ito's, told apart with every kind of colour vision. The picture that
 * the node draws has the same, in the same order: PALETTE in mos_core/regions/picture.py. */
export const PALETTE = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];

/** @param {number} number */
export function colorOf(number) {
  return PALETTE[((number % PALETTE.length) + PALETTE.length) % PALETTE.length];
}

/** Black or white, whichever is easier to read on a colour. @param {string} color "#rrggbb" */
export function inkOn(color) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff";
}
