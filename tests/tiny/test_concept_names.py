"""What the editor is told of the concepts in a file."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from mix_of_show.mos_core.errors import MosError
from mix_of_show.nodes.concept_names import answer, concepts_in
from mix_of_show.nodes.folders import FUSED
from mix_of_show.nodes.load import LoadEDLoRA


def ask(**query):
    """(status, text) of the route's answer."""
    response = asyncio.run(answer(SimpleNamespace(query=query)))
    return response.status, response.text


def test_a_concepts_file_has_a_name_and_tokens():
    status, text = ask(lora_name="demo: wizard.safetensors")
    assert (status, json.loads(text)) == (200, [{"name": "wizard", "tokens": ["<wizard>"]}])


@pytest.mark.parametrize("name", ["polarbear", "superhero"])
def test_an_ordinary_lora_has_its_files_name_and_trigger_words(name):
    """The same that the loader gives to regions."""
    status, text = ask(lora_name=f"demo: {name}_lora.safetensors")
    (entry,), *_ = LoadEDLoRA.execute(f"demo: {name}_lora.safetensors", 1.0, 1.0).args
    assert entry.concept.words
    assert not entry.concept.tokens
    expected = {"name": entry.concept.name, "tokens": list(entry.concept.words)}
    assert (status, json.loads(text)) == (200, [expected])


def test_a_fusion_has_all_its_concepts():
    found = concepts_in(FUSED, "demo: three_concepts.safetensors")
    assert len(found) == 3
    assert all(concept["name"] and concept["tokens"] for concept in found)


@pytest.mark.parametrize(
    "name", ["gone.safetensors", "demo: ../../../pyproject.toml", "../x.safetensors", ""]
)
def test_a_file_that_is_not_listed_is_not_read(name):
    with pytest.raises((MosError, OSError)):
        concepts_in("loras", name)
    status, text = ask(lora_name=name)
    assert status == 404
    assert text


def test_a_question_without_a_file_says_what_to_name():
    assert ask() == (404, "name a file: lora_name or fused_name")
