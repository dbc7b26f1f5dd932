"""A concept file with ComfyUI's own renaming of names that need it."""

from pathlib import Path

import comfy.lora_convert

from ...formats import read_concept
from ...records import Concept


def read_any(path: str | Path, trigger_words: str = "", name: str = "") -> Concept:
    """As read_concept; files that ComfyUI converts (of Flux' makers, Wan, USO) are converted."""
    return read_concept(path, trigger_words, name, comfy.lora_convert.convert_lora)
