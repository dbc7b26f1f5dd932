"""What a fusion cost, in words: per stage and for the layers that lose most."""

from collections.abc import Sequence

from .stage import LayerReport, input_group

STAGES = ("text encoder", "cross-attention keys and values", "other UNet layers")


def stage_of(module: str) -> str:
    if module.startswith("text_model."):
        return STAGES[0]
    return STAGES[1] if input_group(module).endswith(".attn2.kv") else STAGES[2]


def describe_fusion(
    reports: Sequence[LayerReport], seconds: dict[str, float], worst: int = 5
) -> str:
    """Loss per stage (mean squared error against what the concepts ask of a layer) and times."""
    lines = ["mean squared error of the layers, unfused -> fused"]
    for stage in STAGES:
        layers = [r for r in reports if stage_of(r.module) == stage]
        if layers:
            before = sum(r.before for r in layers) / len(layers)
            after = sum(r.after for r in layers) / len(layers)
            lines.append(f"  {stage} ({len(layers)} layers): {before:.4g} -> {after:.4g}")
    asked = [r for r in reports if r.before > 0]
    asked.sort(key=lambda r: r.after / r.before, reverse=True)
    if asked:
        lines.append("layers in which the concepts are hardest to reconcile (share that is lost)")
        lines += [f"  {r.after / r.before:.0%}  {r.module}" for r in asked[:worst]]
    lines.append(", ".join(f"{name} {s:.1f} s" for name, s in seconds.items()))
    return "\n".join(lines)
