"""Ring 2: layer-wise text on SDXL: two encoders, a row per spatial transformer or per layer."""

import pytest
import torch

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.rows import row_counts, row_of_layers, spread
from mix_of_show.mos_core.patch.text.layerwise_clip import add_vocabulary
from mix_of_show.mos_core.patch.text.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.text.vocabulary import Vocabulary
from support.sampling import encode, sample
from support.sdxl_models import G_WIDTH, L_WIDTH, TEXT_WIDTH, UNET, tiny_sdxl, tiny_sdxl_clip

LAYERS = family_of(UNET)[1]
SPATIAL, ALL = 11, 70


@pytest.fixture(scope="module")
def model():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def clip():
    return tiny_sdxl_clip()


def tables(rows: int, seed: int = 0, token: str = "<a1>"):
    """Random embeddings for both encoders."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "clip_l": {token: torch.randn(rows, L_WIDTH, generator=generator)},
        "clip_g": {token: torch.randn(rows, G_WIDTH, generator=generator)},
    }


def knowing(clip, own):
    """A clone of the CLIP that knows these tables' tokens."""
    coder = clip.clone()
    add_vocabulary(coder, Vocabulary(own, {}, LAYERS))
    return coder


def encoded(coder, text: str):
    return coder.encode_from_tokens(coder.tokenize(text), return_pooled=True)


def of_row(own, row: int):
    """The tables of one row alone, as a textual inversion has them."""
    return {e: {t: table[row : row + 1] for t, table in of.items()} for e, of in own.items()}


def test_the_model_has_seventy_layers_in_eleven_spatial_transformers():
    assert row_counts(LAYERS) == (SPATIAL, ALL)
    rows = row_of_layers(LAYERS, SPATIAL)
    assert rows is not None
    assert rows[:5] == (0, 0, 1, 1, 2)
    assert sorted(set(rows)) == list(range(SPATIAL))
    assert spread(LAYERS, SPATIAL, ALL) == rows
    assert spread(LAYERS, ALL, SPATIAL) is None
    assert row_of_layers(LAYERS, 16) is None


@pytest.mark.parametrize("rows", [SPATIAL, ALL])
def test_each_row_is_the_prompt_encoded_with_that_rows_embeddings(clip, rows):
    own = tables(rows)
    wide, _ = encoded(knowing(clip, own), "photo of a (<a1>:1.2), red")
    assert wide.shape == (1, 77, rows * TEXT_WIDTH)
    for row in (0, rows // 2, rows - 1):
        alone, _ = encoded(knowing(clip, of_row(own, row)), "photo of a (<a1>:1.2), red")
        assert alone.shape == (1, 77, TEXT_WIDTH)
        torch.testing.assert_close(
            wide[..., row * TEXT_WIDTH : (row + 1) * TEXT_WIDTH], alone, rtol=1e-5, atol=1e-5
        )


def test_the_pooled_output_is_that_of_the_mean_of_the_rows(clip):
    own = tables(SPATIAL)
    means = {e: {t: table.mean(0, True) for t, table in of.items()} for e, of in own.items()}
    _, pooled = encoded(knowing(clip, own), "photo of a <a1>")
    _, expected = encoded(knowing(clip, means), "photo of a <a1>")
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=1e-5)


def test_a_prompt_without_concept_tokens_is_the_stock_text_in_every_row(clip):
    stock, pooled = encoded(clip, "a red house, (night:0.8)")
    wide, own = encoded(knowing(clip, tables(SPATIAL)), "a red house, (night:0.8)")
    assert torch.equal(
        wide.unflatten(-1, (SPATIAL, -1)), stock[:, :, None].expand(-1, -1, SPATIAL, -1)
    )
    assert torch.equal(own, pooled)


def test_a_prompt_costs_as_many_encodings_as_it_has_distinct_rows(clip, monkeypatch):
    own = tables(SPATIAL)
    fine = {
        e: {t: table[list(row_of_layers(LAYERS, SPATIAL) or ())] for t, table in of.items()}
        for e, of in own.items()
    }
    coder, sections = knowing(clip, fine), []
    encoder = clip.cond_stage_model.clip_g
    stock = type(encoder).forward
    monkeypatch.setattr(
        encoder, "forward", lambda tokens: sections.append(len(tokens)) or stock(encoder, tokens)
    )
    wide, _ = encoded(coder, "a <a1>")
    assert wide.shape[-1] == ALL * TEXT_WIDTH
    assert sections == [SPATIAL + 1]  # and one for the pooled output


def test_coarse_and_fine_tables_stand_side_by_side(clip):
    own, other = tables(SPATIAL), tables(ALL, 1, "<b1>")
    both = {e: {**own[e], **other[e]} for e in own}
    wide, _ = encoded(knowing(clip, both), "a <a1>")
    coarse, _ = encoded(knowing(clip, own), "a <a1>")
    rows = list(row_of_layers(LAYERS, SPATIAL) or ())
    expected = coarse.unflatten(-1, (SPATIAL, -1))[:, :, rows].flatten(2)
    torch.testing.assert_close(wide, expected, rtol=1e-5, atol=1e-5)


def test_tables_of_another_model_are_refused_beside_these():
    both = {"clip_l": {**tables(SPATIAL)["clip_l"], "<b1>": torch.zeros(16, L_WIDTH)}}
    with pytest.raises(ArchitectureError, match=r"11 layers.*16"):
        Vocabulary(both, {}, LAYERS).expanded("clip_l")


@pytest.mark.parametrize("rows", [SPATIAL, ALL])
def test_equal_rows_draw_the_stock_picture_bit_for_bit(model, clip, rows):
    patched = model.clone()
    add_layerwise_text(patched)
    coder = knowing(clip, tables(rows))
    stock = sample(model, encode(clip, "a red house"), encode(clip, ""))
    wide = sample(patched, encode(coder, "a red house"), encode(coder, ""))
    assert torch.equal(stock, wide)


def test_each_layer_reads_the_row_of_its_spatial_transformer(model, clip):
    """Eleven rows draw what seventy do that repeat them."""
    patched = model.clone()
    add_layerwise_text(patched)
    own = tables(SPATIAL)
    fine = {
        e: {t: table[list(row_of_layers(LAYERS, SPATIAL) or ())] for t, table in of.items()}
        for e, of in own.items()
    }
    pictures = []
    for each in (own, fine):
        coder = knowing(clip, each)
        pictures.append(sample(patched, encode(coder, "a <a1>"), encode(coder, "")))
    coarse, finest = pictures
    assert (coarse - finest).abs().max() < 1e-3 * coarse.std()
    other = sample(model, encode(clip, "a house"), encode(clip, ""))
    assert (coarse - other).abs().max() > 0.05 * coarse.std()


def test_a_wide_text_on_the_plain_model_ends_in_our_message(model, clip):
    coder = knowing(clip, tables(SPATIAL))
    with pytest.raises(ArchitectureError, match=r"Apply Concepts"):
        sample(model, encode(coder, "a <a1>"), encode(coder, ""))
