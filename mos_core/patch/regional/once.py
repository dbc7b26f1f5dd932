"""What is computed once per sampling run and kept with the object that computes it."""

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

Owner = TypeVar("Owner")
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def once(
    method: Callable[Concatenate[Owner, Given], Answer],
) -> Callable[Concatenate[Owner, Given], Answer]:
    """A method whose answer is made once per object and arguments, which must be hashable.

    The answers are normal tensors without a graph: a guidance pass may save them for its backward
    pass, whatever mode the first call was made in.
    """

    @functools.wraps(method)
    def ask(self: Owner, *args: Given.args, **named: Given.kwargs) -> Answer:
        made: dict[Any, Any] = self.__dict__.setdefault("_made", {})
        key = (method.__name__, args, *sorted(named.items()))
        if key not in made:
            with torch.inference_mode(False), torch.no_grad():
                made[key] = method(self, *args, **named)
        return made[key]

    return ask
