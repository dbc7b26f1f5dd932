// The editor in a browser, for the scripts of this folder: node SCRIPT ADDRESS RENDERER [FOLDER]
//
// ADDRESS of a running ComfyUI with the pack, RENDERER classic or vue, FOLDER for screenshots. Needs
// playwright-core (found through NODE_PATH too) and Chromium (CHROMIUM names it). A script prints one
// JSON object of what was seen.

import { createRequire } from "node:module";

export const [address, renderer, folder] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)("playwright-core");

export const seen = { errors: [] };
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});
export const page = await browser.newPage({ viewport: { width: 1400, height: 1000 } });
page.setDefaultTimeout(180000); // a busy machine may take long to load the editor
page.on("pageerror", (error) => seen.errors.push(String(error.stack || error).slice(0, 400)));

/** Runs the script's steps and prints what they saw, also where one of them fails. */
export async function report(steps) {
  try {
    await steps();
  } finally {
    console.log(JSON.stringify(seen));
    await browser.close();
  }
}

export async function shot(name) {
  if (folder) await page.screenshot({ path: `${folder}/${renderer}-${name}.png` });
}

/** The page in the renderer that is asked for. A first visit is greeted with a dialog in place of a
 * graph: so the server is told the settings before the page asks for them. */
export async function open() {
  const data = {
    "Comfy.TutorialCompleted": true,
    "Comfy.Minimap.Visible": false,
    "Comfy.VueNodes.Enabled": renderer === "vue",
  };
  const told = await page.request.post(`${address}/settings`, { data });
  if (!told.ok()) throw new Error(`the server does not take settings: ${told.status()}`);
  await page.goto(address);
  await page.waitForFunction(() => window.LiteGraph?.registered_node_types?.MOS_RegionLayout);
  // The editor opens a graph of its own some time after that.
  await page.waitForFunction(() => window.app?.graph?._nodes?.length > 0);
  await page.waitForTimeout(500);
  await page.keyboard.press("Escape");
}

/** Queues the graph and waits for the end of it: [event, message of the error]. */
export const run = () =>
  page.evaluate(
    () =>
      new Promise((resolve) => {
        for (const name of ["execution_success", "execution_error"]) {
          app.api.addEventListener(name, (event) => resolve([name, event.detail?.exception_message]));
        }
        app.queuePrompt(0, 1);
        setTimeout(() => resolve(["timeout"]), 60000);
      })
  );

/** Puts nodes on an empty graph: {name: [type, {widget: value}, {input: [name, slot]}]}. The newer
 * renderer remembers places by numbers of nodes, so every node gets a number of its own. */
export const build = (nodes) =>
  page.evaluate((given) => {
    app.graph.clear();
    window.mosNumber ??= 1000;
    const made = {};
    for (const [i, [name, [type, values]]] of Object.entries(given).entries()) {
      const node = (made[name] = LiteGraph.createNode(type));
      node.id = ++window.mosNumber;
      node.pos = [(i % 4) * 500, Math.floor(i / 4) * 700];
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
    app.canvas.ds.scale = 0.6; // the newer renderer leaves out what nodes say below 0.57
    app.canvas.ds.offset = [40, 120];
    app.canvas.setDirty(true, true);
  }, nodes);
