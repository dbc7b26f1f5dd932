"""What a fusion cost, in words: per stage, per concept, between concepts, and the worst layers."""

from collections.abc import Mapping, Sequence

import torch

from ..families.family import KEYS_VALUES, OTHERS, TEXT_ENCODER
from .stage import LayerReport

STAGES = {  # what they are called in reports
    TEXT_ENCODER: "text encoder",
    KEYS_VALUES: "cross-attention keys and values",
    OTHERS: "other UNet layers",
}


def stage_of(module: str) -> str:
    """What the stage of a fused file's module is called in reports."""
    if "text_model." in module:
        return STAGES[TEXT_ENCODER]
    keys_values = module.endswith((".attn2.to_k", ".attn2.to_v"))
    return STAGES[KEYS_VALUES if keys_values else OTHERS]


def label_of(report: LayerReport) -> str:
    return STAGES[report.layer.stage]


def describe_fusion(
    reports: Sequence[LayerReport],
    seconds: dict[str, float],
    names: Sequence[str],
    refined: Mapping[str, tuple[float, float]] | None = None,
    worst: int = 5,
) -> str:
    """Loss per stage and concept (against what the concepts ask of a layer), conflicts, times.

    refined: the error of the predicted noise before and after refinement, by name."""
    lines = ["mean squared error of the layers, unfused -> fused"]
    for stage in STAGES.values():
        layers = [r for r in reports if label_of(r) == stage]
        if layers:
            before = sum(r.before for r in layers) / len(layers)
            after = sum(r.after for r in layers) / len(layers)
            lines.append(f"  {stage} ({len(layers)} layers): {before:.4g} -> {after:.4g}")
    lines += describe_concepts(reports, names)
    lines += describe_conflicts(reports, names, worst)
    asked = [r for r in reports if r.before > 0]
    asked.sort(key=lambda r: r.after / r.before, reverse=True)
    if asked:
        lines.append("layers in which the concepts are hardest to reconcile (share that is lost)")
        lines += [f"  {r.after / r.before:.0%}  {r.layer.site.path}" for r in asked[:worst]]
    few = sum(r.few_rows for r in reports)
    if few:
        lines.append(
            f"{few} of {len(reports)} layers saw fewer rows than they have inputs; what no row "
            "showed stays the base model's there: more prompts, steps or pixels show more"
        )
    if refined:
        lines.append(
            "refinement: mean squared error of the predicted noise, pictures not learnt from"
        )
        lines += [f"  {name}: {b:.4g} -> {a:.4g}" for name, (b, a) in refined.items()]
    lines.append(", ".join(f"{name} {s:.1f} s" for name, s in seconds.items()))
    return "\n".join(lines)


def describe_concepts(reports: Sequence[LayerReport], names: Sequence[str]) -> list[str]:
    """Which share of what it asks for each concept loses, by stage; about, from the sketches."""
    lines = ["what each concept loses of its change (estimate)"]
    for name, shares in lost_shares(reports, names):
        parts = [f"{stage} {share:.0%}" for stage, share in shares.items()]
        lines.append(f"  {name}: " + (", ".join(parts) or "asks for nothing"))
    return lines


def lost_shares(reports: Sequence[LayerReport], names: Sequence[str]) -> list[list]:
    """[name, {stage: the share of what the concept asks for that is lost}], JSON-able."""
    table = []
    for number, name in enumerate(names):
        shares = {
            stage: lost_share([r for r in reports if label_of(r) == stage], number)
            for stage in STAGES.values()
        }
        table.append([name, {s: share for s, share in shares.items() if share is not None}])
    return table


def lost_share(reports: Sequence[LayerReport], number: int) -> float | None:
    """Squared error of concept `number` / what it asks for, layers weighted alike."""
    rows = [weighted(r.errors)[number] for r in reports]
    asked = sum(row[-1].item() for row in rows)
    return sum(row[:-1].sum().item() for row in rows) / asked if asked > 0 else None


def weighted(errors: torch.Tensor) -> torch.Tensor:
    """A layer's table of errors_of_concepts, (concepts, concepts + 2), in shares of what all
    concepts together ask of the layer."""
    return errors / errors[:, -1].sum().clamp(min=1e-30)


def conflicts(reports: Sequence[LayerReport]) -> torch.Tensor:
    """(concepts, concepts + 1): the share of what concept i asks for that is lost to concept j;
    last column: to anchor and ridge, or all of it for solvers other than exact."""
    total = sum((weighted(r.errors) for r in reports), torch.zeros(()))
    return total[:, :-1] / total[:, -1:].clamp(min=1e-30) if total.ndim else total


def describe_conflicts(
    reports: Sequence[LayerReport], names: Sequence[str], worst: int
) -> list[str]:
    """The pairs of concepts that cost each other most."""
    table = conflicts([r for r in reports if r.layer.stage == OTHERS])
    if table.ndim < 2 or len(names) < 2 or not bool(table[:, :-1].any()):
        return []
    pairs = [
        ((table[i, j] + table[j, i]).item() / 2, i, j)
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    lines = ["concepts that cost each other most in the other UNet layers (estimate)"]
    for cost, i, j in sorted(pairs, reverse=True)[:worst]:
        lines.append(f"  {names[i]} and {names[j]}: {cost:.0%}")
    return lines
