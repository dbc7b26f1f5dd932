"""Turn a workflow as people save and drag it (the graph editor's JSON) into the prompt that
ComfyUI's API takes.

In a browser the editor does this. Here it is done from the file and the server's /object_info:
widgets take their values in order, links are followed through bypassed nodes and reroutes, muted
nodes are left out.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .graph import Graph, WorkflowProblem, name_of

CONTROL_VALUES = {"fixed", "increment", "decrement", "randomize"}
SEEDS = {"seed", "noise_seed"}
UPLOAD_BUTTONS = {"image", "audio", "video", "upload"}
WIDGET_TYPES = {
    "INT": (int, float),
    "FLOAT": (int, float),
    "STRING": str,
    "BOOLEAN": bool,
    "COMBO": object,
}


@dataclass(frozen=True)
class Input:
    """An input of a node as /object_info describes it; `kind` is a type name, COMBO for a list of
    choices.
    """

    name: str
    kind: str
    options: dict[str, Any]
    required: bool
    choices: tuple[Any, ...] = ()


def read_workflow(path: Path) -> dict[str, Any]:
    """The workflow in a file. Raises WorkflowProblem where it is none, or one in API form."""
    try:
        workflow = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkflowProblem(f"{path} could not be read as a workflow: {error}") from None
    if not (isinstance(workflow, dict) and isinstance(workflow.get("nodes"), list)):
        raise WorkflowProblem(
            f"{path} is no saved workflow: it has no list of nodes (an API export, perhaps)"
        )
    return workflow


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The API prompt of `workflow`: {node id: {"class_type", "inputs", "_meta"}}.

    object_info: the server's answer to /object_info. Raises WorkflowProblem that names the node and
    the input.
    """
    graph = Graph(workflow)
    prompt = {}
    for node in graph.running():
        inputs = read_inputs(_info(node, object_info))
        prompt[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": _values(graph, node, inputs),
            "_meta": {"title": node.get("title") or node["type"]},
        }
    return prompt


def override(prompt: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of `prompt` with the constants named in `changes` ("steps" or "node id.steps")
    replaced.

    Raises WorkflowProblem where a name fits no constant.
    """
    prompt = {id: {**node, "inputs": dict(node["inputs"])} for id, node in prompt.items()}
    for target, value in changes.items():
        wanted, _, name = target.rpartition(".")
        places = [
            node["inputs"]
            for id, node in prompt.items()
            if wanted in ("", id)
            and name in node["inputs"]
            and not isinstance(node["inputs"][name], list)
        ]
        if not places:
            raise WorkflowProblem(f"the workflow has no value named {target} to set")
        for inputs in places:
            inputs[name] = value
    return prompt


def read_inputs(info: dict[str, Any]) -> list[Input]:
    """A node's inputs in the editor's order: the required ones, then the optional ones."""
    inputs = []
    for section in ("required", "optional"):
        specs = info["input"].get(section) or {}
        for name in info.get("input_order", {}).get(section, specs):
            kind, options = (*specs[name], {})[:2]
            choices = tuple(kind) if isinstance(kind, list) else tuple(options.get("options") or ())
            inputs.append(
                Input(
                    name,
                    "COMBO" if isinstance(kind, list) else kind,
                    options,
                    section == "required",
                    choices,
                )
            )
    return inputs


def is_widget(input: Input, saved: dict[str, Any] | None) -> bool:
    """Whether an input has a widget, and so a value in the file; `saved` is its entry among the
    node's sockets.
    """
    if input.options.get("forceInput"):
        return False
    if saved is not None and "widget" not in saved:
        return False
    return (
        input.kind in WIDGET_TYPES
        or saved is not None
        or "default" in input.options
        or _socketless(input)
    )


def _socketless(input: Input) -> bool:
    return bool(input.options.get("socketless"))


def _info(node: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    if node["type"] not in object_info:
        near = difflib.get_close_matches(node["type"], object_info, n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise WorkflowProblem(f"{name_of(node)}: the server has no node of this type{hint}")
    return object_info[node["type"]]


def _values(graph: Graph, node: dict[str, Any], inputs: list[Input]) -> dict[str, Any]:
    sockets = {socket["name"]: socket for socket in node.get("inputs") or []}
    widgets = [input for input in inputs if is_widget(input, sockets.get(input.name))]
    values = _widget_values(node, widgets)
    for input in inputs:
        source = graph.follow(sockets.get(input.name, {}).get("link"))
        if source is not None:
            values[input.name] = source if len(source) == 2 else source[0]
        elif input.required and input.name not in values:
            raise WorkflowProblem(
                f"{name_of(node)}: its input {input.name} ({input.kind}) is not connected"
            )
    return {input.name: values[input.name] for input in inputs if input.name in values}


def _widget_values(node: dict[str, Any], widgets: list[Input]) -> dict[str, Any]:
    saved = node.get("widgets_values") or []
    if isinstance(saved, dict):
        return {input.name: saved.get(input.name, _default(input, node)) for input in widgets}
    queue, values = list(saved), {}
    for input in widgets:
        if not queue:
            if input.required or "default" in input.options:
                values[input.name] = _default(input, node)
            continue
        value = values[input.name] = queue.pop(0)
        expected = WIDGET_TYPES.get(input.kind, object)
        numeric_bool = isinstance(value, bool) and input.kind in ("INT", "FLOAT")
        if value is not None and (numeric_bool or not isinstance(value, expected)):
            raise WorkflowProblem(
                f"{name_of(node)}: the saved value of {input.name} is {value!r}, "
                f"expected {input.kind}; the values in the file do not fit the node's inputs"
            )
        if queue and isinstance(queue[0], str) and queue[0] in _extra_values(input):
            queue.pop(0)
    return values


def _extra_values(input: Input) -> set[str]:
    """What may stand after an input's value: the editor adds a control to seeds and a button to
    uploads.
    """
    if input.options.get("control_after_generate") or (input.kind == "INT" and input.name in SEEDS):
        return CONTROL_VALUES
    if any(name.endswith("_upload") and on for name, on in input.options.items()):
        return UPLOAD_BUTTONS
    return set()


def _default(input: Input, node: dict[str, Any]) -> Any:
    if "default" in input.options:
        return input.options["default"]
    if input.choices:
        return input.choices[0]
    raise WorkflowProblem(f"{name_of(node)}: the file has no value for {input.name} ({input.kind})")
