"""The reference's numbers, through the nodes' own path: Apply Concepts, stock encoding, UNet."""

import pytest
import torch

from mix_of_show.mos_core.formats.parts import build_concept
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_model
from mix_of_show.mos_core.records import WeightedConcept
from support.golden import read_meta, read_parts, read_tensors, relative_error, strength_key
from support.sampling import predict_noise
from support.tiny_models import LAYERS, WIDTH, golden_unet

TEXT_TOLERANCE = 5e-6  # the issue asks for 1e-4; measured: 6e-7
UNET_TOLERANCE = 2e-5  # measured: 2e-6
META = read_meta()
TEXT_CASES = [
    (prompt, alpha) for prompt, info in META["text_prompts"].items() for alpha in info["alphas"]
]
UNET_CASES = [
    (case, alpha)
    for case in ("sq", "nonsq", "variant.sq")
    for alpha in META["alphas"]
    if f"{case}.noise_pred.{strength_key(alpha)}" in read_tensors("unet_forward")
]
TIMESTEP_META = read_meta("timestep/meta.json")


def encode(clip, prompt):
    """The wide conditioning of a prompt, first chunk: (1, 77, layers * width)."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))[0][0][:, :77]


def by_layer(wide):
    """(1, tokens, layers * width) -> (layers, tokens, width)"""
    return wide.unflatten(-1, (LAYERS, WIDTH))[0].transpose(0, 1)


def prepare_case(case, alpha, unet, clip, concepts):
    """(patched MODEL, latent of batch 2, timestep, wide context [negative, positive])"""
    tensors, plain = read_tensors("unet_forward"), case.removeprefix("variant.")
    variant = case != plain
    info = META["unet_cases"][plain]
    concept = concepts["v" if variant else info["lora"]]
    prompts = [
        META["text_prompts"][name]["prompt"]
        for name in (("variant.neg", "variant.p0") if variant else ("neg", f"p{info['prompt']}"))
    ]
    model, text = apply_concepts(unet, clip, (WeightedConcept(concept, alpha, alpha),))
    context = torch.cat([encode(text, prompt) for prompt in prompts])
    latent = tensors[f"{plain}.latent"].repeat(2, 1, 1, 1)
    return model, latent, int(tensors[f"{plain}.timestep"]), context


def test_all_stored_cases_are_tested():
    assert len(TEXT_CASES) == 18
    stored = [key for key in read_tensors("unet_forward") if ".noise_pred.alpha" in key]
    assert len(UNET_CASES) == len(stored) == 8


@pytest.mark.parametrize(("prompt", "alpha"), TEXT_CASES)
def test_text_encoding_equals_the_reference(prompt, alpha, unet, clip, concepts):
    info = META["text_prompts"][prompt]
    _, text = apply_concepts(unet, clip, (WeightedConcept(concepts[info["lora"]], alpha, alpha),))
    expected = read_tensors("text_encoding")[f"{prompt}.{strength_key(alpha)}"]
    found = by_layer(encode(text, info["prompt"]))
    assert relative_error(found, expected.expand_as(found)) <= TEXT_TOLERANCE


@pytest.mark.parametrize(("case", "alpha"), UNET_CASES)
def test_unet_output_equals_the_reference(case, alpha, unet, clip, concepts):
    model, latent, timestep, context = prepare_case(case, alpha, unet, clip, concepts)
    expected = read_tensors("unet_forward")[f"{case}.noise_pred.{strength_key(alpha)}"]
    found = predict_noise(model, latent, timestep, context)
    assert relative_error(found, expected) <= UNET_TOLERANCE


def test_every_cross_attention_output_equals_the_reference(unet, clip, concepts):
    model, latent, timestep, context = prepare_case("sq", 1.0, unet, clip, concepts)
    outputs = []
    model.set_model_patch(lambda n, extra: outputs.append(n) or n, "attn2_output_patch")
    predict_noise(model, latent, timestep, context)
    assert len(outputs) == len(META["cross_attention_order"]) == LAYERS
    for i, found in enumerate(outputs):
        expected = read_tensors("unet_forward")[f"sq.attn2_out_cond.{i}.alpha1"]
        assert relative_error(found[1], expected) <= UNET_TOLERANCE, f"layer {i}"


@pytest.mark.parametrize("case", ["sq", "nonsq"])
def test_one_layers_text_for_all_layers_differs_as_it_does_in_the_reference(
    case, unet, clip, concepts
):
    model, latent, timestep, context = prepare_case(case, 1.0, unet, clip, concepts)
    tensors = read_tensors("unet_forward")
    single = context.unflatten(-1, (LAYERS, WIDTH))[:, :, 3]
    found = predict_noise(model, latent, timestep, single)
    assert relative_error(found, tensors[f"{case}.noise_pred_single.alpha1"]) <= UNET_TOLERANCE
    assert relative_error(found, tensors[f"{case}.noise_pred.alpha1"]) > 100 * UNET_TOLERANCE


@pytest.fixture(scope="module")
def timestep_unet():
    return golden_unet("timestep/")


@pytest.fixture(scope="module")
def timestep_concept():
    return build_concept("t", *read_parts("timestep/edlora_t").values())


@pytest.mark.parametrize("timestep", TIMESTEP_META["timesteps"])
@pytest.mark.parametrize("alpha", TIMESTEP_META["alphas"])
def test_unet_output_at_a_time_step_equals_the_reference(
    alpha, timestep, timestep_unet, timestep_concept
):
    tensors = read_tensors("timestep/unet_forward")
    model = apply_to_model(timestep_unet, (WeightedConcept(timestep_concept, alpha, alpha),))
    wide = tensors["context"].float().transpose(1, 2).flatten(2)  # (2, tokens, layers * width)
    latent = tensors["latent"].repeat(2, 1, 1, 1)
    found = predict_noise(model, latent, timestep, wide)
    expected = tensors[f"noise_pred.{strength_key(alpha)}.t{timestep}"]
    assert relative_error(found, expected) <= UNET_TOLERANCE
    other = tensors[f"noise_pred.{strength_key(alpha)}.t{961 if timestep < 900 else 21}"]
    assert relative_error(found, other) > 100 * UNET_TOLERANCE
