"""The real server over HTTP and websocket: what it offers of the pack, the shipped workflows."""

import io
import json
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.client import Refused
from lib.workflow import override, read_workflow, to_prompt

CLONE = Path(__file__).absolute().parents[1]
WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))
NODES = {"MOS_LoadEDLoRA", "MOS_ApplyConcepts", "MOS_SaveEDLoRA", "MOS_LoadMiniature"}


@pytest.fixture(scope="module")
def object_info(server):
    from lib.client import Client

    return Client(server.address).object_info()


@pytest.fixture(scope="module")
def our_nodes(object_info):
    nodes = {id: info for id, info in object_info.items() if id.startswith("MOS_")}
    assert nodes, "the server did not load the pack"
    return nodes


def slow(steps, seconds=0.05, seed=0):
    inputs = {"steps": steps, "seconds": seconds, "seed": seed}
    return {
        "1": {"class_type": "TestSlowImage", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def pixels(client, picture):
    return np.asarray(Image.open(io.BytesIO(client.fetch(picture))))


# ------------------------------------------------------------------------- what the server offers


def test_every_promised_node_is_there(our_nodes):
    assert set(our_nodes) >= NODES


def test_every_node_says_what_it_does_and_stands_in_our_category(our_nodes):
    assert {id for id, info in our_nodes.items() if not info["description"]} == set()
    assert {
        id for id, info in our_nodes.items() if not info["category"].startswith("Mix-of-Show")
    } == set()


def test_every_input_and_output_has_a_tooltip(our_nodes):
    bare = []
    for id, info in our_nodes.items():
        for section in ("required", "optional"):
            for name, spec in info["input"].get(section, {}).items():
                if not (len(spec) > 1 and spec[1].get("tooltip")):
                    bare.append(f"{id}.{name}")
        bare += [
            f"{id} -> {name}"
            for name, tip in zip(
                info["output_name"], info.get("output_tooltips") or [], strict=False
            )
            if not tip
        ]
    assert bare == []


def test_every_node_has_a_help_page(our_nodes, client):
    missing = []
    for id in our_nodes:
        try:
            page = client.get(f"/extensions/mix-of-show/docs/{id}.md").decode()
        except urllib.error.HTTPError as error:
            missing.append(f"{id}: {error.code}")
            continue
        if not page.lstrip().startswith("#"):
            missing.append(f"{id}: no heading")
    assert missing == []


def test_the_english_locale_names_every_node_and_input(our_nodes, client):
    locale = client.get_json("/i18n")["en"]["nodeDefs"]
    missing = []
    for id, info in our_nodes.items():
        said = locale.get(id, {})
        missing += [] if said.get("display_name") else [id]
        names = [
            name for section in ("required", "optional") for name in info["input"].get(section, {})
        ]
        missing += [f"{id}.{name}" for name in names if name not in said.get("inputs", {})]
    assert missing == []


def test_the_shipped_workflows_are_offered_as_templates(client):
    offered = client.get_json("/workflow_templates").get("mix-of-show", [])
    assert sorted(offered) == sorted(path.stem for path in WORKFLOWS)


# ------------------------------------------------------------------------- the shipped workflows


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow_runs(file, client, object_info, request):
    prompt = to_prompt(read_workflow(file), object_info)
    steps = request.config.getoption("--steps")
    if steps and any("steps" in node["inputs"] for node in prompt.values()):
        prompt = override(prompt, {"steps": steps})
    outcome = client.run(prompt, timeout=600).check()
    assert outcome.pictures, "the workflow shows no picture"
    for picture in outcome.pictures:
        assert pixels(client, picture).std() > 0, f"{picture.filename} is of one colour"


def test_a_workflow_cancelled_in_the_middle_leaves_the_next_run_as_it_was(client, object_info):
    file = CLONE / "workflows" / "draw_a_concept.json"
    if not file.exists():
        pytest.skip("workflows/draw_a_concept.json is not there")
    prompt = to_prompt(read_workflow(file), object_info)
    first = override(prompt, {"steps": 2, "seed": 11})
    before = client.run(first, timeout=600).check()

    def cancel(progress):
        if progress.total and progress.value == 2:
            client.interrupt()

    cancelled = client.run(override(prompt, {"steps": 200, "seed": 12}), cancel, timeout=600)
    after = client.run(first, timeout=600).check()

    assert cancelled.status == "interrupted"
    for one, other in zip(before.pictures, after.pictures, strict=True):
        assert np.array_equal(pixels(client, one), pixels(client, other))


# ------------------------------------------------------------------------- following a prompt


def test_progress_is_reported_step_by_step(client):
    seen = []
    outcome = client.run(slow(3, 0.01, seed=1), seen.append)
    assert outcome.status == "success"
    assert [(p.value, p.total) for p in seen if p.node == "1" and p.total] == [
        (1, 3),
        (2, 3),
        (3, 3),
    ]


def test_a_prompt_is_cancelled_in_the_middle_and_the_next_one_runs(client):
    def cancel(progress):
        if progress.value == 2:
            client.interrupt()

    cancelled = client.run(slow(400, seed=2), cancel, timeout=60)
    assert cancelled.status == "interrupted"
    assert cancelled.seconds < 10
    assert client.run(slow(2, 0.01, seed=3)).status == "success"


def test_a_prompt_that_takes_too_long_is_cancelled(client):
    with pytest.raises(TimeoutError, match=r"did not end within 0\.5 s"):
        client.run(slow(400, seed=4), timeout=0.5)
    assert client.run(slow(1, 0.01, seed=5)).status == "success"


def test_an_error_in_a_node_names_the_node(client):
    prompt = slow(1)
    prompt["1"]["inputs"]["seconds"] = -1.0
    outcome = client.run(prompt)
    assert outcome.status == "error"
    assert "TestSlowImage (node 1)" in outcome.error


def test_a_prompt_that_does_not_fit_is_refused_with_the_reason(client):
    prompt = slow(1)
    del prompt["2"]["inputs"]["images"]
    with pytest.raises(
        Refused, match=r"node 2 \(PreviewImage\): Required input is missing: images"
    ):
        client.run(prompt)


def test_the_workflow_files_are_json_of_one_style():
    """Saved by the editor or by hand: the ids of nodes and links are those that the file counts."""
    for file in WORKFLOWS:
        workflow = json.loads(file.read_text(encoding="utf-8"))
        assert workflow["last_node_id"] >= max(node["id"] for node in workflow["nodes"])
