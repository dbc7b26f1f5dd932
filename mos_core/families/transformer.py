"""What the tables of diffusion transformers are made of."""

import re
from collections.abc import Callable, Mapping

from .family import ATTENTION, OTHERS, AttentionLayer, Role

MODEL = "diffusion_model."  # before a path of the model in `Site.path`
_SPLIT = re.compile(r"(.*\.)(?:(?:to|add)_[qkv](?:_proj)?|[qkv]_proj|w[qkv])")  # of one input


def roles(*rows: tuple[str, str, str]) -> Callable[[str], Role | None]:
    """`Family.role` from (pattern of paths below the model, stream, part); the first that fits.

    Projections that lie side by side, such as `to_q` and `to_k`, have the same input if they are of
    the same pattern: (`to_` | `add_`) may not be in one.
    """
    table = [(re.compile(pattern), stream, part) for pattern, stream, part in rows]

    def role(path: str) -> Role | None:
        name = path.removeprefix(MODEL)
        if name == path:
            return None
        for number, (pattern, stream, part) in enumerate(table):
            if pattern.fullmatch(name):
                split = _SPLIT.fullmatch(path) if part == ATTENTION else None
                group = f"{split[1]}qkv{number}" if split else path
                return Role(stream, group, OTHERS, part)
        return None

    return role


def blocks(kind: str, *lists: tuple[str, str]) -> Callable[[Mapping], tuple[AttentionLayer, ...]]:
    """`Family.layers` of lists of blocks that run one after the other: (path of the list, its
    length in the configuration) each."""

    def layers(config: Mapping) -> tuple[AttentionLayer, ...]:
        paths = [(name, number) for name, count in lists for number in range(config[count])]
        return tuple(
            AttentionLayer(index, (name, number), f"{name}.{number}", kind, 0)
            for index, (name, number) in enumerate(paths)
        )

    return layers


def is_kind(*names: str) -> Callable[[Mapping], bool]:
    """`Family.matches` by the name that ComfyUI has for a kind of transformer."""
    return lambda config: config.get("image_model") in names
