"""Inputs that several nodes have, each with the node's own defaults and words."""

import comfy.samplers
from comfy_api.latest import io

from ..mos_core.compose.placement import STRENGTH as PLACEMENT
from .schema import MosRegions


def sampler_inputs(
    seed: str,
    steps: tuple[int, str],
    cfg: tuple[float, str],
    sampler: tuple[str, str],
    scheduler: tuple[str, str],
) -> list:
    """seed, steps, cfg, sampler_name and scheduler, as KSampler has them: (default, tooltip)."""
    return [
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip=seed,
        ),
        io.Int.Input("steps", default=steps[0], min=1, max=10000, tooltip=steps[1]),
        io.Float.Input(
            "cfg", default=cfg[0], min=0.0, max=100.0, step=0.1, round=0.01, tooltip=cfg[1]
        ),
        io.Combo.Input(
            "sampler_name",
            options=comfy.samplers.KSampler.SAMPLERS,
            default=sampler[0],
            tooltip=sampler[1],
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default=scheduler[0],
            tooltip=scheduler[1],
        ),
    ]


def base_inputs() -> list:
    """MODEL and CLIP of a node that takes a base model."""
    return [
        io.Model.Input("model", tooltip="The base model; it stays as it is."),
        io.Clip.Input("clip", tooltip="Its text encoder; it stays as it is."),
    ]


def regional_inputs() -> list:
    """MODEL, CLIP and regions of a node that draws regions with them."""
    return [
        io.Model.Input(
            "model", tooltip="Usually from Fuse Concepts or Load Fused; it stays as it is."
        ),
        io.Clip.Input("clip", tooltip="Its text encoder, which encodes the regions' prompts."),
        MosRegions.Input("regions", tooltip="From Region Layout or Region From Mask."),
    ]


def placement_inputs() -> list:
    """placement and its strength, at the end of a node that draws regions."""
    return [
        io.Boolean.Input(
            "placement",
            default=False,
            optional=True,
            tooltip="In the first third of the steps, each region looks harder at its own "
            "words. Costs nearly nothing.",
        ),
        io.Float.Input(
            "placement_strength",
            default=PLACEMENT,
            min=0.0,
            max=10.0,
            step=0.1,
            optional=True,
            tooltip="How much harder. About 2.5 helps; 4 and more can harm faces.",
        ),
    ]
