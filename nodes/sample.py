"""Sample with regions: Regional Attention, Regional Sampler, Region Strengths for Control."""

from comfy_api.latest import io

from ..mos_core.compose.notes import fused_notes
from ..mos_core.compose.placement import STRENGTH as PLACEMENT
from ..mos_core.patch.regional.attention import add_regional_attention
from ..mos_core.patch.regional.control import limit_controls, parse_strengths
from ..mos_core.patch.regional.notes import tell_at_sampling
from ..mos_core.patch.regional.texts import draw_prompts
from ..mos_core.patch.text.layerwise_clip import vocabulary_of
from ..mos_core.patch.text.notes import check_same_source
from .inputs import placement_inputs, regional_inputs, sampler_inputs
from .progress import teller
from .schema import CATEGORY, MosRegions, schema

STRENGTH = {"min": 0.0, "max": 10.0, "step": 0.05}


def patch_model(model, clip, regions, tell, placement):
    """The MODEL with regions; tells the node what was changed on the way, what looks wrong, and
    after a sampling what did not act in it."""
    notes = (
        *regions.notes,
        *check_same_source(model, clip, regions),
        *fused_notes(regions, vocabulary_of(clip)),
    )
    said: list[str] = []

    def tell_first(text: str) -> None:
        said[:] = [text] if text else []
        tell(text)

    def tell_more(sentence: str) -> None:
        said.append(sentence)
        tell("\n".join(said))

    tell_first("\n".join(notes))
    drawn = draw_prompts(clip, regions)
    patched = add_regional_attention(model, drawn, placement=placement, say=tell_more)
    tell_at_sampling(patched, regions, notes, tell_first)
    return patched


class RegionalAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionalAttention",
            display_name="Regional Attention Patch (Couple)",
            category=f"{CATEGORY}/regions",
            description="Gives a MODEL regions with prompts of their own, for any sampler. All are "
            "drawn in one pass (Mix-of-Show). Needs no LoRA; with fused concepts each box shows "
            "its own.",
            search_aliases=["mix of show", "regional prompt", "attention couple", "regional"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *regional_inputs(),
                *placement_inputs(),
            ],
            outputs=[io.Model.Output(tooltip="Connect this to the sampler.")],
        )

    @classmethod
    def execute(
        cls, model, clip, regions, placement=False, placement_strength=PLACEMENT
    ) -> io.NodeOutput:
        strength = placement * placement_strength
        return io.NodeOutput(patch_model(model, clip, regions, teller(cls), strength))


class RegionalSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionalSampler",
            display_name="Regional Sampler: Multiple Characters",
            category=f"{CATEGORY}/regions",
            description="Regional Attention Patch and KSampler in one: samples a latent in which "
            "each region follows a prompt of its own.",
            search_aliases=["mix of show", "regional prompt", "ksampler", "two characters"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *regional_inputs(),
                io.Conditioning.Input(
                    "positive", tooltip="The whole picture's prompt; it holds outside the regions."
                ),
                io.Conditioning.Input(
                    "negative",
                    tooltip="The whole picture's negative prompt. It also holds in regions that "
                    "have none of their own.",
                ),
                io.Latent.Input("latent_image", tooltip="Empty, or a picture to change."),
                *sampler_inputs(
                    "The seed of the noise.",
                    (20, "Number of sampling steps."),
                    (
                        7.5,
                        "How strictly the prompts are followed; 1 leaves out the negative prompts.",
                    ),
                    ("dpmpp_2m", "The sampling algorithm; every one works."),
                    ("karras", "How the noise is taken away over the steps."),
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Less than 1 keeps something of the latent that comes in.",
                ),
                *placement_inputs(),
            ],
            outputs=[io.Latent.Output(tooltip="The sampled latent, for VAE Decode.")],
        )

    @classmethod
    def execute(cls, model, clip, regions, positive, negative, latent_image, seed, steps, cfg,
                sampler_name, scheduler, denoise, placement=False,
                placement_strength=PLACEMENT) -> io.NodeOutput:  # fmt: skip
        import nodes  # ComfyUI's own

        strength = placement * placement_strength
        patched = patch_model(model, clip, regions, teller(cls), strength)
        (sampled,) = nodes.common_ksampler(
            patched,
            seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            denoise=denoise,
        )
        return io.NodeOutput(sampled)


class RegionalControl(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionalControl",
            display_name="Region Strengths for Control",
            category=f"{CATEGORY}/regions",
            description="Gives a ControlNet or T2I-Adapter a strength per region. Put it directly "
            "after Apply ControlNet; those before it in the chain keep their strength.",
            search_aliases=["mix of show", "controlnet", "t2i adapter", "regional control", "pose"],
            inputs=[
                io.Conditioning.Input("positive", tooltip="From Apply ControlNet."),
                io.Conditioning.Input("negative", tooltip="From Apply ControlNet."),
                MosRegions.Input("regions", tooltip="Where each strength holds."),
                io.String.Input(
                    "strengths",
                    default="1",
                    tooltip="One number for all regions, or one each in their order: 1, 0.5, 0. "
                    "Multiplied with the strength of Apply ControlNet.",
                ),
                io.Float.Input(
                    "outside",
                    default=0.0,
                    **STRENGTH,
                    tooltip="The strength where there is no region.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="For the sampler."),
                io.Conditioning.Output(display_name="negative", tooltip="For the sampler."),
            ],
        )

    @classmethod
    def execute(cls, positive, negative, regions, strengths, outside) -> io.NodeOutput:
        each = parse_strengths(strengths, len(regions.regions))
        return io.NodeOutput(*limit_controls((positive, negative), regions, each, outside))


NODES = [RegionalAttention, RegionalSampler, RegionalControl]
