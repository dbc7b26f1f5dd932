// What a newcomer meets first: node search, sockets, templates. node tests/web/first_use.mjs ...

import { address, build, open, page, report, seen, shot } from "./page.mjs";

const WORDS = process.env.MOS_SEARCH_WORDS.split(",");

// The search of the editor of ComfyUI 0.3.75, and of newer ones.
const BOX = ".comfy-vue-node-search-container";
const FIELD = `${BOX} input, [role=dialog]:has(#results-list) input`;
const FOUND = `${BOX} [role=option], #results-list [role=option]`;

/** The nodes that the editor's search offers for some words, the first ones. */
async function search(words) {
  await page.evaluate(() => app.extensionManager.command.execute("Workspace.SearchBox.Toggle"));
  const field = page.locator(FIELD).first();
  await field.waitFor();
  await field.fill(words);
  await page.waitForTimeout(700);
  const found = page.locator(FOUND);
  const names = (await found.allInnerTexts()).slice(0, 8).map((text) => text.split("\n")[0].trim());
  await page.keyboard.press("Escape");
  await page.waitForTimeout(200);
  return names;
}

/** The colour that a socket of a type has: of the canvas's table, or of the dot in the page. */
async function socketColors(types) {
  await build({
    load: ["MOS_LoadEDLoRA"],
    layout: ["MOS_RegionLayout"],
    fuse: ["MOS_FuseConcepts", {}, { concepts: ["load", 0] }],
    composer: ["MOS_ComposerAttention", {}, { regions: ["layout", 0] }],
  });
  await page.waitForTimeout(800);
  await shot("sockets");
  return page.evaluate((wanted) => {
    const vue = app.extensionManager.setting.get("Comfy.VueNodes.Enabled");
    const link = app.canvas.constructor.link_type_colors;
    const dot = (type) => {
      const probe = document.body.appendChild(document.createElement("i"));
      probe.style.backgroundColor = `var(--color-datatype-${type})`;
      const color = getComputedStyle(probe).backgroundColor;
      probe.remove();
      return color;
    };
    return Object.fromEntries(
      wanted.map((type) => [
        type,
        [link[type], vue ? dot(type) : app.canvas.default_connection_color_byType[type]],
      ])
    );
  }, types);
}

await report(async () => {
  await open();
  const types = ["MOS_CONCEPTS", "MOS_REGIONS", "MOS_FUSED", "MOS_COMPOSER_LOG"];
  seen.colors = await socketColors(types);
  seen.dots = await page.evaluate(() =>
    [...document.querySelectorAll(".slot-dot")].map((dot) => getComputedStyle(dot).backgroundColor)
  );

  // a picture of the layout's own into its background: no link, and a reason
  await build({
    layout: ["MOS_RegionLayout"],
    other: ["LoadImage"],
    inverted: ["ImageInvert", {}, { image: ["layout", 1] }],
  });
  seen.circle = await page.evaluate(() => {
    const [layout, other, inverted] = app.graph._nodes;
    const slot = layout.findInputSlot("background");
    const linked = () => layout.inputs[slot].link != null;
    inverted.connect(0, layout, slot);
    const circle = linked();
    other.connect(0, layout, slot);
    return { circle, other: linked() };
  });
  const toast = page.locator(".p-toast-message").first();
  seen.circleSaid = await toast.innerText({ timeout: 5000 }).catch(() => "");

  seen.found = {};
  for (const words of WORDS) seen.found[words] = await search(words);
  await page.evaluate(() => app.extensionManager.setting.set("Comfy.ColorPalette", "light"));
  await page.waitForTimeout(800);
  seen.light = await socketColors(types);
  await page.evaluate(() => app.extensionManager.setting.set("Comfy.ColorPalette", "dark"));
});
