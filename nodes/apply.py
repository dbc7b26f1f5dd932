"""Apply Concepts: concepts on a MODEL and CLIP, for the stock text encode and sampler nodes."""

from comfy_api.latest import io

from ..mos_core.patch.apply import MODES, apply_concepts
from ..mos_core.patch.fit_notes import fit_notes
from ..mos_core.patch.text.notes import tell_of_plain_text
from .inputs import base_inputs
from .progress import teller
from .schema import CATEGORY, MosConcepts, schema


class ApplyConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_ApplyConcepts",
            display_name="Apply Concepts (Mix of Show)",
            category=f"{CATEGORY}/load",
            description="Gives a MODEL and CLIP the concepts: the stock text encode node then "
            "understands their tokens, the stock samplers draw them. Several concepts are summed "
            "by their strengths, which blurs them; use Fuse Concepts to keep them apart.",
            search_aliases=["mix of show", "apply lora", "edlora", "character lora"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *base_inputs(),
                MosConcepts.Input("concepts", tooltip="From Load ED-LoRA / LoRA; may be a chain."),
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default=MODES[0],
                    optional=True,
                    tooltip="merge: into the weights, as ComfyUI's Load LoRA does. beside: next to "
                    "the layers, which is more exact on weights of low precision (fp8, fp16) and a "
                    "little slower.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="Connect this to the sampler."),
                io.Clip.Output(
                    tooltip="Connect this to the text encode nodes, positive and negative."
                ),
            ],
        )

    @classmethod
    def execute(cls, model, clip, concepts, mode=MODES[0]) -> io.NodeOutput:
        patched = apply_concepts(model, clip, concepts, mode)
        tell, notes = teller(cls), "\n".join(fit_notes(model, clip, concepts))
        tell(notes)
        if concepts:  # else these are the inputs themselves
            tell_of_plain_text(*patched, lambda note: tell(f"{note}\n{notes}".strip()))
        return io.NodeOutput(*patched)


NODES = [ApplyConcepts]
