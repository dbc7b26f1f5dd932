"""Ring 1: the parts of training that need no ComfyUI."""

import random

import pytest
import torch

from mix_of_show.mos_core.errors import TrainError
from mix_of_show.mos_core.train.batches import pick_batch
from mix_of_show.mos_core.train.captions import PLACE, compose_caption, parse_captions
from mix_of_show.mos_core.train.curve import HEIGHT, WIDTH, draw_curve
from mix_of_show.mos_core.train.loss import masked_mse, regularise_attention, token_maps
from mix_of_show.mos_core.train.pictures import check_pictures, fit_whole, loss_weight, make_views
from mix_of_show.mos_core.train.settings import TrainSettings
from mix_of_show.mos_core.train.tokens import have_embeddings, parse_tokens, start_embeddings

# --- captions --------------------------------------------------------------------------------


def test_one_caption_serves_all_pictures():
    assert parse_captions(["photo of a <TOK>"], 3) == ["photo of a <TOK>"] * 3


def test_a_text_with_a_line_per_picture_is_split():
    assert parse_captions(["a <TOK>\n\nthe <TOK>\n"], 2) == ["a <TOK>", "the <TOK>"]


def test_a_number_of_captions_that_does_not_match_is_refused():
    with pytest.raises(TrainError, match="2 captions for 3 pictures"):
        parse_captions(["a <TOK>", "b <TOK>"], 3)


def test_a_caption_without_the_concept_is_refused_by_number():
    with pytest.raises(TrainError, match=r"caption 2 \('a dog'\).*<TOK>"):
        parse_captions(["a <TOK>", "a dog"], 2)


@pytest.mark.parametrize("captions", [[""], ["", "a <TOK>"], ["a <TOK>", " \n "], ["\n\n"]])
def test_an_empty_caption_is_refused_by_number(captions):
    with pytest.raises(TrainError, match=r"caption [12] is empty.*<TOK>"):
        parse_captions(captions, 2)


def test_a_caption_becomes_a_prompt_with_the_tokens_in_place():
    text = compose_caption("a <TOK>, red, by <TOK>", ["<a>", "<b>"], False, random.Random(0))
    assert text == "a <a> <b>, red, by <a> <b>"


def test_shuffling_keeps_the_first_part_first_and_every_part():
    seen = {
        compose_caption("<TOK> on, a, b, c", ["<x>"], True, random.Random(i)) for i in range(50)
    }
    assert len(seen) == 6
    assert all(s.startswith("<x> on, ") and sorted(s[8:].split(", ")) == list("abc") for s in seen)


def test_the_concept_alone_is_put_into_templates():
    seen = {compose_caption(PLACE, ["<x>"], True, random.Random(i)) for i in range(50)}
    assert len(seen) > 3
    assert all("<x>" in s and len(s) > 5 for s in seen)


# --- pictures --------------------------------------------------------------------------------


def test_the_whole_picture_is_padded_into_the_square_and_the_padding_does_not_count():
    stack = torch.ones(1, 4, 32, 64)
    padded, valid = fit_whole(stack, 64, 64)
    assert padded.shape == (1, 4, 64, 64)
    assert valid[16:48].eq(1).all()
    assert valid[:16].eq(0).all()
    assert valid[48:].eq(0).all()
    assert padded[0, :3, :16].eq(0.5).all()
    assert padded[0, 3, :16].eq(0).all()


def test_views_of_mixed_sizes_have_one_size_and_their_own_captions():
    images = [torch.rand(40, 60, 3), torch.rand(100, 30, 3)]
    masks = [torch.ones(40, 60), torch.ones(100, 30)]
    views = make_views(images, masks, ["a", "b"], 64, 3, seed=1)
    assert [v.caption for v in views] == list("aaabbb")
    assert all(v.pixels.shape == (64, 64, 3) and v.mask.shape == (64, 64) for v in views)


def test_views_of_the_pictures_own_shape_have_the_short_side_and_lose_nothing():
    wide, tall, odd = torch.rand(128, 384, 3), torch.rand(100, 50, 3), torch.rand(90, 100, 3)
    views = make_views([wide, tall, odd], [], list("abc"), 128, 1, seed=1, square=False)
    assert [tuple(v.pixels.shape[:2]) for v in views] == [(128, 384), (256, 128), (128, 128)]
    torch.testing.assert_close(views[0].pixels, wide)
    assert views[1].valid.eq(1).all()
    assert views[2].valid.mean() > 0.85  # almost square: shares batches, with a little padding
    (longest,) = make_views([torch.rand(16, 160, 3)], [], ["a"], 64, 1, seed=1, square=False)
    assert longest.pixels.shape[:2] == (64, 256)


def test_crops_of_the_pictures_own_shape_keep_the_proportions():
    line = torch.linspace(0, 1, 384).expand(128, -1)[..., None].repeat(1, 1, 3)
    _, *crops = make_views([line], [], ["a"], 128, 5, seed=2, square=False)
    for view in crops:
        shown = view.pixels[0, -1, 0] - view.pixels[0, 0, 0]  # share of the width
        assert 0.7 < shown < 1
        assert view.pixels.shape == (128, 384, 3)


def test_crops_take_picture_and_mask_alike():
    image = torch.rand(80, 80, 1).expand(-1, -1, 3).contiguous()
    views = make_views([image], [image[..., 0]], ["a"], 64, 4, seed=3)
    for view in views:
        torch.testing.assert_close(view.pixels[..., 0], view.mask)
    assert not torch.equal(views[1].pixels, views[2].pixels)


def test_the_loss_counts_inside_the_mask_or_on_the_whole_picture():
    mask = torch.zeros(64, 64)
    mask[:32] = 1
    (view,) = make_views([torch.rand(64, 64, 3)], [mask], ["a"], 64, 1, seed=0)
    assert loss_weight(view, True, 8, 8)[0].tolist() == [[1.0] * 8] * 4 + [[0.0] * 8] * 4
    assert loss_weight(view, False, 8, 8).eq(1).all()


@pytest.mark.parametrize(
    ("images", "masks", "message"),
    [
        ([], [], "no training images"),
        ([torch.rand(4, 64, 3)], [], "smaller than 8"),
        ([torch.full((64, 64, 3), float("nan"))], [], "invalid values"),
        ([torch.rand(64, 64, 3)] * 3, [torch.ones(64, 64)] * 2, "2 masks for 3 images"),
        ([torch.rand(64, 64, 3)], [torch.ones(64, 32)], "mask 1 is 32 x 64, its image 64 x 64"),
        ([torch.rand(64, 64, 3)], [torch.zeros(64, 64)], "mask 1 is empty"),
    ],
)
def test_pictures_that_cannot_be_trained_on_are_refused(images, masks, message):
    with pytest.raises(TrainError, match=message):
        check_pictures(images, masks)


# --- tokens and settings ---------------------------------------------------------------------


def test_random_and_word_initialisers_start_their_own_token():
    starts = start_embeddings(("<a>", "<b>"), "<rand-0.5> cat", lambda w: torch.ones(512), 512, 0)
    assert starts["<a>"].std() == pytest.approx(0.5, rel=0.1)
    assert starts["<b>"].eq(1).all()


@pytest.mark.parametrize("initializer", ["cat", "a b c", "<rand-x> cat", "<rand--1> cat"])
def test_initialisers_that_do_not_fit_the_tokens_are_refused(initializer):
    with pytest.raises(TrainError, match="initialiser"):
        start_embeddings(("<a>", "<b>"), initializer, lambda w: torch.ones(8), 8, 0)


@pytest.mark.parametrize("tokens", ["", "potter", "<a> <A>", "<a:b>", "<>"])
def test_tokens_that_cannot_stand_in_a_prompt_are_refused(tokens):
    with pytest.raises(TrainError):
        parse_tokens(tokens)


@pytest.mark.parametrize("text", ["bear", "a red knight"])
def test_words_without_brackets_are_those_of_an_ordinary_lora(text):
    words = parse_tokens(text, layerwise=False)
    assert words == (text,)
    assert not have_embeddings(words)
    with pytest.raises(TrainError, match=r"ordinary LoRA.*'layerwise' off"):
        parse_tokens(text)
    assert have_embeddings(parse_tokens("<a> <b>", layerwise=False))
    with pytest.raises(TrainError):
        parse_tokens("<a> bear", layerwise=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"rank": 0}, {"rate_unet": float("nan")}, {"resolution": 100},
        {"regularisation": "x"}, {"rate_embedding": 0, "rate_text": 0, "rate_unet": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(TrainError):
        TrainSettings(**wrong).check()


def test_every_view_is_seen_once_per_round():
    settings = TrainSettings(batch_size=3)
    seen = [i for micro in range(4) for i in pick_batch([(4, 8, 8)] * 6, micro, settings)]
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_a_batch_holds_one_shape_and_every_view_has_its_turn():
    settings = TrainSettings(batch_size=2)
    shapes = [(4, 8, 8)] * 4 + [(4, 8, 24)] * 2
    batches = [pick_batch(shapes, micro, settings) for micro in range(6)]
    assert all(len({shapes[i] for i in batch}) == 1 for batch in batches)
    for rounds in (batches[:3], batches[3:]):
        assert sorted(i for batch in rounds for i in batch) == list(range(6))
    assert len({tuple(b) for b in batches}) > 3


# --- loss, by hand ---------------------------------------------------------------------------


def test_the_masked_loss_is_the_mean_over_the_mask_per_image():
    prediction, target = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    prediction[0, 0, 0, 0] = 2.0  # error 4 in one of one masked cells
    prediction[1] = 3.0  # error 9 everywhere
    weight = torch.tensor([[[[1.0, 0], [0, 0]]], [[[1.0, 1], [1, 1]]]])
    assert masked_mse(prediction, target, weight).item() == pytest.approx((4 + 9) / 2)


def test_token_maps_are_the_softmax_columns_of_the_token():
    q, k = torch.randn(1, 4, 8), torch.randn(1, 5, 8)
    select = torch.zeros(1, 1, 5)
    select[0, 0, 3] = 1
    head = [(q[0, :, i : i + 4] @ k[0, :, i : i + 4].T / 2).softmax(-1)[:, 3] for i in (0, 4)]
    torch.testing.assert_close(token_maps(q, k, 2, select)[0, 0], (head[0] + head[1]) / 2)


def test_attention_regularisation_by_hand():
    # Maps are scaled to a maximum of 1: first token leaks 0.5 to one of two outside cells, the
    # second is 1 inside one cell and misses the other.
    maps = {(2, 2): [torch.tensor([[[2.0, 2.0, 1.0, 0.0], [4.0, 0.0, 0.0, 0.0]]])]}
    mask = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
    assert regularise_attention(maps, mask, whole=True).item() == pytest.approx(0.25 + 0.25)
    assert regularise_attention(maps, mask, whole=False).item() == pytest.approx(0.25)


# --- curve ------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 0.5, float("nan"), 0.2] * 30])
def test_the_curve_is_a_picture_of_any_run(losses):
    picture = draw_curve(losses)
    assert picture.shape == (1, HEIGHT, WIDTH, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture.std() > 0
