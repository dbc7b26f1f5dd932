"""LoRA files of any trainer: names, base model, words, what is refused and what is left over."""

import json

import pytest
import torch

from mix_of_show.mos_core.adapters import split_name
from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.formats import read_concept
from mix_of_show.mos_core.formats.concept_file import read_words
from mix_of_show.mos_core.formats.lora_report import describe_concept
from support.lora_parts import BLOCK, TE, pair, read, write

# ---------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.b.lora_up.weight", ("a.b", ".lora_up.weight")),
        ("a.b.lora_B.weight", ("a.b", ".lora_up.weight")),
        ("a.b.lora_B.default.weight", ("a.b", ".lora_up.weight")),
        ("a.b.lora_A.my_adapter.weight", ("a.b", ".lora_down.weight")),
        ("a.b.lora_A", ("a.b", ".lora_down.weight")),
        ("a.b.lora.down.weight", ("a.b", ".lora_down.weight")),
        ("a.to_q_lora.up.weight", ("a.to_q", ".lora_up.weight")),
        ("a.lora_linear_layer.up.weight", ("a", ".lora_up.weight")),
        ("a.lora_magnitude_vector", ("a", ".lora_magnitude_vector")),
        ("a.lora_magnitude_vector.default.weight", ("a", ".lora_magnitude_vector")),
        ("a.magnitude", ("a", ".lora_magnitude_vector")),
        ("a.oft_R.weight", ("a", ".oft_R.weight")),
        ("a.oft_R.default.weight", ("a", ".oft_R.weight")),
        ("a.lora_B.bias", ("a", ".diff_b")),
        ("a.lokr_w1", ("a", ".lokr_w1")),
        ("a.weight", None),
        (".alpha", None),
        ("bundle_emb.x.clip_l", None),
    ],
)
def test_the_end_of_a_tensors_name_says_what_it_is(name, expected):
    assert split_name(name) == expected


# ---------------------------------------------------------------------------------- base model

BASES = {
    "sd15": {BLOCK: (320, 768)},
    "sd21": {BLOCK: (320, 1024)},
    "sdxl": {"lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (640, 2048)},
    "flux": {"lora_unet_double_blocks_0_img_mod_lin": (64, 32)},
    "z_image": {"diffusion_model.noise_refiner.0.adaLN_modulation.0": (64, 32)},
}


@pytest.mark.parametrize("name", BASES)
def test_the_base_model_is_told_by_names_and_widths(name, tmp_path):
    tensors = {}
    for module, (out, into) in BASES[name].items():
        tensors |= pair(module, out, into)
    concept = read(tensors, tmp_path)
    assert concept.family == name
    assert "by its layers" in describe_concept(concept)


@pytest.mark.parametrize(
    ("module", "told"),
    [
        ("diffusion_model.layers.3.attention.to_q", "Z-Image or Lumina 2"),
        ("lora_unet_double_blocks_0_img_attn_qkv", "Flux, Chroma or a relative"),
        ("transformer.transformer_blocks.0.attn.add_q_proj", "Qwen-Image, Flux or a relative"),
        ("lora_unet_blocks_0_cross_attn_k", "Wan"),
        ("lora_unet_joint_blocks_0_x_block_mlp_fc1", "Stable Diffusion 3"),
    ],
)
def test_names_that_several_bases_share_are_told_as_that(module, told, tmp_path):
    concept = read(pair(module, 64, 32), tmp_path)
    assert concept.family is None
    assert f"base {told} (by its layers)" in describe_concept(concept)


def test_a_base_that_the_names_do_not_tell_is_left_open(tmp_path):
    concept = read(pair(TE, 3072, 768), tmp_path)
    assert concept.family is None


def test_the_words_of_the_metadata_stand_in_the_report(tmp_path):
    facts = {"ss_base_model_version": "sdxl_base_v1-0", "modelspec.title": "x"}
    report = describe_concept(read(pair(), tmp_path, facts))
    assert "SD1.5 (by its layers); its metadata says sdxl_base_v1-0, which is another" in report


def test_two_base_models_in_one_file_are_refused_before_a_tensor_is_read(tmp_path, monkeypatch):
    tensors = {**pair(), **pair("lora_unet_double_blocks_0_img_mod_lin", 64, 32)}
    path = write(tensors, tmp_path)

    def fail(*args):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("mix_of_show.mos_core.formats.tensor_file.own", fail)
    with pytest.raises(FileFormatError, match=r"layers of SD1\.5 .* and of Flux"):
        read_concept(path)


# ---------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"modelspec.trigger_phrase": "ohwx man, blue coat"}, ("ohwx man", "blue coat")),
        ({"ss_tag_frequency": json.dumps({"10_x": {"ohwx": 20, "smile": 3}})}, ("ohwx",)),
        ({"ss_tag_frequency": json.dumps({"10_x": {str(i): 4 for i in range(9)}})}, ()),
        ({"ss_tag_frequency": "[" * 10_000}, ()),
        ({"ss_tag_frequency": '{"a": [1]}'}, ()),
        ({}, ()),
    ],
)
def test_trigger_words_are_read_from_the_metadata(metadata, words, tmp_path):
    path = write(pair(), tmp_path, metadata or None)
    assert read_concept(path).words == words
    assert read_words(path) == ("knight", words)


def test_the_users_own_words_and_name_replace_the_files(tmp_path):
    facts = {"modelspec.trigger_phrase": "ohwx"}
    concept = read(pair(), tmp_path, facts, trigger_words="lowpoly,  knight", name=" Sir ")
    assert concept.words == ("lowpoly", "knight")
    assert concept.trigger_words == "lowpoly, knight"
    assert concept.name == "Sir"


# ---------------------------------------------------------------------------------- refusals


def without(end):
    return {name: tensor for name, tensor in pair().items() if not name.endswith(end)}


def loha(*parts):
    return {f"{BLOCK}.hada_{part}": torch.ones(4, 4) for part in parts}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("lora_down.weight"), "lora_down.weight of .* is missing; the file is incomplete"),
        (without("lora_up.weight"), "lora_up.weight of .* is missing"),
        (loha("w1_a", "w1_b", "w2_a"), "hada_w2_b of .* is missing"),
        ({f"{BLOCK}.lokr_w1": torch.ones(2, 2)}, "lokr_w2 of .* is missing"),
        ({f"{BLOCK}.lokr_w1": torch.ones(2, 2), f"{BLOCK}.lokr_w2_a": torch.ones(2, 2)}, "w2_b of"),
        (
            {**pair(), f"{BLOCK}.lora_up.weight": torch.ones(320, 5)},
            r"shape \(4, 768\) and \(320, 5",
        ),
        ({**pair(), f"{BLOCK}.lora_up.weight": torch.ones(320)}, "expected .rank, in."),
        (pair(rank=0), "the rank of .* is 0"),
        (pair(alpha=0.0), "the alpha of .* is 0"),
        (pair(alpha=float("nan")), "the alpha of .* is not one finite number"),
        ({**pair(), f"{BLOCK}.alpha": torch.ones(2)}, "the alpha of .* is not one finite number"),
        ({**pair(), f"{BLOCK}.lora_up.weight": torch.full((320, 4), torch.nan)}, "not finite"),
        ({**pair(), f"{BLOCK}.lora_up.weight": torch.full((320, 4), torch.inf)}, "not finite"),
        ({**pair(), f"{BLOCK}.lora_up.weight": torch.ones(320, 4).long()}, "stored as int64"),
        (
            {**pair(), f"{BLOCK}.diff_b": torch.ones(8)},
            "the bias of .* has 8 values, its layer 320",
        ),
        ({f"{BLOCK}.oft_blocks": torch.ones(8, 8)}, "oft_blocks .* has shape"),
        ({"x.weight": torch.ones(2, 2)}, "neither a concept nor a LoRA"),
        ({f"{BLOCK}.alpha": torch.tensor(4.0)}, "is no LoRA"),
        ({}, "neither a concept nor a LoRA"),
    ],
)
def test_a_bad_file_has_an_error_of_its_own(tensors, message, tmp_path):
    with pytest.raises(FileFormatError, match=message) as caught:
        read(tensors, tmp_path)
    assert "knight.safetensors" in str(caught.value)


def test_infinities_of_both_signs_are_found_too():
    from mix_of_show.mos_core.formats.tensor_file import is_finite

    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        both = torch.tensor([1.0, torch.inf, -torch.inf], dtype=dtype)
        assert not is_finite(both)
        assert is_finite(torch.tensor([1.0, -torch.finfo(dtype).max], dtype=dtype))
        assert is_finite(torch.tensor([], dtype=dtype))


def test_what_is_not_understood_is_listed_and_the_rest_loads(tmp_path):
    more = {"something.else": torch.ones(2), f"{BLOCK}.lora_mid.weight.x": torch.ones(1)}
    concept = read({**pair(), **more, f"{BLOCK}.hada_t1": torch.ones(1)}, tmp_path)
    assert set(concept.deltas) == {BLOCK}
    assert set(concept.unused) == {*more, f"{BLOCK}.hada_t1"}
    report = describe_concept(concept)
    assert "left over, 2: " in report
    assert "has no use beside the others" in report


def test_a_half_precision_and_an_eight_bit_file_load(tmp_path):
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        tensors = {
            n: t.to(dtype) if "lora" in n and "alpha" not in n else t for n, t in pair().items()
        }
        concept = read(tensors, tmp_path)
        assert concept.deltas[BLOCK].tensors[".lora_up.weight"].dtype == dtype


def test_a_concept_does_not_depend_on_its_file_any_more(tmp_path):
    path = write(pair(), tmp_path)
    concept = read_concept(path)
    before = concept.deltas[BLOCK].tensors[".lora_up.weight"].clone()
    with open(path, "r+b") as file:
        file.truncate(8)
        file.write(bytes(10_000))
    assert torch.equal(concept.deltas[BLOCK].tensors[".lora_up.weight"], before)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickled_lora_is_read_without_running_code(wrapped, tmp_path):
    content = {"state_dict": pair()} if wrapped else pair()
    torch.save(content, tmp_path / "x.pt")
    assert set(read_concept(tmp_path / "x.pt").deltas) == {BLOCK}


# ---------------------------------------------------------------------------------- report


def test_the_report_says_base_kind_rank_parts_and_words(tmp_path):
    tensors = {**pair(), **pair(TE, 3072, 768, rank=8)}
    report = describe_concept(read(tensors, tmp_path, {"modelspec.trigger_phrase": "ohwx"}))
    assert report.splitlines() == [
        "knight: base SD1.5 (by its layers)",
        "model: 1 layers, LoRA of rank 4",
        "text encoder: 1 layers, LoRA of rank 8",
        "words for the prompt: ohwx",
    ]
