"""The nodes of loading and saving, called as ComfyUI calls them."""

import html
import inspect
import os
import shutil
import sys
from types import SimpleNamespace

import folder_paths
import pytest
from comfy_api.latest import io

from mix_of_show.mos_core.errors import FileFormatError, SaveError
from mix_of_show.mos_core.formats import read_concept
from mix_of_show.nodes import folders, progress
from mix_of_show.nodes.apply import ApplyConcepts
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.load import LoadEDLoRA, SaveEDLoRA
from mix_of_show.nodes.progress import as_html, send_text
from mix_of_show.nodes.train import TrainEDLoRA
from support.golden import GOLDEN
from support.sampling import encode, sample


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """A loras folder of this test's own, with two concepts of the reference in it."""
    first, second = tmp_path / "loras", tmp_path / "more"
    for folder in (first, second):
        (folder / "sub").mkdir(parents=True)
    shutil.copy2(GOLDEN / "edlora_a.pth", first / "a.pth")
    shutil.copy2(GOLDEN / "edlora_b.pth", second / "sub" / "B.PTH")
    (first / "notes.txt").write_text("no concept")
    (tmp_path / "outside.pth").write_bytes((GOLDEN / "edlora_c.pth").read_bytes())
    known = (
        [str(first), str(second)],
        folder_paths.folder_names_and_paths["loras"][1] | {".pth"},
    )
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", known)
    monkeypatch.setitem(folder_paths.filename_list_cache, "loras", None)
    folder_paths.filename_list_cache.pop("loras")
    folder_paths.cache_helper.clear()
    return first


def load(name, *strengths, **optional):
    return LoadEDLoRA.execute(name, *(strengths or (1.0, 1.0)), **optional).args


def input_of(node, name):
    return next(i for i in node.define_schema().inputs if i.id == name)


def test_loading_gives_the_concept_its_strengths_and_its_trigger_words(loras):
    (entry,), words, _ = load("a.pth", 0.7, -0.2)
    assert words == "<a1> <a2>"
    assert (entry.strength_model, entry.strength_clip) == (0.7, -0.2)
    assert entry.concept.name == "a"


def test_an_ordinary_lora_is_loaded_with_the_users_name_words_and_rank():
    file = "demo: superhero_lora.safetensors"
    (plain,), own_words, whole = load(file)
    given = {"name": " Sir ", "trigger_words": "shining knight,  sword", "max_rank": 2}
    (entry,), words, report = LoadEDLoRA.execute(file, 0.5, 0.5, **given).args
    assert own_words
    assert own_words == plain.concept.trigger_words
    assert entry.concept.name == "Sir"
    assert words == "shining knight, sword"
    assert max(delta.rank for delta in entry.concept.deltas.values()) == 2
    assert max(delta.rank for delta in plain.concept.deltas.values()) > 2
    assert "cut to rank 2: " in report
    assert "of the change is kept" in report
    assert "cut to" not in whole
    assert "base SD1.5" in whole


def test_loaders_chain_in_their_order_and_leave_the_earlier_chain_alone(loras):
    first, *_ = load("a.pth")
    second, words, _ = load(os.path.join("sub", "B.PTH"), concepts=first)
    assert [entry.concept.tokens[0] for entry in second] == ["<a1>", "<b1>"]
    assert words == "<b1> <b2>"
    assert len(first) == 1
    assert second[0] is first[0]


def test_the_list_has_the_concept_files_of_all_folders_and_no_others(loras):
    options = [n for n in input_of(LoadEDLoRA, "lora_name").options if not n.startswith("demo: ")]
    assert options == ["a.pth", os.path.join("sub", "B.PTH")]


@pytest.mark.parametrize(
    "name",
    ["gone.pth", "../outside.pth", "/etc/passwd", "sub", "", "demo: ../model.safetensors",
     "demo: gone.safetensors", "demo: /etc/passwd"],
)  # fmt: skip
def test_a_name_that_is_not_in_the_folders_is_refused(name, loras):
    with pytest.raises(FileFormatError, match="not in the loras folders"):
        load(name)


def test_the_fingerprint_changes_with_the_file(loras):
    before = LoadEDLoRA.fingerprint_inputs("a.pth", strength_model=1.0)
    assert LoadEDLoRA.fingerprint_inputs("a.pth", strength_model=0.5) == before
    shutil.copyfile(GOLDEN / "edlora_v.pth", loras / "a.pth")
    assert LoadEDLoRA.fingerprint_inputs("a.pth") != before


def test_the_demos_files_are_listed_last_and_found(loras, tmp_path, monkeypatch):
    demo = tmp_path / "demo"
    demo.mkdir()
    shutil.copy2(GOLDEN / "edlora_c.pth", demo / "c.pth")
    monkeypatch.setitem(folders.DEMO_FOLDERS, "loras", demo)
    assert input_of(LoadEDLoRA, "lora_name").options[-1] == "demo: c.pth"
    assert load("demo: c.pth")[1] == "<c1> <c2>"


def test_saving_writes_each_concept_into_the_first_folder_under_its_name(loras):
    chain = load(os.path.join("sub", "B.PTH"), concepts=load("a.pth")[0])[0]
    for _ in range(2):
        shown = SaveEDLoRA.execute(chain, "mine/%name%").ui.as_dict()["text"]
    assert "mine/a_00002_.safetensors" in str(shown)
    files = sorted(p.relative_to(loras).as_posix() for p in loras.rglob("*.safetensors"))
    assert files == [f"mine/{name}_0000{n}_.safetensors" for name in "Ba" for n in (1, 2)]
    assert read_concept(loras / "mine" / "B_00001_.safetensors").tokens == ("<b1>", "<b2>")


def test_saving_in_the_references_format(loras):
    SaveEDLoRA.execute(load("a.pth")[0], "back", "reference pth")
    assert read_concept(loras / "back_00001_.pth").tokens == ("<a1>", "<a2>")


@pytest.mark.parametrize("prefix", ["../%name%", "/tmp/x", "", "C:\\x", "%name%/../../x"])
def test_saving_outside_the_folder_is_refused(prefix, loras, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SaveError):
        SaveEDLoRA.execute(load("a.pth")[0], prefix)
    assert sorted(tmp_path.rglob("*")) == before


def test_from_file_to_latent(loras, unet, clip):
    chain = load(os.path.join("sub", "B.PTH"), 0.5, 0.5, concepts=load("a.pth")[0])[0]
    model, knowing = ApplyConcepts.execute(unet, clip, chain).args
    found = sample(model, encode(knowing, "<a1> <a2> beside <b1> <b2>"), encode(knowing, ""))
    assert found.shape == (1, 4, 16, 16)
    assert found.isfinite().all()
    assert found.std() > 0.1


def test_every_input_has_a_tooltip_and_every_node_a_description():
    for node in (LoadEDLoRA, SaveEDLoRA, ApplyConcepts):
        schema = node.define_schema()
        assert schema.description
        assert schema.category.startswith("Mix-of-Show/")
        assert all(i.tooltip for i in (*schema.inputs, *schema.outputs))


@pytest.mark.parametrize(
    "text",
    ['write <parrot> & "go"', "<img src=x onerror=alert(1)>", "a [[b|javascript:x]]", "__LNK3__"],
)
def test_what_a_node_tells_is_plain_text_for_a_page_and_reads_as_it_was_written(text):
    sent = as_html(text)
    assert not {"<", '"', "'", "["} & set(sent)
    assert "__LNK" not in sent
    assert html.unescape(sent) == text


def test_what_a_node_tells_is_sent_as_plain_text(monkeypatch):
    sent = []
    instance = SimpleNamespace(send_progress_text=lambda *given: sent.append(given))
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=instance))
    monkeypatch.setitem(sys.modules, "server", server)
    send_text("5", "write <parrot>")
    send_text(None, "to nobody")
    assert sent == [("write &lt;parrot&gt;", "5")]


def test_a_loader_shows_the_words_that_draw_its_concept(loras, monkeypatch):
    told = []
    monkeypatch.setattr(progress, "send_text", lambda node_id, text: told.append(text))
    load("a.pth")
    assert "<a1> <a2>" in told[-1]


def test_inputs_that_are_rarely_used_are_marked_where_the_version_knows_it():
    knows = "advanced" in inspect.signature(io.Float.Input.__init__).parameters
    for node, rare, usual in (
        (ComposerAttention, "largest_change", "injection"),
        (TrainEDLoRA, "noise_offset", "steps"),
    ):
        inputs = {spec.id: spec for spec in node.define_schema().inputs}
        assert bool(getattr(inputs[rare], "advanced", False)) == knows
        assert not getattr(inputs[usual], "advanced", False)


def test_a_file_whose_name_is_html_is_not_listed_and_the_log_says_so(loras, caplog):
    (loras / "<b>.pth").write_bytes(b"")
    folder_paths.cache_helper.clear()
    assert "a.pth" in folders.list_files("loras", (".pth",))
    assert not any("<" in name for name in folders.list_files("loras", (".pth",)))
    assert "'<b>.pth' is not listed" in caplog.text
