"""Talk to a ComfyUI server: queue a prompt over HTTP, follow it over the websocket, collect what it
made.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .problem import Problem
from .server import open_url

FINAL = {
    "execution_success": "success",
    "execution_error": "error",
    "execution_interrupted": "interrupted",
}


class Refused(Problem):
    """The server did not accept the prompt."""


@dataclass(frozen=True)
class Progress:
    """Where a prompt stands: the node that runs, and step `value` of `total` where the node counts
    steps.
    """

    node: str
    value: int = 0
    total: int = 0


@dataclass(frozen=True)
class Picture:
    """A saved image as the server names it; `kind` is "output", "temp" or "input"."""

    filename: str
    subfolder: str
    kind: str


@dataclass
class Outcome:
    """What became of a prompt: `status` is "success", "error" or "interrupted"."""

    prompt_id: str
    status: str
    seconds: float
    error: str = ""
    outputs: dict[str, Any] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> list[Picture]:
        """Every image that a node of the prompt reported, in the order of the nodes' ids."""
        return [
            Picture(image["filename"], image.get("subfolder", ""), image.get("type", "output"))
            for node in sorted(self.outputs, key=lambda name: (len(name), name))
            for image in self.outputs[node].get("images", [])
        ]

    def check(self) -> Outcome:
        """Return self. Raises Problem where the prompt did not succeed."""
        if self.status != "success":
            raise Problem(f"the workflow ended with: {self.status}\n{self.error}".rstrip())
        return self


class Client:
    """A client of the server at `address`, such as http://127.0.0.1:8188."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.id = uuid.uuid4().hex

    def get(self, path: str) -> bytes:
        """The body that the server answers to GET `path`. Raises urllib.error.HTTPError, 404 for
        example.
        """
        with open_url(self.address + path, timeout=60) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: Any = None) -> bytes:
        """The body that the server answers to POST `path` with `body` as JSON."""
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(
            self.address + path, data, {"Content-Type": "application/json"}
        )
        with open_url(request, timeout=60) as answer:
            return answer.read()

    def object_info(self) -> dict[str, Any]:
        """Every node that the server knows, by class, with its inputs and outputs."""
        return self.get_json("/object_info")

    def device(self) -> str:
        """The device that the server computes on, by name."""
        return self.get_json("/system_stats")["devices"][0]["name"]

    def interrupt(self) -> None:
        """Cancel the prompt that runs now."""
        self.post("/interrupt")

    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        queue = self.get_json("/queue")
        return not queue["queue_running"] and not queue["queue_pending"]

    def fetch(self, picture: Picture) -> bytes:
        """The bytes of an image file."""
        query = {"filename": picture.filename, "subfolder": picture.subfolder, "type": picture.kind}
        return self.get("/view?" + urllib.parse.urlencode(query))

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt in API form; its id. Raises Refused with the server's reasons."""
        try:
            answer = json.loads(self.post("/prompt", {"prompt": prompt, "client_id": self.id}))
        except urllib.error.HTTPError as error:
            raise Refused(describe_refusal(error.read())) from None
        return answer["prompt_id"]

    def run(
        self,
        prompt: dict[str, Any],
        on_progress: Callable[[Progress], object] = lambda progress: None,
        timeout: float = 3600,
    ) -> Outcome:
        """Queue a prompt and follow it to its end; `on_progress` may call `interrupt`.

        Raises Refused, or TimeoutError after `timeout` seconds (the prompt is cancelled then).
        """
        start = time.monotonic()
        try:
            prompt_id = asyncio.run(asyncio.wait_for(self._follow(prompt, on_progress), timeout))
        except asyncio.TimeoutError:
            self.interrupt()
            raise TimeoutError(f"the workflow did not end within {timeout:g} s") from None
        history = self.get_json(f"/history/{prompt_id}")[prompt_id]
        return read_outcome(prompt_id, history, time.monotonic() - start)

    async def _follow(
        self, prompt: dict[str, Any], on_progress: Callable[[Progress], object]
    ) -> str:
        import aiohttp

        url = f"{self.address}/ws?clientId={self.id}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, max_msg_size=0) as socket,
        ):
            prompt_id = await asyncio.to_thread(self.queue, prompt)
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    continue
                event = json.loads(message.data)
                data = event.get("data", {})
                if data.get("prompt_id") != prompt_id:
                    continue
                if event["type"] == "executing":
                    if data["node"] is None:
                        return prompt_id
                    await asyncio.to_thread(on_progress, Progress(data["node"]))
                elif event["type"] == "progress" and data["node"] is not None:
                    progress = Progress(data["node"], data["value"], data["max"])
                    await asyncio.to_thread(on_progress, progress)
        raise Problem("the server closed the connection before the workflow ended")


def read_outcome(prompt_id: str, history: dict[str, Any], seconds: float) -> Outcome:
    """The outcome out of the server's history entry."""
    outcome = Outcome(prompt_id, "error", seconds, outputs=history.get("outputs", {}))
    for kind, data in history["status"]["messages"]:
        outcome.status = FINAL.get(kind, outcome.status)
        if kind == "execution_error":
            where = f"{data['node_type']} (node {data['node_id']})"
            outcome.error = (
                f"{where}: {data['exception_type']}: {data['exception_message']}".rstrip()
            )
        elif kind == "execution_cached":
            outcome.cached = data["nodes"]
    return outcome


def describe_refusal(body: bytes) -> str:
    """The server's reasons for not accepting a prompt, one a line."""
    try:
        answer = json.loads(body)
        lines = [f"the server refused the workflow: {answer['error']['message']}"]
        for node, problem in answer.get("node_errors", {}).items():
            lines += [
                f"  node {node} ({problem['class_type']}): {error['message']}: {error['details']}"
                for error in problem["errors"]
            ]
        return "\n".join(lines)
    except (ValueError, KeyError, TypeError):
        return f"the server refused the workflow: {body.decode(errors='replace')}"
