"""Deltas in a diffusion transformer, on their own tokens: forward hooks for the time of one call.

Which rows of a layer are whose is known from its role. Rows that are not those that were planned
are an error: a delta on the wrong tokens would be a fault that nobody sees.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.utils
import torch

from ...compose.injection import Bundle, Gates, Single, inject
from ...compose.tokens import TextPlan
from ...errors import RegionError
from ...families.family import BOTH, IMAGE, SAMPLE, TEXT, WORD
from ...families.transformer import MODEL
from ...records import Site
from .joint_run import ImagePlan, JointRun


@dataclass(frozen=True)
class CallRows:
    """batch: pictures of a call. given, padded: its texts, before and behind the model's padding.
    image: its image's tokens behind the padding."""

    batch: int
    given: TextPlan
    padded: TextPlan
    image: ImagePlan

    def plan_of(self, stream: str, rows: int) -> tuple[TextPlan | None, ImagePlan | None] | None:
        """Which texts and image a layer's rows are; None: they are not those of the stream."""
        bare = ImagePlan(self.image.rows, self.image.columns, 0, self.image.references)
        wanted: dict[str, list[tuple[TextPlan | None, ImagePlan | None]]] = {
            TEXT: [(self.given, None), (self.padded, None)],
            IMAGE: [(None, bare), (None, self.image)],
            BOTH: [(self.padded, self.image)],
        }
        for texts, image in wanted[stream]:
            count = (texts.total if texts else 0) + (image.total if image else 0)
            if count == rows:
                return texts, image
        return None


@contextmanager
def injected(model: torch.nn.Module, run: JointRun, rows: CallRows) -> Iterator[None]:
    """The deltas of one call of the model."""
    handles = []
    try:
        for site, role in run.roles.items():
            module = comfy.utils.get_attr(model, site.path.removeprefix(MODEL))
            hook = add_delta(run, site, role.stream, rows)
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def add_delta(run: JointRun, site: Site, stream: str, rows: CallRows) -> Callable:
    """A forward hook of a linear layer."""

    def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x = args[0]
        out = output.reshape(*_flat(stream, rows.batch), output.shape[-1])
        tokens = x.reshape(*_flat(stream, rows.batch), x.shape[-1])
        for bundle in run.bundles(site, x.device, x.dtype):
            own = (bundle.concepts, bundle.ranks)
            if stream == SAMPLE:
                gates = run.whole_gates(*own, x.device, x.dtype)
            else:
                texts, image, repeats = _planned(site, stream, rows, tokens.shape[1])
                gates = run.gates(*own, texts, image, repeats, x.device, x.dtype)
            if gates is not None:
                out = _inject(out, tokens, bundle, gates, site.part)
        return out.view(output.shape)

    return hook


def _flat(stream: str, batch: int) -> tuple[int, int]:
    return (-1, 1) if stream == SAMPLE else (batch, -1)


def _planned(
    site: Site, stream: str, rows: CallRows, count: int
) -> tuple[TextPlan | None, ImagePlan | None, int]:
    """(texts, image, rows per token) of a layer. Raises RegionError if it has other rows."""
    if stream == WORD and count % rows.given.total == 0:
        return rows.given, None, count // rows.given.total
    found = None if stream == WORD else rows.plan_of(stream, count)
    if found is None:
        raise RegionError(
            f"the layer {site.path} works on {count} tokens; with {rows.given.total} tokens of "
            f"text and {rows.image.rows} x {rows.image.columns} of the picture that is not what "
            "regions expect. Another node may merge or cut tokens: take it out, or the regions"
        )
    return (*found, 1)


def _inject(
    out: torch.Tensor,
    tokens: torch.Tensor,
    bundle: Bundle | Single,
    gates: Gates,
    part: tuple[int, int] | None,
) -> torch.Tensor:
    """`inject` on all of the output's columns or a part of them."""
    in_place = not torch.is_grad_enabled()
    if part is None:
        return inject(out, tokens, bundle, gates, in_place)
    start, length = part
    new = inject(out.narrow(-1, start, length), tokens, bundle, gates, in_place)
    if in_place:
        return out
    return torch.cat([out[..., :start], new, out[..., start + length :]], -1)
