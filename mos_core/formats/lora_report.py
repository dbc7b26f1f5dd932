"""What a concept's file holds, for the user: base, kind, rank, layers, words, what is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ..adapters import Adapter
from ..deltas import Delta
from ..families import family_named
from ..records import Concept
from .base_model import told_by_metadata

SHOWN = 5  # names of one kind, at most


def describe_concept(concept: Concept, *notes: str) -> str:
    """A few lines. notes: more of them (what max_rank has cut)."""
    lines = [f"{concept.name}: {_base(concept)}"]
    text, model = _parts(concept.deltas)
    for part, deltas in (("model", model), ("text encoder", text)):
        if deltas:
            lines.append(f"{part}: {len(deltas)} layers, {_kinds(deltas)}")
        elif concept.deltas:
            lines.append(f"{part}: nothing")
    for encoder, table in concept.tables.items():
        rows = {len(rows) for rows in table.values()}
        each = "one vector each" if rows == {1} else f"{max(rows)} vectors each, one per layer"
        lines.append(f"tokens ({encoder}): {' '.join(table)}, {each}")
    if concept.words:
        lines.append(f"words for the prompt: {concept.trigger_words}")
    elif concept.deltas:
        lines.append("words for the prompt: the file names none; trigger_words can give it some")
    lines += [note for note in notes if note]
    lines += _left_over(concept.unused)
    return "\n".join(lines)


def _base(concept: Concept) -> str:
    told = str(concept.metadata.get("base", "")) if isinstance(concept.metadata, Mapping) else ""
    family = family_named(concept.family or "")
    if not told:
        told = family.title if family else "base model not told"
    named, words = told_by_metadata({k: str(v) for k, v in concept.metadata.items()})
    if words:
        told += f"; its metadata says {words}"
        if named is not None and concept.family is not None and named != concept.family:
            told += ", which is another one: the layers count"
    return f"base {told}"


def _parts(deltas: Mapping[str, Delta | Adapter]):
    """Those of text encoders, those of the model."""
    text = {n: d for n, d in deltas.items() if is_text_module(n)}
    return text, {n: d for n, d in deltas.items() if n not in text}


def is_text_module(name: str) -> bool:
    """Whether a module of that name in a file belongs to a text encoder."""
    return name.startswith(("lora_te", "text_encoder", "lora_prior_te"))


def _kinds(deltas: Mapping[str, Delta | Adapter]) -> str:
    counts: Counter[str] = Counter()
    ranks: dict[str, set[int]] = {}
    for delta in deltas.values():
        kind = delta.kind if isinstance(delta, Adapter) else "LoRA"
        counts[kind] += 1
        ranks.setdefault(kind, set()).add(delta.rank)
    words = []
    for kind, count in counts.most_common():
        known = sorted(rank for rank in ranks[kind] if rank)
        rank = f" of rank {known[0]}" if len(known) == 1 else ""
        rank = f" of rank {known[0]} to {known[-1]}" if len(known) > 1 else rank
        words.append(f"{kind}{rank}" + (f" ({count})" if len(counts) > 1 else ""))
    return ", ".join(words)


def _left_over(unused: Mapping[str, str]) -> list[str]:
    lines = []
    for why in dict.fromkeys(unused.values()):
        names = [name for name, reason in unused.items() if reason == why]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        lines.append(f"left over, {len(names)}: {', '.join(names[:SHOWN])}{more} ({why})")
    return lines
