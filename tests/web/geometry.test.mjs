// Rectangles of the editor, without a page: node --test tests/web/

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  between,
  inside,
  isTooSmall,
  resized,
  scaled,
  snap,
  snapMoved,
  snapResized,
} from "../../web/region_layout/geometry.js";
import { presetRects } from "../../web/region_layout/presets.js";
import { hit, hitBelow } from "../../web/region_layout/stack.js";

const rect = (x, y, width, height) => ({ x, y, width, height });

test("a rectangle is moved into the canvas, and cut only where it is larger", () => {
  assert.deepEqual(inside(rect(-20, 500, 100, 100), [512, 512]), rect(0, 412, 100, 100));
  assert.deepEqual(inside(rect(0, 0, 600, 10.4), [512, 512]), rect(0, 0, 512, 10));
});

test("two corners in any order are the same rectangle", () => {
  const corners = [[10, 20], [40, 80]];
  assert.deepEqual(between(...corners), rect(10, 20, 30, 60));
  assert.deepEqual(between(corners[1], corners[0]), rect(10, 20, 30, 60));
  assert.deepEqual(between([10, 80], [40, 20]), rect(10, 20, 30, 60));
});

test("each handle moves its own sides, and no box turns inside out", () => {
  const box = rect(100, 100, 50, 60);
  assert.deepEqual(resized(box, "se", 10, 20), rect(100, 100, 60, 80));
  assert.deepEqual(resized(box, "nw", 10, 20), rect(110, 120, 40, 40));
  assert.deepEqual(resized(box, "n", 10, -20), rect(100, 80, 50, 80));
  assert.deepEqual(resized(box, "e", -500, 0), rect(100, 100, 8, 60));
  assert.deepEqual(resized(box, "w", 500, 0), rect(142, 100, 8, 60));
});

test("a press means the selected box, else the topmost; pressing again goes below", () => {
  const rects = [rect(0, 0, 100, 100), rect(50, 50, 100, 100), rect(60, 60, 20, 20)];
  const [at, canvas] = [[70, 70], [512, 512]];
  assert.equal(hit(rects, at, canvas), 2);
  assert.equal(hit(rects, at, canvas, 0), 0);
  assert.equal(hit(rects, [200, 200], canvas), -1);
  assert.equal(hitBelow(rects, at, canvas, 2), 1);
  assert.equal(hitBelow(rects, at, canvas, 1), 0);
  assert.equal(hitBelow(rects, at, canvas, 0), 2);
});

test("a guide within reach goes before the grid", () => {
  assert.equal(snap(101, [103], 8, 4), 103);
  assert.equal(snap(101, [120], 8, 4), 104);
  assert.equal(snap(101.4, [], 1, 0), 101);
});

test("a moved box is drawn to a guide by the side that needs least", () => {
  const lines = { x: [0, 200], y: [0] };
  assert.deepEqual(snapMoved(rect(97, 3, 100, 50), lines, 8, 6), rect(100, 0, 100, 50));
  assert.deepEqual(snapMoved(rect(61, 61, 100, 50), lines, 8, 6), rect(64, 64, 100, 50));
});

test("a resized box snaps with the dragged sides alone", () => {
  const lines = { x: [], y: [] };
  assert.deepEqual(snapResized(rect(3, 3, 50, 50), "e", lines, 64, 0), rect(3, 3, 61, 50));
  const tiny = rect(3, 3, 10, 50);
  assert.equal(snapResized(tiny, "e", lines, 64, 0), tiny, "snapping must not close a box");
});

test("a box without a whole cell of 8 pixels is too small", () => {
  assert.equal(isTooSmall(rect(0, 0, 8, 8)), false);
  assert.equal(isTooSmall(rect(4, 0, 8, 8)), true);
  assert.equal(isTooSmall(rect(3, 3, 13, 13)), false);
  assert.equal(isTooSmall(rect(3, 3, 12, 13)), true);
});

test("presets cover the canvas without overlap, on whole cells", () => {
  for (const name of ["columns2", "columns3", "columns5", "rows2", "rows3", "grid", "grid9"]) {
    for (const canvas of [[512, 512], [832, 1216], [520, 344]]) {
      const rects = presetRects(name, canvas);
      const area = rects.reduce((sum, r) => sum + r.width * r.height, 0);
      assert.equal(area, canvas[0] * canvas[1], `${name} on ${canvas}`);
      assert.ok(rects.every((r) => [r.x, r.y, r.width, r.height].every((n) => n % 8 === 0)));
    }
  }
});

test("boxes that touch still touch after scaling", () => {
  const [a, b] = [rect(0, 0, 171, 10), rect(171, 0, 341, 10)].map((r) =>
    scaled(r, [512, 512], [700, 300])
  );
  assert.equal(a.x + a.width, b.x);
  assert.equal(b.x + b.width, 700);
});
