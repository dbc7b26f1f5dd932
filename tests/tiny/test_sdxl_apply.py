"""Ring 2: concepts with embeddings for both encoders of SDXL, on tiny SDXL models."""

import pytest
import torch

from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.rows import row_of_layers
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_clip, apply_to_model
from mix_of_show.mos_core.records import Concept, WeightedConcept
from support.sampling import encode, fingerprint, sample
from support.sdxl_models import G_WIDTH, L_WIDTH, UNET, tiny_sdxl, tiny_sdxl_clip

LAYERS = family_of(UNET)[1]
QUERY = "unet.mid_block.attentions.0.transformer_blocks.3.attn2.to_q"
DEEP = "unet.up_blocks.0.attentions.1.transformer_blocks.9.attn2.to_k"
FIRST = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
SECOND = "text_encoder_2.text_model.encoder.layers.1.mlp.fc1"


@pytest.fixture(scope="module")
def model():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def clip():
    return tiny_sdxl_clip()


def made_up(name="knight", rows=11, seed=0, deltas=None, family="sdxl", **widths):
    """A concept with random embeddings of this many rows for both encoders."""
    generator = torch.Generator().manual_seed(seed)
    widths = widths or {"clip_l": L_WIDTH, "clip_g": G_WIDTH}
    token = f"<{name}>"
    tables = {e: {token: torch.randn(rows, w, generator=generator)} for e, w in widths.items()}
    return Concept(name, (token,), tables, deltas or {}, family)


def pair(out: int, into: int, seed: int = 0, rank: int = 2) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(rank, into, generator=generator) * into**-0.5,
        torch.randn(out, rank, generator=generator),
    )


def picture(model, clip, prompt, **options):
    return sample(model, encode(clip, prompt), encode(clip, ""), **options)


def entries(*concepts, strength=1.0):
    return tuple(WeightedConcept(concept, strength, strength) for concept in concepts)


@pytest.mark.parametrize("rows", [1, 11, 70])
def test_a_concepts_token_draws_something_and_other_prompts_the_plain_picture(model, clip, rows):
    own, coder = apply_concepts(model, clip, entries(made_up(rows=rows)))
    assert torch.equal(picture(own, coder, "a red house"), picture(model, clip, "a red house"))
    with_token = picture(own, coder, "a <knight>")
    assert (with_token - picture(model, clip, "a ")).abs().max() > 0.05 * with_token.std()


def test_strength_zero_and_no_token_are_the_plain_model_bit_for_bit(model, clip):
    deltas = {QUERY: pair(32, 32), FIRST: pair(L_WIDTH, L_WIDTH), SECOND: pair(96, G_WIDTH)}
    concept = made_up(deltas=deltas)
    own, coder = apply_concepts(model, clip, entries(concept, strength=0.0))
    assert torch.equal(picture(own, coder, "a house"), picture(model, clip, "a house"))


def test_deltas_reach_the_unet_and_both_text_encoders(model, clip):
    plain = picture(model, clip, "a house")
    for name, delta in (
        (QUERY, pair(32, 32)),
        (FIRST, pair(L_WIDTH, L_WIDTH)),
        (SECOND, pair(96, G_WIDTH)),
    ):
        own, coder = apply_concepts(model, clip, entries(made_up(deltas={name: delta})))
        assert (picture(own, coder, "a house") - plain).abs().max() > 1e-4, name


def test_seventy_rows_that_repeat_eleven_draw_the_same(model, clip):
    coarse = made_up()
    index = list(row_of_layers(LAYERS, 11) or ())
    tables = {e: {t: table[index] for t, table in own.items()} for e, own in coarse.tables.items()}
    fine = Concept("knight", coarse.words, tables, {}, "sdxl")
    one, other = (
        picture(*apply_concepts(model, clip, entries(each)), "a <knight>")
        for each in (coarse, fine)
    )
    assert (one - other).abs().max() < 1e-3 * one.std()


def test_coarse_and_fine_concepts_are_applied_together(model, clip):
    both = entries(made_up(), made_up("queen", 70, 1), made_up("dot", 1, 2))
    own, coder = apply_concepts(model, clip, both)
    alone = picture(*apply_concepts(model, clip, both[:1]), "a <knight>")
    together = picture(own, coder, "a <knight>")
    assert (together - alone).abs().max() < 1e-3 * alone.std()
    for prompt in ("a <queen>", "a <dot> and a <knight>, (<queen>:1.2)"):
        assert torch.isfinite(picture(own, coder, prompt)).all()


def test_the_inputs_stay_as_they_were(model, clip):
    before = fingerprint(model), fingerprint(clip.patcher)
    own, coder = apply_concepts(model, clip, entries(made_up(deltas={DEEP: pair(32, 80)})))
    picture(own, coder, "a <knight>")
    assert (fingerprint(model), fingerprint(clip.patcher)) == before


@pytest.mark.parametrize("size", [(16, 16), (13, 19), (19, 13)])
def test_two_sections_and_sizes_and_batches(model, clip, size):
    own, coder = apply_concepts(model, clip, entries(made_up()))
    long = "a <knight> " + "in a very long story " * 30
    result = picture(own, coder, long, size=size, batch=2)
    assert result.shape[-2:] == size
    assert torch.isfinite(result).all()


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (made_up(rows=16), r"16 embeddings per token.*this MODEL is sdxl \(70 "),
        (made_up(rows=16, family="sd15", clip_l=L_WIDTH), r"made for sd15 .*this MODEL is sdxl"),
        (made_up(clip_l=64, clip_g=G_WIDTH), "are 112 wide, the text of this MODEL is 80 wide"),
    ],
)
def test_a_concept_for_another_model_is_refused(concept, message, model):
    with pytest.raises(ArchitectureError, match=message):
        apply_to_model(model, entries(concept))


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (made_up(clip_l=L_WIDTH), r"this CLIP is sdxl .*clip_l, clip_g; the concept's: clip_l\)"),
        (made_up(rows=16, family="sd15", clip_l=L_WIDTH), r"made for sd15 .*this CLIP is sdxl"),
        (made_up(clip_l=L_WIDTH, clip_g=64), r"are 64 wide.* is 48 wide \(clip_g\)"),
    ],
)
def test_a_concept_for_another_clip_is_refused(concept, message, clip):
    with pytest.raises(ArchitectureError, match=message):
        apply_to_clip(clip, entries(concept))
