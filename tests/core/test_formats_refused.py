"""Ring 1: files that are no concept at all, each with its message."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.formats import (
    read_concept,
)
from support.concept_files import WRITERS, assert_refused, make_concept
from support.golden import EMBEDDING, GOLDEN, UNET


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
