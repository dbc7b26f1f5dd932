"""The real server: what it offers of the pack, and how a prompt is followed and cancelled."""

import urllib.error
from pathlib import Path

import pytest

from lib.client import Refused

CLONE = Path(__file__).absolute().parents[1]
WORKFLOWS = sorted((CLONE / "workflows").glob("*.json"))
NODES = {"MOS_LoadEDLoRA", "MOS_ApplyConcepts", "MOS_SaveEDLoRA", "MOS_LoadMiniature"}


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


def test_a_thumbnail_beside_a_workflow_is_served_with_it(client):
    for picture in sorted((CLONE / "workflows").glob("*.jpg")):
        served = client.get(f"/api/workflow_templates/mix-of-show/{picture.name}")
        assert served == picture.read_bytes()


def test_the_log_of_a_start_has_no_traceback_and_no_failed_import(server):
    log = server.log.read_text(encoding="utf-8", errors="replace")
    begin = log[: log.index("To see the GUI go to")]
    assert "Traceback" not in begin
    assert "IMPORT FAILED" not in begin


# ------------------------------------------------------------------------- following a prompt


def test_progress_is_reported_step_by_step(client):
    seen = []
    outcome = client.run(slow(3, 0.01, seed=1), seen.append)
    assert outcome.status == "success"
    steps = [(p.value, p.total) for p in seen if p.node == "1" and p.total]
    assert steps[0] == (1, 3)
    assert steps[-1] == (3, 3)
    assert steps == sorted(steps)  # newer servers leave out messages that come fast


def test_a_prompt_is_cancelled_in_the_middle_and_the_next_one_runs(client):
    cancelled_at = []

    def cancel(progress):
        if progress.value >= 2 and not cancelled_at:  # newer servers leave out steps
            cancelled_at.append(progress.value)
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
