"""Regions: Region Layout, Region From Mask."""

from comfy_api.latest import io

from ..mos_core.regions.from_masks import add_mask
from ..mos_core.regions.layout_json import EMPTY_LAYOUT, parse_layout
from ..mos_core.regions.picture import draw_regions
from .progress import send_text
from .schema import CATEGORY, MosLayout, MosRegions, schema

SIZE = {"default": 512, "min": 64, "max": 16384, "step": 8}
WEIGHT = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.05}


class RegionLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionLayout",
            display_name="Region Layout",
            category=f"{CATEGORY}/regions",
            description="Draw boxes on the picture and give each a prompt of its own.",
            search_aliases=["mix of show", "regional prompt", "boxes", "bounding boxes", "couple"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Int.Input("width", **SIZE, tooltip="Width of the picture in pixels."),
                io.Int.Input("height", **SIZE, tooltip="Height of the picture in pixels."),
                MosLayout.Input(
                    "layout",
                    default=EMPTY_LAYOUT,
                    socketless=True,
                    tooltip="The boxes, drawn on the canvas: drag to draw, drag a box to move it, "
                    "its handles to resize it. Saved as JSON, which API clients can write too.",
                ),
                MosRegions.Input(
                    "regions",
                    optional=True,
                    tooltip="Regions from other nodes; the boxes of this one are added at the end.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="A picture to draw on. Shown behind the boxes after the first run; the "
                    "regions do not depend on it.",
                ),
            ],
            outputs=[
                MosRegions.Output(display_name="regions", tooltip="All regions, in order."),
                io.Image.Output(
                    display_name="picture", tooltip="The layout as a picture, to look at or save."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, width, height, layout=EMPTY_LAYOUT, regions=None, background=None
    ) -> io.NodeOutput:
        drawn = parse_layout(layout, width, height).after(regions)
        node_id = cls.hidden.unique_id if cls.hidden else None
        send_text(node_id, "\n".join(drawn.notes))
        return io.NodeOutput(drawn, draw_regions(drawn, background))


class RegionFromMask(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionFromMask",
            display_name="Region From Mask",
            category=f"{CATEGORY}/regions",
            description="A mask as a region with a prompt of its own. Grey values are weights, so "
            "soft edges stay soft.",
            search_aliases=["mix of show", "regional prompt", "mask to region"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="White is the region, grey is a weight. Any size: it covers the whole "
                    "canvas. The masks of a batch are joined.",
                ),
                io.String.Input(
                    "prompt", default="", multiline=True, tooltip="What the region shows."
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="What the region should not show, beside the global negative prompt.",
                ),
                io.Float.Input(
                    "weight",
                    **WEIGHT,
                    tooltip="1: the region's prompt replaces the global one; less: a mixture; 0: "
                    "no effect.",
                ),
                io.String.Input(
                    "concept",
                    default="",
                    tooltip="Name of the region's concept. Empty: found by the concept tokens in "
                    "the prompt.",
                ),
                MosRegions.Input(
                    "regions",
                    optional=True,
                    tooltip="Regions before this one. Without them the canvas is as large as the "
                    "mask.",
                ),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(cls, mask, prompt, negative, weight, concept, regions=None) -> io.NodeOutput:
        added = add_mask(mask, prompt, negative, weight, concept, regions)
        send_text(cls.hidden.unique_id if cls.hidden else None, "\n".join(added.notes))
        return io.NodeOutput(added)


NODES = [RegionLayout, RegionFromMask]
