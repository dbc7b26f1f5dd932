"""Models that were compiled (torch.compile), for a time run as they are written."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def uncompiled() -> Iterator[None]:
    """Compiled modules run eagerly inside the block, and are compiled as before after it.

    The compiler does not look at hooks on modules: a graph that was traced without ours would run
    on without them, silently. Older versions of torch cannot be told, and compile on.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    if set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield
