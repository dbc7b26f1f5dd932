"""Find: Regions From Attention."""

from comfy_api.latest import io

from ..mos_core.find.picture import draw_found
from ..mos_core.find.settings import MISSING, SHAPES, FindSettings
from ..mos_core.patch.find.find_regions import ShortRun, find_regions
from .inputs import base_inputs, sampler_inputs
from .progress import send_text
from .schema import CATEGORY, MosConcepts, MosRegions, schema

SHARE = {"min": 0.0, "max": 1.0, "step": 0.01}


class FindRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_FindRegions",
            display_name="Regions From Attention",
            category=f"{CATEGORY}/regions",
            description="Finds a region for each concept by itself: a short run with all of them "
            "in one prompt, and the silhouettes of what their words looked at. No box needs to be "
            "drawn.",
            search_aliases=["mix of show", "auto mask", "attention mask", "freefuse", "segment"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *base_inputs(),
                MosConcepts.Input("concepts", tooltip="From Load ED-LoRA; usually a chain."),
                io.String.Input(
                    "positive",
                    default="",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="One prompt for the whole picture that names every concept once for "
                    "each time it shall appear.",
                ),
                io.String.Input(
                    "negative", default="", multiline=True, tooltip="The negative prompt."
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="As large as the picture is to be. Of a batch the first one counts.",
                ),
                *sampler_inputs(
                    "The seed of the noise. Take that of the picture: it then puts its "
                    "characters where this run did.",
                    (8, "Steps of the short run."),
                    (7.0, "How strictly the short run follows the prompt."),
                    ("euler", "The sampling algorithm of the short run."),
                    ("normal", "How the noise is taken away over its steps."),
                ),
                io.String.Input(
                    "region_prompt",
                    default="",
                    multiline=True,
                    tooltip="What each region's prompt says, %concept% standing for the concept's "
                    "words, %part% for the parts of the prompt between commas that name it or "
                    "nobody. Empty: the prompt, with the concept's words in the place of every "
                    "part that names somebody else.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    tooltip="silhouette: the outline of what was found. area: that and what is "
                    "around it, up to its own size. box: the box around it.",
                ),
                io.Float.Input(
                    "grow",
                    default=FindSettings.grow,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How far regions are grown, as a share of their size; never over what "
                    "is nearer to another.",
                ),
                io.Float.Input(
                    "feather",
                    default=FindSettings.feather,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="How soft their edges are, in cells of the attention maps (1/16 of "
                    "the picture's pixels, 1/8 in small pictures).",
                ),
                io.Float.Input(
                    "concept_strength",
                    default=ShortRun.strength,
                    **SHARE,
                    tooltip="Share of the concepts' strengths in the short run. Little keeps them "
                    "from disturbing each other; more is needed where the model does not know "
                    "their words at all.",
                ),
                io.Int.Input(
                    "spread",
                    default=FindSettings.spread,
                    min=0,
                    max=4,
                    tooltip="How often the maps are spread along what belongs together. 0: not.",
                ),
                io.Float.Input(
                    "background",
                    default=FindSettings.background,
                    **SHARE,
                    tooltip="What looks less at the words than this, as a share of the most, is "
                    "background. Higher: smaller regions.",
                ),
                io.Combo.Input(
                    "missing",
                    options=list(MISSING),
                    tooltip="What a concept gets that the short run did not draw.",
                ),
                MosRegions.Input(
                    "regions",
                    optional=True,
                    tooltip="Regions in which to look: each is replaced by the silhouette of its "
                    "concept inside it, a little beyond its edges included, and keeps its prompt.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="To see what the short run drew in the picture."
                ),
            ],
            outputs=[
                MosRegions.Output(display_name="regions", tooltip="For Composer: Regional LoRA."),
                io.Image.Output(
                    display_name="picture",
                    tooltip="What was found, then the attention of each concept's words.",
                ),
                io.String.Output(display_name="report", tooltip="What was found and what not."),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, concepts, positive, negative, latent_image, seed, steps=8, cfg=7.0,
        sampler_name="euler", scheduler="normal", region_prompt="", shape=SHAPES[0],
        grow=FindSettings.grow, feather=FindSettings.feather,
        concept_strength=ShortRun.strength, spread=FindSettings.spread,
        background=FindSettings.background, missing=MISSING[0], regions=None, vae=None,
    ) -> io.NodeOutput:  # fmt: skip
        run = ShortRun(
            positive, negative, seed, steps, cfg, sampler_name, scheduler, concept_strength
        )
        settings = FindSettings(spread, background, shape, grow, feather, missing)
        found = find_regions(
            model, clip, concepts, latent_image, run, settings, region_prompt, regions
        )
        report = "\n".join((*found.report, *found.regions.notes))
        send_text(cls.hidden.unique_id if cls.hidden else None, report)
        drawn = None if vae is None else vae.decode(found.latent)
        return io.NodeOutput(found.regions, draw_found(found.regions, found.maps, drawn), report)


NODES = [FindRegions]
