"""Sites <-> names in a fusion's file, which are diffusers' names for Stable Diffusion's UNets."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from ...errors import ArchitectureError
from ...families import AttentionLayer
from ...families.unet import UNetLayer
from ...records import Site

MODEL = "diffusion_model."
FIRST = "clip_l.transformer."  # the encoder whose modules have no prefix in files


def name_of(site: Site, attention: Sequence[AttentionLayer]) -> str:
    """'diffusion_model.middle_block.1.proj_in.weight' -> 'mid_block.attentions.0.proj_in';
    'clip_l.transformer.text_model...' -> 'text_model...'. Other sites are called as they are, a
    slice of a fused weight '<path>[first row:rows]'."""
    path = site.path.removeprefix(FIRST)
    if path.startswith(MODEL):
        path = path.removeprefix(MODEL)
        for comfy, diffusers in prefixes(attention):
            if path.startswith(comfy):
                path = diffusers + path.removeprefix(comfy)
                break
        else:
            path = MODEL + path
    return path if site.part is None else f"{path}[{site.part[0]}:{site.part[1]}]"


def sites_of(
    named: Mapping[str, torch.Tensor], attention: Sequence[AttentionLayer]
) -> dict[Site, torch.Tensor]:
    """The inverse, for all names of a fusion. Raises ArchitectureError for a name that is none."""
    return {site_of(name, attention): tensor for name, tensor in named.items()}


def site_of(name: str, attention: Sequence[AttentionLayer]) -> Site:
    path, part = name, None
    if name.endswith("]"):
        path, _, span = name[:-1].rpartition("[")
        first, _, rows = span.partition(":")
        if not (first.isdecimal() and rows.isdecimal()):
            raise ArchitectureError(f"the fusion changes '{name}', which is no layer's name")
        part = int(first), int(rows)
    if path.startswith("text_model."):
        path = FIRST + path
    for comfy, diffusers in prefixes(attention):
        if path.startswith(diffusers):
            path = MODEL + comfy + path.removeprefix(diffusers)
            break
    return Site(f"{path}.weight", part)


def prefixes(attention: Iterable[AttentionLayer]) -> list[tuple[str, str]]:
    """(ComfyUI's, diffusers') path of every spatial transformer, each with its dot at the end."""
    found = {
        (f"{layer.comfy}.", f"{layer.diffusers}.")
        for layer in attention
        if isinstance(layer, UNetLayer)
    }
    return sorted(found)
