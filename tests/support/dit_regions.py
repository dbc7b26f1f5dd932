"""Regions and random LoRAs on the tiny diffusion transformers."""

import comfy.utils
import torch

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.records import Bound, Concept, Site, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region

from .dit_models import dit_conditioning

WHOLE, LEFT, RIGHT = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
SLIVER = Box(0.51, 0.51, 0.52, 0.52)  # no whole cell


def linear_sites(model) -> dict[Site, torch.nn.Module]:
    """Every linear layer of the transformer; not of Anima's adapter, which runs before it."""
    return {
        Site(f"diffusion_model.{path}.weight"): module
        for path, module in model.model.diffusion_model.named_modules()
        if isinstance(module, torch.nn.Linear) and not path.startswith("llm_adapter.")
    }


def random_lora(model, seed: int = 0, rank: int = 4, scale: float = 0.4, streams=()) -> Bound:
    """A LoRA of every linear layer, or of those with tokens of the given streams."""
    family, _ = family_of(model.model.model_config.unet_config)
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for site, module in linear_sites(model).items():
        out, into = module.weight.shape
        down = torch.randn(rank, into, generator=generator) / into**0.5
        up = torch.randn(out, rank, generator=generator) * scale / rank**0.5
        role = family.role(site.path)
        assert role is not None, f"{site.path} has no role"
        if not streams or role.stream in streams:
            deltas[site] = LowRank(down, up)
    return Bound(None, deltas, {})


def two_loras(model, *names: str, scale: float = 0.05) -> tuple[WeightedConcept, ...]:
    """Ordinary LoRAs of every linear layer, each with its name for a trigger word."""
    chain = []
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        deltas = {}
        for site, module in linear_sites(model).items():
            out, into = module.weight.shape
            down = torch.randn(2, into, generator=generator) / 6
            path = site.path.removeprefix("diffusion_model.").replace(".", "_")
            up = torch.randn(out, 2, generator=generator) * scale
            deltas[f"lora_unet_{path}"] = LowRank(down, up)
        chain.append(WeightedConcept(Concept(name, (name,), {}, deltas, None)))
    return tuple(chain)


def merged(model, *loras: Bound, strength: float = 1.0):
    """What Load LoRA makes of a model."""
    patched = model.clone()
    for lora in loras:
        patches = {site.key: ("diff", (d.matrix(),)) for site, d in lora.model.items()}
        patched.add_patches(patches, strength)
    return patched


def text_of(name: str, positive: int | None, negative: int | None = None, tokens: int = 9):
    """A region's texts, by the seeds of their conditionings."""
    both = (None if s is None else dit_conditioning(name, s, tokens) for s in (positive, negative))
    return RegionText(*both)


def region(box, text: RegionText, lora: Bound | None = None, **values) -> Drawn:
    return Drawn(Region("somebody", box=box, **values), text, lora)


def with_regions(model, drawn, isolation: str = "on", **options):
    return add_regional_attention(model, tuple(drawn), isolation=isolation, **options)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in standard deviations of what was expected."""
    return ((found - expected).abs().max() / expected.std()).item()


def module_of(model, site: Site) -> torch.nn.Module:
    return comfy.utils.get_attr(model, site.path.removeprefix("diffusion_model."))
