"""Injected deltas: texts, batches, types, cancels and messages."""

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.compose.assign import assign_concepts
from mix_of_show.mos_core.compose.injection import INJECTIONS
from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.regional.texts import encode_region_texts
from mix_of_show.mos_core.records import Concept, LowRank, WeightedConcept
from mix_of_show.mos_core.regions.region import Region
from support.composer_models import composer_unet
from support.golden import relative_error
from support.injecting import (
    ISOLATED,
    LEFT,
    TOLERANCE,
    chain,  # noqa: F401 (fixtures)
    compose,
    layout,
    two_sides,
)
from support.sampling import describe, encode, fingerprint, predict_noise, sample
from support.tiny_models import golden_unet

# ------------------------------------------------------------------------------------ texts


def test_each_region_is_encoded_by_its_own_concepts_text_encoder(clip, chain, unet):
    assigned, _ = assign_concepts(two_sides(), chain)
    texts = encode_region_texts(clip, two_sides(), chain, assigned)
    for number, region in enumerate(two_sides().regions):
        _, own = apply_concepts(unet, clip, (chain[number],))
        assert torch.equal(texts[number].positive[0][0], encode(own, region.prompt)[0][0])
        assert torch.equal(texts[number].negative[0][0], encode(own, region.negative)[0][0])


# ---------------------------------------------------------------------------------- manners


@pytest.mark.parametrize("isolation", ISOLATED)
@pytest.mark.parametrize("setting", INJECTIONS)
def test_the_inputs_stay_as_they_are_and_two_runs_are_equal(setting, isolation, unet, clip, chain):
    before = describe(unet), describe(clip.patcher), fingerprint(unet), fingerprint(clip.patcher)
    composed = compose(unet, clip, chain, two_sides(), setting, isolation)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    assert torch.equal(sample(composed, c, n), sample(composed, c, n))
    after = describe(unet), describe(clip.patcher), fingerprint(unet), fingerprint(clip.patcher)
    assert before == after
    assert hooks_on(unet) == 0


def hooks_on(patcher) -> int:
    modules = patcher.model.diffusion_model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_a_cancel_in_the_middle_restores_everything(unet, clip, chain):
    composed = compose(unet, clip, chain, two_sides(), "full", "on")
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    expected, plain = sample(composed, c, n), sample(unet, c, n)
    stopping, hooked = composed.clone(), []

    def stop(n, extra):
        if extra["block"] == ("output", 5):
            hooked.append(hooks_on(unet))
            raise comfy.model_management.InterruptProcessingException
        return n

    stopping.set_model_patch(stop, "attn2_output_patch")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopping, c, n)
    assert hooked[0] > 100
    assert hooks_on(unet) == 0
    assert torch.equal(sample(composed, c, n), expected)
    assert torch.equal(sample(unet, c, n), plain)


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_a_batch_is_its_pictures_one_by_one(cfg, unet, clip, chain):
    composed = compose(unet, clip, chain, two_sides(), "full", "on")
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    chunks = [0] if cfg == 1 else [1, 0]
    texts = [encode(clip, "blurry" if chunk else "photo")[0][0] for chunk in chunks]
    context = torch.cat([text.expand(2, -1, -1) for text in texts])
    found = predict_noise(composed, noise.repeat(len(chunks), 1, 1, 1), 500, context, chunks)
    for i, chunk in enumerate(chunks):
        for picture in range(2):
            alone = predict_noise(composed, noise[picture][None], 500, texts[i], [chunk])
            assert relative_error(found[2 * i + picture][None], alone) <= TOLERANCE


def test_weights_that_are_cast_when_they_are_used_give_the_same(clip, chain):
    """Low memory: ComfyUI keeps another type and casts every layer as it runs."""
    cast = golden_unet(dtype=torch.float16, manual_cast=torch.float32)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(compose(cast, clip, chain, two_sides(), "full", "on"), c, n)
    expected = sample(compose(golden_unet(), clip, chain, two_sides(), "full", "on"), c, n)
    assert relative_error(found, expected) <= TOLERANCE  # the golden weights are exact in fp16


def test_half_precision_is_close_to_full(unet, clip, chain):
    half = golden_unet(dtype=torch.bfloat16)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found, exact = (
        sample(compose(m, clip, chain, two_sides(), "full", "on"), c, n, steps=1)
        for m in (half, unet)
    )
    plain = sample(unet, c, n, steps=1)
    assert torch.isfinite(found).all()
    assert (found - exact).norm() < 0.2 * (exact - plain).norm()


# --------------------------------------------------------------------------------- messages


def test_a_concept_of_another_base_model_is_refused(clip, concepts):
    wide = composer_unet()
    regions = layout(Region("<a1> <a2>", box=LEFT))
    with pytest.raises(ArchitectureError, match="64 x 64 here, 32 x 32 in 'edlora_a'"):
        compose(wide, clip, (WeightedConcept(concepts["a"]),), regions)


def test_a_concept_that_no_region_draws_need_not_fit(unet, clip, concepts):
    other = Concept.edlora(
        "other",
        {"<o1>": torch.zeros(16, 32)},
        {},
        {"nowhere": LowRank(*torch.zeros(2, 4, 4))},
        "sd15",
    )
    regions = layout(Region("<a1> <a2>", box=LEFT))
    chain = (WeightedConcept(concepts["a"]), WeightedConcept(other))
    assert compose(unet, clip, chain, regions) is not unet
