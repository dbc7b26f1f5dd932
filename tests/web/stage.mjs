// Region Layout's canvas in the page of page.mjs: where it is, how one draws on it, what it says.

import { page } from "./page.mjs";

/** The canvas of a layout node; the large editor's if `large`. */
export const layout = (index = 0) => page.locator(".lg-node .mos-layout, .dom-widget .mos-layout").nth(index);
export const large = () => page.locator(".mos-popout .mos-layout");

/** Puts nodes on an empty graph, as `build` of page.mjs does, the layouts beside each other and all
 * others out of the way. */
export const build = (nodes) =>
  page.evaluate((given) => {
    app.graph.clear();
    window.mosNumber ??= 1000;
    const made = {};
    let layouts = 0;
    for (const [i, [name, [type, values]]] of Object.entries(given).entries()) {
      const node = (made[name] = LiteGraph.createNode(type));
      node.id = ++window.mosNumber;
      node.pos = type === "MOS_RegionLayout" ? [550 * layouts++, 0] : [4000 + 500 * i, 0];
      app.graph.add(node);
      for (const [key, value] of Object.entries(values ?? {})) {
        node.widgets.find((widget) => widget.name === key).value = value;
      }
    }
    for (const [name, [, , links]] of Object.entries(given)) {
      for (const [input, [source, slot]] of Object.entries(links ?? {})) {
        made[source].connect(slot, made[name], made[name].findInputSlot(input));
      }
    }
  }, nodes);

/** Puts the view so that the first node's canvas is seen whole. */
export async function show(offset = [120, 0]) {
  await page.evaluate((at) => {
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = at;
    app.canvas.setDirty(true, true);
  }, offset);
  await layout().locator(".mos-stage").waitFor();
  await page.waitForTimeout(400);
  await settled();
}

/** Where a stage is, once it has come to rest. */
export async function settled(editor = layout()) {
  const stage = editor.locator(".mos-stage");
  let [before, now] = [null, await stage.boundingBox()];
  while (JSON.stringify(before) !== JSON.stringify(now)) {
    await page.waitForTimeout(250);
    [before, now] = [now, await stage.boundingBox()];
  }
  return now;
}

/** A point of a 512 x 512 canvas on the screen. */
export async function at([x, y], editor = layout()) {
  const shown = await settled(editor);
  return [shown.x + (shown.width * x) / 512, shown.y + (shown.height * y) / 512];
}

/** Drags through points of the canvas, with keys held. */
export async function drag(points, keys = [], editor = layout()) {
  const places = [];
  for (const point of points) places.push(await at(point, editor));
  await page.mouse.move(...places[0]);
  for (const key of keys) await page.keyboard.down(key);
  await page.mouse.down();
  for (const place of places.slice(1)) await page.mouse.move(...place, { steps: 6 });
  await page.mouse.up();
  for (const key of keys) await page.keyboard.up(key);
}

export async function click(point, options = {}, editor = layout()) {
  await page.waitForTimeout(450); // else it is a double click with the one before
  await page.mouse.click(...(await at(point, editor)), options);
}

export const press = async (...keys) => {
  for (const key of keys) await page.keyboard.press(key);
};
export const tool = (name, editor = layout()) => editor.locator(`.mos-button[data-tool=${name}]`).click();
export const button = (name, editor = layout()) => editor.getByRole("button", { name, exact: false }).first().click();
export const choose = (name) => page.locator(".mos-menu button", { hasText: name }).first().click();

/** The value of the first layout node's widget, or another's. */
export const text = (index = 0) =>
  page.evaluate((i) => {
    const nodes = app.graph._nodes.filter((node) => node.type === "MOS_RegionLayout");
    return nodes[i].widgets.find((widget) => widget.name === "layout").value;
  }, index);
export const regions = async (index = 0) => JSON.parse(await text(index)).regions;
export const places = async (index = 0) =>
  (await regions(index)).map((r) => [r.x, r.y, r.width, r.height]);
export const setLayout = (given, index = 0) =>
  page.evaluate(
    ([value, i]) => {
      const nodes = app.graph._nodes.filter((node) => node.type === "MOS_RegionLayout");
      nodes[i].widgets.find((widget) => widget.name === "layout").value = value;
    },
    [JSON.stringify({ version: 2, canvas: [512, 512], regions: given }), index]
  );
export const status = (editor = layout()) => editor.locator(".mos-status").textContent();

/** How many cells of a region's mask are white. */
export const white = (region) =>
  region.mask.runs.reduce((sum, run, i) => (i % 2 ? sum + run : sum), 0);

/** Whether the caret is in a region's prompt: what is in it. */
export const written = () =>
  page.evaluate(() => {
    const field = document.activeElement;
    return field?.matches(".mos-prompt textarea") ? field.value : null;
  });
