"""What is computed once per sampling run and kept with the object that computes it."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def once(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method whose answer is made once per object and arguments, which must be hashable.

    The answers are normal tensors without a graph: a guidance pass may save them for its backward
    pass, whatever mode the first call was made in.
    """

    @functools.wraps(method)
    def ask(self: Any, *args: Any) -> Any:
        made = self.__dict__.setdefault("_made", {})
        key = (method.__name__, *args)
        if key not in made:
            with torch.inference_mode(False), torch.no_grad():
                made[key] = method(self, *args)
        return made[key]

    return ask
