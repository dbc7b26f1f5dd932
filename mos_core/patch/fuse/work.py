"""How far a fusion is: counted, told, cancelled and timed in one place."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management


class Work:
    """total: units of work; on_progress(done, total) and on_text(what is done) may raise."""

    def __init__(
        self,
        total: int,
        on_progress: Callable[[int, int], None],
        on_text: Callable[[str], None] = lambda text: None,
    ):
        self.total, self.done = total, 0
        self.on_progress, self.say = on_progress, on_text
        self.seconds = {"text encoder": 0.0, "sampling": 0.0, "solving": 0.0, "refining": 0.0}

    def advance(self, count: int = 1) -> None:
        """After `count` units; raises if the user has cancelled."""
        self.done += count
        self.on_progress(self.done, self.total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - begun
