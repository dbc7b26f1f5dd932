"""Compose: Composer Attention, and a look at what it did."""

from comfy_api.latest import io

from ..mos_core.compose.guidance import GuidanceTerms
from ..mos_core.compose.injection import INJECTIONS
from ..mos_core.compose.picture import draw_losses, draw_maps
from ..mos_core.compose.placement import STRENGTH as PLACEMENT
from ..mos_core.compose.report import write_report
from ..mos_core.compose.schedule import LARGEST_CHANGE, MAX_STEPS, STEP_SIZE
from ..mos_core.compose.settings import (
    BY_AREA,
    PICTURE_LAYERS,
    RESOLUTIONS,
    ComposerSettings,
    GuidanceSettings,
)
from ..mos_core.patch.compose.composer import apply_composer
from ..mos_core.patch.regional.notes import tell_at_sampling
from .inputs import base_inputs, placement_inputs
from .progress import teller
from .schema import CATEGORY, MosComposerLog, MosConcepts, MosRegions, schema

STRENGTH = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05}


class ComposerAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_ComposerAttention",
            display_name="Composer: Regional LoRA, Two Characters",
            category=f"{CATEGORY}/compose",
            description="Several concepts in one picture without merging them: each acts in its "
            "own region alone, and the first steps are corrected until it shows in its box "
            "(LoRA-Composer). Works with the stock samplers.",
            search_aliases=[
                "mix of show",
                "lora composer",
                "multi concept",
                "regional lora",
                "two characters",
                "multiple characters",
                "character lora",
                "multi character",
                "attention couple",
            ],
            hidden=[io.Hidden.unique_id],
            advanced=(
                "enhancement_strength",
                "fill",
                "fill_strength",
                "restriction",
                "restriction_strength",
                "guidance_step_size",
                "attention_maps",
                "largest_change",
            ),
            inputs=[
                *base_inputs(),
                MosConcepts.Input("concepts", tooltip="From Load ED-LoRA; usually a chain."),
                MosRegions.Input(
                    "regions",
                    tooltip="Where each concept goes: its tokens stand in the region's prompt, or "
                    "its name in the region.",
                ),
                io.Combo.Input(
                    "injection",
                    options=list(INJECTIONS),
                    default=INJECTIONS[0],
                    tooltip="Which layers get a concept's LoRA, in its region only. full: all of "
                    "them. paper: cross-attention. reference: as the public code, cross-attention "
                    "without queries.",
                ),
                io.Boolean.Input(
                    "isolation",
                    default=True,
                    tooltip="In self-attention, regions do not see each other.",
                ),
                io.Boolean.Input(
                    "enhancement",
                    default=True,
                    tooltip="Corrects the picture between steps: a concept strong in its region.",
                ),
                io.Float.Input(
                    "enhancement_strength", **STRENGTH, tooltip="1 is the published one."
                ),
                io.Boolean.Input(
                    "fill",
                    default=True,
                    tooltip="Corrects the picture between steps: each concept fills its region.",
                ),
                io.Float.Input("fill_strength", **STRENGTH, tooltip="1 is the published one."),
                io.Boolean.Input(
                    "restriction",
                    default=True,
                    tooltip="Corrects the picture between steps: regions look less at the outside.",
                ),
                io.Float.Input(
                    "restriction_strength", **STRENGTH, tooltip="1 is the published one."
                ),
                io.Boolean.Input(
                    "reinitialise",
                    default=True,
                    tooltip="Before sampling, each region gets the noise that suits its concept "
                    "best.",
                ),
                io.Int.Input(
                    "guidance_steps",
                    default=MAX_STEPS,
                    min=0,
                    max=10000,
                    tooltip="At most so many steps are corrected; it ends earlier when the loss "
                    "rises. 0: none, any sampler works.",
                ),
                io.Float.Input(
                    "guidance_step_size",
                    default=STEP_SIZE,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    tooltip="How far the first of these steps goes; later ones go less far. 20 is "
                    "the published one.",
                ),
                io.Combo.Input(
                    "attention_maps",
                    options=list(RESOLUTIONS),
                    default="auto",
                    tooltip="Resolution of the attention maps that lead the latent, as a part of "
                    "the picture's. auto: 1/32 as published, finer where regions are small.",
                ),
                io.Float.Input(
                    "largest_change",
                    default=LARGEST_CHANGE,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="No step goes farther than this, as a share of the noise. 0: no limit, "
                    "as published.",
                ),
                io.String.Input(
                    "background_concept",
                    default="",
                    tooltip="Name of a loaded concept for what lies outside the regions. Encode "
                    "the global prompt with this node's CLIP then.",
                ),
                io.Combo.Input(
                    "picture_layers",
                    options=list(PICTURE_LAYERS),
                    default=BY_AREA,
                    optional=True,
                    tooltip="Transformers (Flux, Z-Image, Qwen-Image ...): what of a LoRA acts in "
                    "layers that see the picture as a whole. by area: the region's share of the "
                    "picture. skip: nothing. all: everything, on the other regions too.",
                ),
                *placement_inputs(),
                io.Boolean.Input(
                    "balance",
                    default=False,
                    optional=True,
                    tooltip="The region that is farthest from showing its concept leads the latent "
                    "most, instead of all alike.",
                ),
                io.Boolean.Input(
                    "published_overlaps",
                    default=False,
                    optional=True,
                    tooltip="Isolation as in the paper's code: where boxes overlap, the shared "
                    "part sees neither of them.",
                ),
                io.Float.Input(
                    "adapt",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="After this share of the steps each region takes on the silhouette of "
                    "what was drawn in it, and the background gets the rest back. 0: never.",
                ),
                io.Float.Input(
                    "isolation_border",
                    default=0.0,
                    min=0.0,
                    max=0.5,
                    step=0.05,
                    optional=True,
                    tooltip="Where regions touch, so much of each (of its size) stays open to the "
                    "other, so that the picture holds together. On the small transformer that "
                    "ships 0.25 was best, on UNets it changed little. 0: isolation as published.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="Connect this to the sampler."),
                io.Clip.Output(tooltip="For the global prompts, positive and negative."),
                MosComposerLog.Output(
                    display_name="log", tooltip="For Attention Maps (Composer), after sampling."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, concepts, regions, injection="full", isolation=True,
        enhancement=True, enhancement_strength=1.0, fill=True, fill_strength=1.0,
        restriction=True, restriction_strength=1.0, reinitialise=True,
        guidance_steps=MAX_STEPS, guidance_step_size=STEP_SIZE, attention_maps="auto",
        largest_change=LARGEST_CHANGE, background_concept="", picture_layers=BY_AREA,
        placement=False, placement_strength=PLACEMENT, balance=False, published_overlaps=False,
        adapt=0.0, isolation_border=0.0,
    ) -> io.NodeOutput:  # fmt: skip
        terms = GuidanceTerms(
            enhancement * enhancement_strength,
            fill * fill_strength,
            restriction * restriction_strength,
            balance=balance,
        )
        guidance = GuidanceSettings(
            terms,
            guidance_step_size,
            guidance_steps,
            attention_maps,
            reinitialise,
            largest_change,
        )
        settings = ComposerSettings(
            injection,
            isolation,
            guidance,
            background_concept,
            picture_layers,
            placement * placement_strength,
            published_overlaps,
            adapt,
            isolation_border,
        )
        *patched, notes = apply_composer(model, clip, concepts, regions, settings)
        tell = teller(cls)
        tell("\n".join(notes))
        tokens = [token for entry in concepts for token in entry.concept.tokens]
        tell_at_sampling(patched[0], regions, notes, tell, tokens)
        return io.NodeOutput(*patched)


class ComposerMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_ComposerMaps",
            display_name="Attention Maps (Composer)",
            category=f"{CATEGORY}/compose",
            description="What Composer: Regional LoRA saw while it led the latent: each region's "
            "attention maps over the steps, and how the loss fell.",
            search_aliases=["mix of show", "attention map", "loss curve"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                MosComposerLog.Input("log", tooltip="From Composer: Regional LoRA."),
                io.Latent.Input(
                    "samples", tooltip="What the sampler made with its MODEL, so that it is done."
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="maps", tooltip="A row per region, a column per step."
                ),
                io.Image.Output(display_name="losses", tooltip="The loss over the steps."),
                io.String.Output(
                    display_name="report", tooltip="How many steps were led, how far, and notes."
                ),
            ],
        )

    @classmethod
    def execute(cls, log, samples) -> io.NodeOutput:
        report = write_report(log)
        teller(cls)(report)
        return io.NodeOutput(draw_maps(log), draw_losses(log), report)


NODES = [ComposerAttention, ComposerMaps]
