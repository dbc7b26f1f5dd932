"""The attention layers of Stable Diffusion's UNets, and diffusers' names of their modules.

A *layer* is one transformer block of the UNet, that is one self-attention (attn1) and one
cross-attention (attn2). Layers are numbered in the order in which the UNet runs them: down,
middle, up. Row i of a concept's embedding table belongs to layer i (Mix-of-Show, section
"embedding-decomposed LoRA"; P+).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArchitectureError
from .family import CROSS, AttentionLayer


@dataclass(frozen=True)
class UNetLayer(AttentionLayer):
    """One transformer block of the UNet; key: (side, number of the block, depth)."""

    diffusers: str  # spatial transformer in diffusers' state dict

    @property
    def block(self) -> tuple[str, int]:
        """ComfyUI's name, as in transformer_options["block"]."""
        return self.key[:2]

    @property
    def depth(self) -> int:
        """Transformer block inside its spatial transformer, ComfyUI's "block_index"."""
        return self.key[2]

    @property
    def comfy(self) -> str:
        """Spatial transformer in ComfyUI's state dict, below "diffusion_model."."""
        return self.path.partition(".transformer_blocks.")[0]


@dataclass(frozen=True)
class Architecture:
    """A family of UNets with the same attention layers, of any width."""

    name: str
    layers: tuple[UNetLayer, ...]


def walk_attention_layers(
    num_res_blocks: Sequence[int],
    transformer_depth: Sequence[int],
    transformer_depth_middle: int,
    transformer_depth_output: Sequence[int],
) -> Iterator[UNetLayer]:
    """The attention layers of a UNet in running order, from ComfyUI's own UNet configuration.

    `transformer_depth` is per residual block in running order, `transformer_depth_output` per
    residual block in *reversed* running order (ComfyUI's convention).
    """
    index = 0

    def expand(side: str, number: int, depth: int, comfy: str, diffusers: str, level: int):
        nonlocal index
        for d in range(depth):
            path = f"{comfy}.transformer_blocks.{d}"
            yield UNetLayer(index, (side, number, d), path, CROSS, level, diffusers)
            index += 1

    down = list(transformer_depth)
    block = 1  # input block 0 is the first convolution
    for level, count in enumerate(num_res_blocks):
        for i in range(count):
            name = f"down_blocks.{level}.attentions.{i}"
            yield from expand("input", block, down.pop(0), f"input_blocks.{block}.1", name, level)
            block += 1
        block += 1  # the downsampler

    last = len(num_res_blocks) - 1
    depth = max(transformer_depth_middle, 0)
    yield from expand("middle", 0, depth, "middle_block.1", "mid_block.attentions.0", last)

    up = list(transformer_depth_output)
    block = 0
    for level, count in enumerate(reversed(num_res_blocks)):
        for i in range(count + 1):
            name, depth = f"up_blocks.{level}.attentions.{i}", up.pop()
            yield from expand(
                "output", block, depth, f"output_blocks.{block}.1", name, last - level
            )
            block += 1


def layers_of(unet_config: Mapping) -> tuple[UNetLayer, ...]:
    """The attention layers of any UNet with spatial transformers; () for other models."""
    try:
        return tuple(
            walk_attention_layers(
                unet_config["num_res_blocks"],
                unet_config["transformer_depth"],
                unet_config.get("transformer_depth_middle") or 0,
                unet_config["transformer_depth_output"],
            )
        )
    except (KeyError, IndexError, TypeError):
        return ()


SD15 = Architecture(
    "sd15",
    tuple(
        walk_attention_layers(
            [2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 0, 0], 1, [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
        )
    ),
)  # 16 layers
SDXL = Architecture(
    "sdxl",
    tuple(
        walk_attention_layers([2, 2, 2], [0, 0, 2, 2, 10, 10], 10, [0, 0, 0, 2, 2, 2, 10, 10, 10])
    ),
)  # 70 layers

ARCHITECTURES = {a.name: a for a in (SD15, SDXL)}


def architecture_by_layers(count: int) -> Architecture:
    """The architecture whose UNet has `count` cross-attention layers.

    Raises ArchitectureError if there is none.
    """
    for architecture in ARCHITECTURES.values():
        if len(architecture.layers) == count:
            return architecture
    known = ", ".join(f"{a.name} has {len(a.layers)}" for a in ARCHITECTURES.values())
    raise ArchitectureError(
        f"an embedding table of {count} rows fits no known architecture ({known} "
        "cross-attention layers)"
    )


# --- names of single modules -----------------------------------------------------------------

_SPATIAL = r"(?P<spatial>(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.attentions\.\d+)"
_IN_BLOCK = r"(?:attn[12]\.(?:to_q|to_k|to_v|to_out\.0)|ff\.net\.0\.proj|ff\.net\.2)"
_UNET_MODULE = re.compile(
    rf"{_SPATIAL}\.(?P<rest>proj_in|proj_out|transformer_blocks\.(?P<depth>\d+)\.{_IN_BLOCK})"
)
_TEXT_MODULE = re.compile(
    r"text_model\.encoder\.layers\.\d+\."
    r"(?:self_attn\.(?:q_proj|k_proj|v_proj|out_proj)|mlp\.(?:fc1|fc2))"
)


def comfy_unet_key(module: str, architecture: Architecture) -> str | None:
    """Key of a UNet module's weight in ComfyUI's model, from its diffusers name; None if unknown.

    'mid_block.attentions.0.proj_in' -> 'diffusion_model.middle_block.1.proj_in.weight'
    """
    match = _UNET_MODULE.fullmatch(module)
    if match is None:
        return None
    depth = int(match["depth"] or 0)
    for layer in architecture.layers:
        if layer.diffusers == match["spatial"] and layer.depth == depth:
            return f"diffusion_model.{layer.comfy}.{match['rest']}.weight"
    return None


def comfy_text_key(module: str, encoder: str = "clip_l") -> str | None:
    """Key of a text-encoder module's weight in ComfyUI's CLIP, from its diffusers name.

    'text_model.encoder.layers.0.mlp.fc1' ->
    'clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight'; None if unknown.
    """
    return f"{encoder}.transformer.{module}.weight" if _TEXT_MODULE.fullmatch(module) else None
