"""Progress in the terminal: one line that is rewritten, or plain lines where the output is no
terminal.
"""

from __future__ import annotations

import sys
from typing import Any

from .client import Progress

BAR = 24


class ProgressLine:
    """Shows which node of `prompt` runs and how far it is."""

    def __init__(self, prompt: dict[str, Any]) -> None:
        self.titles = {id: node["_meta"]["title"] for id, node in prompt.items()}
        self.rewrite = sys.stdout.isatty()
        self.node = ""
        self.width = 0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self.width:
            print(flush=True)

    def show(self, progress: Progress) -> None:
        """Show where the prompt stands."""
        title = self.titles.get(progress.node, progress.node)
        if not self.rewrite:
            if progress.node != self.node or progress.value == progress.total > 0:
                steps = f" {progress.value}/{progress.total}" if progress.total else ""
                print(f"  {title}{steps}", flush=True)
            self.node = progress.node
            return
        text = f"  {title}"
        if progress.total:
            done = BAR * progress.value // progress.total
            text += f" [{'#' * done}{'.' * (BAR - done)}] {progress.value}/{progress.total}"
        print("\r" + text.ljust(self.width), end="", flush=True)
        self.width = max(self.width, len(text))
