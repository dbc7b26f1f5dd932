"""Sentences for a node that can only be found when a sampling begins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.patcher_extension

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Sampling:
    """What begins: conds by name, of each guider's own kind; width and height in pixels; the prompt
    that runs in API form with the sampler's node id in it, both None where nobody knows them.
    number: how often one execution of a node has sampled this size, from 1."""

    conds: Mapping[str, list]
    width: int
    height: int
    prompt: Mapping[str, Any] | None
    node: str | None
    number: int = 1


class SamplingNotes:
    """OUTER_SAMPLE wrapper: before each sampling, `tell` gets what `check` finds, joined."""

    def __init__(self, check: Callable[[Sampling], Iterable[str]], tell: Tell):
        self.check, self.tell = check, tell
        self.last: tuple = ()  # who sampled which size
        self.number = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> SamplingNotes:
        return self

    def __call__(
        self,
        executor: Any,
        noise: Any,
        latent_image: Any,
        *given: Any,
        **more: Any,
    ) -> Any:
        guider = executor.class_obj
        who = executing_node()
        now = (who, tuple(latent_image.shape))
        self.number = self.number + 1 if who is not None and now == self.last else 1
        self.last = now
        self.tell("\n".join(self.check(describe(guider, latent_image, self.number))))
        return executor(noise, latent_image, *given, **more)


def add_sampling_notes(
    model: Any, key: str, check: Callable[[Sampling], Iterable[str]], tell: Tell
) -> None:
    """Lets `tell` hear of each sampling with `model`, a ModelPatcher clone of ours; one per key."""
    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    model.remove_wrappers_with_key(kind, key)
    model.add_wrapper_with_key(kind, key, SamplingNotes(check, tell))


def describe(guider: Any, latent_image: Any, number: int) -> Sampling:
    rows, columns = latent_image.shape[-2:]
    format = getattr(guider.model_patcher.model, "latent_format", None)
    scale = getattr(format, "spacial_downscale_ratio", 8)
    prompt, node = running_prompt()
    size = columns * scale, rows * scale
    return Sampling(getattr(guider, "conds", {}), *size, prompt, node, number)


def executing_node() -> Any:
    """The prompt, the node and the list entry that this thread runs, where ComfyUI says so."""
    try:
        from comfy_execution.utils import get_executing_context

        return get_executing_context()
    except ImportError:  # another version
        return None


def running_prompt() -> tuple[Mapping[str, Any] | None, str | None]:
    """The prompt that this thread runs and the id of the node in it, where ComfyUI says so."""
    try:
        from server import PromptServer

        context = executing_node()
        for item in PromptServer.instance.prompt_queue.get_current_queue_volatile()[0]:
            if context is not None and item[1] == context.prompt_id:
                return item[2], context.node_id
    except (ImportError, AttributeError, LookupError):  # no server (tests), or another version
        pass
    return None, None
