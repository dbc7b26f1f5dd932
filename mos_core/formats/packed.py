"""Weights of a file as 8-bit integers with a scale for each output row: a quarter of fp32's bytes.

A packed weight has its own key, int8, and beside it `<key>` + SCALES, float32 (rows,): row i is
integers[i] * scale[i]. What is smaller than LEAST, and every vector, stays as it is.
"""

import torch

from ..errors import FileFormatError

SCALES = ".row_scale"
HIGHEST = 127
LEAST = 2048
"""Elements of a weight that is worth packing."""
CLIPPED = tuple(0.6 + 0.05 * step for step in range(9))
"""Shares of a row's largest value that are tried as the highest one that is kept."""


def pack(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Packs every floating-point weight of two or more dimensions, the rest becomes float16.

    A row's scale is the one of CLIPPED with the least squared error. Raises FileFormatError if a
    weight is not finite.
    """
    out = {}
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            out[key] = tensor.contiguous()
        elif tensor.ndim < 2 or tensor.numel() < LEAST:
            out[key] = tensor.half().contiguous()
        else:
            out[key], out[key + SCALES] = _pack_rows(key, tensor.float())
    return out


def unpack(path, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with packed weights as float16; others as they are. path: named in errors.

    Raises FileFormatError if an integer weight has no scales, scales have no weight, or they do not
    belong together.
    """
    out = {}
    for key, tensor in tensors.items():
        if key.endswith(SCALES):
            if key.removesuffix(SCALES) not in tensors:
                raise FileFormatError(f"'{path}': '{key}' has no weight that it belongs to.")
        elif tensor.dtype != torch.int8:
            out[key] = tensor
        else:
            scale = tensors.get(key + SCALES)
            if scale is None:
                raise FileFormatError(f"'{path}': '{key}' has integers without '{key}{SCALES}'.")
            if scale.shape != tensor.shape[:1] or not bool(scale.isfinite().all()):
                raise FileFormatError(
                    f"'{path}': the scales of '{key}' are {tuple(scale.shape)} for weights "
                    f"{tuple(tensor.shape)}, or not all finite."
                )
            rows = scale.float().view(-1, *[1] * (tensor.ndim - 1))
            out[key] = (tensor.float() * rows).half()
    return out


def _pack_rows(key: str, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> integers of the weight's shape, scales (rows,)"""
    if not bool(weight.isfinite().all()):
        raise FileFormatError(f"'{key}' cannot be packed: not all of its values are finite.")
    flat = weight.flatten(1)
    largest = flat.abs().amax(1).clamp(min=1e-12)
    best, scale = torch.full_like(largest, float("inf")), largest / HIGHEST
    for share in CLIPPED:
        tried = largest * share / HIGHEST
        kept = (flat / tried[:, None]).round().clamp(-HIGHEST, HIGHEST) * tried[:, None]
        error = (kept - flat).square().sum(1)
        scale = torch.where(error < best, tried, scale)
        best = torch.minimum(error, best)
    integers = (flat / scale[:, None]).round().clamp(-HIGHEST, HIGHEST).to(torch.int8)
    return integers.view(weight.shape).contiguous(), scale
