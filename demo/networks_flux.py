"""The miniature networks of Flux.1's shape while they are trained."""

import itertools

import torch
from networks import TextEncoder

FLUX_SIZES = {  # --size of train.py: transformer, CLIP-L, T5
    "small": (
        {
            "hidden_size": 128,
            "num_heads": 4,
            "axes_dim": [8, 12, 12],
            "depth": 2,
            "depth_single_blocks": 6,
            "context_in_dim": 96,
            "vec_in_dim": 96,
        },
        {
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        },
        {"d_model": 96, "d_ff": 256, "d_kv": 24, "num_heads": 4, "num_layers": 2},
    ),
    "medium": (
        {
            "hidden_size": 192,
            "num_heads": 6,
            "axes_dim": [8, 12, 12],
            "depth": 2,
            "depth_single_blocks": 6,
            "context_in_dim": 128,
            "vec_in_dim": 96,
        },
        {
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        },
        {"d_model": 128, "d_ff": 384, "d_kv": 32, "num_heads": 4, "num_layers": 2},
    ),
}
END_OF_TEXT = 49407  # CLIP's token; its place holds the pooled text
CLIP_TOKENS = 77
ZERO = (  # ends of names
    "mod.lin.weight",
    "modulation.lin.weight",
    "adaLN_modulation.1.weight",
    "final_layer.linear.weight",
)


def keep_inputs(module: torch.nn.Module) -> None:
    """ComfyUI's blocks add in place to what their norms have read, which autograd does not allow:
    every norm gets a copy."""
    for part in module.modules():
        if type(part).__name__ in ("LayerNorm", "T5LayerNorm"):
            part.register_forward_pre_hook(lambda _, given: (given[0].clone(), *given[1:]))


def fresh(module: torch.nn.Module) -> None:
    """Fresh weights; blocks and output begin at zero (adaLN-zero, Peebles and Xie 2023)."""
    for part in module.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.kaiming_uniform_(part.weight, a=5**0.5)
            if part.bias is not None:
                torch.nn.init.zeros_(part.bias)
        elif isinstance(part, torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=0.05)
        else:  # norms: one scale each
            for p in part.parameters(recurse=False):
                torch.nn.init.ones_(p)
    for name, p in module.named_parameters():
        if name.endswith(ZERO):
            torch.nn.init.zeros_(p)


def new_flux(config: dict) -> torch.nn.Module:
    """ComfyUI's Flux with fresh weights."""
    import comfy.ops
    from comfy.ldm.flux.model import Flux

    from mos_core.patch.host.miniature_flux import flux_config

    model = Flux(
        **flux_config(config), dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    fresh(model)
    keep_inputs(model)
    return model


class FluxTexts(torch.nn.Module):
    """CLIP's pooled text and T5's tokens; ids (b, 77 + n): CLIP's, then T5's."""

    def __init__(self, clip: dict, t5: dict, clip_rows: torch.Tensor, t5_rows: torch.Tensor):
        super().__init__()
        import comfy.ops
        from comfy.text_encoders.t5 import T5

        from mos_core.patch.host.miniature_flux import T5_SHAPE

        self.clip = TextEncoder(clip, clip_rows)
        sizes = {**T5_SHAPE, **t5, "vocab_size": len(t5_rows)}
        self.t5 = T5(sizes, torch.float32, None, comfy.ops.disable_weight_init)
        fresh(self.t5)
        keep_inputs(self.t5)
        self.register_buffer("t5_rows", t5_rows)
        table = torch.zeros(T5_SHAPE["vocab_size"], dtype=torch.long)
        table[t5_rows] = torch.arange(len(t5_rows))
        self.register_buffer("row_of_token", table, persistent=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> T5's text (b, n, width), CLIP's pooled (b, width)"""
        clip, t5 = ids[:, :CLIP_TOKENS], ids[:, CLIP_TOKENS:]
        end = (clip == END_OF_TEXT).int().argmax(1)
        pooled = self.clip(clip)[torch.arange(len(clip), device=clip.device), end]
        text, _ = self.t5(self.row_of_token[t5], None)
        return text, pooled

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """The weights under the names of Flux checkpoints, without `text_encoders.`"""
        root = "t5xxl.transformer."
        out = {"clip_l." + key: value for key, value in self.clip.checkpoint().items()}
        out |= {root + key: value.detach() for key, value in self.t5.state_dict().items()}
        return {**out, root + "shared.rows": self.t5_rows}

    @torch.no_grad()
    def read_t5(self, stored: dict) -> None:
        """Puts T5's stored weights in; token rows that are not stored stay as they are."""
        known = {int(row): i for i, row in enumerate(stored.pop("shared.rows"))}
        learned, table = stored.pop("shared.weight"), self.t5.shared.weight
        for i, row in enumerate(self.t5_rows.tolist()):
            if row in known:
                table[i] = learned[known[row]]
        self.t5.load_state_dict({**stored, "shared.weight": table})


@torch.no_grad()
def sample_flow(
    model, text, ids, empty, shape, steps: int = 20, cfg: float = 3.0, seed: int = 0
) -> torch.Tensor:
    """Euler along the flow with classifier-free guidance -> latents (b, *shape)"""
    b = len(ids)
    x = torch.randn(b, *shape, generator=torch.Generator().manual_seed(seed)).to(ids.device)
    context, pooled = text(torch.cat([ids, empty[None].expand(b, -1)]))
    times = torch.linspace(1, 0, steps + 1).tolist()
    for now, after in itertools.pairwise(times):
        t = torch.full((2 * b,), now, device=x.device)
        cond, uncond = model(torch.cat([x, x]), t, context, pooled).float().chunk(2)
        x = x + (after - now) * (uncond + cfg * (cond - uncond))
    return x
