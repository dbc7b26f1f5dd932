"""One UNet call with regions: the attention patches of every layer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ...compose.attention import (
    Group,
    gather,
    mix_regions,
    scatter,
)
from ...compose.injection import DeltaStack
from ...errors import RegionError
from ...families import AttentionLayer
from ..text.layerwise_model import with_first_patch
from .block import TEXT, TOKENS, attend, grid_of, keep_text, note_tokens, rows_of
from .keys_values import KeysValues, Tensors
from .missed import ISOLATION, PROMPTS
from .roles import POSITIVE, roles_of
from .run import RegionalRun, Texts, attention_path
from .self_attention import isolated_attention, record_self

OUTPUTS = "mix_of_show_outputs"  # in extra_options: the regions' own attention, for their to_out


class RegionalPass:
    """Patches of one call.

    texts: that hold in it. layers: of the model, in running order. unet: the live module, from
    which only text projections are read. recorder: of attention maps, or None. placement: what is
    added to the logits of own words in this call.
    """

    def __init__(
        self,
        run: RegionalRun,
        texts: Texts,
        layers: Sequence[AttentionLayer],
        unet: torch.nn.Module,
        recorder: Any,
        placement: float = 0.0,
    ):
        self.places, self.deltas = run.places, run.deltas
        self.keys = KeysValues(texts, run.deltas, unet, placement)
        self.missed = run.missed
        self.recorder = recorder
        self.numbers = range(len(run.places.regions))
        self.layers = {layer.key: layer for layer in layers}

    def patch(self, options: dict) -> dict:
        """A copy of the transformer_options with our patches; what others put there is chained."""
        replace = {name: dict(table) for name, table in options.get("patches_replace", {}).items()}
        cross, own = replace.setdefault("attn2", {}), replace.setdefault("attn1", {})
        for key, layer in self.layers.items():
            recorded = self.recorder is not None and self.recorder.wants(layer.index)
            cross[key] = self.cross_attention(layer, cross.get(key, cross.get(key[:2])), recorded)
            if recorded or self.places.chosen.mode != "off":
                own[key] = self.self_attention(layer, own.get(key, own.get(key[:2])), recorded)
        patched = with_first_patch(options, "attn2_output_patch", self.finish)
        patched = with_first_patch(patched, "attn2_patch", note_tokens)
        patches = patched["patches"]
        patches["attn2_patch"] = [*patches["attn2_patch"], keep_text]
        return {**patched, "patches_replace": replace}

    # --- cross-attention ---------------------------------------------------------------------

    def cross_attention(
        self, layer: AttentionLayer, prior: Callable | None, recorded: bool
    ) -> Callable:
        """attn2_replace of one layer. prior: what another pack put there, or None."""

        def replace(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict
        ) -> torch.Tensor:
            x, *text = extra_options.pop(TEXT)
            added = max(0, k.shape[1] - extra_options.pop(TOKENS))
            grid = grid_of(extra_options, q)
            if grid is None:
                self.missed.note(PROMPTS, layer.index, extra_options)
                return attend(q, k, v, extra_options, prior)
            roles = roles_of(extra_options)
            if recorded:
                self.record_cross(layer, roles, x, q, k, text[0], added, extra_options)
            lengths = tuple(self.keys.length(n, roles, k.shape[1], added) for n in self.numbers)
            placement = self.places.placement(grid, lengths, q.device, q.dtype)
            needed = prior is not None or not placement.everything
            base = attend(q, k, v, extra_options, prior) if needed else None
            if not placement.groups:
                return base
            outputs = []
            for group in placement.groups:
                own = self.keys.keys_values(
                    group.members, layer, roles, (k, v), text, lengths, added
                )
                delta = self.delta(group.members, layer, "to_q", q)
                if prior is None:
                    bias = self.keys.placing(group.members, roles, q, lengths, added)
                    out = self.attend_group(group, x, q, own, delta, extra_options, bias)
                else:
                    out = self.attend_group_by_prior(group, x, q, own, delta, extra_options, prior)
                outputs.append(out)
            extra_options[OUTPUTS] = (placement, outputs)
            # What a prior hands out may be its own property.
            safe = prior is None and not torch.is_grad_enabled()
            return mix_regions(base, outputs, placement, in_place=safe)

        return replace

    def attend_group(
        self,
        group: Group,
        x: torch.Tensor,
        q: torch.Tensor,
        own: Tensors,
        delta: DeltaStack | None,
        extra_options: dict,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(members, batch, count, inner): each member's cells to each member's text.

        x: (batch, cells, width) and q: (batch, cells, inner) of the whole map. own: k and v,
        (members * batch, tokens, inner). delta: the members' of to_q, or None. bias: (members *
        batch, 1, tokens), or None.
        """
        own_q = gather(q, group)
        if delta is not None:
            own_q = own_q + delta.on(gather(x, group))
        keys, values = own
        out = attend(own_q.flatten(0, 1), keys, values, extra_options, bias=bias)
        return out.unflatten(0, own_q.shape[:2])

    def attend_group_by_prior(
        self,
        group: Group,
        x: torch.Tensor,
        q: torch.Tensor,
        own: Tensors,
        delta: DeltaStack | None,
        extra_options: dict,
        prior: Callable,
    ) -> torch.Tensor:
        """The same by another pack's attention, which may need the whole map (an image prompt).
        Raises RegionError where that one takes no text but the global one."""
        members = len(group.members)
        keys, values = (t.unflatten(0, (members, -1)) for t in own)
        outputs = []
        for i, cells in enumerate(group.cells.view(members, -1)):
            own_q = q
            if delta is not None:
                own_q = q + delta.of(i).on(x[None])[0]
            try:
                out = prior(own_q, keys[i], values[i], extra_options)
            except RuntimeError as problem:
                raise RegionError(
                    "another node's attention patch on this MODEL cannot read a region's text "
                    f"({problem}). Leave out that node, or give the regions prompts of the same "
                    "length as the global one"
                ) from problem
            outputs.append(out.index_select(1, cells))
        return torch.stack(outputs)

    def delta(
        self, members: Sequence[int], layer: AttentionLayer, part: str, like: torch.Tensor
    ) -> DeltaStack | None:
        """The members' deltas of a part of a cross-attention, as `like` is stored."""
        path = attention_path(layer)
        return self.deltas.in_cross(tuple(members), path, part, like.device, like.dtype)

    def finish(self, n: torch.Tensor, extra_options: dict) -> torch.Tensor:
        """attn2_output_patch, the first one: the regions' own to_out, and the end of the layer."""
        name, number = extra_options["block"]
        layer = self.layers[name, number, extra_options.get("block_index", 0)]
        placement, outputs = extra_options.pop(OUTPUTS, (None, ()))
        for group, out in zip(placement.groups if placement else (), outputs, strict=True):
            delta = self.delta(group.members, layer, "to_out.0", n)
            if delta is not None:
                own = scatter(delta.on(out) * group.shares)
                n = n.index_add(1, group.cells, own)
        if self.recorder is not None and self.recorder.wants(layer.index):
            self.recorder.done(layer.index)
        return n

    def record_cross(self, layer: AttentionLayer, roles: Sequence[int], x: torch.Tensor,
                     q: torch.Tensor, k: torch.Tensor, text: torch.Tensor,
                     added: int, extra_options: dict) -> None:  # fmt: skip
        """Hands the recorder each region's queries and keys, over the whole canvas. x: (batch,
        cells, width), q: (batch, cells, inner), k, text: (batch, tokens, inner or width)."""
        for chunk, role in enumerate(roles):
            if role != POSITIVE:
                continue
            at = rows_of(chunk, roles, q.shape[0])
            for region in self.numbers:
                own_q = q[at]
                delta = self.delta((region,), layer, "to_q", q)
                if delta is not None:
                    own_q = own_q + delta.on(x[at][None])[0]
                lengths = {region: self.keys.length(region, [role], k.shape[1], added)}
                (own_k,) = self.keys.keys_values(
                    (region,), layer, [role], (k[at],), (text[at],), lengths, added
                )
                self.recorder.cross(layer.index, region, own_q, own_k, extra_options["n_heads"])

    # --- self-attention ----------------------------------------------------------------------

    def self_attention(
        self, layer: AttentionLayer, prior: Callable | None, recorded: bool
    ) -> Callable:
        """attn1_replace of one layer: isolation. Another pack's replacement wins over it."""

        def replace(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict
        ) -> torch.Tensor:
            grid = grid_of(extra_options, q)
            if grid is None or k.shape[0] != q.shape[0] or k.shape[1] < q.shape[1]:
                if self.places.chosen.mode != "off":
                    self.missed.note(ISOLATION, layer.index, extra_options)
                return attend(q, k, v, extra_options, prior)
            groups = self.places.isolation(grid, q.device)
            isolated = prior is None and any(group.keys is not None for group in groups)
            if recorded:
                bias = self.places.isolation_bias(grid, q.device) if isolated else None
                record_self(self.recorder, layer, self.numbers, q, k, bias, extra_options)
            if not isolated:
                return attend(q, k, v, extra_options, prior)
            return isolated_attention(groups, q, k, v, extra_options)

        return replace
