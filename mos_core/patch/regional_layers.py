"""One UNet call with regions: the attention patches of every layer."""

import comfy.ldm.modules.attention
import comfy.utils
import torch

from ..compose.attention import common_length, gather, mix_regions, repeat_tokens, scatter
from ..compose.injection import thin_products
from .layerwise_model import with_first_patch
from .regional_run import NEGATIVE, POSITIVE, RegionalRun

TEXT = "mix_of_show_text"  # in a block's extra_options: what enters its cross-attention
OUTPUTS = "mix_of_show_outputs"  # the regions' own attention, for the deltas of to_out


class RegionalPass:
    """Patches of one call. unet: the live module, from which only text projections are read.

    grids: token count -> (rows, columns) of the feature maps met so far.
    """

    def __init__(self, run: RegionalRun, unet, recorder, dtype, device):
        self.run = run
        self.unet = unet
        self.recorder = recorder
        self.dtype = dtype
        self.device = device
        self.grids: dict[int, tuple[int, int]] = {}
        self.numbers = range(len(run.regions))
        self.layers = {
            (layer.block[0], layer.block[1], layer.depth): layer
            for layer in run.attention.architecture.layers
        }

    def patch(self, options: dict) -> dict:
        """A copy of the transformer_options with our patches; what others put there is chained."""
        replace = {name: dict(table) for name, table in options.get("patches_replace", {}).items()}
        cross, own = replace.setdefault("attn2", {}), replace.setdefault("attn1", {})
        for key, layer in self.layers.items():
            recorded = self.recorder is not None and self.recorder.wants(layer.index)
            cross[key] = self.cross_attention(layer, cross.get(key, cross.get(key[:2])), recorded)
            if recorded or self.run.attention.isolation != "off":
                own[key] = self.self_attention(layer, own.get(key, own.get(key[:2])), recorded)
        patched = with_first_patch(options, "attn2_output_patch", self.finish)
        patches = patched["patches"]
        patches["attn2_patch"] = [*patches.get("attn2_patch", []), keep_text]
        return {**patched, "patches_replace": replace}

    def layer_of(self, extra_options):
        name, number = extra_options["block"]
        return self.layers[name, number, extra_options.get("block_index", 0)]

    # --- cross-attention ---------------------------------------------------------------------

    def cross_attention(self, layer, prior, recorded: bool):
        """attn2_replace of one layer. prior: what another pack put there, or None."""

        def replace(q, k, v, extra_options):
            x, *text = extra_options.pop(TEXT)
            halves = halves_of(extra_options)
            grid = grid_of(extra_options, q.shape[1])
            if grid is None:
                return attend(q, k, v, extra_options, prior)
            if recorded:
                self.record_cross(layer, halves, x, q, k, text[0], extra_options)
            lengths = tuple(self.length(n, halves, k.shape[1]) for n in self.numbers)
            placement = self.run.placement(grid, lengths, q.device, q.dtype)
            needed = not placement.everything or prior is not None
            base = attend(q, k, v, extra_options, prior) if needed else None
            if not placement.groups:
                return base
            outputs = []
            for group in placement.groups:
                members = group.members
                own_k, own_v = self.keys_values(members, layer, halves, (k, v), text, lengths)
                delta = self.run.cross_factors(members, layer, "to_q", q.device, q.dtype)
                if prior is None:
                    own_q = gather(q, group)
                    if delta is not None:
                        own_q = own_q + thin_products(gather(x, group), delta)
                    out = attend(own_q.flatten(0, 1), own_k, own_v, extra_options)
                    outputs.append(out.unflatten(0, own_q.shape[:2]))
                    continue
                # Another pack's attention (an image prompt, say) may need the whole canvas.
                rows = [t.unflatten(0, (len(members), -1)) for t in (own_k, own_v)]
                whole = []
                for i in range(len(members)):
                    own_q = q
                    if delta is not None:
                        own_q = q + thin_products(x[None], tuple(t[i : i + 1] for t in delta))[0]
                    whole.append(prior(own_q, rows[0][i], rows[1][i], extra_options))
                cells = group.cells.view(len(members), -1)
                outputs.append(
                    torch.stack([out.index_select(1, cells[i]) for i, out in enumerate(whole)])
                )
            extra_options[OUTPUTS] = (placement, outputs)
            # What a prior hands out may be its own property.
            safe = prior is None and not torch.is_grad_enabled()
            return mix_regions(base, outputs, placement, in_place=safe)

        return replace

    def length(self, region: int, halves, global_length: int) -> int:
        """Text tokens of a region that serve all halves of this batch."""
        own = (self.run.text_length(region, half) for half in set(halves))
        return common_length([length or global_length for length in own])

    def keys_values(self, members, layer, halves, global_kv, global_text, lengths):
        """k and v (members * batch, tokens, inner): each member's text for each chunk's half."""
        device, dtype = global_kv[0].device, global_kv[0].dtype
        per_chunk = global_kv[0].shape[0] // len(halves)
        rows: tuple[list, list] = ([], [])
        for region in members:
            for chunk, half in enumerate(halves):
                pair = self.run.keys_values(region, half, layer, self.unet, device, dtype)
                if pair is None:  # the global text, through the region's concept
                    at = slice(chunk * per_chunk, (chunk + 1) * per_chunk)
                    pair = tuple(
                        kv[at] + self.run.text_delta(region, layer, part, text[at], device, dtype)
                        for part, kv, text in zip(
                            ("to_k", "to_v"), global_kv, global_text, strict=True
                        )
                    )
                for row, tensor in zip(rows, pair, strict=True):
                    tensor = repeat_tokens(tensor, lengths[region])
                    row.append(tensor.expand(per_chunk, -1, -1))
        return tuple(torch.cat(row) for row in rows)

    def finish(self, n, extra_options):
        """attn2_output_patch, the first one: the regions' own to_out, and the end of the layer."""
        layer = self.layer_of(extra_options)
        placement, outputs = extra_options.pop(OUTPUTS, (None, ()))
        for group, out in zip(placement.groups if placement else (), outputs, strict=True):
            delta = self.run.cross_factors(group.members, layer, "to_out.0", n.device, n.dtype)
            if delta is not None:
                own = scatter(thin_products(out, delta) * group.shares)
                n = n.index_add(1, group.cells, own)
        if self.recorder is not None and self.recorder.wants(layer.index):
            self.recorder.done(layer.index)
        return n

    def record_cross(self, layer, halves, x, q, k, text, extra_options):
        """Hands the recorder each region's queries and keys, over the whole canvas."""
        per_chunk = q.shape[0] // len(halves)
        for chunk, half in enumerate(halves):
            if half != POSITIVE:
                continue
            at = slice(chunk * per_chunk, (chunk + 1) * per_chunk)
            for region in self.numbers:
                members, own_q = (region,), q[at]
                delta = self.run.cross_factors(members, layer, "to_q", q.device, q.dtype)
                if delta is not None:
                    own_q = own_q + thin_products(x[at][None], delta)[0]
                length = self.run.text_length(region, half) or k.shape[1]
                lengths = {region: length}
                own_k, _ = self.keys_values(
                    members, layer, [half], (k[at], k[at]), (text[at], text[at]), lengths
                )
                self.recorder.cross(layer.index, region, own_q, own_k, extra_options["n_heads"])

    # --- self-attention ----------------------------------------------------------------------

    def self_attention(self, layer, prior, recorded: bool):
        """attn1_replace of one layer: isolation. Another pack's replacement wins over it."""

        def replace(q, k, v, extra_options):
            grid = grid_of(extra_options, q.shape[1])
            if grid is None:
                return attend(q, k, v, extra_options, prior)
            groups = self.run.isolation(grid, q.device)
            isolated = prior is None and any(group.keys is not None for group in groups)
            if recorded:
                bias = self.run.isolation_bias(grid, q.device) if isolated else None
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


def keep_text(n, context, value, extra_options):
    """attn2_patch, the last one: what the cross-attention is about to project."""
    extra_options[TEXT] = (n, context, value)
    return n, context, value


def attend(q, k, v, extra_options, prior=None):
    """ComfyUI's attention, as the block itself would call it, or what another pack put there."""
    if prior is not None:
        return prior(q, k, v, extra_options)
    return comfy.ldm.modules.attention.optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
    )


def halves_of(extra_options) -> list[int]:
    """For each chunk of the batch: POSITIVE or NEGATIVE."""
    chunks = extra_options.get("cond_or_uncond") or [POSITIVE]
    return [POSITIVE if entry == POSITIVE else NEGATIVE for entry in chunks]


def grid_of(extra_options, tokens: int) -> tuple[int, int] | None:
    """(rows, columns) of the block's feature map; None if its tokens are no longer its cells."""
    rows, columns = extra_options["activations_shape"][-2:]
    return (rows, columns) if rows * columns == tokens else None
