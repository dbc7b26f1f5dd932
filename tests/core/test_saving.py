"""Saving: numbered, inside the folder, all or nothing."""

import errno
import os
import threading

import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.errors import SaveError
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats import saving as saving_module
from mix_of_show.mos_core.formats.concept_file import WRITERS
from mix_of_show.mos_core.formats.saving import save_numbered
from support.golden import GOLDEN


def write_text(text="content"):
    return lambda path: path.write_text(text)


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "loras"
    folder.mkdir()
    (tmp_path / "outside").mkdir()
    return folder


def test_files_are_numbered_from_one(folder):
    for number in (1, 2, 3):
        path = save_numbered(folder, "cat", ".x", write_text(f"{number}"))
        assert path == folder / f"cat_0000{number}_.x"
        assert path.read_text() == f"{number}"


def test_the_first_free_number_is_taken_and_nothing_is_overwritten(folder):
    (folder / "cat_00001_.x").write_text("mine")
    (folder / "cat_00002_.x").mkdir()
    (folder / "cat_00003_.x").symlink_to(folder / "nowhere")
    assert save_numbered(folder, "cat", ".x", write_text()).name == "cat_00004_.x"
    assert (folder / "cat_00001_.x").read_text() == "mine"
    assert not (folder / "nowhere").exists()


def test_other_endings_and_names_do_not_use_up_numbers(folder):
    save_numbered(folder, "cat", ".x", write_text())
    assert save_numbered(folder, "cat", ".y", write_text()).name == "cat_00001_.y"
    assert save_numbered(folder, "ca", ".x", write_text()).name == "ca_00001_.x"


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        ("sub/deep/cat", "sub/deep/cat_00001_.x"),
        ("sub\\cat", "sub/cat_00001_.x"),
        (" cat ", "cat_00001_.x"),
        ("./cat", "cat_00001_.x"),
        ("sub/../cat", "cat_00001_.x"),
        ("Kätzchen <3"[:8], "Kätzchen_00001_.x"),
        ("a.b", "a.b_00001_.x"),
    ],
)
def test_a_prefix_may_name_folders_inside(prefix, name, folder):
    assert save_numbered(folder, prefix, ".x", write_text()) == folder / name
    assert (folder / name).read_text() == "content"


@pytest.mark.parametrize(
    "prefix",
    [
        "../cat",
        "../outside/cat",
        "sub/../../cat",
        "..",
        ".",
        "/etc/cat",
        "/cat",
        "..\\cat",
        "\\cat",
        "\\\\server\\share\\cat",
        "C:\\cat",
        "C:cat",
        "c:/cat",
        "link/cat",
        "link",
        "cat\0dog",
        "cat\ndog",
        "cat?",
        "cat*",
        "<cat>",
        "a|b",
        'a"b',
        "file:///cat",
    ],
)
def test_a_prefix_that_is_no_name_inside_the_folder_is_refused(prefix, folder, tmp_path):
    (folder / "link").symlink_to(tmp_path / "outside")
    before = files_in(tmp_path)
    with pytest.raises(SaveError, match="not a name inside the loras folder"):
        save_numbered(folder, prefix, ".x", write_text())
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("prefix", ["", "  ", "sub/", "sub\\", "/"])
def test_an_empty_prefix_is_refused(prefix, folder):
    with pytest.raises(SaveError, match="prefix is empty"):
        save_numbered(folder, prefix, ".x", write_text())
    assert files_in(folder) == []


def test_a_folder_that_is_a_link_itself_is_respected(folder, tmp_path):
    link = tmp_path / "linked"
    link.symlink_to(folder)
    path = save_numbered(link, "cat", ".x", write_text())
    assert path.resolve() == folder / "cat_00001_.x"


def test_a_folder_that_is_not_there_yet_is_made(tmp_path):
    assert save_numbered(tmp_path / "new", "cat", ".x", write_text()).exists()


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path):
    (tmp_path / "loras").write_text("a file")
    with pytest.raises(SaveError, match=r"cannot write 'cat' into loras: .*writable"):
        save_numbered(tmp_path / "loras", "cat", ".x", write_text())
    assert files_in(tmp_path) == ["loras"]


def test_a_file_in_the_place_of_a_subfolder_is_told(folder):
    (folder / "sub").write_text("a file")
    with pytest.raises(SaveError, match="cannot write 'sub/cat' into loras"):
        save_numbered(folder, "sub/cat", ".x", write_text())
    assert files_in(folder) == ["sub"]


def test_a_name_that_is_too_long_is_told(folder):
    for prefix in ("x" * 300, "x" * 300 + "/cat"):
        with pytest.raises(SaveError, match="File name too long"):
            save_numbered(folder, prefix, ".x", write_text())
    assert files_in(folder) == []


def test_an_unwritable_folder_is_told(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(saving_module.tempfile, "mkstemp", refuse)
    with pytest.raises(SaveError, match=r"into loras: Permission denied; check .* writable"):
        save_numbered(folder, "sub/cat", ".x", write_text())
    assert files_in(folder) == []


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        safetensors.SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc] . unexpected pos: No space left"),
    ],
)
def test_a_full_disk_is_told_and_leaves_nothing(failure, folder):
    def write(path):
        path.write_text("half of it")
        raise failure

    (folder / "old").mkdir()
    with pytest.raises(SaveError, match=r"No space left.*room"):
        save_numbered(folder, "new/deep/cat", ".x", write)
    assert files_in(folder) == ["old"]


@pytest.mark.parametrize("layout", WRITERS)
def test_a_file_that_the_system_cuts_short_is_told_and_leaves_nothing(layout, folder):
    """The writers' own errors: no file of this process may grow beyond 50 kB."""
    resource = pytest.importorskip("resource", reason="not on Windows")
    concept = read_concept(GOLDEN / "edlora_a.pth")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(SaveError, match="cannot write 'cat' into loras"):
            save_concept(concept, folder, "cat", layout)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files_in(folder) == []


def test_an_error_of_another_kind_leaves_nothing_either(folder):
    def write(path):
        path.write_text("half of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_numbered(folder, "cat", ".x", write)
    assert files_in(folder) == []


def test_nothing_but_the_finished_file_is_ever_seen_under_its_name(folder):
    def write(path):
        path.write_text("half")
        assert not list(folder.glob("cat*"))
        path.write_text("whole")

    save_numbered(folder, "cat", ".x", write)
    assert files_in(folder) == ["cat_00001_.x"]


@pytest.mark.parametrize("links", [True, False])
def test_many_savers_at_once_get_a_number_each(links, folder, monkeypatch):
    if not links:  # as on FAT and some network drives

        def refuse(*args):
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(saving_module.os, "link", refuse)
    start = threading.Barrier(8)
    paths = []

    def save(content):
        start.wait()
        for i in range(5):
            paths.append(
                (save_numbered(folder, "cat", ".x", write_text(f"{content}.{i}")), content, i)
            )

    threads = [threading.Thread(target=save, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path for path, _, _ in paths}) == 40
    assert files_in(folder) == [f"cat_{n:05}_.x" for n in range(1, 41)]
    for path, content, i in paths:
        assert path.read_text() == f"{content}.{i}"


def test_a_failed_move_leaves_no_reserved_name(folder, monkeypatch):
    """Without hard links the name is reserved first; the move over it may still fail."""

    def refuse(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(saving_module.os, "link", refuse)
    monkeypatch.setattr(saving_module.os, "replace", refuse)
    with pytest.raises(SaveError, match="Operation not permitted"):
        save_numbered(folder, "cat", ".x", write_text())
    assert files_in(folder) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_the_file_has_the_permissions_of_any_other_new_file(folder):
    path = save_numbered(folder, "cat", ".x", write_text())
    (folder / "plain").write_text("")
    assert path.stat().st_mode == (folder / "plain").stat().st_mode


@pytest.mark.parametrize("layout", WRITERS)
def test_a_saved_concept_is_read_again(layout, folder):
    concept = read_concept(GOLDEN / "edlora_v.pth")
    path = save_concept(concept, folder, "mix_of_show/v", layout)
    assert path == folder / "mix_of_show" / f"v_00001_{WRITERS[layout][0]}"
    found = read_concept(path)
    assert found.tokens == concept.tokens
    assert all(torch.equal(found.unet[m].up, pair.up) for m, pair in concept.unet.items())
