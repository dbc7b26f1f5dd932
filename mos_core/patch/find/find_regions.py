"""Find Regions: a short run with all concepts in one prompt, and regions where its words looked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import comfy.sample
import comfy.utils
import latent_preview
import torch
from scipy import ndimage

from ...compose.assign import assign_concepts
from ...errors import RegionError
from ...families import family_of
from ...find.report import describe_places
from ...find.settings import FindSettings
from ...find.silhouettes import Maps, Place, find_places
from ...find.words import Mention, region_prompt
from ...records import Concepts
from ...regions.region import Region, Regions
from ..apply import apply_concepts
from ..host.compiled import uncompiled
from ..regional.wrappers import WrappersMP
from .joint_watch import KEY, JointWatch
from .mentions import locate_concepts, text_places, words_of
from .watch import OVERRIDE, AttentionWatch, grid_for


@dataclass(frozen=True)
class ShortRun:
    """The sampling. strength: of the concepts' LoRAs in it, as a share of theirs: little, so that
    they do not disturb each other; where things stand is known without."""

    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 8
    cfg: float = 7.0
    sampler: str = "euler"
    scheduler: str = "normal"
    strength: float = 0.3


@dataclass(frozen=True, eq=False)
class FoundRegions:
    """regions, what the run drew (latent of the first picture), its maps, and lines to read."""

    regions: Regions
    latent: torch.Tensor
    maps: Maps
    report: tuple[str, ...]


def find_regions(
    model: Any,
    clip: Any,
    concepts: Concepts,
    latent: dict,
    run: ShortRun,
    settings: FindSettings,
    template: str = "",
    before: Regions | None = None,
) -> FoundRegions:
    """Regions for the concepts, each where a short run drew it.

    model: ModelPatcher, clip: comfy.sd.CLIP, latent: as an empty latent node gives it; none is
    changed. before: regions inside whose grown shapes the concepts are looked for; they keep their
    prompts. template: of the regions' prompts (find/words.py). Raises RegionError: no concepts, or
    the prompt does not name one; a model whose attention cannot be read.
    """
    if not concepts:
        raise RegionError("There are no concepts to look for: connect Load ED-LoRA.")
    weak = tuple(_scaled(entry, run.strength) for entry in concepts)
    model, clip = apply_concepts(model, clip, weak)
    family, _ = family_of(model.model.model_config.unet_config)
    if family.sequence is None:
        mentions, tokens = locate_concepts(clip, run.prompt, concepts)
        places_of = {mention: mention.positions for mention in mentions}
    else:
        mentions, found = text_places(clip, run.prompt, concepts, family)
        tokens, places_of = 0, dict(zip(mentions, found, strict=True))
    wanted = mentions if before is None else _mentions_of(before, concepts, mentions)
    there = [mention for mention in wanted if mention is not None]
    positions = [places_of[mention] for mention in there]
    drawn, maps = watch_run(model, clip, latent, run, positions, tokens)
    grid = maps.words.shape[1:]
    boxes = None
    if before is not None:
        pairs = zip(before.regions, wanted, strict=True)
        boxes = [grown_cells(region, grid, settings.grow) for region, mention in pairs if mention]
    places = find_places(maps, settings, boxes)
    names = [_name_of(mention, there, concepts) for mention in there]
    if before is None:
        made = [
            _new_region(mention, place, concepts, run.prompt, template)
            for mention, place in zip(there, places, strict=True)
        ]
        pixels = family.latent.pixels
        size = (pixels * drawn.shape[-1], pixels * drawn.shape[-2])
        regions = Regions(*size, tuple(region for region in made if region is not None))
    else:
        rest = iter(places)
        kept = tuple(
            _placed(region, next(rest)) if mention else region
            for region, mention in zip(before.regions, wanted, strict=True)
        )
        regions = Regions(before.width, before.height, kept, before.notes)
    return FoundRegions(regions, drawn, maps, tuple(describe_places(names, places)))


def watch_run(
    model: Any,
    clip: Any,
    latent: dict,
    run: ShortRun,
    positions: Sequence[Sequence[int]],
    tokens: int,
) -> tuple[torch.Tensor, Maps]:
    """The short run's latent (1, channels, rows, columns), and what its attention saw.

    positions: per mention, of its tokens in the text. tokens: of the text, for UNets.
    """
    family, _ = family_of(model.model.model_config.unet_config)
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"][:1])
    watched = model.clone()
    watch: AttentionWatch | JointWatch
    if family.sequence is None:
        options = watched.model_options.setdefault("transformer_options", {})
        grid = grid_for(*samples.shape[-2:])
        watch = options[OVERRIDE] = AttentionWatch(grid, positions, tokens, options.get(OVERRIDE))
    else:
        watch = joint = JointWatch(family, positions)
        watched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, joint.run_model)
    noise = comfy.sample.prepare_noise(samples, run.seed)
    show = latent_preview.prepare_callback(watched, run.steps)

    def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        watch.weight = step + 2.0
        show(step, x0, x, total)

    texts = (_encode(clip, run.prompt), _encode(clip, run.negative))
    with uncompiled():
        drawn = comfy.sample.sample(
            watched,
            noise,
            run.steps,
            run.cfg,
            run.sampler,
            run.scheduler,
            *texts,
            samples,
            callback=callback,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=run.seed,
        )
    maps = watch.maps()
    if maps is None or len(maps.words) != len(positions):
        raise RegionError(
            f"The attention of this MODEL ({family.title}) cannot be read: another node replaces "
            "it, or cuts its tokens. Take that node out, or draw the regions."
        )
    return drawn, maps


def _encode(clip: Any, text: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _scaled(entry: Any, strength: float) -> Any:
    return replace(
        entry,
        strength_model=strength * entry.strength_model,
        strength_clip=strength * entry.strength_clip,
    )


def _mentions_of(
    before: Regions, concepts: Concepts, mentions: list[Mention]
) -> list[Mention | None]:
    """The mention that each region is for: of its concept, the next one that no region has; None
    for a region without a concept."""
    assigned, _ = assign_concepts(before, concepts)
    left = {n: [m for m in mentions if m.concept == n] for n in range(len(concepts))}
    found: list[Mention | None] = []
    for number in assigned:
        if number is None:
            found.append(None)
            continue
        own = left[number]
        found.append(own.pop(0) if len(own) > 1 else own[0])
    if not any(found):
        raise RegionError(
            "None of the regions has a concept to look for: write its tokens into the regions' "
            "prompts, or disconnect the regions."
        )
    return found


def grown_cells(region: Region, grid: tuple[int, int], grow: float) -> torch.Tensor:
    """(rows, columns) bool: the region's cells and those around them."""
    inside = (region.weights(*grid) > 0).numpy()
    reach = max(1, round(grow * inside.sum() ** 0.5))
    return torch.from_numpy(ndimage.binary_dilation(inside, iterations=reach))


def _name_of(mention: Mention, all_of_them: Sequence[Mention], concepts: Concepts) -> str:
    name = concepts[mention.concept].concept.name
    several = sum(other.concept == mention.concept for other in all_of_them) > 1
    return f"{name} ({mention.occurrence + 1})" if several else name


def _new_region(
    mention: Mention, place: Place, concepts: Concepts, prompt: str, template: str
) -> Region | None:
    if place.mask is None:
        return None
    concept = concepts[mention.concept].concept
    others = [
        words_of(entry.concept)
        for number, entry in enumerate(concepts)
        if number != mention.concept
    ]
    text = region_prompt(prompt, words_of(concept), others, mention.occurrence, template)
    return Region(text, concept=concept.name, mask=place.mask)


def _placed(region: Region, place: Place) -> Region:
    if place.mask is None:
        return region
    return replace(region, box=None, mask=place.mask, in_front=())
