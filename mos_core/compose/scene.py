"""Concept tokens in the prompts of the whole picture, where a composer's concepts are unknown.

Read from the prompt as the API takes it, {node id: {"class_type", "inputs", "_meta"}}: by the time
of sampling, a text is numbers.
"""

from collections.abc import Iterable, Mapping
from typing import Any

KNOWING = {"MOS_ApplyConcepts", "MOS_FuseConcepts", "MOS_LoadFused"}  # their CLIP reads tokens


def scene_notes(prompt: Mapping[str, Any], sampler: str, tokens: Iterable[str]) -> tuple[str, ...]:
    """A sentence for each text node before the node `sampler` that names a concept as plain words.

    tokens: those of the composer's concepts.
    """
    notes = []
    for id in sorted(nodes_before(prompt, sampler)):
        node = prompt[id]
        if node["class_type"].startswith("MOS_") or not reads_plain_words(prompt, id):
            continue
        text = " ".join(texts_of(prompt, node)).casefold()
        named = [token for token in tokens if token.casefold() in text]
        if named:
            title = node.get("_meta", {}).get("title") or node["class_type"]
            notes.append(
                f"'{title}' names {named[0]}, which is plain words there: the composer draws a "
                "concept in its region alone. Write the token into the region's prompt, or give "
                "the concept as background_concept and encode the text with this node's CLIP."
            )
    return tuple(notes)


def nodes_before(prompt: Mapping[str, Any], id: str) -> set[str]:
    """The ids of all nodes that a node depends on."""
    found: set[str] = set()
    waiting = [id]
    while waiting:
        for source in links_of(prompt.get(waiting.pop(), {})).values():
            if source in prompt and source not in found:
                found.add(source)
                waiting.append(source)
    return found


def links_of(node: Mapping[str, Any]) -> dict[str, str]:
    """{input: id of the node that it comes from}"""
    return {
        name: str(value[0])
        for name, value in node.get("inputs", {}).items()
        if isinstance(value, (list, tuple)) and len(value) == 2
    }


def texts_of(prompt: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """The texts in a node's widgets, and in the widgets of those that it takes texts from."""
    sources = [prompt.get(id, {}) for name, id in links_of(node).items() if name != "clip"]
    return [
        value
        for each in (node, *sources)
        for value in each.get("inputs", {}).values()
        if isinstance(value, str)
    ]


def reads_plain_words(prompt: Mapping[str, Any], id: str) -> bool:
    """Whether a node encodes with a CLIP that comes from no node which teaches it concepts."""
    way: set[str] = set()
    source = links_of(prompt[id]).get("clip")
    if source is None:
        return False
    while source in prompt and source not in way:
        node = prompt[source]
        if node["class_type"] in KNOWING:
            return False
        if node["class_type"] == "MOS_ComposerAttention":
            return not node["inputs"].get("background_concept")
        way.add(source)
        source = links_of(node).get("clip", "")
    return True
