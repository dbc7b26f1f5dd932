"""One UNet call with regions: the attention patches of every layer."""

from collections.abc import Sequence

import torch

from ...compose.attention import common_length, gather, mix_regions, repeat_tokens, scatter
from ...compose.injection import DeltaStack
from ...families import AttentionLayer
from ..text.layerwise_model import with_first_patch
from .block import POSITIVE, TEXT, attend, grid_of, halves_of, keep_text, rows_of
from .run import RegionalRun, attention_path

OUTPUTS = "mix_of_show_outputs"  # in extra_options: the regions' own attention, for their to_out


class RegionalPass:
    """Patches of one call. layers: of the model, in running order. unet: the live module, from
    which only text projections are read."""

    def __init__(self, run: RegionalRun, layers: Sequence[AttentionLayer], unet, recorder):
        self.places, self.deltas, self.texts = run.places, run.deltas, run.texts
        self.unet = unet
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
            if recorded or self.places.mode != "off":
                own[key] = self.self_attention(layer, own.get(key, own.get(key[:2])), recorded)
        patched = with_first_patch(options, "attn2_output_patch", self.finish)
        patches = patched["patches"]
        patches["attn2_patch"] = [*patches.get("attn2_patch", []), keep_text]
        return {**patched, "patches_replace": replace}

    # --- cross-attention ---------------------------------------------------------------------

    def cross_attention(self, layer, prior, recorded: bool):
        """attn2_replace of one layer. prior: what another pack put there, or None."""
        attend_group = self.attend_group if prior is None else self.attend_group_by_prior

        def replace(q, k, v, extra_options):
            x, *text = extra_options.pop(TEXT)
            grid = grid_of(extra_options, q.shape[1])
            if grid is None:
                return attend(q, k, v, extra_options, prior)
            halves = halves_of(extra_options)
            if recorded:
                self.record_cross(layer, halves, x, q, k, text[0], extra_options)
            lengths = tuple(self.length(n, halves, k.shape[1]) for n in self.numbers)
            placement = self.places.placement(grid, lengths, q.device, q.dtype)
            needed = prior is not None or not placement.everything
            base = attend(q, k, v, extra_options, prior) if needed else None
            if not placement.groups:
                return base
            outputs = []
            for group in placement.groups:
                own = self.keys_values(group.members, layer, halves, (k, v), text, lengths)
                delta = self.delta(group.members, layer, "to_q", q)
                outputs.append(attend_group(group, x, q, own, delta, extra_options, prior))
            extra_options[OUTPUTS] = (placement, outputs)
            # What a prior hands out may be its own property.
            safe = prior is None and not torch.is_grad_enabled()
            return mix_regions(base, outputs, placement, in_place=safe)

        return replace

    def attend_group(self, group, x, q, own, delta, extra_options, prior=None):
        """(members, batch, count, inner): each member's cells to each member's text.

        x: (batch, cells, width) and q: (batch, cells, inner) of the whole map. own: k and v,
        (members * batch, tokens, inner). delta: the members' of to_q, or None.
        """
        own_q = gather(q, group)
        if delta is not None:
            own_q = own_q + delta.on(gather(x, group))
        keys, values = own
        out = attend(own_q.flatten(0, 1), keys, values, extra_options)
        return out.unflatten(0, own_q.shape[:2])

    def attend_group_by_prior(self, group, x, q, own, delta, extra_options, prior):
        """The same by another pack's attention, which may need the whole map (an image prompt)."""
        members = len(group.members)
        keys, values = (t.unflatten(0, (members, -1)) for t in own)
        outputs = []
        for i, cells in enumerate(group.cells.view(members, -1)):
            own_q = q
            if delta is not None:
                own_q = q + delta.of(i).on(x[None])[0]
            out = prior(own_q, keys[i], values[i], extra_options)
            outputs.append(out.index_select(1, cells))
        return torch.stack(outputs)

    def delta(self, members, layer, part: str, like: torch.Tensor) -> DeltaStack | None:
        """The members' deltas of a part of a cross-attention, as `like` is stored."""
        path = attention_path(layer)
        return self.deltas.in_cross(tuple(members), path, part, like.device, like.dtype)

    def length(self, region: int, halves, global_length: int) -> int:
        """Text tokens of a region that serve all halves of this batch."""
        own = (self.texts.length(region, half) for half in set(halves))
        return common_length([length or global_length for length in own])

    def keys_values(self, members, layer, halves, global_kv, global_text, lengths):
        """k and v (members * batch, tokens, inner): each member's text for each chunk's half."""
        batch, device, dtype = global_kv[0].shape[0], global_kv[0].device, global_kv[0].dtype
        rows: tuple[list, list] = ([], [])
        for region in members:
            for chunk, half in enumerate(halves):
                pair = self.texts.keys_values(region, half, layer, self.unet, device, dtype)
                if pair is None:  # the global text, through the region's concept
                    at = rows_of(chunk, halves, batch)
                    pair = tuple(
                        kv[at] + self.texts.delta(region, layer, part, text[at])
                        for part, kv, text in zip(
                            ("to_k", "to_v"), global_kv, global_text, strict=True
                        )
                    )
                for row, tensor in zip(rows, pair, strict=True):
                    tensor = repeat_tokens(tensor, lengths[region])
                    row.append(tensor.expand(batch // len(halves), -1, -1))
        return tuple(torch.cat(row) for row in rows)

    def finish(self, n, extra_options):
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

    def record_cross(self, layer, halves, x, q, k, text, extra_options):
        """Hands the recorder each region's queries and keys, over the whole canvas."""
        for chunk, half in enumerate(halves):
            if half != POSITIVE:
                continue
            at = rows_of(chunk, halves, q.shape[0])
            for region in self.numbers:
                own_q = q[at]
                delta = self.delta((region,), layer, "to_q", q)
                if delta is not None:
                    own_q = own_q + delta.on(x[at][None])[0]
                lengths = {region: self.texts.length(region, half) or k.shape[1]}
                own_k, _ = self.keys_values(
                    (region,), layer, [half], (k[at], k[at]), (text[at], text[at]), lengths
                )
                self.recorder.cross(layer.index, region, own_q, own_k, extra_options["n_heads"])

    # --- self-attention ----------------------------------------------------------------------

    def self_attention(self, layer, prior, recorded: bool):
        """attn1_replace of one layer: isolation. Another pack's replacement wins over it."""

        def replace(q, k, v, extra_options):
            grid = grid_of(extra_options, q.shape[1])
            if grid is None:
                return attend(q, k, v, extra_options, prior)
            groups = self.places.isolation(grid, q.device)
            isolated = prior is None and any(group.keys is not None for group in groups)
            if recorded:
                bias = self.places.isolation_bias(grid, q.device) if isolated else None
                for region in self.numbers:
                    self.recorder.self_attention(
                        layer.index, region, q, k, extra_options["n_heads"], bias
                    )
            if not isolated:
                return attend(q, k, v, extra_options, prior)
            out = torch.empty_like(q)
            for group in groups:
                keys, values = (
                    t if group.keys is None else t.index_select(1, group.keys) for t in (k, v)
                )
                own = attend(q.index_select(1, group.queries), keys, values, extra_options)
                copy = out.index_copy if torch.is_grad_enabled() else out.index_copy_
                out = copy(1, group.queries, own)
            return out

        return replace
