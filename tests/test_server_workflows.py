"""The shipped workflows on the real server, and the stock graph from a file of the papers' code."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.client import Client, Outcome
from lib.workflow import override, read_workflow, to_prompt
from support.server_models import CHECKPOINT, FLUX_CHECKPOINT, FLUX_LORA, concept_file

CLONE = Path(__file__).absolute().parents[1]
WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))


def with_stand_ins(prompt):
    """For a workflow that needs a person's own files: the golden models, small pictures."""
    text = json.dumps(prompt)
    names = dict(zip(dict.fromkeys(re.findall(r"<(\w+?)\d>", text)), "abc", strict=False))
    prompt = json.loads(re.sub(r"<(\w+?)(\d)>", lambda m: f"<{names.get(m[1], 'a')}{m[2]}>", text))
    for kind in ("MOS_RegionalControl", "ControlNetApplyAdvanced"):
        bypass(prompt, kind)
    loaded = iter("abc")
    for _, node in sorted(prompt.items(), key=lambda item: int(item[0])):
        if node["class_type"] == "CheckpointLoaderSimple":
            node.update(class_type="MOS_LoadMiniature", inputs={"ckpt_name": CHECKPOINT})
        if node["class_type"] == "MOS_LoadEDLoRA":
            node["inputs"]["lora_name"] = concept_file(next(loaded))
        if node["class_type"] in ("EmptyLatentImage", "MOS_FuseConcepts"):
            node["inputs"].update(width=128, height=128)
        if node["class_type"] == "MOS_TrainEDLoRA":
            node["inputs"].update(
                resolution=128, preview_every=0, initializer="<rand-0.013> <rand-0.013>"
            )
    return prompt


LOADED = {"UNETLoader": 0, "CLIPLoader": 1, "DualCLIPLoader": 1, "VAELoader": 2}


def with_a_tiny_flux(prompt):
    """For a workflow of a diffusion transformer, whichever: a small model of Flux.1's shape."""
    outputs = {id: LOADED.get(node["class_type"]) for id, node in prompt.items()}
    first = next(id for id, output in outputs.items() if output == 0)
    prompt[first].update(class_type="MOS_LoadMiniature", inputs={"ckpt_name": FLUX_CHECKPOINT})
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and outputs.get(value[0]) is not None:
                node["inputs"][name] = [first, outputs[value[0]]]
        if node["class_type"] == "MOS_LoadEDLoRA":
            node["inputs"]["lora_name"] = FLUX_LORA
        if node["class_type"].startswith("Empty"):
            node.update(class_type="EmptySD3LatentImage")
            node["inputs"].update(width=128, height=128)
    return {id: node for id, node in prompt.items() if not outputs[id]}


def bypass(prompt, kind):
    """Takes nodes of a kind out, as the editor's Ctrl+B: their first inputs go on as outputs."""
    for id in [id for id, node in prompt.items() if node["class_type"] == kind]:
        through = [v for v in prompt.pop(id)["inputs"].values() if isinstance(v, list)]
        for node in prompt.values():
            for name, value in node["inputs"].items():
                if isinstance(value, list) and value[0] == id:
                    node["inputs"][name] = through[value[1]]


def with_a_fusion(prompt, client):
    """A workflow that loads a fusion, with the one that was saved last."""
    info = client.object_info()["MOS_LoadFused"]["input"]["required"]["fused_name"]
    names = info[0] if isinstance(info[0], list) else info[1]["options"]
    return override(prompt, {"fused_name": sorted(names)[-1]})


def pixels(client, picture):
    return np.asarray(Image.open(io.BytesIO(client.fetch(picture))))


@pytest.fixture(scope="module")
def run_once(server, object_info, request):
    """Runs a shipped workflow, each once for all tests; -> the outcome."""
    outcomes: dict[Path, Outcome] = {}
    steps = request.config.getoption("--steps")

    def run(file):
        if file not in outcomes:
            outcomes[file] = run_workflow(file, Client(server.address), object_info, steps)
        return outcomes[file]

    return run


def run_workflow(file, client, object_info, steps):
    """The outcome of a shipped workflow. steps: of its samplers; 0: as saved"""
    workflow = read_workflow(file)
    prompt = to_prompt(workflow, object_info)
    if workflow.get("extra", {}).get("mos", {}).get("needs_files"):
        kinds = {node["class_type"] for node in prompt.values()}
        prompt = with_a_tiny_flux(prompt) if "UNETLoader" in kinds else with_stand_ins(prompt)
    if steps and any("steps" in node["inputs"] for node in prompt.values()):
        prompt = override(prompt, {"steps": steps})
    if any("refine_steps" in node["inputs"] for node in prompt.values()):
        prompt = override(prompt, {"refine_steps": 2})  # minutes otherwise
    if steps:
        for node in prompt.values():
            if node["class_type"] == "MOS_FuseConcepts":
                for name in ("prompts", "anchor_prompts"):
                    lines = node["inputs"][name].splitlines()
                    node["inputs"][name] = "\n".join([*lines[:1], *lines[-1:]])  # alone, a pair
    return client.run(prompt, timeout=600).check()


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow_runs(file, client, run_once):
    outcome = run_once(file)
    assert outcome.outputs, "the workflow shows and saves nothing"
    for picture in outcome.pictures:
        assert pixels(client, picture).std() > 0, f"{picture.filename} is of one colour"


def test_a_fusion_that_was_just_saved_loads_in_another_workflow(client, object_info, run_once):
    run_once(CLONE / "workflows" / "fuse_concepts.json")
    prompt = to_prompt(read_workflow(CLONE / "workflows" / "load_fused.json"), object_info)
    prompt = with_a_fusion(override(prompt, {"steps": 2}), client)
    assert not node_of(prompt, "MOS_LoadFused")["inputs"]["fused_name"].startswith("demo: ")
    assert client.run(prompt, timeout=600).check().pictures


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_the_stock_graph_draws_from_a_file_of_the_papers_code(client, stock_graph, batch, cfg):
    """Load -> Apply Concepts -> CLIPTextEncode -> KSampler -> VAEDecode -> SaveImage."""
    prompt = override(stock_graph, {"cfg": cfg, "batch_size": batch})
    pictures = client.run(prompt, timeout=600).check().pictures
    assert len(pictures) == batch
    assert all(pixels(client, picture).shape == (128, 128, 3) for picture in pictures)


@pytest.fixture
def stock_graph(object_info):
    """The stock graph (workflows/sd15_edlora.json) with the golden models and 2 steps."""
    file = CLONE / "workflows" / "sd15_edlora.json"
    prompt = with_stand_ins(to_prompt(read_workflow(file), object_info))
    return override(prompt, {"steps": 2})


def node_of(prompt, class_type):
    return next(node for node in prompt.values() if node["class_type"] == class_type)


def test_concept_text_with_the_unpatched_model_ends_in_our_message(client, stock_graph):
    loader = node_of(stock_graph, "MOS_ApplyConcepts")["inputs"]["model"]
    node_of(stock_graph, "KSampler")["inputs"]["model"] = loader
    outcome = client.run(stock_graph)
    assert outcome.status == "error"
    assert "Apply Concepts" in outcome.error
    assert "mat1 and mat2" not in outcome.error


def test_an_unknown_concept_token_ends_in_a_message_with_the_nearest_names(client, stock_graph):
    node_of(stock_graph, "CLIPTextEncode")["inputs"]["text"] = "a photo of <a3> in the park"
    outcome = client.run(stock_graph)
    assert outcome.status == "error"
    assert "<a3>" in outcome.error
    assert "<a1>" in outcome.error


def test_a_workflow_cancelled_in_the_middle_leaves_the_next_run_as_it_was(client, stock_graph):
    first = override(stock_graph, {"seed": 11})
    before = client.run(first, timeout=600).check()

    cancelled_at = []

    def cancel(progress):
        if progress.total and progress.value >= 2 and not cancelled_at:  # some are left out
            cancelled_at.append(progress.value)
            client.interrupt()

    cancelled = client.run(override(stock_graph, {"steps": 500, "seed": 12}), cancel)
    after = client.run(first, timeout=600).check()

    assert cancelled.status == "interrupted"
    assert len(before.pictures) == 1
    for one, other in zip(before.pictures, after.pictures, strict=True):
        assert np.array_equal(pixels(client, one), pixels(client, other))


def test_the_workflow_files_are_json_of_one_style():
    """Saved by the editor or by hand: the ids of nodes and links are those that the file counts."""
    for file in WORKFLOWS:
        workflow = json.loads(file.read_text(encoding="utf-8"))
        assert workflow["last_node_id"] >= max(node["id"] for node in workflow["nodes"])
