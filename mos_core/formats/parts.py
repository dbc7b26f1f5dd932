"""Tensors of a file -> a checked Concept. Shared by all formats."""

from collections.abc import Mapping

import torch

from ..adapters import DOWN, UP
from ..errors import ArchitectureError, FileFormatError
from ..families.unet import ARCHITECTURES, architecture_by_layers, comfy_text_key, comfy_unet_key
from ..records import Concept, LowRank
from .tensor_file import check_finite


def build_concept(
    name: str,
    embeddings: Mapping[str, torch.Tensor],
    text: Mapping[str, torch.Tensor],
    unet: Mapping[str, torch.Tensor],
    metadata: Mapping | None = None,
) -> Concept:
    """A checked Concept from the three parts of an ED-LoRA file.

    embeddings: token -> (layers, text width). text, unet: `<module>.lora_down.weight` (rank, in)
    and `<module>.lora_up.weight` (out, rank) -> tensor, diffusers module names.

    Raises FileFormatError (halves missing, wrong shapes, non-finite values, unknown modules).
    """
    if not embeddings:
        raise FileFormatError(
            f"'{name}' has no layer-wise concept embeddings, which an ED-LoRA needs; its file is "
            "incomplete"
        )
    check_embeddings(name, embeddings)
    try:
        architecture = architecture_by_layers(next(iter(embeddings.values())).shape[0])
    except ArchitectureError as error:
        raise FileFormatError(f"'{name}': {error}") from None
    text_factors = pair_factors(name, "text encoder", text)
    unet_factors = pair_factors(name, "UNet", unet)
    unknown = [m for m in text_factors if comfy_text_key(m) is None]
    unknown += [m for m in unet_factors if comfy_unet_key(m, architecture) is None]
    if unknown:
        raise FileFormatError(
            f"'{name}' changes {len(unknown)} module(s) that {architecture.name} does not have, "
            f"first '{unknown[0]}'; it was made for another architecture than its embeddings say"
        )
    return Concept.edlora(
        name, dict(embeddings), text_factors, unet_factors, architecture.name, metadata or {}
    )


def check_embeddings(name: str, embeddings: Mapping[str, torch.Tensor]) -> None:
    """Raises FileFormatError unless all tables are finite and of one shape (layers, width)."""
    shapes = {token: tuple(table.shape) for token, table in embeddings.items()}
    for token, table in embeddings.items():
        if table.ndim != 2 or 0 in table.shape:
            layers = ", ".join(f"{len(a.layers)} ({a.name})" for a in ARCHITECTURES.values())
            raise FileFormatError(
                f"'{name}': the embedding of {token} has shape {shapes[token]}; expected (layers, "
                f"text width) with layers = {layers}"
            )
        check_token(name, token)
        check_finite(name, f"the embedding of {token}", table)
    if len(set(shapes.values())) > 1:
        raise FileFormatError(f"'{name}': the concept embeddings differ in shape: {shapes}")


def check_token(name: str, token: str) -> None:
    """Raises FileFormatError unless the token can stand in a prompt as one word."""
    if len(token) < 3 or token[0] != "<" or token[-1] != ">" or set(token) & set(" \t\n()\\:"):
        raise FileFormatError(
            f"'{name}': {token!r} cannot be a concept token; tokens look like <potter1>: in angle "
            "brackets, without spaces, round brackets, colons or backslashes"
        )


def pair_factors(name: str, part: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, LowRank]:
    """`<module>.lora_down/up.weight` -> {module: LowRank}, in the file's order.

    Raises FileFormatError for a missing half, a shape that is no factor pair, whole weights.
    """
    modules: dict[str, None] = {}
    for key in tensors:
        for suffix in (DOWN, UP):
            if key.endswith(suffix):
                modules[key.removesuffix(suffix)] = None
                break
        else:
            raise FileFormatError(
                f"'{name}': '{key}' in the {part} part is no LoRA factor ({DOWN[1:]} / {UP[1:]}); "
                "files with whole merged weights are not ED-LoRAs, load the one that they were "
                "made from"
            )
    factors = {}
    for module in modules:
        down, up = tensors.get(module + DOWN), tensors.get(module + UP)
        if down is None or up is None:
            half = "lora_down" if down is None else "lora_up"
            raise FileFormatError(
                f"'{name}': {half} of '{module}' ({part}) is missing; the file is incomplete"
            )
        linear = down.ndim == up.ndim == 2
        conv = down.ndim == up.ndim == 4 and {*down.shape[2:], *up.shape[2:]} == {1}
        if not (linear or conv) or down.shape[0] != up.shape[1] or 0 in (*down.shape, *up.shape):
            raise FileFormatError(
                f"'{name}': '{module}' ({part}) has factors of shape {tuple(down.shape)} and "
                f"{tuple(up.shape)}; expected (rank, in) and (out, rank), or the same as 1x1 "
                "convolutions"
            )
        check_finite(name, f"lora_down of '{module}'", down)
        check_finite(name, f"lora_up of '{module}'", up)
        factors[module] = LowRank(down, up)
    return factors


def flatten_factors(factors: Mapping[str, LowRank], prefix: str = "") -> dict[str, torch.Tensor]:
    """The inverse of pair_factors: {`<prefix><module>.lora_down.weight`: tensor, ...}."""
    flat = {}
    for module, pair in factors.items():
        flat[prefix + module + DOWN] = pair.down
        flat[prefix + module + UP] = pair.up
    return flat
