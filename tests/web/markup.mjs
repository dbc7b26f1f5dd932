// Whether a text that a user or a file brings ever becomes markup: node tests/web/markup.mjs ...
//
// Every text holds <img src=x onerror=mosRan++>. `seen` says for each place whether the text can be
// read as it was written, how often the script ran and how many such images the page has.

import { build, open, page, report, run, seen, shot } from "./page.mjs";

const MARKUP = "<img src=x onerror=mosRan++>";
const TOKEN = "<img/src=x/onerror=mosRan++>"; // of the concept in markup.safetensors
const PROMPT = `fun & ${MARKUP} &amp; [[words|www]] __LNK7__`;
const layout = (region) =>
  JSON.stringify({
    version: 1,
    canvas: [128, 128],
    regions: [{ x: 0, y: 0, width: 64, height: 128, negative: "", weight: 1, ...region }],
  });

/** Remembers what became of texts in the page. */
async function look(place, ...texts) {
  await page.waitForTimeout(600); // a script of an image that fails needs a moment
  seen[place] = await page.evaluate(
    (wanted) => {
      const fields = [...document.querySelectorAll("textarea, input")].map((field) => field.value);
      const read = [document.body.innerText, ...fields].join("\n").replaceAll("\u00a0", " ");
      return {
        unread: wanted.filter((text) => !read.includes(text)),
        ran: window.mosRan,
        images: [...document.querySelectorAll('img[src="x"], img[src$="/x"]')].map(
          (image) => image.parentElement.outerHTML.slice(0, 300)
        ),
      };
    },
    texts
  );
  await shot(place);
}

const MODEL = { model: ["load", 0], clip: ["load", 1] };
const loaders = {
  load: ["MOS_LoadMiniature", { ckpt_name: "golden_miniature.safetensors" }],
  concept: ["MOS_LoadEDLoRA", { lora_name: "markup.safetensors" }],
};
const text = { negative: ["CLIPTextEncode", { text: MARKUP }, { clip: ["load", 1] }] };
const latent = { latent: ["EmptyLatentImage", { width: 128, height: 128 }] };
const sampler = (source) => ({
  sample: [
    "KSampler",
    { steps: 1 },
    {
      model: [source, 0],
      positive: ["negative", 0],
      negative: ["negative", 0],
      latent_image: ["latent", 0],
    },
  ],
});

await report(async () => {
  await open();
  await page.evaluate(() => (window.mosRan = 0));

  await build({
    layout: [
      "MOS_RegionLayout",
      { width: 128, height: 128, layout: layout({ prompt: PROMPT, negative: MARKUP }) },
    ],
    preview: ["PreviewImage", {}, { images: ["layout", 1] }],
  });
  await page.locator(".mos-chip").first().click();
  await page.locator(".mos-chip").first().hover();
  await look("layout", PROMPT);
  seen.layoutRun = await run();
  await look("layoutAfterRun", PROMPT);

  // notes and report of the composer: the region's prompt, the concept's token
  await build({
    ...loaders,
    ...text,
    ...latent,
    layout: [
      "MOS_RegionLayout",
      { width: 128, height: 128, layout: layout({ prompt: PROMPT, concept: "markup" }) },
    ],
    composer: [
      "MOS_ComposerAttention",
      { guidance_steps: 1 },
      { ...MODEL, concepts: ["concept", 0], regions: ["layout", 0] },
    ],
    ...sampler("composer"),
    maps: ["MOS_ComposerMaps", {}, { log: ["composer", 2], samples: ["sample", 0] }],
    image: ["PreviewImage", {}, { images: ["maps", 0] }],
  });
  seen.composerRun = await run();
  await look("composer", `write ${TOKEN} <plain> where`, PROMPT.slice(0, 39));

  // a text that is handed on, and a refusal
  await build({
    ...loaders,
    words: ["PreviewAny", {}, { source: ["concept", 1] }],
  });
  seen.wordsRun = await run();
  await look("words", `${TOKEN} <plain>`);

  await build({
    ...loaders,
    apply: ["MOS_ApplyConcepts", {}, { ...MODEL, concepts: ["concept", 0] }],
    positive: ["CLIPTextEncode", { text: `${PROMPT} <nobody>` }, { clip: ["apply", 1] }],
    negative: ["CLIPTextEncode", { text: MARKUP }, { clip: ["apply", 1] }],
    ...latent,
    ...sampler("apply"),
    decode: ["VAEDecode", {}, { samples: ["sample", 0], vae: ["load", 2] }],
    image: ["PreviewImage", {}, { images: ["decode", 0] }],
  });
  await page.evaluate(() => {
    const nodes = app.graph._nodes;
    const sample = nodes.find((node) => node.type === "KSampler");
    nodes.filter((node) => node.type === "CLIPTextEncode")[0].connect(0, sample, 1);
  });
  seen.refusedRun = await run();
  const details = page.getByText("View details"); // newer editors show a message only on demand
  await details.first().click({ timeout: 2000 }).catch(() => {});
  // ComfyUI 0.33's (1.49) says only that there was an error, and where
  const bare = page.getByText("threw an error during execution").first();
  seen.messageLeftOut = await bare.isVisible();
  await look("refused", "the prompt names <nobody>");
  await page.keyboard.press("Escape");

  // the list of a drop-down: names of files
  await build({ ...loaders, training: ["MOS_LoadTrainingImages"] });
  seen.listed = await page.evaluate(() =>
    app.graph._nodes.flatMap((node) =>
      node.widgets.filter((widget) => widget.type === "combo").flatMap((w) => w.options.values)
    )
  );
  for (const type of ["MOS_LoadEDLoRA", "MOS_LoadTrainingImages"]) {
    await page.evaluate((wanted) => {
      const node = app.graph._nodes.find((one) => one.type === wanted);
      const { values } = node.widgets.find((widget) => widget.type === "combo").options;
      new LiteGraph.ContextMenu(values, { scale: 1 }); // what a click on the drop-down opens
    }, type);
  }
  await look("dropDowns", "markup.safetensors");
});
