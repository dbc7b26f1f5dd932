"""Which prompt each picture of a batch draws, told where the conditionings are.

A guider lists its conditionings in an order of its own, and post-CFG functions run some of them
again, so the place in `cond_or_uncond` says nothing. Here every conditioning of a sampling carries
its role as an entry of its `model_conds`, which becomes one number per row of the batch and is
taken off before the model sees it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import comfy.conds
import comfy.utils
import torch

POSITIVE, NEGATIVE, OTHER = 0, 1, 2
ROLES = "mix_of_show_roles"  # our entry in model_conds, and then in transformer_options
_POSITIVE, _NEGATIVE = ("positive", "middle"), ("negative",)  # beginnings of guiders' names


class RoleMark(comfy.conds.CONDRegular):
    """Rides along with a conditioning. cond: (1,) long, on the CPU, where reading it waits for
    nothing."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> "RoleMark":
        return self._copy_with(comfy.utils.repeat_to_batch_size(self.cond, batch_size))


def role_of(name: str, names: Iterable[str]) -> int:
    """The role of a guider's conditioning by its name there. OTHER: it draws neither prompt (an
    empty one), and no region has a text of its own in it."""
    if name.startswith(_POSITIVE):
        return POSITIVE
    if name.startswith(_NEGATIVE):
        return NEGATIVE
    names = list(names)
    known = any(other.startswith(_POSITIVE) for other in names)
    return POSITIVE if not known and name == names[0] else OTHER


def with_roles(conds: Mapping[str, list | None]) -> dict[str, list | None]:
    """A guider's conditionings, every entry marked; those that come in stay as they are."""

    def marked(entry: dict, role: int) -> dict:
        mark = RoleMark(torch.tensor([role]))
        return {**entry, "model_conds": {**entry.get("model_conds", {}), ROLES: mark}}

    return {
        name: entries and [marked(entry, role_of(name, conds)) for entry in entries]
        for name, entries in conds.items()
    }


def roles_of(extra_options: Mapping) -> list[int]:
    """For each chunk of the batch that a model call runs: POSITIVE, NEGATIVE or OTHER.

    Outside a sampling nothing is marked, and the place in `cond_or_uncond` has to do.
    """
    chunks = extra_options.get("cond_or_uncond") or [0]
    rows = extra_options.get(ROLES)
    if rows is None:
        return [POSITIVE if entry == 0 else NEGATIVE for entry in chunks]
    count = max(1, len(rows) // len(chunks))
    return list(rows[::count])
