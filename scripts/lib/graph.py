"""The graph of a saved workflow: which nodes run, and where each link comes from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .problem import Problem

MUTED, BYPASSED = 2, 4  # LiteGraph's LGraphEventMode
NOTES = {"Note", "MarkdownNote"}
PASSING = {"Reroute", "PrimitiveNode"}
"""Nodes that exist in the editor only."""


class WorkflowProblem(Problem):
    """The file is no workflow, or one that this ComfyUI cannot run."""


class Graph:
    """The nodes and links of a saved workflow."""

    def __init__(self, workflow: dict[str, Any]) -> None:
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: link for link in map(_as_list, workflow.get("links") or [])}
        subgraphs = (workflow.get("definitions") or {}).get("subgraphs") or []
        self.subgraphs = {subgraph["id"] for subgraph in subgraphs}

    def running(self) -> Iterator[dict[str, Any]]:
        """The nodes that the server is to run."""
        for node in self.nodes.values():
            if node["type"] in self.subgraphs:
                raise WorkflowProblem(
                    f"{name_of(node)} is a subgraph; unpack it in the editor and save again"
                )
            skipped = node["type"] in NOTES | PASSING
            if not skipped and node.get("mode", 0) not in (MUTED, BYPASSED):
                yield node

    def follow(self, link_id: int | None) -> list[Any] | None:
        """Where a link comes from: [node id, output], or [value] out of a primitive node; None
        where it leads nowhere.

        Raises WorkflowProblem where the link or its node is missing in the file.
        """
        seen = set()
        while link_id is not None:
            if link_id in seen:
                raise WorkflowProblem(f"link {link_id} goes round in a circle")
            seen.add(link_id)
            link = self.links.get(link_id)
            node = self.nodes.get(link[1]) if link else None
            if link is None or node is None:
                raise WorkflowProblem(
                    f"link {link_id} is used, but the file does not say where it comes from"
                )
            mode = node.get("mode", 0)
            if mode == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                return list(node.get("widgets_values") or [])[:1] or None
            if node["type"] == "Reroute":
                link_id = node["inputs"][0].get("link")
            elif mode == BYPASSED:
                link_id = _through(node, link[2])
            else:
                return [str(node["id"]), link[2]]
        return None


def _as_list(link: Any) -> list[Any]:
    if isinstance(link, dict):
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        return [link.get(key) for key in keys]
    return list(link)


def _through(node: dict[str, Any], slot: int) -> int | None:
    """The link that a bypassed node passes to its output `slot`: the input beside it, else the
    first, of its type.
    """
    kind = node["outputs"][slot]["type"]
    inputs = node.get("inputs") or []
    beside = inputs[slot : slot + 1]
    return next(
        (input.get("link") for input in [*beside, *inputs] if input.get("type") == kind), None
    )


def name_of(node: dict[str, Any]) -> str:
    """How messages name a node: its id, its type and the title that a person gave it."""
    title = node.get("title")
    titled = f", {title}" if title and title != node["type"] else ""
    return f"node {node['id']} ({node['type']}{titled})"
