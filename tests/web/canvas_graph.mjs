// The canvas of Region Layout and the graph around it: concepts, pictures, other nodes, speed.
// node tests/web/canvas_graph.mjs ADDRESS RENDERER [FOLDER]; see page.mjs

import { open, page, report, run, seen, shot } from "./page.mjs";
import {
  at,
  build,
  button,
  choose,
  click,
  drag,
  layout,
  places,
  press,
  regions,
  setLayout,
  settled,
  show,
  status,
} from "./stage.mjs";

const box = (x, y, width, height, more = {}) => ({ x, y, width, height, prompt: "", ...more });
const loader = (name, before) => [
  "MOS_LoadEDLoRA",
  { lora_name: `demo: ${name}.safetensors` },
  before ? { concepts: [before, 0] } : {},
];
const picture = () =>
  page.evaluate(() => {
    const image = document.querySelector(".mos-pictured .mos-backdrop");
    return image ? [image.getAttribute("src"), getComputedStyle(image).objectFit, image.naturalWidth] : null;
  });
const marks = () => layout().locator(".mos-mark:visible").count();

await report(async () => {
  await open();

  // concepts: those that the graph loads for these regions, with their tokens
  await build({
    layout: ["MOS_RegionLayout"],
    wizard: loader("wizard"),
    zebra: loader("zebra", "wizard"),
    taxi: loader("taxi"),
    composer: ["MOS_ComposerAttention", {}, { concepts: ["zebra", 0], regions: ["layout", 0] }],
  });
  await show();
  await setLayout([box(0, 0, 200, 512), box(300, 0, 200, 512, { prompt: "a cat" })]);
  await click([100, 200]);
  await page.waitForFunction(() => document.querySelector(".mos-mark:not([hidden])"));
  seen.marked = [await marks(), await status()];
  await button("Choose among the loaded concepts");
  seen.concepts = await page.locator(".mos-menu button").allTextContents();
  seen.swatches = await page.locator(".mos-menu .mos-swatch").count();
  await shot("concepts");
  await choose("zebra");
  seen.conceptChosen = (await regions())[0];
  await press("Control+z");
  seen.conceptUndone = (await regions())[0].prompt;
  await press("Control+y");
  await click([400, 200], { button: "right" });
  await choose("Concept");
  await choose("wizard");
  seen.second = (await regions())[1];
  seen.unmarked = await marks();

  // two concepts on one place: said, until one is in front
  await drag([[400, 400], [260, 400]]);
  seen.clash = [await status(), await layout().locator(".mos-clash").count()];
  await shot("clash");
  await press("]");
  seen.noClash = [await status(), await layout().locator(".mos-clash").count()];

  // ordinary LoRAs: by the name and the words of their loader, or by the file's
  await build({
    layout: ["MOS_RegionLayout"],
    bear: loader("polarbear_lora"),
    hero: [
      "MOS_LoadEDLoRA",
      { lora_name: "demo: superhero_lora.safetensors", name: "Sir", trigger_words: "knight, sword" },
      { concepts: ["bear", 0] },
    ],
    composer: ["MOS_ComposerAttention", {}, { concepts: ["hero", 0], regions: ["layout", 0] }],
  });
  await show();
  await setLayout([box(0, 0, 200, 512, { prompt: "a cat" })]);
  await click([100, 200]);
  await page.waitForFunction(() => document.querySelector(".mos-mark:not([hidden])"));
  await button("Choose among the loaded concepts");
  seen.loras = await page.locator(".mos-menu button").allTextContents();
  await choose("Sir");
  seen.loraChosen = [(await regions())[0], await marks()];

  // copied to another node, with its prompt and concept, fitted to its canvas
  await build({ layout: ["MOS_RegionLayout"], other: ["MOS_RegionLayout", { width: 1024 }] });
  await show();
  await setLayout([box(0, 0, 256, 512, { prompt: "a <wizard>", concept: "wizard", color: 3 })]);
  await click([100, 200]);
  await press("Control+c");
  await page.evaluate(() => {
    app.canvas.ds.offset = [-430, 0];
    app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(500);
  const second = await settled(layout(1));
  await page.mouse.click(second.x + second.width / 2, second.y + second.height / 2);
  await press("Control+v", "Control+v");
  seen.pasted = await regions(1);
  seen.nodesAfterPaste = await page.evaluate(() => app.graph._nodes.length);
  await press("Control+x");
  seen.cut = (await regions(1)).length;

  // the last picture that the graph drew lies behind, in its own shape, without a link
  const drawing = ["EmptyImage", { width: 96, height: 48, color: 255 }];
  await build({
    layout: ["MOS_RegionLayout"],
    draw: drawing,
    save: ["PreviewImage", {}, { images: ["draw", 0] }],
    explain: ["PreviewImage", {}, { images: ["layout", 1] }],
  });
  await show();
  await setLayout([box(0, 0, 200, 512, { prompt: "seen", hidden: true })]);
  seen.run = await run();
  await page.waitForFunction(() => document.querySelector(".mos-pictured .mos-backdrop")?.naturalWidth);
  seen.lastPicture = await picture();
  await page
    .waitForFunction(() => document.querySelector(".mos-status").textContent.includes("left out"), null, { timeout: 10000 })
    .catch(() => {});
  seen.notes = await status();
  await shot("picture");
  await button("Picture behind the regions");
  await choose("No picture");
  seen.noPicture = await picture();
  seen.pictureKept = await page.evaluate(() => app.graph.serialize().nodes.find((n) => n.type === "MOS_RegionLayout").properties.mos_picture);
  await button("Picture behind the regions");
  await choose("The linked picture");
  seen.pictureAgain = Boolean(await picture());

  // width and height lead the latent; regions that come in are edited here
  await build({
    layout: ["MOS_RegionLayout", { width: 256, height: 128 }],
    latent: ["EmptyLatentImage", {}, { width: ["layout", 2], height: ["layout", 3] }],
    mask: ["SolidMask", { value: 1, width: 64, height: 32 }],
    region: ["MOS_RegionFromMask", { prompt: "from a mask" }, { mask: ["mask", 0] }],
    load: ["MOS_LoadMiniature"],
    decode: ["VAEDecode", {}, { samples: ["latent", 0], vae: ["load", 2] }],
    save: ["PreviewImage", {}, { images: ["decode", 0] }],
  });
  await page.evaluate(() => {
    const [node, region] = ["MOS_RegionLayout", "MOS_RegionFromMask"].map((type) =>
      app.graph._nodes.find((n) => n.type === type)
    );
    region.connect(0, node, node.findInputSlot("regions"));
  });
  await show();
  seen.sizeRun = await run();
  await page.waitForTimeout(1500);
  seen.sizeOfPicture = await page.evaluate(async () => {
    const node = app.graph._nodes.find((n) => n.type === "PreviewImage");
    const [image] = app.nodeOutputs[node.id].images;
    const shown = new Image();
    shown.src = app.api.apiURL(`/view?${new URLSearchParams(image)}`);
    await shown.decode();
    return [shown.naturalWidth, shown.naturalHeight];
  });
  await button("Picture behind the regions");
  await choose("Edit the regions that come in");
  seen.taken = (await regions()).map((r) => [r.prompt, r.width, r.height, Boolean(r.mask)]);
  seen.takenLink = await page.evaluate(() => {
    const node = app.graph._nodes.find((n) => n.type === "MOS_RegionLayout");
    return node.inputs.find((input) => input.name === "regions").link;
  });

  // two fingers come closer; a finger that rests opens the menu
  await build({ layout: ["MOS_RegionLayout"] });
  await show();
  await setLayout([box(100, 100, 300, 300, { prompt: "x" })]);
  const whole = await settled();
  const touch = await page.context().newCDPSession(page);
  const fingers = async (type, ...points) =>
    touch.send("Input.dispatchTouchEvent", {
      type,
      touchPoints: points.map(([x, y], id) => ({ x, y, id })),
    });
  const [a, b] = [await at([200, 256]), await at([312, 256])];
  await fingers("touchStart", a);
  await fingers("touchStart", a, b);
  for (let i = 1; i <= 5; i++) await fingers("touchMove", [a[0] - 8 * i, a[1]], [b[0] + 8 * i, b[1]]);
  await fingers("touchEnd");
  const expected = (b[0] - a[0] + 80) / (b[0] - a[0]);
  seen.pinch = (await settled()).width / whole.width / expected;
  seen.afterPinch = await places();
  await press("Escape", "-", "-", "-", "-");
  await fingers("touchStart", await at([250, 250]));
  await page.waitForTimeout(900);
  await fingers("touchEnd");
  seen.longPress = await page.locator(".mos-menu").count();
  await press("Escape");

  // thirty regions, ten of them masks: a drag of a hundred moves
  const thirty = Array.from({ length: 30 }, (_, i) => {
    const [x, y] = [(i % 6) * 80 + 8, Math.floor(i / 6) * 96 + 8];
    const mask = { size: [64, 64], runs: [] };
    if (i % 3 || x > 400) return box(x, y, 72, 88, { prompt: `thing ${i}` });
    const left = Math.round(x / 8);
    const top = Math.round(y / 8);
    for (let row = 0; row < 10; row++) mask.runs.push(row ? 56 : top * 64 + left, 8);
    mask.runs.push(4096 - mask.runs.reduce((sum, n) => sum + n, 0));
    return { ...box(x, y, 64, 80, { prompt: `mask ${i}` }), mask };
  });
  for (const [name, listed] of [["drag", false], ["dragListed", true]]) {
    if (listed) await button("List of all");
    await setLayout(thirty);
    await settled();
    seen[name] = await page.evaluate(async () => {
      const stage = document.querySelector(".mos-stage");
      const shown = stage.getBoundingClientRect();
      const point = (x, y) => ({
        ...{ clientX: shown.left + (shown.width * x) / 512, clientY: shown.top + (shown.height * y) / 512 },
        ...{ bubbles: true, cancelable: true, button: 0, buttons: 1, pointerId: 1, pointerType: "mouse" },
      });
      stage.setPointerCapture = () => {}; // there is no pointer of the page behind these events
      const send = (type, x, y) => stage.dispatchEvent(new PointerEvent(type, point(x, y)));
      const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
      send("pointerdown", 120, 40);
      const took = [];
      const frames = [];
      let before = performance.now();
      for (let i = 1; i <= 100; i++) {
        const began = performance.now();
        send("pointermove", 120 + i * 2, 40 + i);
        stage.getBoundingClientRect(); // with the page's own layout
        took.push(performance.now() - began);
        await frame();
        const now = performance.now();
        frames.push(now - before);
        before = now;
      }
      send("pointerup", 320, 140);
      const sorted = (all) => all.toSorted((x, y) => x - y);
      const round = (n) => Math.round(100 * n) / 100;
      return {
        median: round(sorted(took)[50]),
        slow: round(sorted(took)[95]),
        frame: round(sorted(frames)[50]),
      };
    });
    seen[`${name}Moved`] = (await places())[1];
    await shot(name);
  }
});
