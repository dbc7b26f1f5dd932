"""Detail Regions: each region drawn once more, larger, with its own concept alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.sample
import comfy.utils
import latent_preview
import torch
import torch.nn.functional as F

from ..compose.assign import assign_concepts
from ..errors import RegionError, nearest_names
from ..records import Concepts
from ..regions.crops import Crop, cut, paste, plan_crop
from ..regions.region import Region, Regions
from ..regions.soften import feather, grow
from ..regions.to_masks import label_of, region_masks
from .apply import apply_concepts

SEEDS = 2**64


@dataclass(frozen=True)
class DetailSettings:
    """The second pass. side: of a square with as many pixels as a crop is drawn with. context: how
    much larger than its region a crop is. grow, feather: of the region's mask, in pixels of the
    picture. hold: what lies outside the region is held to the picture while the crop is drawn.
    prompts: one a region, empty: its own. seeds: one a region; where there is none, `seed` and
    the region's number from 0. leave_out: names, words of prompts or numbers from 1."""

    seed: int = 0
    steps: int = 20
    cfg: float = 7.0
    sampler: str = "dpmpp_2m"
    scheduler: str = "karras"
    denoise: float = 0.4
    side: int = 512
    context: float = 1.5
    grow: int = 0
    feather: float = 8.0
    hold: bool = True
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    negative: str = ""
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Detailed:
    """image (batch, height, width, channels); crops: pairs before and after, each (1, height,
    width, channels); report: lines to read."""

    image: torch.Tensor
    crops: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    report: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pass:
    """A region's turn. alpha: (height, width), its part of the picture. ready: puts its concept on
    a clone and encodes its texts; called when the turn comes, so that one clone lives at a time."""

    alpha: torch.Tensor
    crop: Crop
    seed: int
    ready: Callable[[], tuple]  # -> MODEL, positive, negative


def detail_regions(
    image: torch.Tensor,
    model: Any,
    clip: Any,
    vae: Any,
    concepts: Concepts,
    regions: Regions,
    settings: DetailSettings,
) -> Detailed:
    """Every picture of the batch with each region drawn again on its enlarged crop.

    image: (batch, height, width, channels) in 0..1; the regions are stretched over it. model, clip,
    vae: of ComfyUI; none is changed: a region's concept is put on a clone, at full strength on the
    whole crop, and no other is. Regions without a concept are drawn by the model as it is. Regions
    behind come first. Raises RegionError: a region that is to be left out is not there.
    """
    height, width = image.shape[1:3]
    assigned, _ = assign_concepts(regions, concepts)
    left_out = _left_out(regions, settings.leave_out)
    masks = region_masks(regions, width, height)
    masks = feather(grow(masks, settings.grow), settings.feather)
    report, passes = [], []
    for number in sorted(range(len(masks)), key=lambda n: regions.regions[n].depth or 0):
        region, alpha = regions.regions[number], masks[number]
        crop = plan_crop(alpha, settings.context, settings.side)
        name = f"{number + 1} {label_of(region)}"
        if number in left_out or crop is None:
            why = "" if number in left_out else ": there is nothing of it in the picture"
            report.append(f"{name}: left out{why}")
            continue
        own = settings.prompts[number] if number < len(settings.prompts) else ""
        concept = assigned[number]
        entry = None if concept is None else concepts[concept]
        ready = partial(_ready, model, clip, entry, region, own.strip(), settings.negative)
        passes.append(Pass(alpha, crop, _seed(settings, number), ready))
        report.append(f"{name}: {_size(crop)}, drawn at {crop.width} x {crop.height}")
    bar = Progress(len(passes) * len(image) * settings.steps)
    pictures, crops = list(image.split(1)), []
    for turn in passes:
        ready_made = turn.ready()
        for number, picture in enumerate(pictures):
            before = cut(picture, turn.crop)
            seed = (turn.seed + number * len(masks)) % SEEDS
            after = _draw(before, turn, ready_made, seed, vae, settings, bar)
            pictures[number] = paste(picture, after, turn.crop, turn.alpha)
            crops.append((before[..., :3], after[..., :3]))
    return Detailed(torch.cat(pictures), tuple(crops), (*report, *regions.notes))


def _ready(model: Any, clip: Any, entry: Any, region: Region, prompt: str, negative: str) -> tuple:
    """MODEL with the region's concept alone, its positive and negative conditioning."""
    if entry is not None:
        strong = replace(
            entry,
            strength_model=entry.strength_model * region.strength,
            strength_clip=entry.strength_clip * region.strength,
        )
        model, clip = apply_concepts(model, clip, (strong,))
    texts = (prompt or region.prompt, region.negative.strip() or negative)
    return model, *(clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in texts)


def _draw(
    before: torch.Tensor,
    turn: Pass,
    ready: tuple,
    seed: int,
    vae: Any,
    settings: DetailSettings,
    bar: Any,
) -> torch.Tensor:
    """(1, height, width, channels) of a crop drawn again. ready: what the turn's `ready` gives."""
    model, positive, negative = ready
    crop = turn.crop
    latent = comfy.sample.fix_empty_latent_channels(model, vae.encode(before[..., :3]))
    mask = None
    if settings.hold:
        inside = turn.alpha[crop.y0 : crop.y1, crop.x0 : crop.x1] > 0
        mask = F.interpolate(inside[None, None].float(), (crop.height, crop.width))
    drawn = comfy.sample.sample(
        model,
        comfy.sample.prepare_noise(latent, seed),
        settings.steps,
        settings.cfg,
        settings.sampler,
        settings.scheduler,
        positive,
        negative,
        latent,
        denoise=settings.denoise,
        noise_mask=mask,
        callback=bar.of(model),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    pixels = vae.decode(drawn)  # a video's VAE gives (batch, frames, height, width, channels)
    return pixels.reshape(-1, *pixels.shape[-3:])[:1].clamp(0, 1)


class Progress:
    """One bar over all passes, with the crop that is being drawn as its preview."""

    def __init__(self, total: int):
        self.bar, self.done = comfy.utils.ProgressBar(max(1, total)), 0

    def of(self, model: Any) -> Callable:
        """The callback of one sampling."""
        previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

        def callback(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            self.done += 1
            shown = previewer and previewer.decode_latent_to_preview_image("JPEG", x0)
            self.bar.update_absolute(self.done, preview=shown)

        return callback


def _seed(settings: DetailSettings, number: int) -> int:
    return settings.seeds[number] if number < len(settings.seeds) else settings.seed + number


def parse_seeds(text: str) -> tuple[int, ...]:
    """Whole numbers between commas or lines. Raises RegionError for anything else."""
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    try:
        return tuple(int(part) % SEEDS for part in parts)
    except ValueError:
        raise RegionError(
            f"'{text.strip()[:40]}' are no seeds. Write whole numbers, one a region: 5, 12, 7."
        ) from None


def _size(crop: Crop) -> str:
    return f"{crop.x1 - crop.x0} x {crop.y1 - crop.y0} pixels at {crop.x0}, {crop.y0}"


def _left_out(regions: Regions, asked: tuple[str, ...]) -> set[int]:
    """Numbers of the regions that are to stay as they are. Raises RegionError for one that is not
    there."""
    found: set[int] = set()
    for text in asked:
        wanted = text.strip().casefold()
        if not wanted:
            continue
        hits = {
            number
            for number, region in enumerate(regions.regions)
            if wanted == str(number + 1)
            or wanted == (region.concept or "").casefold()
            or wanted in region.prompt.casefold()
        }
        if not hits:
            names = [label_of(region) for region in regions.regions]
            raise RegionError(
                f"'{text.strip()}' is to be left out, but no region is called so; nearest: "
                f"{nearest_names(text.strip(), names)}. Write a number from 1, a concept's name or "
                "words of a region's prompt."
            )
        found |= hits
    return found
