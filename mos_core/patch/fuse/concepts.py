"""Gradient fusion on ComfyUI's own models, in the published order (Mix-of-Show, section 3.3).

One model in memory: a concept's deltas are ComfyUI weight patches of a clone, put on and taken off
by ComfyUI itself.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...errors import FuseError
from ...families import AttentionLayer
from ...fuse.report import describe_fusion, lost_shares
from ...fuse.settings import FuseSettings
from ...fuse.stage import LayerReport
from ...records import Concepts, Fused, Site
from ..host.fit import kernel_of
from .coders import Coders
from .fused import fingerprint
from .kept_sums import base_of
from .layers import fused_layers, unfused_notes
from .names import name_of
from .plan import Plan, check_models
from .refine import refine_deltas
from .sources import base_source, sources_of
from .stages import Kept, solve_stages
from .work import Work


def fuse_concepts(
    model: Any,
    clip: Any,
    concepts: Concepts,
    settings: FuseSettings,
    on_progress: Callable[[int, int], None],
    noises: Sequence[torch.Tensor] | None = None,
    sums_folder: Path | None = None,
    on_text: Callable[[str], None] = lambda text: None,
) -> tuple[Fused, str]:
    """The concepts fused, and a report in words.

    on_progress(done, total) after every unit of work; may raise to cancel, which leaves MODEL and
    CLIP as they were. noises: start noise per concept (1, channels, h, w), for tests. sums_folder:
    where sums are kept with the setting reuse_sums. on_text(what is being done), now and then.
    """
    settings.check()
    if not concepts:
        raise FuseError("there are no concepts to fuse; connect Load ED-LoRA")
    check_models(model, clip, concepts, settings)
    sources = sources_of(model, clip, concepts, settings)
    base = base_source(settings, len(sources))
    plan = Plan(model, *fused_layers(model, sources), sources, base, settings)
    coders = Coders(clip, concepts, settings.reuse_sums)
    kept = Kept(sums_folder, base_of(model, clip)) if settings.reuse_sums else Kept()
    work = Work(plan.total(), on_progress, on_text)
    on_text(plan.announcement())

    reports: list[LayerReport] = []
    solve = partial(solve_stages, run=plan, settings=settings, kept=kept, work=work, told=reports)
    with torch.no_grad():
        text = solve(plan.text_stages(coders, work))
        coders.fuse(text)
        keys_values = solve(plan.key_value_stages(coders, work))
        others = solve(plan.other_stages(coders, keys_values, work, noises))
        deltas = keys_values | others
        deltas, refined = refine_deltas(model, coders, plan.learners, deltas, settings, work)

    names = [source.name for source in sources]
    on_clip = as_stored(text, clip.patcher, plan.attention)
    on_model = as_stored(deltas, model, plan.attention)
    facts = {
        **settings.as_metadata(),
        "strengths": [[entry.strength_model, entry.strength_clip] for entry in concepts],
        "loss": {name_of(r.layer.site, plan.attention): [r.before, r.after] for r in reports},
        "lost": lost_shares(reports, names),
        "refined": {name: list(errors) for name, errors in refined.items()},
    }
    fused = Fused(
        tuple(entry.concept.without_deltas() for entry in concepts),
        on_clip,
        on_model,
        plan.family.name,
        fingerprint(model, clip, text, deltas),
        facts,
    )
    report = describe_fusion(reports, work.seconds, names, refined)
    return fused, "\n".join((report, *unfused_notes(sources)))


def as_stored(
    deltas: Mapping[Site, torch.Tensor], patcher: Any, attention: Sequence[AttentionLayer]
) -> dict[str, torch.Tensor]:
    """By their names in files, those of larger convolutions with their kernels; in fp16 for a model
    in half precision: what is applied is what will be saved."""
    half = patcher.model_dtype() not in (None, torch.float32)
    stored = {}
    for site, delta in deltas.items():
        kernel = kernel_of(patcher, site)
        kept = delta.unflatten(1, (-1, *kernel)) if kernel else delta
        stored[name_of(site, attention)] = kept.half() if half and kept.abs().max() < 6e4 else kept
    return stored
