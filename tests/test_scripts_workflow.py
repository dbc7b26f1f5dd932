"""From a saved workflow to an API prompt, against a small made-up /object_info."""

import json

import pytest

from lib.workflow import WorkflowProblem, override, read_workflow, to_prompt

OBJECT_INFO = {
    "Load": {"input": {"required": {"file": [["a.safetensors", "b.safetensors"]]}}},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL", {}],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "cfg": ["FLOAT", {"default": 8.0}],
                "sampler": ["COMBO", {"options": ["euler", "heun"]}],
            },
            "optional": {"mask": ["MASK", {}], "note": ["STRING", {"default": ""}]},
        },
        "input_order": {
            "required": ["model", "seed", "steps", "cfg", "sampler"],
            "optional": ["mask", "note"],
        },
    },
    "Patch": {"input": {"required": {"model": ["MODEL", {}], "on": ["BOOLEAN", {}]}}},
    "Picture": {
        "input": {"required": {"image": [["x.png"], {"image_upload": True}], "size": ["INT", {}]}}
    },
    "Boxes": {"input": {"required": {"boxes": ["BOXES", {"socketless": True}]}}},
}


def load(id=1, file="a.safetensors", **more):
    outputs = [{"name": "MODEL", "type": "MODEL"}]
    return {"id": id, "type": "Load", "widgets_values": [file], "outputs": outputs, **more}


def sample(id=2, link=1, values=(7, "fixed", 4, 1.5, "heun", "hello"), **more):
    inputs = [{"name": "model", "type": "MODEL", "link": link}]
    return {"id": id, "type": "Sample", "inputs": inputs, "widgets_values": list(values), **more}


def patch(id=3, link=1, **more):
    inputs = [{"name": "model", "type": "MODEL", "link": link}]
    outputs = [{"name": "MODEL", "type": "MODEL"}]
    values = [True]
    return {
        "id": id,
        "type": "Patch",
        "inputs": inputs,
        "outputs": outputs,
        "widgets_values": values,
        **more,
    }


def convert(nodes, links=((1, 1, 0, 2, 0, "MODEL"),), **more):
    workflow = {"nodes": list(nodes), "links": [list(link) for link in links], **more}
    return to_prompt(workflow, OBJECT_INFO)


def test_widgets_take_their_values_in_order_and_links_become_references():
    prompt = convert([load(), sample()])
    assert prompt["1"]["inputs"] == {"file": "a.safetensors"}
    assert prompt["2"] == {
        "class_type": "Sample",
        "inputs": {
            "model": ["1", 0],
            "seed": 7,
            "steps": 4,
            "cfg": 1.5,
            "sampler": "heun",
            "note": "hello",
        },
        "_meta": {"title": "Sample"},
    }


def test_the_control_after_a_seed_may_be_missing():
    prompt = convert([load(), sample(values=(7, 4, 1.5, "heun", "hello"))])
    assert (prompt["2"]["inputs"]["seed"], prompt["2"]["inputs"]["steps"]) == (7, 4)


def test_the_button_of_an_upload_is_no_value():
    node = {"id": 1, "type": "Picture", "widgets_values": ["x.png", "image", 5]}
    assert convert([node], [])["1"]["inputs"] == {"image": "x.png", "size": 5}


def test_values_that_an_older_file_lacks_are_the_defaults():
    assert convert([load(), sample(values=(7, "fixed", 4))])["2"]["inputs"] == {
        "model": ["1", 0],
        "seed": 7,
        "steps": 4,
        "cfg": 8.0,
        "sampler": "euler",
        "note": "",
    }


def test_values_by_name_are_read_too():
    node = sample()
    node["widgets_values"] = {"seed": 3, "steps": 5}
    assert convert([load(), node])["2"]["inputs"]["steps"] == 5


def test_a_widget_of_a_type_of_the_packs_own_has_a_value():
    node = {"id": 1, "type": "Boxes", "widgets_values": ["[]"]}
    assert convert([node], [])["1"]["inputs"] == {"boxes": "[]"}


def test_a_linked_widget_takes_the_link_and_its_value_keeps_its_place():
    node = sample()
    socket = {"name": "steps", "type": "INT", "widget": {"name": "steps"}, "link": 2}
    node["inputs"].append(socket)
    other = {"id": 9, "type": "PrimitiveNode", "widgets_values": [12, "fixed"]}
    inputs = convert([load(), node, other], [(1, 1, 0, 2, 0, "MODEL"), (2, 9, 0, 2, 1, "INT")])[
        "2"
    ]["inputs"]
    assert (inputs["steps"], inputs["cfg"]) == (12, 1.5)


def test_links_written_as_objects_are_read():
    link = {"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0}
    prompt = to_prompt({"nodes": [load(), sample()], "links": [link]}, OBJECT_INFO)
    assert prompt["2"]["inputs"]["model"] == ["1", 0]


def test_a_bypassed_node_passes_its_input_on():
    nodes = [load(), patch(mode=4), sample(link=2)]
    prompt = convert(nodes, [(1, 1, 0, 3, 0, "MODEL"), (2, 3, 0, 2, 0, "MODEL")])
    assert "3" not in prompt
    assert prompt["2"]["inputs"]["model"] == ["1", 0]


def test_a_reroute_passes_its_input_on():
    reroute = {"id": 3, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 1}]}
    prompt = convert(
        [load(), reroute, sample(link=2)], [(1, 1, 0, 3, 0, "*"), (2, 3, 0, 2, 0, "MODEL")]
    )
    assert prompt["2"]["inputs"]["model"] == ["1", 0]
    assert set(prompt) == {"1", "2"}


def test_a_muted_node_is_left_out_and_what_needs_it_is_named():
    with pytest.raises(WorkflowProblem, match=r"node 2 \(Sample, mine\).*model \(MODEL\)"):
        convert([load(mode=2), sample(title="mine")])


def test_notes_are_left_out():
    note = {"id": 5, "type": "MarkdownNote", "widgets_values": ["read me"]}
    assert set(convert([load(), note], [])) == {"1"}


def test_an_unknown_node_is_named_with_the_nearest_ones():
    with pytest.raises(WorkflowProblem, match=r"node 1 \(Sampel\).*nearest: Sample"):
        convert([{"id": 1, "type": "Sampel"}], [])


def test_values_out_of_order_are_told():
    with pytest.raises(WorkflowProblem, match=r"steps is 'heun', expected INT"):
        convert([load(), sample(values=(7, "fixed", "heun", 4))])


def test_a_link_that_the_file_lacks_is_told():
    with pytest.raises(WorkflowProblem, match="link 1 is used"):
        convert([load(), sample()], [])


def test_links_in_a_circle_are_told():
    nodes = [patch(3, link=1, mode=4), patch(4, link=2, mode=4), sample(link=1)]
    with pytest.raises(WorkflowProblem, match="circle"):
        convert(nodes, [(1, 4, 0, 3, 0, "MODEL"), (2, 3, 0, 4, 0, "MODEL")])


def test_a_subgraph_is_told():
    node = {"id": 1, "type": "0f3c"}
    with pytest.raises(WorkflowProblem, match="subgraph; unpack it"):
        convert([node], [], definitions={"subgraphs": [{"id": "0f3c"}]})


@pytest.mark.parametrize("text", ["", "[]", '{"1": {"class_type": "Load"}}'])
def test_a_file_that_is_no_workflow_is_told(tmp_path, text):
    file = tmp_path / "flow.json"
    file.write_text(text)
    with pytest.raises(WorkflowProblem, match=r"flow\.json"):
        read_workflow(file)


def test_a_saved_file_is_read(tmp_path):
    file = tmp_path / "flow.json"
    file.write_text(json.dumps({"nodes": [load()], "links": []}))
    assert to_prompt(read_workflow(file), OBJECT_INFO)["1"]["class_type"] == "Load"


def test_constants_are_overridden_in_a_copy():
    prompt = convert([load(), sample()])
    changed = override(prompt, {"steps": 2, "2.seed": 5})
    assert (changed["2"]["inputs"]["steps"], changed["2"]["inputs"]["seed"]) == (2, 5)
    assert prompt["2"]["inputs"]["steps"] == 4


@pytest.mark.parametrize("name", ["stepz", "1.steps", "model"])
def test_overriding_what_is_no_constant_is_told(name):
    with pytest.raises(WorkflowProblem, match=f"no value named {name}"):
        override(convert([load(), sample()]), {name: 1})
