"""Files of concepts: nothing is lost, and every bad file is refused with its own message."""

import io
import json
import os
import pickle
import zipfile
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.families.unet import SD15
from mix_of_show.mos_core.formats import (
    read_concept,
    save_concept,
    write_reference,
    write_safetensors,
)
from mix_of_show.mos_core.formats.parts import build_concept
from mix_of_show.mos_core.records import Concept, LowRank
from support.golden import CONCEPTS, EMBEDDING, GOLDEN, TEXT, UNET, read_meta, read_parts

TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj"
WRITERS = {".safetensors": write_safetensors, ".pth": write_reference}


def read_params(path):
    return torch.load(path, weights_only=True)["params"]


def make_tables(rows=16, width=8, tokens=("<x1>", "<x2>")):
    generator = torch.Generator().manual_seed(0)
    return {token: torch.randn(rows, width, generator=generator) for token in tokens}


def make_factors(module=TO_Q, out=8, into=8, rank=2, ones=()):
    return {
        f"{module}.lora_down.weight": torch.randn(rank, into, *ones),
        f"{module}.lora_up.weight": torch.randn(out, rank, *ones),
    }


def make_concept(**changes):
    parts = {"embeddings": make_tables(), "text": make_factors(Q_PROJ), "unet": make_factors()}
    return build_concept("x", **{**parts, **changes})


def save_params(path, embeddings=None, text=None, unet=None):
    params = {EMBEDDING: embeddings, TEXT: text, UNET: unet}
    torch.save({"params": {k: v for k, v in params.items() if v is not None}}, path)
    return path


def save_ours(path, tensors, **metadata):
    """A safetensors file with our metadata, as damaged as the arguments say."""
    known = {"format": "mos_edlora", "version": "1", "tokens": '["<x1>", "<x2>"]'}
    metadata = {k: v for k, v in {**known, **metadata}.items() if v is not None}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def our_tensors(**changes):
    tensors = {f"emb.{token}": table for token, table in make_tables().items()}
    return {**tensors, **{f"unet.{k}": v for k, v in make_factors().items()}, **changes}


def assert_same_tensors(found, expected):
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def assert_same_concept(found: Concept, expected: Concept):
    assert_same_tensors(found.embeddings, expected.embeddings)
    assert found.family == expected.family
    assert found.metadata == expected.metadata
    for part in ("text", "unet"):
        a, b = getattr(found, part), getattr(expected, part)
        assert a.keys() == b.keys()
        for module in a:
            assert torch.equal(a[module].down, b[module].down)
            assert torch.equal(a[module].up, b[module].up)


# --------------------------------------------------------------------------- nothing is lost


@pytest.mark.parametrize("name", CONCEPTS)
def test_a_reference_file_is_read_as_the_reference_wrote_it(name):
    concept = read_concept(GOLDEN / f"edlora_{name}.pth")
    meta, parts = read_meta()["loras"][name], read_parts(f"edlora_{name}")
    assert list(concept.tokens) == meta["tokens"]
    assert concept.trigger_words == " ".join(meta["tokens"])
    assert concept.rank == meta["rank"]
    assert (len(concept.text) * 2, len(concept.unet) * 2) == (
        meta["n_text_encoder_keys"],
        meta["n_unet_keys"],
    )
    assert concept.family == "sd15"
    assert {tuple(table.shape) for table in concept.embeddings.values()} == {(16, 32)}
    for token, table in concept.embeddings.items():
        assert torch.equal(table, parts[EMBEDDING][token])
    for part, factors in ((TEXT, concept.text), (UNET, concept.unet)):
        for module, pair in factors.items():
            assert torch.equal(pair.down, parts[part][f"{module}.lora_down.weight"])
            assert torch.equal(pair.up, parts[part][f"{module}.lora_up.weight"])
            assert not pair.up.requires_grad


@pytest.mark.parametrize("name", CONCEPTS)
def test_reference_file_to_ours_and_back_is_the_same_bits(name, tmp_path):
    original = read_params(GOLDEN / f"edlora_{name}.pth")
    ours = save_concept(read_concept(GOLDEN / f"edlora_{name}.pth"), tmp_path, "x")
    assert ours.suffix == ".safetensors"
    back = save_concept(read_concept(ours), tmp_path, "x", "reference pth")
    found = read_params(back)
    assert list(found) == list(original)  # the reference's own parts, in its order
    for part, tensors in original.items():
        assert found[part].keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found[part][key].dtype == tensor.dtype
            assert torch.equal(found[part][key], tensor), key
    assert list(found[EMBEDDING]) == list(original[EMBEDDING])


@pytest.mark.parametrize("ending", WRITERS)
def test_metadata_survives(ending, tmp_path):
    training = {"steps": 600, "rates": {"unet": 1e-4}, "text": "ä <x>", "none": None, "on": True}
    concept = make_concept(metadata=training)
    WRITERS[ending](concept, tmp_path / f"x{ending}")
    assert_same_concept(read_concept(tmp_path / f"x{ending}"), concept)


def test_a_written_reference_file_has_nothing_that_the_reference_does_not_expect(tmp_path):
    write_reference(make_concept(), tmp_path / "x.pth")
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert list(content) == ["params"]
    assert list(content["params"]) == [EMBEDDING, TEXT, UNET]
    assert all(type(part) is dict for part in content["params"].values())


@pytest.mark.parametrize("ending", WRITERS)
def test_the_order_of_tokens_survives(ending, tmp_path):
    tokens = ("<z>", "<a>", "<m>")
    concept = make_concept(embeddings=make_tables(tokens=tokens))
    WRITERS[ending](concept, tmp_path / "x")
    assert read_concept(tmp_path / "x").tokens == tokens


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_every_floating_point_type_survives(dtype, ending, tmp_path):
    tables = {token: table.to(dtype) for token, table in make_tables().items()}
    factors = {key: factor.to(dtype) for key, factor in make_factors().items()}
    WRITERS[ending](make_concept(embeddings=tables, unet=factors), tmp_path / "x")
    found = read_concept(tmp_path / "x")
    for token, table in tables.items():
        assert found.embeddings[token].dtype == dtype
        assert torch.equal(found.embeddings[token].float(), table.float())
    assert found.unet[TO_Q].up.dtype == dtype


@pytest.mark.parametrize("ending", WRITERS)
def test_views_and_shared_memory_are_written_as_tensors_of_their_own(ending, tmp_path):
    memory = torch.randn(16, 16)
    embeddings = {"<x1>": memory[:, :8], "<x2>": memory[:, 8:]}
    shared = LowRank(memory[:2], memory[:, :2])
    concept = replace(make_concept(embeddings=embeddings), deltas={f"unet.{TO_Q}": shared})
    WRITERS[ending](concept, tmp_path / "x")
    assert_same_concept(read_concept(tmp_path / "x"), concept)
    assert (tmp_path / "x").stat().st_size < 12_000  # a view does not bring its whole memory


@pytest.mark.parametrize("ending", WRITERS)
def test_a_concept_does_not_depend_on_its_file_any_more(ending, tmp_path):
    path = tmp_path / "x"
    concept = make_concept()
    WRITERS[ending](concept, path)
    found = read_concept(path)
    path.write_bytes(b"\0" * path.stat().st_size)  # in place, as a careless program would
    assert_same_concept(found, concept)


def test_a_file_is_told_by_what_it_holds_and_not_by_its_ending(tmp_path):
    concept = make_concept()
    write_safetensors(concept, tmp_path / "x.pth")
    write_reference(concept, tmp_path / "x.safetensors")
    assert_same_concept(read_concept(tmp_path / "x.pth"), concept)
    assert_same_concept(read_concept(tmp_path / "x.safetensors"), concept)


@pytest.mark.parametrize("length", [b"PK", b"\x80\x03"])
def test_a_header_length_that_looks_like_a_pickle_or_a_zip_does_not_mislead(length, tmp_path):
    concept = make_concept()
    write_safetensors(concept, tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    old, new = int.from_bytes(content[:8], "little"), int.from_bytes(length, "little")
    assert new > old
    header = content[8 : 8 + old] + b" " * (new - old)
    (tmp_path / "x").write_bytes(new.to_bytes(8, "little") + header + content[8 + old :])
    assert_same_concept(read_concept(tmp_path / "x"), concept)


def test_older_reference_files_without_a_zip_archive_are_read(tmp_path):
    content = torch.load(GOLDEN / "edlora_a.pth", weights_only=True)
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    expected = read_concept(GOLDEN / "edlora_a.pth")
    assert_same_concept(read_concept(tmp_path / "x.pth"), expected)


def test_a_reference_file_without_the_outer_table_is_read(tmp_path):
    torch.save(read_params(GOLDEN / "edlora_a.pth"), tmp_path / "x.pth")
    expected = read_concept(GOLDEN / "edlora_a.pth")
    assert_same_concept(read_concept(tmp_path / "x.pth"), expected)


@pytest.mark.parametrize("part", [TEXT, UNET])
def test_an_embedding_without_a_lora_is_a_concept(part, tmp_path):
    factors = make_factors(Q_PROJ if part == TEXT else TO_Q)
    half = save_params(tmp_path / "half.pth", make_tables(), **{
        {TEXT: "text", UNET: "unet"}[part]: factors
    })  # fmt: skip
    bare = save_params(tmp_path / "bare.pth", make_tables())
    assert (len(read_concept(half).text), len(read_concept(half).unet)) == (
        (1, 0) if part == TEXT else (0, 1)
    )
    concept = read_concept(bare)
    assert (concept.text, concept.unet, concept.rank) == ({}, {}, 0)
    write_safetensors(concept, tmp_path / "bare.safetensors")
    assert_same_concept(read_concept(tmp_path / "bare.safetensors"), replace(concept, name="bare"))


def test_sdxls_number_of_rows_makes_a_concept_for_sdxl(tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(rows=70))
    assert read_concept(path).family == "sdxl"


TOKENS = st.from_regex(r"<[a-z0-9_\-]{1,12}>", fullmatch=True)
MODULES = st.sampled_from([f"{layer.diffusers}.proj_in" for layer in SD15.layers])


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    tokens=st.lists(TOKENS, min_size=1, max_size=3, unique=True),
    modules=st.lists(MODULES, max_size=3, unique=True),
    rank=st.integers(1, 4),
    width=st.integers(1, 5),
    convolution=st.booleans(),
    ending=st.sampled_from(list(WRITERS)),
    seed=st.integers(0, 99),
)
def test_any_concept_survives_a_file(
    tokens, modules, rank, width, convolution, ending, seed, tmp_path
):
    torch.manual_seed(seed)
    ones = (1, 1) if convolution else ()
    factors = {}
    for module in modules:
        factors |= make_factors(module, width, width + 1, rank, ones)
    concept = build_concept("x", make_tables(16, width, tokens), {}, factors)
    WRITERS[ending](concept, tmp_path / "x")
    assert_same_concept(read_concept(tmp_path / "x"), concept)


# ----------------------------------------------------------------- every bad file has its message


def assert_refused(path, pattern):
    with pytest.raises(FileFormatError, match=pattern) as caught:
        read_concept(path)
    assert path.name in str(caught.value) or path.stem in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_file_that_is_gone_is_refused(tmp_path):
    assert_refused(tmp_path / "x.pth", "cannot be read: No such file")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "x.pth").mkdir()
    assert_refused(tmp_path / "x.pth", "cannot be read: Is a directory")


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.pth").touch()
    assert_refused(tmp_path / "x.pth", "is empty")


@pytest.mark.parametrize("content", [b"hello", b"<html>404: Not Found</html>", b"\0" * 100])
def test_what_is_not_a_tensor_file_is_refused(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    assert_refused(tmp_path / "x.pth", "not a tensor file")


def written(ending, tmp_path):
    WRITERS[ending](make_concept(), tmp_path / f"whole{ending}")
    return (tmp_path / f"whole{ending}").read_bytes()


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.6, 0.95, 0.9999])
@pytest.mark.parametrize("ending", WRITERS)
def test_a_truncated_file_is_refused(ending, share, tmp_path):
    whole = written(ending, tmp_path)
    path = tmp_path / f"x{ending}"
    path.write_bytes(whole[: max(9, int(len(whole) * share))])
    assert_refused(path, "truncated or damaged")


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_a_truncated_older_reference_file_is_refused(share, tmp_path):
    stream = io.BytesIO()
    content = torch.load(GOLDEN / "edlora_a.pth", weights_only=True)
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    path = tmp_path / "x.pth"
    path.write_bytes(stream.getvalue()[: int(len(stream.getvalue()) * share)])
    assert_refused(path, "damaged")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.filterwarnings("ignore")
def test_whatever_is_done_to_a_file_only_our_error_comes_out(ending, data, tmp_path):
    path = tmp_path / "x"
    content = bytearray(written(ending, tmp_path))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        concept = read_concept(path)
    except FileFormatError:
        return
    assert {len(table) for table in concept.embeddings.values()} == {16}


class Evil:
    """Pickled, this runs a command when it is unpickled carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["zip", "older", "bare"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_that_would_run_code_does_not_run_it(form, tmp_path):
    content = {"params": {UNET: Evil(tmp_path / "ran")}}
    path = tmp_path / "x.pth"
    if form == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    assert_refused(path, "could run code, so it was not opened")
    assert not (tmp_path / "ran").exists()
    if form == "bare":  # the file is what it is taken for
        pickle.loads(path.read_bytes())
        assert (tmp_path / "ran").exists()


def test_an_archive_of_something_else_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("folder/notes.txt", "hello")
    assert_refused(tmp_path / "x.pth", "truncated or damaged")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ([1, 2], "found a list"),
        ({"state_dict": {}, "epoch": 1}, r"found a table of 2 entries \(state_dict, epoch\)"),
        ({"params": [1]}, "found a table of 1 entries"),
        ({"params": {EMBEDDING: [torch.ones(16, 8)]}}, "'new_concept_embedding' should be a table"),
        ({"params": {EMBEDDING: {"<x>": 5}}}, "should be a table of named tensors"),
        ({"params": {EMBEDDING: {7: torch.ones(16, 8)}}}, "should be a table of named tensors"),
        ({f"lora_unet_{n}": torch.ones(2) for n in range(4)}, "neither a concept nor a LoRA"),
    ],
)
def test_a_pickle_of_something_else_is_refused_with_what_it_holds(content, pattern, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", pattern)


@pytest.mark.parametrize("embeddings", [None, {}])
def test_an_edlora_without_its_embeddings_is_refused(embeddings, tmp_path):
    path = save_params(tmp_path / "x.pth", embeddings, make_factors(Q_PROJ), make_factors())
    assert_refused(path, "no layer-wise concept embeddings")
    tensors = {f"unet.{key}": tensor for key, tensor in make_factors().items()}
    path = save_ours(tmp_path / "x.safetensors", tensors, tokens="[]")
    assert_refused(path, "no layer-wise concept embeddings")


@pytest.mark.parametrize(
    ("tensors", "metadata", "pattern"),
    [
        ({"model.diffusion_model.out.2.bias": torch.ones(4)}, {}, "checkpoint loader"),
        ({"x": torch.ones(4)}, {"mos_miniature": "{}"}, "checkpoint loader"),
        ({"x.weight": torch.ones(2, 8)}, {}, "neither a concept nor a LoRA.*1 tensors, first 'x.w"),
        ({}, {}, "neither a concept nor a LoRA.*: 0 tensors"),
        ({"unet.x.diff": torch.ones(4)}, {"format": "mos_fused"}, "Load Fused Concepts"),
        ({f"{EMBEDDING}.<x>": torch.ones(16, 8)}, {}, "load the .pth"),
    ],
)
def test_another_kind_of_safetensors_file_is_told_what_it_is(tensors, metadata, pattern, tmp_path):
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata or None)
    assert_refused(tmp_path / "x.safetensors", pattern)


@pytest.mark.parametrize("version", ["0", "3", "1.5", "", "-1", "²", "9" * 5000])
def test_an_unknown_version_is_refused(version, tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(), version=version)
    assert_refused(path, "format version.*update the pack")


@pytest.mark.parametrize(
    "metadata",
    [
        {"tokens": None},
        {"tokens": "["},
        {"tokens": "5"},
        {"tokens": "[" * 100_000},
        {"training": "{"},
        {"training": "[1]"},
        {"training": "7"},
    ],
)
def test_damaged_metadata_is_refused(metadata, tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(), **metadata)
    assert_refused(path, "metadata is damaged")


@pytest.mark.parametrize("tokens", [["<x1>"], ["<x1>", "<x2>", "<x3>"], ["<x1>", "<x1>"], []])
def test_metadata_that_names_other_tokens_is_refused(tokens, tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(), tokens=json.dumps(tokens))
    assert_refused(path, "its metadata names the tokens")


def test_an_unknown_tensor_is_refused(tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(extra=torch.ones(1)))
    assert_refused(path, "unknown tensor 'extra'")


@pytest.mark.parametrize("shape", [(16,), (2, 16, 8), (0, 8), (16, 0), ()])
def test_an_embedding_of_a_wrong_shape_is_refused(shape, tmp_path):
    path = save_params(tmp_path / "x.pth", {"<x>": torch.ones(shape)})
    assert_refused(path, r"the embedding of <x> has shape.*layers = 16 \(sd15\), 70 \(sdxl\)")


@pytest.mark.parametrize("rows", [1, 15, 24])
def test_a_number_of_rows_that_fits_no_architecture_is_refused(rows, tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(rows=rows))
    assert_refused(path, f"table of {rows} rows fits no known architecture")


def test_embeddings_of_different_shapes_are_refused(tmp_path):
    tables = {**make_tables(), "<x3>": torch.ones(16, 9)}
    assert_refused(save_params(tmp_path / "x.pth", tables), "differ in shape")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [EMBEDDING, TEXT, UNET])
def test_values_that_are_not_finite_are_refused(part, value, tmp_path):
    parts = {EMBEDDING: make_tables(), TEXT: make_factors(Q_PROJ), UNET: make_factors()}
    list(parts[part].values())[-1][-1, -1] = value
    assert_refused(save_params(tmp_path / "x.pth", *parts.values()), "not finite numbers")


def test_whole_numbers_are_refused(tmp_path):
    path = save_params(tmp_path / "x.pth", {"<x>": torch.ones(16, 8, dtype=torch.int32)})
    assert_refused(path, "stored as int32, expected floating-point")


@pytest.mark.parametrize("half", ["lora_down", "lora_up"])
@pytest.mark.parametrize("part", [TEXT, UNET])
def test_a_missing_half_is_refused(part, half, tmp_path):
    module = Q_PROJ if part == TEXT else TO_Q
    parts = {EMBEDDING: make_tables(), TEXT: make_factors(Q_PROJ), UNET: make_factors()}
    del parts[part][f"{module}.{half}.weight"]
    path = save_params(tmp_path / "x.pth", *parts.values())
    assert_refused(path, f"{half} of '{module}'.*missing")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, 8), (8, 3)),
        ((2, 8), (8,)),
        ((2, 8, 1), (8, 2, 1)),
        ((2, 8, 3, 3), (8, 2, 1, 1)),
        ((2, 8, 1, 1), (8, 2)),
        ((0, 8), (8, 0)),
        ((2, 0), (8, 2)),
    ],
)
def test_factors_of_wrong_shapes_are_refused(down, up, tmp_path):
    keys = (f"{TO_Q}.lora_down.weight", f"{TO_Q}.lora_up.weight")
    factors = dict(zip(keys, (torch.ones(down), torch.ones(up)), strict=True))
    path = save_params(tmp_path / "x.pth", make_tables(), {}, factors)
    assert_refused(path, f"'{TO_Q}'.*factors of shape")


def test_whole_merged_weights_are_refused(tmp_path):
    merged = {f"{TO_Q}.weight": torch.ones(8, 8)}
    path = save_params(tmp_path / "x.pth", make_tables(), {}, merged)
    assert_refused(path, "whole merged weights are not ED-LoRAs")


@pytest.mark.parametrize(
    "module", ["down_blocks.3.attentions.0.proj_in", "mid_block.resnets.0.conv1", "nonsense"]
)
def test_a_module_that_the_architecture_does_not_have_is_refused(module, tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(), {}, make_factors(module))
    assert_refused(path, f"1 module.* that sd15 does not have, first '{module}'.*another arch")


def test_an_unknown_text_module_is_refused(tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(), make_factors("visual.proj"))
    assert_refused(path, "first 'visual.proj'")


@pytest.mark.parametrize("token", ["potter", "<>", "<a b>", "<a:1>", "<a(>", "<a\\>", "a>", ""])
def test_a_name_that_cannot_be_a_token_is_refused(token, tmp_path):
    path = save_params(tmp_path / "x.pth", {token: torch.ones(16, 8)})
    assert_refused(path, "cannot be a concept token")


def test_a_big_file_of_another_kind_is_refused_without_reading_its_tensors(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    tensors = {"model.diffusion_model.big": torch.ones(4)}
    safetensors.torch.save_file(tensors, path)

    def fail(tensor):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("mix_of_show.mos_core.formats.tensor_file.own", fail)
    assert_refused(path, "is a checkpoint")
