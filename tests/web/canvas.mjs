// The canvas of Region Layout by itself: drawing, masks, depth, several regions, keys, menus, views.
// node tests/web/canvas.mjs ADDRESS RENDERER [FOLDER]; see page.mjs

import { open, page, report, seen, shot } from "./page.mjs";
import {
  at,
  build,
  button,
  choose,
  click,
  drag,
  large,
  layout,
  places,
  press,
  regions,
  setLayout,
  settled,
  show,
  status,
  tool,
  white,
  written,
} from "./stage.mjs";

const box = (x, y, width, height, more = {}) => ({ x, y, width, height, prompt: "", ...more });
const chosen = () => layout().locator(".mos-chip[aria-pressed=true] .mos-number").allTextContents();
const menu = () => page.locator(".mos-menu");

await report(async () => {
  await open();
  await build({ layout: ["MOS_RegionLayout"] });
  await show();

  // an empty canvas says what to do; what is typed after drawing is the prompt
  const hint = layout().locator(".mos-hint");
  seen.hint = [await hint.isVisible(), await hint.textContent()];
  await shot("empty");
  await drag([[16, 48], [152, 464]]);
  await page.keyboard.type("a nun in the snow");
  seen.typed = await regions();
  seen.hintAfter = await hint.isVisible();
  await press("Escape");
  await page.keyboard.type("at noon");
  await press("Escape");
  seen.typedOn = (await regions())[0].prompt;
  await press("Control+z");
  seen.typedUndone = (await regions()).map((r) => r.prompt);
  await press("Control+y");

  // double click: the prompt; right click: a menu, by mouse and by keys
  await page.waitForTimeout(450);
  await page.mouse.dblclick(...(await at([80, 300])));
  seen.doubleClick = await written();
  await press("Escape");
  await click([80, 300], { button: "right" });
  seen.menu = [await menu().getAttribute("role"), await menu().locator("button").count()];
  seen.menuFocus = await page.evaluate(() => document.activeElement.textContent);
  await shot("menu");
  await press("ArrowUp");
  seen.menuLast = await page.evaluate(() => document.activeElement.textContent);
  await press("Escape");
  seen.menuClosed = [await menu().count(), await page.evaluate(() => document.activeElement.className)];
  await click([80, 300], { button: "right" });
  await choose("Duplicate");
  seen.menuDuplicated = (await regions()).length;
  await press("Control+z", "ContextMenu");
  seen.menuByKey = await menu().count();
  await press("Escape");

  // masks: brush, a second stroke on the same, a new one with Shift, Alt rubs out, eraser, lasso
  await setLayout([]);
  await tool("brush");
  await drag([[100, 100], [300, 100]]);
  seen.brushed = (await regions()).map((r) => [r.x, r.y, r.width, r.height, white(r)]);
  await drag([[300, 100], [300, 300]]);
  seen.brushedOn = (await regions()).map((r) => [r.x, r.y, r.width, r.height]);
  await drag([[100, 400], [200, 400]], ["Shift"]);
  seen.brushedNew = (await regions()).length;
  await drag([[150, 360], [150, 440]], ["Alt"]);
  seen.rubbed = white((await regions())[1]);
  await press("[");
  seen.radius = await layout().locator(".mos-radius").inputValue();
  await tool("eraser");
  await drag([[60, 400], [240, 400]]);
  await press("]", "]", "]");
  await drag([[60, 400], [240, 400]]);
  seen.rubbedOut = (await regions()).length;
  for (let i = 0; i < 3; i++) await press("Control+z");
  seen.strokesUndone = (await regions()).length === 2 && white((await regions())[1]);
  await press("Escape");
  await tool("lasso");
  await drag([[300, 350], [480, 350], [480, 480], [300, 480]]);
  seen.lasso = (await places()).at(-1);
  await drag([[300, 350], [390, 350], [390, 480], [300, 480]], ["Alt"]);
  seen.lassoCut = (await places()).at(-1);
  await shot("masks");
  await tool("box");
  await drag([[430, 420], [400, 380]]);
  seen.maskMoved = (await places()).at(-1);
  seen.maskElements = await layout().locator(".mos-mask:visible").count();

  // a box becomes a mask when it is painted on; and a box again
  await setLayout([box(64, 64, 128, 128, { prompt: "x" })]);
  await click([100, 100]);
  await tool("eraser");
  await drag([[64, 64], [64, 192]]);
  seen.boxPainted = (await regions()).map((r) => [r.prompt, Boolean(r.mask)]);
  await tool("box");
  await click([150, 150], { button: "right" });
  await choose("Mask to box");
  seen.boxAgain = (await regions()).map((r) => Boolean(r.mask));

  // depth: the one in front is pressed first
  await setLayout([box(64, 64, 200, 200), box(100, 100, 200, 200)]);
  await click([10, 10]);
  await click([150, 150]);
  seen.top = await chosen();
  await press("[");
  await click([10, 10]);
  await click([150, 150]);
  seen.topAfter = [await chosen(), (await regions()).map((r) => r.depth ?? null)];
  await button("Bring to the front");
  seen.front = (await regions()).map((r) => r.depth ?? null);

  // several: chosen, moved, aligned, removed
  await setLayout([box(8, 8, 64, 64), box(104, 40, 64, 64), box(400, 300, 64, 64)]);
  await click([300, 100]);
  await click([40, 40]);
  await page.keyboard.down("Control");
  await click([130, 70]);
  await page.keyboard.up("Control");
  seen.two = await chosen();
  await drag([[130, 70], [162, 118]]);
  seen.twoMoved = await places();
  await button("Align and distribute");
  await choose("Upper edges");
  seen.twoAligned = await places();
  await press("Control+a");
  await button("Align and distribute");
  await choose("Distribute from left");
  seen.distributed = await places();
  await press("Control+z", "Control+z", "Control+z");
  seen.severalUndone = await places();

  // locked, hidden, colour
  await setLayout([box(8, 8, 200, 200, { prompt: "wall" })]);
  await click([100, 100]);
  await press("Control+l");
  await drag([[100, 100], [200, 150]]);
  seen.locked = await places();
  await press("Control+z", "Escape");
  await click([100, 100], { button: "right" });
  await choose("Locked");
  await press("Control+h");
  seen.hidden = [(await regions())[0].hidden, await layout().locator(".mos-box.mos-hidden").count()];
  await button("Show");
  await layout().locator(".mos-color").click();
  await choose("Green");
  const [{ hidden, color, locked }] = await regions();
  seen.shown = [hidden ?? false, color, locked ?? false];

  // shape of the canvas, and back
  const size = () =>
    page.evaluate(() => app.graph._nodes[0].widgets.slice(0, 2).map((widget) => widget.value));
  await layout().locator(".mos-select[aria-label^=Shape]").selectOption("16:9");
  const wide = await settled();
  seen.shape = [await size(), wide.width / wide.height, await places()];
  await press("Control+z");
  seen.shapeUndone = [await size(), await places()];
  await layout().locator(".mos-select[aria-label^=Arrange]").selectOption("grid6");
  seen.preset = (await regions()).length;

  // zoom: by wheel, drawn at the right place, moved, back
  await setLayout([]);
  const whole = await settled();
  await page.mouse.move(...(await at([128, 128])));
  await page.keyboard.down("Control");
  await page.mouse.wheel(0, -400);
  await page.keyboard.up("Control");
  const close = await settled();
  seen.zoomed = close.width / whole.width;
  await drag([[96, 96], [160, 168]]);
  seen.drawnZoomed = await places();
  await press("Escape");
  await page.keyboard.down("Space");
  await drag([[150, 150], [130, 150]]);
  await page.keyboard.up("Space");
  seen.panned = ((await settled()).x - close.x) / close.width;
  await press("0");
  seen.whole = (await settled()).width / whole.width;
  seen.regionsAfterZoom = (await regions()).length;

  // help
  await press("?");
  seen.help = await page.locator(".mos-help[role=dialog] tr").count();
  await shot("help");
  await press("Escape");
  seen.helpClosed = await page.locator(".mos-help").count();

  // the list, with all fields
  await setLayout([box(0, 0, 256, 512, { prompt: "one" }), box(256, 0, 256, 512, { prompt: "two" })]);
  await button("List of all");
  const rows = layout().locator(".mos-list [role=listitem]");
  seen.list = [await rows.count(), await rows.nth(1).locator("input, textarea").count()];
  await rows.nth(1).locator(".mos-prompt textarea").fill("the second");
  await rows.nth(1).locator(".mos-strength input").fill("0.5");
  await rows.nth(1).locator(".mos-depth input").fill("3");
  await rows.nth(1).locator(".mos-reference input").fill("2");
  await press("Enter", "Tab");
  await rows.nth(0).locator(".mos-negative textarea").fill("blurry");
  await shot("list");
  await button("List of all");
  seen.listed = await regions();

  // the large editor
  await button("Large editor");
  await large().waitFor();
  seen.large = [await page.locator(".mos-popout").getAttribute("role"), (await settled(large())).height];
  await setLayout([]);
  await drag([[100, 100], [300, 300]], [], large());
  await page.keyboard.type("large");
  seen.largeDrawn = (await regions()).map((r) => [r.x, r.y, r.width, r.height, r.prompt]);
  await shot("large");
  await press("Escape", "Escape", "Escape");
  seen.largeClosed = [await large().count(), await layout().locator(".mos-box").count()];

  // what a screen reader is told
  await setLayout([box(0, 0, 256, 512, { prompt: "a <wizard>" })]);
  await click([100, 100]);
  seen.spoken = {
    box: await layout().locator(".mos-box").getAttribute("aria-label"),
    canvas: await layout().locator(".mos-keys").getAttribute("aria-label"),
    chip: await layout().locator(".mos-chip").getAttribute("aria-label"),
    status: await layout().locator(".mos-status").getAttribute("role"),
    nameless: await layout().locator("button, input, select, textarea").evaluateAll((all) =>
      all
        .filter((e) => !e.getAttribute("aria-label") && !e.closest("label") && !e.classList.contains("mos-file"))
        .map((e) => e.outerHTML)
    ),
  };
  seen.status = await status();

  // smallest width
  seen.smallest = await page.evaluate(async () => {
    const [node] = app.graph._nodes;
    node.setSize([150, node.size[1]]);
    await new Promise((resolve) => setTimeout(resolve, 500));
    return document.querySelector(".mos-layout").getBoundingClientRect().width / app.canvas.ds.scale;
  });

  // a node of 0.1.0 grows once by what is new
  seen.older = await page.evaluate(async () => {
    const sizes = [];
    const graph = JSON.parse(JSON.stringify(app.graph.serialize()));
    delete graph.nodes[0].properties.mos_canvas;
    graph.nodes[0].size = [480, 900];
    for (const saved of [graph, null]) {
      const data = saved ?? JSON.parse(JSON.stringify(app.graph.serialize()));
      await app.loadGraphData(data, true, true);
      sizes.push(Math.round(app.graph._nodes[0].size[1]));
    }
    return sizes;
  });
});
