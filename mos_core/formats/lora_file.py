"""Any LoRA file of any trainer, as a concept: every tensor in its place, or named as left over.

Names are read here; where in a model they lead, only `patch/host/bind.py` knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

import torch

from ..adapters import ALPHA, Adapter, split_name
from ..adapters.adapter import algorithm_of, missing_ends, spare_ends
from ..adapters.ends import BIAS, DOWN, HADA, OFT, UP
from ..errors import FileFormatError
from ..records import Concept
from .base_model import Base, tell_base
from .embeddings import bundled_tables, split_bundled
from .lora_metadata import trigger_words_of
from .tensor_file import check_finite

NO_LORA_TENSOR = "is no tensor of a LoRA that this pack knows"
NO_USE = "has no use beside the others of its layer"
Shapes = Mapping[str, tuple[int, ...]]


def is_lora(names: Iterable[str]) -> bool:
    """Whether any tensor of these names belongs to a LoRA."""
    return any(split_name(name) is not None for name in names)


def sort_names(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """{module: {end: name of the tensor}} in the file's order, and what is no LoRA tensor."""
    modules: dict[str, dict[str, str]] = {}
    others = []
    for name in names:
        found = split_name(name)
        if found is None:
            others.append(name)
        else:
            modules.setdefault(found[0], {})[found[1]] = name
    return modules, others


def check_shapes(file: str, shapes: Shapes) -> Base:
    """What base model a file is for, from its header alone.

    Raises FileFormatError for a file without modules, with half of a pair, with factors that do not
    go together, or with modules of two kinds of base model.
    """
    modules, _ = sort_names(shapes)
    for module, ends in modules.items():
        algorithm = algorithm_of(set(ends))
        if algorithm is None:
            continue
        missing = missing_ends(algorithm, set(ends))
        if missing:
            raise FileFormatError(
                f"'{file}': {missing[0][1:]} of '{module}' is missing; the file is incomplete, get "
                "it again"
            )
        _check_factors(file, module, {end: shapes[name] for end, name in ends.items()})
    return tell_base(file, list(modules), shapes)


def _check_factors(file: str, module: str, shapes: Shapes) -> None:
    pairs = [(DOWN, UP), (HADA[1], HADA[0]), (HADA[3], HADA[2])]
    pairs += [(".lokr_w1_b", ".lokr_w1_a"), (".lokr_w2_b", ".lokr_w2_a")]
    for lower, upper in pairs:
        if lower not in shapes or upper not in shapes:
            continue
        down, up = shapes[lower], shapes[upper]
        tucker = any("_t" in end for end in shapes)
        if 0 in (*down, *up):
            raise FileFormatError(f"'{file}': the rank of '{module}' is 0; it changes nothing")
        inner = up[0] if tucker and upper.startswith((".hada", ".lokr_w2")) else up[1:2] and up[1]
        fits = len(down) > 1 and len(up) > 1 and down[0] == inner and prod(up[2:]) == 1
        if not fits:
            raise FileFormatError(
                f"'{file}': '{module}' has factors of shape {down} and {up}; expected (rank, in) "
                "and (out, rank), or the same as convolutions"
            )


def build_lora(
    file: str,
    name: str,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    trigger_words: str = "",
) -> Concept:
    """A checked Concept from the tensors of a LoRA file.

    file: its name, for messages. trigger_words: the user's own, by commas; they replace the file's.
    Raises FileFormatError.
    """
    base = check_shapes(file, {n: tuple(t.shape) for n, t in tensors.items()})
    modules, others = sort_names(tensors)
    bundled, others = split_bundled(others)
    tables = bundled_tables(file, {n: tensors[n] for n in bundled})
    unused = dict.fromkeys(others, NO_LORA_TENSOR)
    deltas: dict[str, Adapter] = {}
    for module, ends in modules.items():
        algorithm = algorithm_of(set(ends))
        spare = spare_ends(algorithm, set(ends)) if algorithm else tuple(ends)
        unused |= dict.fromkeys((ends[end] for end in spare), NO_USE)
        if algorithm is not None:
            own = {end: tensors[ends[end]] for end in ends if end not in spare}
            deltas[module] = Adapter(algorithm, own)
            _check_values(file, module, deltas[module])
    if not deltas and not tables:
        raise FileFormatError(
            f"'{file}' is no LoRA: {len(tensors)} tensors, first '{next(iter(tensors), 'none')}'"
        )
    tokens = tuple(dict.fromkeys(token for own in tables.values() for token in own))
    words = split_words(trigger_words) or (*tokens, *trigger_words_of(metadata))
    facts = {**metadata, "base": base.told}
    return Concept(name, words, tables, deltas, base.family, facts, unused=unused)


def _check_values(file: str, module: str, adapter: Adapter) -> None:
    alpha = adapter.get(ALPHA)
    for end, tensor in adapter.tensors.items():
        if end not in (ALPHA, ".reshape_weight"):
            check_finite(file, f"{end[1:]} of '{module}'", tensor)
    if alpha is not None and adapter.algorithm != "OFT":
        if alpha.numel() != 1 or not bool(torch.isfinite(alpha.float()).all()):
            raise FileFormatError(f"'{file}': the alpha of '{module}' is not one finite number")
        if alpha.item() == 0 and adapter.rank_of_factors:
            raise FileFormatError(
                f"'{file}': the alpha of '{module}' is 0, so that the LoRA changes nothing there; "
                "it was saved wrongly, get it again"
            )
    if adapter.algorithm == "OFT" and adapter.tensors[OFT].ndim not in (3, 4):
        raise FileFormatError(
            f"'{file}': oft_blocks of '{module}' has shape {tuple(adapter.tensors[OFT].shape)}; "
            "expected (blocks, size, size)"
        )
    if adapter.algorithm == "LoRA" and BIAS in adapter.tensors:
        out, bias = adapter.shape[0], adapter.tensors[BIAS]
        if bias.numel() != out:
            raise FileFormatError(
                f"'{file}': the bias of '{module}' has {bias.numel()} values, its layer {out}"
            )


def split_words(text: str) -> tuple[str, ...]:
    """'lowpoly,  knight' -> ('lowpoly', 'knight')."""
    return tuple(word.strip() for word in text.replace("\n", ",").split(",") if word.strip())
