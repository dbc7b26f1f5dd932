"""Regions to and from other packs: masks, bounding boxes, SEGS, poses."""

from comfy_api.latest import io

from ..mos_core.regions.added import with_values
from ..mos_core.regions.found import ORDERS
from ..mos_core.regions.from_mask_batch import add_masks
from ..mos_core.regions.from_poses import add_poses
from ..mos_core.regions.picture import draw_regions
from ..mos_core.regions.segs import SHAPES, add_segs, write_segs
from ..mos_core.regions.soften import feather as soften
from ..mos_core.regions.soften import grow as enlarge
from ..mos_core.regions.to_masks import (
    crop_regions,
    label_of,
    region_boxes,
    region_masks,
)
from .regions import NEGATIVE, WEIGHT, BoundingBox, tell_notes, value_inputs
from .schema import CATEGORY, MosRegions, schema

Segs = io.Custom("SEGS")
Poses = io.Custom("POSE_KEYPOINT")
ORDER_TIP = "Which of them the first line is for, which the second, and so on."
PROMPTS = {"default": "", "multiline": True}


class RegionsToMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionsToMasks",
            display_name="Regions To Masks",
            category=f"{CATEGORY}/regions",
            description="Hands regions on to other nodes: a mask each, bounding boxes, Impact "
            "Pack's SEGS, names, a crop of a picture for each, and a picture with labels.",
            search_aliases=["mix of show", "segs", "bounding boxes", "region to mask", "crop"],
            inputs=[
                MosRegions.Input("regions", tooltip="From Region Layout, Regions From Attention."),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Makes every mask so many pixels larger on each side; below 0 smaller.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="Softens the edges over about so many pixels on each side.",
                ),
                io.Float.Input(
                    "crop_factor",
                    default=1.25,
                    min=1.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much larger than its box a region's crop is, in SEGS and crops.",
                ),
                io.Int.Input(
                    "crop_size",
                    default=256,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Side of the square that each crop of the picture is fitted into.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture that is cropped and labelled. Masks, boxes and SEGS then "
                    "have its size, without it the canvas's.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="masks", tooltip="One for each region, in order."),
                BoundingBox.Output(
                    display_name="boxes", tooltip="ComfyUI's bounding boxes, in order."
                ),
                Segs.Output(display_name="segs", tooltip="For Impact Pack's nodes."),
                io.String.Output(display_name="names", tooltip="One a line, in order."),
                io.Image.Output(display_name="preview", tooltip="The regions with their labels."),
                io.Image.Output(display_name="crops", tooltip="Each region's part of the picture."),
            ],
        )

    @classmethod
    def execute(
        cls, regions, grow=0, feather=0.0, crop_factor=1.25, crop_size=256, image=None
    ) -> io.NodeOutput:
        labelled = draw_regions(regions, image)
        width, height = regions.width, regions.height
        if image is not None:
            height, width = image.shape[1:3]
        masks = soften(enlarge(region_masks(regions, width, height), grow), feather)
        return io.NodeOutput(
            masks if len(masks) else masks.new_zeros(1, height, width),
            region_boxes(regions, masks),
            write_segs(regions, masks, crop_factor),
            "\n".join(label_of(region) for region in regions.regions),
            labelled,
            crop_regions(labelled if image is None else image, masks, crop_factor, crop_size),
        )


class RegionsFromSegs(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionsFromSegs",
            display_name="Regions From SEGS",
            category=f"{CATEGORY}/regions",
            description="One region for each segment that Impact Pack's detectors found, with a "
            "line of prompts each.",
            search_aliases=["mix of show", "impact pack", "detection", "segs"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                Segs.Input("segs", tooltip="From a detector or filter of Impact Pack."),
                io.String.Input(
                    "prompts",
                    **PROMPTS,
                    tooltip="One prompt a line, in the order below. Empty: the segments' own "
                    "labels. Segments without a prompt are left out.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    tooltip="Whether a region is the segment's mask or its box.",
                ),
                io.Combo.Input("order", options=list(ORDERS), tooltip=ORDER_TIP),
                io.String.Input("negative", **NEGATIVE),
                io.Float.Input("weight", **WEIGHT),
                MosRegions.Input("regions", optional=True, tooltip="Regions before these."),
                *value_inputs(),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(
        cls, segs, prompts, shape, order, negative, weight, regions=None, depth=0, strength=1.0,
        reference="",
    ) -> io.NodeOutput:  # fmt: skip
        added = add_segs(segs, prompts, shape, order, negative, weight, regions)
        return tell_notes(cls, with_values(added, regions, depth, strength, reference))


class RegionsFromMasks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionsFromMasks",
            display_name="Regions From Masks",
            category=f"{CATEGORY}/regions",
            description="One region for each mask of a batch, as SAM and other segmentation nodes "
            "give them, with a line of prompts each.",
            search_aliases=["mix of show", "sam", "segmentation", "mask batch"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Mask.Input("masks", tooltip="A batch of masks; white is the region."),
                io.String.Input(
                    "prompts",
                    **PROMPTS,
                    tooltip="One prompt a line, in the order below. Masks without one are left "
                    "out.",
                ),
                io.Combo.Input("order", options=list(ORDERS), tooltip=ORDER_TIP),
                io.String.Input("negative", **NEGATIVE),
                io.Float.Input("weight", **WEIGHT),
                MosRegions.Input("regions", optional=True, tooltip="Regions before these."),
                *value_inputs(),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(
        cls, masks, prompts, order, negative, weight, regions=None, depth=0, strength=1.0,
        reference="",
    ) -> io.NodeOutput:  # fmt: skip
        added = add_masks(masks, prompts, order, negative, weight, regions)
        return tell_notes(cls, with_values(added, regions, depth, strength, reference))


class RegionsFromPoses(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_RegionsFromPoses",
            display_name="Regions From Poses",
            category=f"{CATEGORY}/regions",
            description="One region around each person of a pose, with a line of prompts each, so "
            "that everybody gets the pose that was meant for them.",
            search_aliases=["mix of show", "openpose", "dwpose", "keypoints", "pose"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.MultiType.Input(
                    "poses",
                    [Poses, io.String],
                    tooltip="POSE_KEYPOINT of an OpenPose or DWPose node, or a text with JSON of "
                    "the same.",
                ),
                io.String.Input(
                    "prompts",
                    **PROMPTS,
                    tooltip="One prompt a line, in the order below. Persons without one are left "
                    "out.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.15,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much larger than the keypoints a region is on each side, as a "
                    "share of the pose's longer side.",
                ),
                io.Combo.Input(
                    "order", options=list(ORDERS), default="left to right", tooltip=ORDER_TIP
                ),
                io.String.Input("negative", **NEGATIVE),
                io.Float.Input("weight", **WEIGHT),
                MosRegions.Input("regions", optional=True, tooltip="Regions before these."),
                *value_inputs(),
            ],
            outputs=[MosRegions.Output(display_name="regions", tooltip="All regions, in order.")],
        )

    @classmethod
    def execute(
        cls, poses, prompts, margin, order, negative, weight, regions=None, depth=0, strength=1.0,
        reference="",
    ) -> io.NodeOutput:  # fmt: skip
        added = add_poses(poses, prompts, margin, order, negative, weight, regions)
        return tell_notes(cls, with_values(added, regions, depth, strength, reference))


NODES = [RegionsToMasks, RegionsFromSegs, RegionsFromMasks, RegionsFromPoses]
