// The region editor in a real browser: node tests/web/browser.mjs ADDRESS RENDERER [FOLDER]

import { open, page, report, run, seen, shot } from "./page.mjs";

/** A Region Layout and a preview of its picture, in view. */
async function newGraph() {
  await page.evaluate(() => {
    app.graph.clear();
    const node = LiteGraph.createNode("MOS_RegionLayout");
    const preview = LiteGraph.createNode("PreviewImage");
    node.pos = [0, 0];
    preview.pos = [560, 0];
    app.graph.add(node);
    app.graph.add(preview);
    node.connect(1, preview, 0);
  });
  await show();
}

async function show() {
  await page.evaluate(() => {
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [120, 160];
    app.canvas.setDirty(true, true);
  });
  await stage().waitFor();
  await page.waitForTimeout(500);
  await settled();
}

const stage = () => page.locator(".mos-stage").first();

/** Where the stage is, once it has come to rest. */
async function settled() {
  let [before, now] = [null, await stage().boundingBox()];
  while (JSON.stringify(before) !== JSON.stringify(now)) {
    await page.waitForTimeout(300);
    [before, now] = [now, await stage().boundingBox()];
  }
  return now;
}

const boxes = () => page.locator(".mos-layout").first().locator(".mos-box");
const layoutText = () =>
  page.evaluate(() => {
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    return node?.widgets.find((w) => w.name === "layout").value;
  });
const regions = async () => JSON.parse(await layoutText()).regions;
const places = async () => (await regions()).map((r) => [r.x, r.y, r.width, r.height]);
const nodeCount = () => page.evaluate(() => app.graph._nodes.length);

/** Drags from one point of the stage to another, in pixels of the 512 x 512 canvas. */
async function drag(from, to, keys = []) {
  const shown = await settled();
  const at = ([x, y]) => [shown.x + (shown.width * x) / 512, shown.y + (shown.height * y) / 512];
  const [[x0, y0], [x1, y1]] = [at(from), at(to)];
  await page.mouse.move(x0, y0);
  await page.mouse.down();
  for (const key of keys) await page.keyboard.down(key);
  await page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, { steps: 4 });
  await page.mouse.move(x1, y1, { steps: 4 });
  await page.mouse.up();
  for (const key of keys) await page.keyboard.up(key);
}

const type = (text) => page.locator(".mos-prompt textarea").first().fill(text);
const press = (keys) => page.keyboard.press(keys);

await report(async () => {
  await open();
  await newGraph();

  // three boxes, drawn and named
  await drag([16, 48], [152, 464]);
  await type("a photo of a <wizard>");
  await drag([184, 152], [320, 488]);
  await type("a photo of a <zebra>");
  await drag([352, 24], [488, 304]);
  await type("a photo of a <taxi>");
  seen.drawn = await regions();

  // the second one moved, then its corner dragged, then the drag taken back
  await drag([250, 400], [266, 344]);
  seen.moved = await places();
  const moved = seen.moved[1];
  const corner = [moved[0] + moved[2], moved[1] + moved[3]];
  await drag(corner, [corner[0] + 16, corner[1] - 48]);
  seen.resized = await places();
  await press("Control+z");
  seen.undone = await places();
  await press("Control+y");
  seen.redone = await places();
  await press("Control+z");
  await shot("drawn");

  // the keyboard
  await press("ArrowRight");
  await press("Shift+ArrowDown");
  seen.arrows = await places();
  await press("Control+d");
  seen.duplicated = (await regions()).length;
  await press("PageDown");
  await press("Delete");
  seen.deleted = (await regions()).length;
  seen.nodes = await nodeCount();
  for (let i = 0; i < 5; i++) await press("Control+z");
  seen.keysUndone = await places();
  seen.nodesAfterUndo = await nodeCount();
  await press("Control+c");
  await press("Control+v");
  seen.nodesAfterCopy = await nodeCount();
  seen.boxesAfterCopy = (await regions()).length;
  await press("Control+z");

  // Alt: off the grid; Escape in the middle of a drag: as before
  await drag([266, 400], [277, 389], ["Alt"]);
  seen.free = (await places())[1];
  const shown = await stage().boundingBox();
  await page.mouse.move(shown.x + 50, shown.y + 100);
  await page.mouse.down();
  await page.mouse.move(shown.x + 90, shown.y + 130, { steps: 4 });
  await press("Escape");
  await page.mouse.up();
  seen.escaped = await places();

  // a pen and a finger draw as the mouse does, on a graph of any zoom
  const touch = await page.context().newCDPSession(page);
  for (const [name, zoom] of [["pen", 0.6], ["finger", 1.3]]) {
    await page.evaluate((scale) => {
      app.canvas.ds.scale = scale;
      app.canvas.ds.offset = [120, -100]; // the lower edge of the stage in view
      app.canvas.setDirty(true, true);
    }, zoom);
    const at = await settled();
    await press("Escape"); // no box is selected, so no handle is in the way
    const point = (x, y) => ({ x: at.x + (at.width * x) / 512, y: at.y + (at.height * y) / 512 });
    const path = [[0, 440], [80, 490], [152, 512]].map(([x, y]) => point(x, y));
    for (const [i, where] of path.entries()) {
      if (name === "pen") {
        const type = ["mousePressed", "mouseMoved", "mouseReleased"][i];
        const more = { button: "left", buttons: 1, clickCount: 1, pointerType: "pen" };
        if (i === 2) await touch.send("Input.dispatchMouseEvent", { ...where, ...more, type: "mouseMoved" });
        await touch.send("Input.dispatchMouseEvent", { ...where, ...more, type });
      } else {
        const type = ["touchStart", "touchMove", "touchMove"][i];
        await touch.send("Input.dispatchTouchEvent", { type, touchPoints: [where] });
      }
    }
    if (name === "finger") await touch.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    seen[name] = await places();
    await press("Control+z");
  }
  await show();
  seen.afterPointers = await places();

  // the canvas follows the widgets, and back
  const size = (width) =>
    page.evaluate((value) => {
      const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
      const widget = node.widgets.find((w) => w.name === "width");
      widget.value = value;
      widget.callback?.(value);
    }, width);
  await size(768);
  const wide = await settled();
  seen.aspect = wide.width / wide.height;
  seen.wide = await places();
  await size(512);
  seen.narrow = await places();

  // saved, reloaded, pasted
  const text = await layoutText();
  const workflow = await page.evaluate(() => app.graph.serialize());
  await page.evaluate(() => app.graph.clear());
  await open();
  await page.evaluate((data) => app.loadGraphData(data, true, true), workflow);
  await show();
  seen.reloaded = (await layoutText()) === text && (await boxes().count()) === 3;
  seen.prompt = await page.evaluate(async () => {
    const { output } = await app.graphToPrompt();
    return Object.values(output).find((n) => n.class_type === "MOS_RegionLayout").inputs;
  });
  seen.pasted = await page.evaluate(async () => {
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    app.canvas.selectItems([node]);
    app.canvas.copyToClipboard();
    app.canvas.pasteFromClipboard();
    const all = app.graph._nodes.filter((n) => n.type === "MOS_RegionLayout");
    const values = all.map((n) => n.widgets.find((w) => w.name === "layout").value);
    const own = new Set(all.map((n) => n.widgets.find((w) => w.name === "layout").element)).size;
    for (const copy of all.filter((n) => n !== node)) app.graph.remove(copy);
    return [values.length, new Set(values).size, own];
  });

  // into a subgraph, where the running editor has them
  seen.subgraph = await page.evaluate(async () => {
    const before = JSON.parse(JSON.stringify(app.graph.serialize()));
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    if (!app.graph.convertToSubgraph) return null;
    app.graph.convertToSubgraph(new Set([node]));
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { output } = await app.graphToPrompt();
    const inside = Object.values(output).find((n) => n.class_type === "MOS_RegionLayout").inputs;
    await app.loadGraphData(before, true, true);
    return inside.layout;
  });
  seen.text = text;
  await show();

  seen.run = await run();
  await page.waitForTimeout(1500);
  await shot("run");

  // a picture from Load Image shows at once, the regions that come in after a run
  await page.evaluate(async () => {
    const picture = document.createElement("canvas");
    [picture.width, picture.height] = [64, 64];
    picture.getContext("2d").fillRect(0, 0, 32, 64);
    const blob = await new Promise((resolve) => picture.toBlob(resolve));
    const body = new FormData();
    body.append("image", new File([blob], "half_black.png", { type: "image/png" }));
    await app.api.fetchApi("/upload/image", { method: "POST", body });
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    const load = LiteGraph.createNode("LoadImage");
    const mask = LiteGraph.createNode("SolidMask");
    const region = LiteGraph.createNode("MOS_RegionFromMask");
    for (const other of [load, mask, region]) {
      other.pos = [-900, 600];
      app.graph.add(other);
    }
    load.widgets.find((w) => w.name === "image").value = "half_black.png";
    load.connect(0, node, node.findInputSlot("background"));
    mask.connect(0, region, region.findInputSlot("mask"));
    region.connect(0, node, node.findInputSlot("regions"));
  });
  const backdrop = () =>
    page.evaluate(() => document.querySelector(".mos-pictured .mos-backdrop")?.src ?? "");
  await page.waitForTimeout(500);
  seen.linkedPicture = await backdrop();
  seen.runWithPicture = await run();
  await page.waitForTimeout(1000);
  seen.pictureAfterRun = await backdrop();
  await shot("picture");

  // a hundred boxes
  await page.evaluate(() => {
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    const boxes = Array.from({ length: 100 }, (_, i) => {
      const [x, y] = [(i % 10) * 48 + 16, Math.floor(i / 10) * 48 + 16];
      return { x, y, width: 40, height: 40, prompt: `thing ${i}` };
    });
    const layout = { version: 1, canvas: [512, 512], regions: boxes };
    node.widgets.find((w) => w.name === "layout").value = JSON.stringify(layout);
  });
  const began = Date.now();
  await drag([468, 468], [492, 492]);
  seen.hundred = (await places()).at(-1);
  seen.hundredMs = Date.now() - began;
  await shot("hundred");

  // what cannot be used: said in the editor, and by the run
  await page.evaluate(() => {
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    node.widgets.find((w) => w.name === "layout").value = '{"version": 9, "regions": []}';
  });
  seen.problem = await page.locator(".mos-status").first().textContent();
  seen.refused = await run();
});
