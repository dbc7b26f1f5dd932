"""What ComfyUI tells the attention patches of a block, read from their `extra_options`."""

import comfy.ldm.modules.attention

POSITIVE, NEGATIVE = 0, 1  # as in cond_or_uncond; what is neither counts as negative
TEXT = "mix_of_show_text"  # our entry in extra_options: what enters the cross-attention


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


def rows_of(chunk: int, halves, batch: int) -> slice:
    """Where a chunk lies in the batch."""
    count = batch // len(halves)
    return slice(chunk * count, (chunk + 1) * count)


def grid_of(extra_options, tokens: int) -> tuple[int, int] | None:
    """(rows, columns) of the block's feature map; None if its tokens are no longer its cells."""
    rows, columns = extra_options["activations_shape"][-2:]
    return (rows, columns) if rows * columns == tokens else None
