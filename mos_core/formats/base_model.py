"""For which base model a LoRA file was made, told from names, widths and metadata alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..adapters import split_name
from ..adapters.ends import DOWN, HADA
from ..errors import FileFormatError
from ..families import FAMILIES, family_named

# Bases that no family stands for: title -> marks as in `Family.file_marks`, the first that fits.
OTHER_BASES = {
    "Stable Diffusion 3": (r"joint_blocks_\d+_(x|context)_block", r"context_block_attn_qkv"),
    "Wan": (r"blocks_\d+_cross_attn_[kvqo]$", r"blocks_\d+_self_attn_[kvqo]$"),
    "HunyuanVideo": (r"double_blocks_\d+_img_attn_qkv.*individual_token_refiner",),
    "LTX-Video": (r"transformer_blocks_\d+_attn2_.*caption_projection",),
    "Stable Cascade": (r"lora_prior_unet",),
    # Names that several base models share: what is left where no family's own mark is in the file.
    "Z-Image or Lumina 2": (r"(^|_)layers_\d+_(attention|feed_forward)_", r"_refiner_\d+_"),
    "Flux, Chroma or a relative": (r"(double|single)_blocks_\d+_", r"single_transformer_blocks_"),
    "Qwen-Image, Flux or a relative": (r"transformer_blocks_\d+_attn_(add_|to_add_out)",),
    "Cosmos, Anima or Wan": (r"(^|_)blocks_\d+_(self_attn|cross_attn|adaln)",),
}
# Words in a file's own metadata (modelspec.architecture, ss_base_model_version) -> family.
SPOKEN = (
    (r"stable-diffusion-xl|sdxl|pony|illustrious|noobai", "sdxl"),
    (r"stable-diffusion-v2|sd_v2|sd_2|sd2", "sd21"),
    (r"stable-diffusion-v1|sd_v1|sd_1|sd1", "sd15"),
    (r"flux[-_. ]?2|klein", "flux2"),
    (r"flux", "flux"),
    (r"z[-_ ]?image", "z_image"),
    (r"qwen", "qwen_image"),
)
SPOKEN_KEYS = ("modelspec.architecture", "ss_base_model_version", "ss_base_model", "base_model")
_CROSS_INPUT = re.compile(r"attn2_to_[kv]$")
TEXT_WIDTHS = {768: "sd15", 1024: "sd21", 2048: "sdxl"}  # what cross-attention reads


@dataclass(frozen=True)
class Base:
    """family: name in FAMILIES, or None. told: as a report says it: "SDXL (by its layers)"."""

    family: str | None
    told: str


def tell_base(file: str, modules: Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> Base:
    """By names and widths. Raises FileFormatError for modules of two kinds of base model."""
    plain = [name.replace(".", "_").replace("_processor_", "_") for name in modules]
    found = {family.name: _first(plain, family.file_marks) for family in FAMILIES}
    hits = {name: mark for name, mark in found.items() if mark is not None}
    width = _cross_width(shapes)
    if width in TEXT_WIDTHS and set(hits) <= {"sd15", "sd21", "sdxl"}:
        hits = (
            {TEXT_WIDTHS[width]: hits.get(TEXT_WIDTHS[width], 0)} if _agree(hits, width) else hits
        )
    if len(hits) > 1:
        one, other, *_ = hits
        raise FileFormatError(
            f"'{file}' has layers of {_title(one)} ('{modules[hits[one]]}') and of {_title(other)} "
            f"('{modules[hits[other]]}'); two LoRAs were put into one file, use each by itself"
        )
    if hits:
        name = next(iter(hits))
        return Base(name, f"{_title(name)} (by its layers)")
    for title, marks in OTHER_BASES.items():
        if _first(plain, marks) is not None:
            return Base(None, f"{title} (by its layers)")
    return Base(None, "not told by its layers")


def told_by_metadata(metadata: Mapping[str, str]) -> tuple[str | None, str]:
    """The family that a file's metadata names, and in which words; (None, "") if it names none."""
    for key in SPOKEN_KEYS:
        words = str(metadata.get(key, ""))
        for pattern, name in SPOKEN:
            if words and re.search(pattern, words, re.IGNORECASE):
                return (name if family_named(name) else None), words
        if words:
            return None, words
    return None, ""


def _first(names: Sequence[str], marks: Sequence[str]) -> int | None:
    pattern = re.compile("|".join(f"(?:{mark})" for mark in marks)) if marks else None
    if pattern is None:
        return None
    return next((i for i, name in enumerate(names) if pattern.search(name)), None)


def _cross_width(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Of the text that a UNet's cross-attention reads, if a factor tells it."""
    for name, shape in shapes.items():
        found = split_name(name)
        if found and found[1] in (DOWN, HADA[1]) and len(shape) > 1:
            module = found[0].replace(".", "_").replace("_processor_", "_")
            if _CROSS_INPUT.search(module):
                return shape[1]
    return None


def _agree(hits: Mapping[str, int], width: int) -> bool:
    name = TEXT_WIDTHS[width]
    return not hits or name in hits or (name == "sd21" and set(hits) == {"sd15"})


def _title(name: str) -> str:
    family = family_named(name)
    return family.title if family else name
