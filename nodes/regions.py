"""Regions: Region Layout, From Mask, From Colour Mask, From Bounding Boxes."""

from comfy_api.latest import io, ui

from ..mos_core.regions.added import with_values
from ..mos_core.regions.from_boxes import add_boxes
from ..mos_core.regions.from_colors import add_colors
from ..mos_core.regions.from_masks import add_mask
from ..mos_core.regions.layout_json import EMPTY_LAYOUT, format_layout, parse_layout
from ..mos_core.regions.picture import draw_before, draw_regions
from ..mos_core.regions.region import Regions
from .progress import send_text
from .schema import CATEGORY, MosLayout, MosRegions, schema

SIZE = {"default": 512, "min": 64, "max": 16384, "step": 8}
WEIGHT = {
    "default": 1.0,
    "min": 0.0,
    "max": 10.0,
    "step": 0.05,
    "tooltip": "1: the region's prompt replaces the global one; less: a mixture; 0: no effect.",
}
NEGATIVE = {
    "default": "",
    "multiline": True,
    "tooltip": "What the region should not show, beside the global negative prompt.",
}
VALUES = {
    "depth": {
        "default": 0,
        "min": -1000,
        "max": 1000,
        "tooltip": "Where regions overlap, the larger depth is in front; equal ones share.",
    },
    "strength": {
        "default": 1.0,
        "min": 0.0,
        "max": 10.0,
        "step": 0.05,
        "tooltip": "Of the concept's LoRA in the region; 1: as it was loaded.",
    },
    "reference": {
        "default": "",
        "tooltip": "Number of the region's reference picture, for models that edit pictures, in "
        "the order of the nodes that add them. Empty: none of its own.",
    },
}
BoundingBox = getattr(io, "BoundingBox", io.Custom("BOUNDING_BOX"))  # not in 0.3.75


def value_inputs() -> list:
    """What a box of a layout has too; new ones, at the end of a node's inputs."""
    return [
        io.Int.Input("depth", **VALUES["depth"], optional=True),
        io.Float.Input("strength", **VALUES["strength"], optional=True),
        io.String.Input("reference", **VALUES["reference"], optional=True),
    ]


class RegionLayout(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionLayout",
            display_name="Region Layout (Regional Prompt)",
            category=f"{CATEGORY}/regions",
            description="Draw boxes or masks on the picture and give each a prompt of its own.",
            search_aliases=["mix of show", "regional prompt", "boxes", "bounding box", "couple"],
            inputs=[
                io.Int.Input("width", **SIZE, tooltip="Width of the picture in pixels."),
                io.Int.Input("height", **SIZE, tooltip="Height of the picture in pixels."),
                MosLayout.Input(
                    "layout",
                    default=EMPTY_LAYOUT,
                    socketless=True,
                    tooltip="The regions, drawn on the canvas: drag to draw a box, drag it to move "
                    "it, its handles to resize it; brush and lasso draw any shape. Saved as JSON, "
                    "which API clients can write too.",
                ),
                MosRegions.Input(
                    "regions",
                    optional=True,
                    tooltip="Regions from other nodes; the boxes of this one are added at the end.",
                ),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="A picture to draw on, shown behind the boxes: at once if it is from "
                    "Load Image, else after a run. The regions do not depend on it.",
                ),
            ],
            outputs=[
                MosRegions.Output(display_name="regions", tooltip="All regions, in order."),
                io.Image.Output(
                    display_name="picture", tooltip="The layout as a picture, to look at or save."
                ),
                io.Int.Output(display_name="width", tooltip="Width of the canvas in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the canvas in pixels."),
            ],
        )

    @classmethod
    def execute(
        cls, width, height, layout=EMPTY_LAYOUT, regions=None, background=None
    ) -> io.NodeOutput:
        drawn = parse_layout(layout, width, height).after(regions)
        shown = tell_editor(drawn, regions, background)
        return io.NodeOutput(
            drawn, draw_regions(drawn, background), drawn.width, drawn.height, ui=shown
        )


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
                io.String.Input("negative", **NEGATIVE),
                io.Float.Input("weight", **WEIGHT),
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
                *value_inputs(),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(
        cls, mask, prompt, negative, weight, concept, regions=None, depth=0, strength=1.0,
        reference="",
    ) -> io.NodeOutput:  # fmt: skip
        added = add_mask(mask, prompt, negative, weight, concept, regions)
        return tell_notes(cls, with_values(added, regions, depth, strength, reference))


class RegionsFromColors(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionsFromColors",
            display_name="Regions From Colour Mask",
            category=f"{CATEGORY}/regions",
            description="One region for each colour of a picture, with a line of prompts each.",
            search_aliases=["mix of show", "color mask", "segmentation", "regional prompt"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input(
                    "image",
                    tooltip="A picture in flat colours, one for each region. Any size: it covers "
                    "the whole canvas.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="One prompt a line, for the colours from left to right. A line that "
                    "begins with a colour, as in #ff0000 a cat, is for that colour.",
                ),
                io.String.Input(
                    "background",
                    default="#000000",
                    tooltip="The colour that is no region: #rrggbb, black, white or none.",
                ),
                io.String.Input("negative", **NEGATIVE),
                io.Float.Input("weight", **WEIGHT),
                MosRegions.Input(
                    "regions",
                    optional=True,
                    tooltip="Regions before these. Without them the canvas is as large as the "
                    "picture.",
                ),
                *value_inputs(),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(
        cls, image, prompts, background, negative, weight, regions=None, depth=0, strength=1.0,
        reference="",
    ) -> io.NodeOutput:  # fmt: skip
        added = add_colors(image, prompts, background, negative, weight, regions)
        return tell_notes(cls, with_values(added, regions, depth, strength, reference))


class RegionsFromBoxes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionsFromBoxes",
            display_name="Regions From Bounding Boxes",
            category=f"{CATEGORY}/regions",
            description="One region for each bounding box, from ComfyUI's own nodes that make "
            "such boxes (in versions that have them) or from JSON, with a line of prompts each.",
            search_aliases=["mix of show", "bounding box", "bbox", "detection"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.MultiType.Input(
                    "boxes",
                    [BoundingBox, io.String],
                    tooltip="Bounding boxes, or a text with JSON: "
                    '[{"x": 0, "y": 0, "width": 256, "height": 512}], in pixels of the canvas.',
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="One prompt a line, in the order of the boxes. Empty: the boxes' own "
                    "labels. Boxes without a prompt are left out.",
                ),
                io.Int.Input("width", **SIZE, tooltip="Width of the canvas in pixels."),
                io.Int.Input("height", **SIZE, tooltip="Height of the canvas in pixels."),
                io.String.Input("negative", **NEGATIVE),
                io.Float.Input("weight", **WEIGHT),
                MosRegions.Input("regions", optional=True, tooltip="Regions before these."),
                *value_inputs(),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(
        cls, boxes, prompts, width, height, negative, weight, regions=None, depth=0, strength=1.0,
        reference="",
    ) -> io.NodeOutput:  # fmt: skip
        added = add_boxes(boxes, prompts, width, height, negative, weight, regions)
        return tell_notes(cls, with_values(added, regions, depth, strength, reference))


def tell_editor(drawn, before, background) -> dict:
    """What the layout's canvas shows after a run: notes, and what lies under its boxes; the regions
    before them as a layout, to be edited there."""
    shown: dict = {
        "mos_notes": list(drawn.notes),
        "mos_canvas": [drawn.width, drawn.height],
        "mos_before": [len(before.regions) if before else 0],
    }
    if before is not None and before.regions:
        fitted = Regions(drawn.width, drawn.height).after(before)
        shown["mos_incoming"] = [format_layout(fitted)]
    picture = draw_before(before, drawn.width, drawn.height, background)
    if picture is not None:
        shown["mos_background"] = ui.PreviewImage(picture).as_dict()["images"]
    return shown


def tell_notes(node, regions) -> io.NodeOutput:
    """The regions, and on the node what was changed on the way in."""
    send_text(node.hidden.unique_id if node.hidden else None, "\n".join(regions.notes))
    return io.NodeOutput(regions)


NODES = [RegionLayout, RegionFromMask, RegionsFromColors, RegionsFromBoxes]
