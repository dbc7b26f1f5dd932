"""Layer-wise text through the stock nodes' calls, against the same thing from stock encodings."""

from dataclasses import replace

import comfy.hooks
import comfy.sd
import comfy.sd1_clip
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mix_of_show.mos_core.errors import ConceptTokenError
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_clip
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.text.layerwise import expand_layers, layer_mean, split_layers, widen
from mix_of_show.mos_core.text.tokenizer import ConceptTokenizer, concept_table
from mix_of_show.mos_core.text.vocabulary import Vocabulary
from support.golden import relative_error
from support.oracle import stock_encoding, stock_tokens
from support.text_oracles import TOLERANCE, by_layer, encode, entry, knowing, merged  # noqa: F401 (fixtures)
from support.tiny_models import LAYERS, WIDTH

LONG = ", ".join(["masterpiece, highly detailed, golden hour"] * 10)  # 70 tokens


# ------------------------------------------------------------------ concept tokens in a prompt

PROMPTS = {
    "alone": "<a1> <a2>",
    "in the middle": "photo of a <a1> <a2> near a lake",
    "directly before a comma": "a <a1> <a2>, standing, <a1>.",
    "twice": "<a1> <a2> on the left and <a1> <a2> on the right",
    "upper case": "PHOTO OF A <A1> <A2>",
    "without spaces": "a<a1><a2>b",
    "in another order": "<a2> of <a1>",
    "a weight around both": "a (<a1> <a2>:1.2) near a lake",
    "a weight around one": "a (<a1>:0.5) <a2>, lake",
    "the short form of weights": "((<a1>)) <a2>",
    "nested weights": "(a (<a1> <a2>:1.3), lake:0.8)",
    "a weight of zero": "photo (<a1>:0) of",
    "round brackets as text": r"\(<a1>\) <a2>",
    "lines": "photo\nof a <a1>\n<a2>",
    "in the second chunk": f"{LONG}, a red car near the forest, <a1> <a2>, photo",
    "in both chunks": f"<a1> {LONG}, a red car near the forest, <a2>, photo",
    "three chunks": f"<a1> {LONG}, {LONG}, {LONG}, <a2>",
    "what other packs write": "<lora:x:1> <a1> <3 a < b > c <:> <>",
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_an_encoding_equals_16_stock_encodings(prompt, knowing, merged, concepts):
    expected = stock_encoding(merged, prompt, concepts["a"].embeddings)
    found = by_layer(encode(knowing, prompt)[0])
    assert relative_error(found, expected) <= TOLERANCE
    assert relative_error(found[0], expected[1]) > 1e-3  # the layers do differ


@pytest.mark.parametrize("words", range(66, 79))
def test_a_concept_near_the_end_of_a_chunk_equals_stock_encodings(words, knowing, merged, concepts):
    prompt = "photo " * words + "<a1> <a2>, lake"
    expected = stock_encoding(merged, prompt, concepts["a"].embeddings)
    assert relative_error(by_layer(encode(knowing, prompt)[0]), expected) <= TOLERANCE


def test_two_concepts_in_one_prompt_equal_stock_encodings(clip, concepts):
    both = (WeightedConcept(concepts["a"], 1, 0), WeightedConcept(concepts["b"], 1, 0))
    tables = {**concepts["a"].embeddings, **concepts["b"].embeddings}
    prompt = "<b1> <b2> beside (<a1> <a2>:1.1), <b2>"
    found = by_layer(encode(apply_to_clip(clip, both), prompt)[0])
    assert relative_error(found, stock_encoding(clip, prompt, tables)) <= TOLERANCE


PIECES = st.sampled_from(
    ["<a1>", "<A2>", "photo", " ", ", ", "near", "(lake:1.1)", "!", "\n", "4K"]
)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(PIECES, max_size=100))
def test_any_prompt_has_the_stock_tokens_with_the_embeddings_put_in(pieces, concepts):
    prompt, tables = " ".join(pieces), concepts["a"].embeddings
    found = tokenizer_of(tables).tokenize_with_weights(prompt, return_word_ids=True)["l"]
    expected = stock_tokens(STOCK, prompt, tables, 5, return_word_ids=True)["l"]
    assert [len(chunk) for chunk in found] == [len(chunk) for chunk in expected]
    for (token, *rest), (stock, *stock_rest) in zip(
        (t for chunk in found for t in chunk), (t for chunk in expected for t in chunk), strict=True
    ):
        assert rest == stock_rest  # weight and word id
        if concept_table(token) is None:
            assert token == stock
        else:
            assert torch.equal(concept_table(token)[5], stock)


STOCK = comfy.sd1_clip.SD1Tokenizer()


def tokenizer_of(tables):
    return ConceptTokenizer(STOCK, Vocabulary({"clip_l": tables}, {}))


def test_a_textual_inversion_beside_a_concept_is_still_found(tmp_path, concepts):
    vectors = torch.randn(2, 768)
    safetensors.torch.save_file({"emb_params": vectors}, tmp_path / "style.safetensors")
    stock = comfy.sd1_clip.SD1Tokenizer(embedding_directory=str(tmp_path))
    knowing = ConceptTokenizer(stock, Vocabulary({"clip_l": concepts["a"].embeddings}, {}))
    (chunk,) = knowing.tokenize_with_weights("a <a1> in embedding:style")["l"]
    tensors = [token for token, _ in chunk if torch.is_tensor(token)]
    assert [concept_table(t) is not None for t in tensors] == [True, False, False]
    assert torch.equal(torch.stack(tensors[1:]), vectors)


# ------------------------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "prompt", ["", "a red car parked near the forest", "(a:1.2) lake", LONG * 2]
)
def test_without_a_concept_token_every_layer_is_the_stock_encoding_bit_for_bit(
    prompt, clip, concepts
):
    knowing = apply_to_clip(clip, (WeightedConcept(concepts["a"], 0.0, 0.0),))
    stock, stock_extras = encode(clip, prompt)
    wide, extras = encode(knowing, prompt)
    assert all(torch.equal(layer, stock[0]) for layer in by_layer(wide))
    assert torch.equal(extras["pooled_output"], stock_extras["pooled_output"])


def test_encoding_twice_gives_the_same_bits(knowing):
    prompt = "photo of a (<a1> <a2>:1.2)"
    assert torch.equal(encode(knowing, prompt)[0], encode(knowing, prompt)[0])


def test_the_original_clip_and_its_tokenizer_are_untouched(clip, entry):
    tokenizer, inner = clip.tokenizer, clip.tokenizer.clip_l
    hugging_face = inner.tokenizer
    before = clip.tokenize("a <a1>, b")
    encoding = encode(clip, "a <a1>, b")[0]
    encode(apply_to_clip(clip, entry), "a <a1>, b")
    assert clip.tokenizer is tokenizer
    assert clip.tokenizer.clip_l is inner
    assert clip.tokenizer.clip_l.tokenizer is hugging_face
    assert clip.tokenize("a <a1>, b") == before
    assert all(isinstance(token, int) for token, _ in before["l"][0])
    assert torch.equal(encode(clip, "a <a1>, b")[0], encoding)
    model = clip.cond_stage_model  # now loaded as the stock CLIP
    assert model.encode_token_weights.__func__ is type(model).encode_token_weights


def test_patched_and_unpatched_clips_take_turns_without_a_trace(clip, concepts):
    a = apply_to_clip(clip, (WeightedConcept(concepts["a"], 1, 1),))
    b = apply_to_clip(clip, (WeightedConcept(concepts["b"], 1, 1),))
    first = [encode(clip, "a lake"), encode(a, "a <a1>"), encode(b, "a <b1>")]
    for _ in range(2):
        again = [encode(clip, "a lake"), encode(a, "a <a1>"), encode(b, "a <b1>")]
        for (x, _), (y, _) in zip(first, again, strict=True):
            assert torch.equal(x, y)
    assert first[0][0].shape[-1] == WIDTH


# -------------------------------------------------------------------------------- refusals


def test_a_token_that_two_concepts_claim_is_refused(unet, clip, concepts):
    twice = (WeightedConcept(concepts["a"]), WeightedConcept(concepts["a"]))
    with pytest.raises(ConceptTokenError, match=r"both claim the token <a1>"):
        apply_concepts(unet, clip, twice)
    once = apply_concepts(unet, clip, twice[:1])
    with pytest.raises(ConceptTokenError, match=r"'edlora_a' and 'edlora_a' both claim"):
        apply_concepts(*once, twice[1:])


def test_tokens_that_differ_in_case_only_are_refused(concepts):
    table = concepts["a"].embeddings["<a1>"]
    concept = replace(concepts["b"], words=("<A1>",), tables={"clip_l": {"<A1>": table}})
    with pytest.raises(ConceptTokenError, match=r"<A1>"):
        Vocabulary({"clip_l": {"<a1>": table}}, {"<a1>": "first"}).extended(concept)


@pytest.mark.parametrize(
    ("prompt", "named", "nearest"),
    [
        ("a <a3>", "<a3>", "'<a1>', '<a2>'|'<a2>', '<a1>'"),
        ("a (<potter1>:1.2)", "<potter1>", "<a1>"),
        ("a <A3>,", "<A3>", "<a1>"),
        ("<a1> <b-1_x>", "<b-1_x>", "<a1>"),
        ("<é1>", "<é1>", "<a1>"),
    ],
)
def test_an_unknown_concept_token_is_refused_with_the_nearest_names(
    prompt, named, nearest, knowing
):
    with pytest.raises(ConceptTokenError, match=f"names {named}, but no.*nearest.*({nearest})"):
        knowing.tokenize(prompt)


@pytest.mark.parametrize("text", ["<lora:x:1>", "<3", "a < b > c", "<>", "< a1 >", "<1>", "->"])
def test_what_is_no_concept_token_is_the_text_that_it_always_was(text, clip, knowing):
    assert knowing.tokenize(text) == clip.tokenize(text)


def test_a_token_that_ends_texts_is_refused(concepts):
    with pytest.raises(ConceptTokenError, match="already is a word"):
        tokenizer_of({"<|endoftext|>": concepts["a"].embeddings["<a1>"]})


# ------------------------------------------------------------------------- wide and narrow


def test_a_chunk_without_a_concept_token_is_encoded_once(knowing):
    tokens = knowing.tokenize(f"{LONG}, a red car near the forest, <a1>")["l"]
    assert len(tokens) == 2
    expanded, index = expand_layers(tokens, LAYERS)
    assert len(expanded) == 1 + LAYERS
    assert index[:, 0].tolist() == [0] * LAYERS
    assert index[:, 1].tolist() == list(range(1, 1 + LAYERS))


def test_widening_by_hand():
    """Two chunks of one token, two layers, width 1; the first chunk is the same for both."""
    encoded = torch.tensor([[[1.0], [2.0], [3.0]]])
    wide = widen(encoded, torch.tensor([[0, 1], [0, 2]]))
    assert wide.tolist() == [[[1.0, 1.0], [2.0, 3.0]]]
    first, second = split_layers(wide, 2)
    assert first.tolist() == [[[1.0], [2.0]]]
    assert second.tolist() == [[[1.0], [3.0]]]
    assert layer_mean(wide, 2).tolist() == [[[1.0], [2.5]]]


@given(st.integers(0, 1000))
def test_the_mean_of_equal_layers_is_that_layer_bit_for_bit(seed):
    narrow = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(layer_mean(narrow.repeat(1, 1, LAYERS), LAYERS), narrow)
