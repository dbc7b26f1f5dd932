"""Ring 1: textual inversions; cutting, saving and reading again of ordinary LoRAs."""

import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.adapters import Adapter, plain_delta
from mix_of_show.mos_core.errors import SaveError
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats.lora_file import check_shapes
from mix_of_show.mos_core.formats.max_rank import cut_concept
from support.lora_files import OF_CONVOLUTIONS
from support.lora_parts import BLOCK, TE, pair, read, write

# ---------------------------------------------------------------------------------- inversions


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ({"emb_params": torch.ones(1, 768)}, {"clip_l": {"<my_cat>": 1}}),
        ({"emb_params": torch.ones(2, 768)}, {"clip_l": {"<my_cat1>": 1, "<my_cat2>": 1}}),
        (
            {"clip_l": torch.ones(1, 768), "clip_g": torch.ones(1, 1280)},
            {"clip_l": {"<my_cat>": 1}, "clip_g": {"<my_cat>": 1}},
        ),
        ({"<toy>": torch.ones(768)}, {"clip_l": {"<toy>": 1}}),
        ({"toy": torch.ones(16, 768)}, {"clip_l": {"<toy>": 16}}),  # P+: one vector per layer
    ],
)
def test_a_textual_inversion_is_a_concept_of_tokens_alone(content, tokens, tmp_path):
    path = write(content, tmp_path, name="my cat")
    concept = read_concept(path)
    found = {e: {t: len(rows) for t, rows in table.items()} for e, table in concept.tables.items()}
    assert found == tokens
    assert not concept.deltas
    assert concept.words == tuple(next(iter(tokens.values())))


def test_an_inversion_of_automatic1111_is_read(tmp_path):
    content = {"string_to_param": {"*": torch.ones(2, 768)}, "name": "9lives", "step": 5}
    torch.save(content, tmp_path / "x.pt")
    assert read_concept(tmp_path / "x.pt").tokens == ("<_9lives1>", "<_9lives2>")


def test_embeddings_bundled_in_a_lora_are_its_tokens(tmp_path):
    tensors = {**pair(), "bundle_emb.my cat.string_to_param.*": torch.ones(1, 768)}
    concept = read(tensors, tmp_path)
    assert list(concept.tables["clip_l"]) == ["<my_cat>"]
    assert concept.words == ("<my_cat>",)
    assert not concept.unused


def test_embeddings_bundled_for_two_encoders_are_one_token(tmp_path):
    parts = {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)}
    tensors = {**pair(), **{f"bundle_emb.cat.{part}": t for part, t in parts.items()}}
    concept = read(tensors, tmp_path)
    assert {e: list(table) for e, table in concept.tables.items()} == {
        "clip_l": ["<cat1>", "<cat2>"],
        "clip_g": ["<cat1>", "<cat2>"],
    }
    assert concept.words == ("<cat1>", "<cat2>")
    assert not concept.unused


# ---------------------------------------------------------------------------------- max_rank, save


def test_cutting_says_how_much_is_kept(tmp_path):
    concept = read({**pair(rank=8), **pair(TE, 3072, 768, rank=2)}, tmp_path)
    smaller, told = cut_concept(concept, 3)
    assert smaller.deltas[BLOCK].rank == 3
    assert smaller.deltas[TE] is concept.deltas[TE]
    assert "cut to rank 3: 1 layers" in told
    same, told = cut_concept(concept, 8)
    assert same is concept
    assert told == ""


@pytest.mark.parametrize("algorithm", ["LoRA", "LoHa", "LoKr", "full"])
@pytest.mark.parametrize("shape", [(48, 32), (24, 16, 3, 3)])
def test_every_kind_is_cut_to_its_nearest_change_of_that_rank(algorithm, shape, tmp_path):
    make = OF_CONVOLUTIONS[algorithm]
    tensors = {BLOCK + end: t for end, t in make(shape, 3).items()}
    bias = {f"{BLOCK}.diff_b": torch.ones(shape[0])}
    concept = read({**tensors, **bias}, tmp_path)
    whole = plain_delta(concept.deltas[BLOCK]).matrix()
    smaller, told = cut_concept(concept, 2)
    u, values, v = torch.linalg.svd(whole.double(), full_matrices=False)
    nearest = (u[:, :2] * values[:2]) @ v[:2]
    found = plain_delta(smaller.deltas[BLOCK])
    assert found.rank == 2
    torch.testing.assert_close(found.matrix().double(), nearest, rtol=1e-3, atol=1e-4)
    kept = values[:2].square().sum() / values.square().sum()
    assert f"{kept:.1%} of the change is kept" in told
    assert torch.equal(smaller.deltas[BLOCK].tensors[".diff_b"], bias[f"{BLOCK}.diff_b"])


def test_what_depends_on_the_base_is_not_cut_and_said(tmp_path):
    concept = read({**pair(rank=8), f"{BLOCK}.dora_scale": torch.ones(320, 1)}, tmp_path)
    smaller, told = cut_concept(concept, 3)
    assert smaller.deltas == concept.deltas
    assert "not cut: 1 layers" in told


def test_an_ordinary_lora_is_saved_and_read_again_bit_for_bit(tmp_path):
    tensors = {
        **pair(),
        **{f"{TE}.hada_{p}": torch.randn(4, 4) for p in ("w1_a", "w1_b", "w2_a", "w2_b")},
    }
    concept = read(tensors, tmp_path, trigger_words="ohwx, blue")
    path = save_concept(concept, tmp_path, "saved")
    again = read_concept(path)
    assert again.words == concept.words
    assert again.family == concept.family
    assert again.deltas.keys() == concept.deltas.keys()
    for name, delta in concept.deltas.items():
        found = again.deltas[name]
        assert isinstance(delta, Adapter)
        assert found.tensors.keys() == delta.tensors.keys()
        assert all(torch.equal(t, found.tensors[end]) for end, t in delta.tensors.items())
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["version"] == "2"
        assert set(tensors) <= set(file.keys())  # other programs read it as a LoRA


def test_the_users_words_replace_those_of_a_saved_lora_but_not_concept_tokens(tmp_path):
    saved = save_concept(read(pair(), tmp_path, trigger_words="ohwx"), tmp_path, "saved")
    assert read_concept(saved, "knight, blue").words == ("knight", "blue")
    assert read_concept(saved).words == ("ohwx",)
    inversion = write({"emb_params": torch.ones(1, 768)}, tmp_path, name="cat")
    assert read_concept(inversion, "knight").words == ("<cat>",)


def test_a_saved_inversion_of_two_encoders_is_read_again(tmp_path):
    content = {"clip_l": torch.randn(1, 768), "clip_g": torch.randn(1, 1280)}
    concept = read(content, tmp_path)
    again = read_concept(save_concept(concept, tmp_path, "saved"))
    for encoder, table in concept.tables.items():
        assert all(torch.equal(rows, again.tables[encoder][t]) for t, rows in table.items())


def test_the_header_alone_tells_the_shapes(tmp_path):
    shapes = {name: tuple(t.shape) for name, t in pair().items()}
    assert check_shapes("x", shapes).family == "sd15"


@pytest.mark.parametrize("family", ["sdxl", None])
def test_layers_that_base_models_share_tell_nothing(family):
    """An SDXL LoRA of self-attention alone, by the names of diffusers."""
    shared = (
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_unet_up_blocks_0_attentions_0_proj_in",
    )
    names = [*shared, *["lora_te2_text_model_encoder_layers_0_mlp_fc1"] * (family is not None)]
    shapes = {f"{name}.lora_down.weight": (4, 640) for name in names}
    shapes |= {f"{name}.lora_up.weight": (640, 4) for name in names}
    assert check_shapes("x", shapes).family == family


def test_an_ordinary_lora_is_not_written_as_the_papers_file(tmp_path):
    concept = read(pair(), tmp_path)
    with pytest.raises(SaveError, match=r"not an ED-LoRA .* save it as safetensors"):
        save_concept(concept, tmp_path, "saved", "reference pth")
    assert [p.name for p in tmp_path.iterdir()] == ["knight.safetensors"]
