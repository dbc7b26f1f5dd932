"""LoRA-Composer's forward pass, without guidance, against the reference's numbers."""

import pytest
import torch

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.regions.region import Box, Region
from support.composer_models import (
    NEGATIVE,
    POSITIVE,
    composer_concepts,
    composer_model,
    composer_text,
    composer_unet,
)
from support.golden import relative_error
from support.golden_composer import read_composer_tensors
from support.sampling import predict_noise

TOLERANCE = 1e-5  # the issue asks for 1e-4; measured: 2e-6
CASES = [
    ("main", "mask", 999, "cfg"),
    ("main", "mask", 999, "cond"),
    ("main", "mask", 500, "cfg"),
    ("main", "nomask", 999, "cfg"),
    ("overlap", "mask", 999, "cfg"),
    ("overlap", "nomask", 999, "cfg"),
]


@pytest.fixture(scope="module")
def base():
    return composer_unet()


def run(model, time, chunks=(1, 0)):
    text = torch.cat([composer_text(NEGATIVE if chunk else POSITIVE) for chunk in chunks])
    latent = read_composer_tensors("inputs")[f"latents_t{time}"].repeat(len(chunks), 1, 1, 1)
    return predict_noise(model, latent, time, text, chunks)


@pytest.mark.parametrize(("layout", "mask", "time", "batch"), CASES)
def test_noise_prediction_equals_the_reference(layout, mask, time, batch, base):
    model = composer_model(base, layout, "reference" if mask == "mask" else "off")
    found = run(model, time, (1, 0) if batch == "cfg" else (0,))
    expected = read_composer_tensors("forward")[f"{layout}.{mask}.t{time}.{batch}"]
    assert relative_error(found, expected) <= TOLERANCE


@pytest.mark.parametrize("attention", ["attn1", "attn2"])
@pytest.mark.parametrize("layout", ["main", "overlap"])
def test_hidden_states_of_a_layer_equal_the_reference(layout, attention, base):
    inputs, outputs = [], []
    model = composer_model(base, layout)
    note_input = {"attn1": model.set_model_attn1_patch, "attn2": model.set_model_attn2_patch}
    note_input[attention](lambda n, context, value, extra: (inputs.append(n) or n, context, value))
    model.set_model_patch(lambda n, extra: outputs.append(n) or n, f"{attention}_output_patch")
    run(model, 999)
    stored = read_composer_tensors("layers")
    assert relative_error(inputs[4], stored[f"{layout}.mask.4.{attention}.in"]) <= TOLERANCE
    assert relative_error(outputs[4], stored[f"{layout}.mask.4.{attention}.out"]) <= TOLERANCE


def test_without_regions_and_with_a_whole_lora_the_model_is_the_references(base):
    stored = read_composer_tensors("forward")
    latent = read_composer_tensors("inputs")["latents_t999"]
    text = read_composer_tensors("inputs")["context_pos"][:1]
    plain = predict_noise(base, latent, 999, text)
    assert relative_error(plain, stored["plain.base.t999"]) <= TOLERANCE
    everywhere = Region("all", box=Box(0, 0, 1, 1))
    concept = bind(base, None, composer_concepts()[0])
    whole = add_regional_attention(base, [Drawn(everywhere, RegionText(None, None), concept)])
    found = predict_noise(whole, latent, 999, text)
    assert relative_error(found, stored["plain.lora0_fully_merged.t999"]) <= TOLERANCE
