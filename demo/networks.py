"""The miniature networks while they are trained: a UNet of SD1.5's topology and a small CLIP text
encoder."""

import torch
import torch.nn.functional as F

SIZES = {  # --size of train.py: the UNet's and the text encoder's configuration
    "small": (
        {"model_channels": 64, "channel_mult": [1, 2, 2, 2], "context_dim": 128, "num_heads": 4},
        {
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        },
    ),
    "medium": (
        {"model_channels": 64, "channel_mult": [1, 2, 3, 4], "context_dim": 128, "num_heads": 4},
        {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        },
    ),
    "large": (
        {"model_channels": 128, "channel_mult": [1, 2, 3, 4], "context_dim": 256, "num_heads": 8},
        {
            "hidden_size": 256,
            "intermediate_size": 1024,
            "num_attention_heads": 4,
            "num_hidden_layers": 4,
        },
    ),
}
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2  # SD1.5's
ALPHAS = (1 - BETAS).cumprod(0).float()  # (1000,)


def new_unet(config: dict) -> torch.nn.Module:
    """Stable Diffusion 1.5's topology with fresh weights."""
    from mos_core.patch.host.miniature import SD15_TOPOLOGY

    return fresh_unet({**SD15_TOPOLOGY, **config})


def fresh_unet(config: dict) -> torch.nn.Module:
    """ComfyUI's UNetModel with fresh weights; every residual branch and the output begin at
    zero. config: all of its settings."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(**config, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for module in unet.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            torch.nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
        elif isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    for name, p in unet.named_parameters():
        if name.endswith(("out_layers.3.weight", "proj_out.weight", "out.2.weight")):
            torch.nn.init.zeros_(p)
    return unet


def plain_attention(_, q, k, v, heads, *args, skip_reshape=False, **kwargs):
    """softmax(q k / sqrt(d)) v on (b, n, heads * d), or (b, heads, n, d) with `skip_reshape`: in
    bf16 on a CPU, forward and backward, twice as fast as the fused one."""
    if not skip_reshape:
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    b, _, n, d = q.shape
    q, k, v = (x.reshape(b * heads, -1, d) for x in (q, k, v))
    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=d**-0.5)
    return (
        torch.bmm(scores.softmax(-1), v)
        .unflatten(0, (b, heads))
        .transpose(1, 2)
        .reshape(b, n, heads * d)
    )


ACTIVATIONS = {"quick_gelu": lambda x: x * torch.sigmoid(1.702 * x), "gelu": F.gelu}


class TextEncoder(torch.nn.Module):
    """CLIP's text transformer over a small table of tokens in use; parameters are named as in the
    checkpoint.

    ComfyUI's own module adds in place, which autograd does not allow; this one computes the same.
    """

    def __init__(self, config: dict, token_rows: torch.Tensor):
        super().__init__()
        width, depth = config["hidden_size"], config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.activation = ACTIVATIONS[config.get("hidden_act", "quick_gelu")]
        self.register_buffer("row_of_token", torch.zeros(49408, dtype=torch.long), persistent=False)
        self.row_of_token[token_rows] = torch.arange(len(token_rows))
        self.register_buffer("rows", token_rows)
        self.token = torch.nn.Parameter(torch.randn(len(token_rows), width) * 0.03)
        self.position = torch.nn.Parameter(torch.randn(77, width) * 0.01)
        self.layers = torch.nn.ModuleList(
            [
                torch.nn.ModuleDict(
                    {
                        "layer_norm1": torch.nn.LayerNorm(width),
                        "layer_norm2": torch.nn.LayerNorm(width),
                        "q_proj": torch.nn.Linear(width, width),
                        "k_proj": torch.nn.Linear(width, width),
                        "v_proj": torch.nn.Linear(width, width),
                        "out_proj": torch.nn.Linear(width, width),
                        "fc1": torch.nn.Linear(width, config["intermediate_size"]),
                        "fc2": torch.nn.Linear(config["intermediate_size"], width),
                    }
                )
                for _ in range(depth)
            ]
        )
        self.final_layer_norm = torch.nn.LayerNorm(width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(b, n) token ids, n at most 77 -> (b, n, width)"""
        return self.final_layer_norm(self.hidden(ids)[-1])

    def hidden(self, ids: torch.Tensor) -> list[torch.Tensor]:
        """What each layer gives, (b, n, width), before any last norm."""
        states = []
        x = self.token[self.row_of_token[ids]] + self.position[: ids.shape[1]]
        for layer in self.layers:
            y = layer["layer_norm1"](x)
            q, k, v = (
                layer[n](y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for n in ("q_proj", "k_proj", "v_proj")
            )
            y = F.scaled_dot_product_attention(
                q, k, v, is_causal=True
            )  # (b, heads, 77, width / heads)
            x = x + layer["out_proj"](y.transpose(1, 2).flatten(2))
            x = x + layer["fc2"](self.activation(layer["fc1"](layer["layer_norm2"](x))))
            states.append(x)
        return states

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """The weights under the names of SD1.5 checkpoints, without `cond_stage_model.`"""
        root = "transformer.text_model."
        out = {
            root + "embeddings.token_embedding.weight": self.token,
            root + "embeddings.token_embedding.rows": self.rows,
            root + "embeddings.position_embedding.weight": self.position,
        }
        for name, p in self.named_parameters():
            if name.startswith("layers."):
                _, i, module, kind = name.split(".")
                group = (
                    "self_attn."
                    if module.endswith("_proj")
                    else "mlp."
                    if module.startswith("fc")
                    else ""
                )
                out[f"{root}encoder.layers.{i}.{group}{module}.{kind}"] = p
            elif name.startswith("final_layer_norm"):
                out[root + name] = p
        return {name: tensor.detach() for name, tensor in out.items()}


@torch.no_grad()
def sample(
    unet, conditions: dict[str, torch.Tensor], shape, steps: int = 20, cfg: float = 3.0, seed=0
) -> torch.Tensor:
    """Deterministic DDIM with classifier-free guidance -> latents (b, *shape). conditions: what
    the UNet is given beside the latent, (2 b, ...), of the captions and of the empty text"""
    b, device = len(conditions["context"]) // 2, conditions["context"].device
    x = torch.randn(b, *shape, generator=torch.Generator().manual_seed(seed)).to(device)
    alphas = ALPHAS.to(device)
    times = torch.linspace(999, 0, steps + 1).round().long().tolist()
    for i in range(steps):
        now, after = (
            alphas[times[i]],
            alphas[times[i + 1]] if i + 1 < steps else alphas.new_ones(()),
        )
        cond, uncond = (
            unet(torch.cat([x, x]), torch.full((2 * b,), times[i], device=device), **conditions)
            .float()
            .chunk(2)
        )
        eps = uncond + cfg * (cond - uncond)
        x0 = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = after.sqrt() * x0 + (1 - after).sqrt() * eps
    return x
