"""LoRA-Composer's golden UNet, LoRAs and texts as the pack's and ComfyUI's own objects."""

import types

import comfy.conds
import comfy.model_management
import comfy.utils
import torch

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.text.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.records import Concept, LowRank, WeightedConcept

from .golden_composer import golden_regions, read_composer_config, read_composer_tensors
from .tiny_models import LAYERS, SD15_UNET, WIDTH, empty_unet

MULT = [1, 1, 2, 1]
POSITIVE, NEGATIVE = "pos", "neg"


def composer_unet(dtype=torch.float32):
    """The golden UNet as a ModelPatcher: 64 channels at the third level, 32 elsewhere."""
    patcher = empty_unet(dtype, channel_mult=MULT)
    names = comfy.utils.unet_to_diffusers({**SD15_UNET, "channel_mult": MULT})
    weights = {names[k]: w.to(dtype) for k, w in read_composer_tensors("unet").items()}
    patcher.model.diffusion_model.load_state_dict(weights, strict=True)
    return patcher


def composer_concepts():
    """The golden LoRAs as a chain of concepts; their embeddings are already in the texts."""
    return tuple(WeightedConcept(_concept(number)) for number in range(3))


def _concept(number: int) -> Concept:
    tensors = read_composer_tensors(f"lora_{number}")
    ends = (".lora_down.weight", ".lora_up.weight")
    modules = {key.removesuffix(end) for key in tensors for end in ends if key.endswith(end)}
    factors = {m: LowRank(*(tensors[m + end].float() for end in ends)) for m in sorted(modules)}
    tokens = {f"<x{number}>": torch.zeros(LAYERS, WIDTH)}
    return Concept.edlora(f"lora_{number}", tokens, {}, factors, "sd15")


def wide(text: torch.Tensor) -> torch.Tensor:
    """(16, tokens, width), or (tokens, width) for all layers -> (1, tokens, 16 * width)."""
    layers = text if text.ndim == 3 else text.expand(LAYERS, -1, -1)
    return layers.transpose(0, 1).flatten(1)[None]


def region_text(positive: torch.Tensor | None, negative: torch.Tensor | None) -> RegionText:
    """Texts as tensors -> as a text encode node gives them."""
    return RegionText(*(None if text is None else [[text, {}]] for text in (positive, negative)))


def composer_texts() -> tuple[RegionText, ...]:
    inputs = read_composer_tensors("inputs")
    pairs = zip(inputs["region_pos"], inputs["region_neg"], strict=True)
    return tuple(region_text(wide(positive), wide(negative)) for positive, negative in pairs)


def composer_text(half: str) -> torch.Tensor:
    """The global text of one half, wide."""
    return wide(read_composer_tensors("inputs")[f"context_{half}"])


def composer_positions() -> tuple[tuple[int, ...], ...]:
    """Where each region's concept tokens stand in its tokenised prompt."""
    numbers = read_composer_tensors("inputs")["token_idx"] + 1  # of words; before them is a begin
    return tuple(tuple(row) for row in numbers.tolist())


def composer_drawn(base, layout="main") -> tuple[Drawn, ...]:
    """The layout's regions, each with its text, its concept on `base` and its tokens' places."""
    bound = [bind(base, None, entry) for entry in composer_concepts()]
    numbers = read_composer_config()["region_lora"]
    parts = zip(
        golden_regions(layout).regions, composer_texts(), numbers, composer_positions(), strict=True
    )
    return tuple(Drawn(region, text, bound[n], places) for region, text, n, places in parts)


def composer_model(base, layout="main", isolation="reference", setting="reference"):
    """A clone of `base` with the layout's regions, concepts and isolation; the published ones."""
    model = base.clone()
    add_layerwise_text(model)
    return add_regional_attention(model, composer_drawn(base, layout), setting, isolation)


def begun_sampling(model):
    """(guider, extra_args) as ComfyUI has them while it samples `model` by the positive text."""
    comfy.model_management.load_models_gpu([model])
    model.model.current_patcher = model
    text = comfy.conds.CONDCrossAttn(composer_text(POSITIVE))
    entry = {"model_conds": {"c_crossattn": text}, "uuid": 0}
    guider = types.SimpleNamespace(inner_model=model.model, conds={"positive": [entry]})
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    return guider, {"model_options": {"transformer_options": options}}
