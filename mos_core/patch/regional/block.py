"""What ComfyUI tells the attention patches of a block, read from their `extra_options`."""

from collections.abc import Callable, Sequence

import comfy.ldm.modules.attention
import torch

TEXT = "mix_of_show_text"  # our entry in extra_options: what enters the cross-attention
TOKENS = "mix_of_show_tokens"  # there too: how many tokens the text had before other packs' patches
Text = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # n, context, value


def note_tokens(
    n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra_options: dict
) -> Text:
    """attn2_patch, the first one: what other packs append comes behind these tokens.

    n: (batch, cells, width); context, value: (batch, tokens, width).
    """
    extra_options[TOKENS] = context.shape[1]
    return n, context, value


def keep_text(
    n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra_options: dict
) -> Text:
    """attn2_patch, the last one: what the cross-attention is about to project. Shapes as above."""
    extra_options[TEXT] = (n, context, value)
    return n, context, value


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    extra_options: dict,
    prior: Callable | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """ComfyUI's attention, as the block itself would call it, or what another pack put there.

    q: (batch, queries, inner); k, v: (batch, keys, inner) -> (batch, queries, inner). bias: (batch,
    1, keys), added to the logits where no prior stands.
    """
    if prior is not None:
        return prior(q, k, v, extra_options)
    return comfy.ldm.modules.attention.optimized_attention(
        q,
        k,
        v,
        extra_options["n_heads"],
        mask=None if bias is None else bias.expand(-1, q.shape[1], -1),
        attn_precision=extra_options["attn_precision"],
        transformer_options=extra_options,
    )


def rows_of(chunk: int, chunks: Sequence, batch: int) -> slice:
    """Where a chunk lies in the batch."""
    count = batch // len(chunks)
    return slice(chunk * count, (chunk + 1) * count)


def grid_of(extra_options: dict, q: torch.Tensor) -> tuple[int, int] | None:
    """(rows, columns) of the block's feature map; None if its queries (batch, tokens, inner) are no
    longer the cells of the pictures that entered it."""
    batch, _, rows, columns = extra_options["activations_shape"]
    return (rows, columns) if q.shape[:2] == (batch, rows * columns) else None
