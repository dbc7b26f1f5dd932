"""Files of concepts: nothing is lost, and every bad file is refused with its own message."""

import mmap
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mix_of_show.mos_core.families.unet import SD15
from mix_of_show.mos_core.formats import (
    read_concept,
    save_concept,
    tensor_file,
    write_reference,
    write_safetensors,
)
from mix_of_show.mos_core.formats.parts import build_concept
from mix_of_show.mos_core.records import Concept, LowRank
from support.concept_files import (
    Q_PROJ,
    TO_Q,
    WRITERS,
    make_concept,
    make_factors,
    make_tables,
    save_params,
)
from support.golden import CONCEPTS, EMBEDDING, GOLDEN, TEXT, UNET, read_meta, read_parts


def read_params(path):
    return torch.load(path, weights_only=True)["params"]


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


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("huge_pages", [False, True])
def test_a_large_file_is_one_buffer_of_its_own(huge_pages, inference, tmp_path, monkeypatch):
    if huge_pages and not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system has no huge pages")
    if not huge_pages:
        monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    monkeypatch.setattr(tensor_file, "HUGE", 1)
    sent = {
        "scalar": torch.tensor(8.0),
        "empty": torch.zeros(0, 4),
        "odd": torch.randn(3, 7).half(),
        "wide": torch.randn(5, 3, dtype=torch.float64),
        "byte": torch.randn(9, 11).to(torch.float8_e4m3fn),
        "count": torch.tensor([1, -2]),
    }
    path = tmp_path / "x"
    save_file(sent, path)
    with torch.inference_mode(inference):
        found = tensor_file.TensorFile(path).read()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert set(found) == set(sent)
    for name, tensor in sent.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        bits = [t.flatten().view(torch.uint8) for t in (found[name], tensor)]
        assert torch.equal(*bits), name
        assert not found[name].is_inference()
        assert found[name].is_contiguous()
    buffers = {t.untyped_storage().data_ptr() for t in found.values() if t.numel()}
    assert len(buffers) == (1 if huge_pages else 5)
    found["odd"].zero_()  # its neighbours keep theirs
    assert torch.equal(found["wide"], sent["wide"])
    assert torch.equal(found["count"], sent["count"])


@pytest.mark.parametrize("ending", WRITERS)
def test_what_was_read_into_one_buffer_is_written_as_any_other(ending, tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "HUGE", 1)
    concept = make_concept()
    write_safetensors(concept, tmp_path / "x")
    found = read_concept(tmp_path / "x")
    WRITERS[ending](found, tmp_path / "y")
    assert_same_concept(read_concept(tmp_path / "y"), concept)
    assert (tmp_path / "y").stat().st_size < 30_000


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
