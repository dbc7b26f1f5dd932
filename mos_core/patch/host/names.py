"""Names of modules in LoRA files -> sites of a model, by ComfyUI's own key maps.

ComfyUI knows the names of many trainers; what it knows decides. Where the running version does not
know a name that only differs in prefix or punctuation (diffusers' `unet.<path>.to_q` of SDXL,
`transformer.<path>` of Z-Image before 0.4), the same path under a name that it does know is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.lora

from ...errors import ArchitectureError
from ...records import Site

# Of a model's module, in the order in which they are taken off, once each.
_PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
)
_ENCODER = re.compile(
    r"(?:lora_te(?P<kohya>\d?)_|text_encoder(?:_(?P<peft>\d))?\.|text_encoders\.(?P<own>\w+)\.)"
)
TEXT_NAME = re.compile(r"lora_te\d?_|text_encoders?(?:_\d)?\.|lora_prior_te_|te\d?\.")


@dataclass(frozen=True)
class Target:
    """Where a name leads. host: as ComfyUI's `load_lora` takes it, a key or (key, slice, ...)."""

    site: Site
    host: object
    function: Callable | None = None


class ModelNames:
    """What a model's modules are called in LoRA files."""

    def __init__(self, key_map: Mapping[str, object]):
        self.key_map = key_map
        self.order = {name: number for number, name in enumerate(key_map)}
        self.plain: dict[str, object] = {}
        for name, host in key_map.items():
            plain = plain_name(name)
            if self.plain.setdefault(plain, host) != host:
                self.plain[plain] = None  # the same for two modules: it says nothing

    def find(self, name: str) -> Target | None:
        """Where the module of that name is, or None: this model has no such module."""
        host = self.key_map.get(name)
        if host is None:
            host = self.plain.get(plain_name(name))
        return None if host is None else target_of(host)

    def knows(self, name: str) -> bool:
        """Whether ComfyUI's own Load LoRA finds the module of that name."""
        return name in self.key_map

    def wins(self, name: str, other: str) -> bool:
        """Whether, of two names of one layer in a file, ComfyUI uses this one: the later in its key
        map; a name that it does not know it does not use."""
        return self.order.get(name, -1) > self.order.get(other, -1)


def names_of_model(model: Any) -> ModelNames:
    """model: ModelPatcher."""
    return ModelNames(comfy.lora.model_lora_keys_unet(model.model, {}))


def names_of_clip(clip: Any) -> ModelNames:
    """clip: comfy.sd.CLIP."""
    return ModelNames(comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}))


def is_text_name(name: str) -> bool:
    """Whether a module of that name belongs to a text encoder, whatever the model is."""
    return TEXT_NAME.match(name) is not None


def plain_name(name: str) -> str:
    """A module's name without what trainers differ in: prefix, dots or underscores.

    'unet.mid_block.attentions.0.proj_in' and 'lora_unet_mid_block_attentions_0_proj_in' are the
    same; encoders of one model stay apart.
    """
    encoder = _ENCODER.match(name)
    if encoder:
        rest = name[encoder.end() :].removeprefix("transformer.")
        number = encoder["own"] or encoder["kohya"] or encoder["peft"] or "1"
        return f"text {number} {rest.replace('.', '_')}"
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    name = name.replace(".processor.", ".").replace(".", "_")
    return name.removesuffix("_0") if name.endswith("to_out_0") else name


def target_of(host: Any) -> Target:
    """A value of ComfyUI's key map as a site. Raises ArchitectureError for one that is none."""
    key, part, function = host, None, None
    if not isinstance(host, str):
        key, *more = host
        part = more[0] if more else None
        function = more[1] if len(more) > 1 else None
    if part is not None:
        dim, start, length = part
        if dim != 0:
            raise ArchitectureError(
                f"this version of ComfyUI places a LoRA on the columns of '{key}', which the pack "
                "does not know; use Load LoRA for it"
            )
        part = (start, length)
    return Target(Site(key, part), host, function)
