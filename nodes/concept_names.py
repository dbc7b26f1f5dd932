"""What the editor asks the server beside the nodes: names and tokens of the concepts in a file.

GET /mix_of_show/concepts?lora_name=... or ?fused_name=... answers [{"name", "tokens"}, ...], with
names as the nodes list them; 404 with a text where there is nothing of the kind.
"""

import asyncio

from aiohttp import web

from ..mos_core.errors import MosError
from ..mos_core.formats.concept_file import read_words
from ..mos_core.formats.fused_file import read_fused
from .folders import FUSED, fingerprint, path_of

KINDS = {"lora_name": "loras", "fused_name": FUSED}
KEPT = 256  # files whose answer is remembered

_answers: dict[tuple[str, str, str], list[dict]] = {}


def concepts_in(kind: str, name: str) -> list[dict]:
    """Name and tokens of each concept in a file of a folder type. Raises MosError."""
    key = kind, name, fingerprint(kind, name)
    if key not in _answers:
        path = path_of(kind, name)
        found = fused_words(path) if kind == FUSED else [read_words(path)]
        if len(_answers) >= KEPT:
            _answers.clear()
        _answers[key] = [{"name": name, "tokens": list(words)} for name, words in found]
    return _answers[key]


def fused_words(path) -> list[tuple[str, tuple[str, ...]]]:
    return [(concept.name, concept.tokens) for concept in read_fused(path).concepts]


async def answer(request) -> web.Response:
    for parameter, kind in KINDS.items():
        name = request.query.get(parameter)
        if name is None:
            continue
        try:
            return web.json_response(await asyncio.to_thread(concepts_in, kind, name))
        except (MosError, OSError) as error:
            return web.Response(status=404, text=str(error))
    return web.Response(status=404, text=f"name a file: {' or '.join(KINDS)}")


def add_routes() -> None:
    """Once, where there is a server (in tests there is none)."""
    try:
        from server import PromptServer

        routes = PromptServer.instance.routes
    except (ImportError, AttributeError):
        return
    routes.get("/mix_of_show/concepts")(answer)
