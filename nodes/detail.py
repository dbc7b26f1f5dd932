"""Detail: a second pass on each region."""

import torch
from comfy_api.latest import io

from ..mos_core.patch.detail import DetailSettings, detail_regions, parse_seeds
from ..mos_core.regions.crops import resize
from .inputs import base_inputs, sampler_inputs
from .progress import send_text
from .schema import CATEGORY, MosConcepts, MosRegions, schema

PREVIEW = 256  # side of a crop in the picture of crops


class DetailRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_DetailRegions",
            display_name="Detail Regions",
            category=f"{CATEGORY}/regions",
            description="Draws each region of a finished picture once more, larger, with its own "
            "concept's LoRA alone, and puts it back. Outside the regions nothing changes.",
            search_aliases=["mix of show", "detailer", "adetailer", "face detailer", "inpaint"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("image", tooltip="The picture; of a batch every one."),
                *base_inputs(),
                io.Vae.Input("vae", tooltip="Its VAE."),
                MosConcepts.Input("concepts", tooltip="From Load ED-LoRA; usually a chain."),
                MosRegions.Input(
                    "regions",
                    tooltip="What is drawn again: those that the picture was drawn with, or others "
                    "(Regions From SEGS). They are stretched over the picture.",
                ),
                *sampler_inputs(
                    "The seed of the first region's noise; the others count up from it.",
                    (20, "Sampling steps of a region."),
                    (7.0, "How strictly the prompts are followed."),
                    ("dpmpp_2m", "The sampling algorithm."),
                    ("karras", "How the noise is taken away over the steps."),
                ),
                io.Float.Input(
                    "denoise",
                    default=0.4,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a region is drawn anew: 0.3 sharpens, 0.6 corrects who it "
                    "is, 1 keeps nothing.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=64,
                    max=4096,
                    step=16,
                    tooltip="A crop is drawn with as many pixels as a square of this side: what "
                    "the model was made for (512, 1024).",
                ),
                io.Float.Input(
                    "context",
                    default=1.5,
                    min=1.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How much larger than its region a crop is, so that the model sees "
                    "where it stands.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Makes every region so many pixels larger on each side; below 0 "
                    "smaller.",
                ),
                io.Float.Input(
                    "feather",
                    default=8.0,
                    min=0.0,
                    max=256.0,
                    step=0.5,
                    tooltip="How soft a region is put back, in pixels of the picture.",
                ),
                io.Boolean.Input(
                    "hold_surroundings",
                    default=True,
                    tooltip="While a crop is drawn, what is outside the region stays the picture's "
                    "(an inpainting mask). Off: all of the crop is drawn, and only the region is "
                    "put back.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="A line for each region in place of its own prompt; an empty line "
                    "keeps it.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="For regions without a negative prompt of their own.",
                ),
                io.String.Input(
                    "seeds",
                    default="",
                    tooltip="A seed for each region, between commas; empty: counted up from seed.",
                ),
                io.String.Input(
                    "leave_out",
                    default="",
                    tooltip="Regions that stay as they are, between commas: numbers from 1, "
                    "concepts' names or words of their prompts.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture with its details."),
                io.Image.Output(
                    display_name="crops", tooltip="Each region's crop before and after, in pairs."
                ),
                io.String.Output(display_name="report", tooltip="What was drawn, and how large."),
            ],
        )

    @classmethod
    def execute(
        cls, image, model, clip, vae, concepts, regions, seed, steps=20, cfg=7.0,
        sampler_name="dpmpp_2m", scheduler="karras", denoise=0.4, size=512, context=1.5, grow=0,
        feather=8.0, hold_surroundings=True, prompts="", negative="", seeds="", leave_out="",
    ) -> io.NodeOutput:  # fmt: skip
        settings = DetailSettings(
            seed, steps, cfg, sampler_name, scheduler, denoise, size, context, grow, feather,
            hold_surroundings, tuple(prompts.split("\n")), parse_seeds(seeds), negative,
            tuple(leave_out.split(",")),
        )  # fmt: skip
        done = detail_regions(image, model, clip, vae, concepts, regions, settings)
        report = "\n".join(done.report)
        send_text(cls.hidden.unique_id if cls.hidden else None, report)
        pairs = [resize(crop, PREVIEW, PREVIEW) for pair in done.crops for crop in pair]
        crops = torch.cat(pairs) if pairs else image[:1, ..., :3]
        return io.NodeOutput(done.image, crops, report)


NODES = [DetailRegions]
