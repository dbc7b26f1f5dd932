"""The miniature networks of SDXL's shape while they are trained."""

import torch
from networks import TextEncoder, fresh_unet

TEXT = {
    "hidden_size": 48,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
}
SDXL_SIZES = {  # --size of train.py: UNet, CLIP-L, CLIP-G
    "small": (
        {"model_channels": 64, "channel_mult": [1, 1, 1], "num_heads": 4},
        TEXT,
        {**TEXT, "hidden_act": "gelu"},
    ),
}
TOKEN_TABLE = "transformer.text_model.embeddings.token_embedding.weight"
END_OF_TEXT = 49407  # CLIP's token; in CLIP-G zeros follow it, and its place is the pooled text
LIKE_SD15 = {  # blocks of SD1.5's first level -> ours: where there is no attention, as in SDXL
    "time_embed.": "time_embed.",
    "input_blocks.0.": "input_blocks.0.",
    "input_blocks.1.0.": "input_blocks.1.0.",
    "input_blocks.2.0.": "input_blocks.2.0.",
    "input_blocks.3.": "input_blocks.3.",
    "output_blocks.10.0.": "output_blocks.7.0.",
    "output_blocks.11.0.": "output_blocks.8.0.",
    "out.": "out.",
}


def new_sdxl(config: dict, texts: dict) -> torch.nn.Module:
    """SDXL's topology with fresh weights. texts: both text encoders' configurations."""
    from mos_core.patch.host.miniature_sdxl import sdxl_config

    return fresh_unet(sdxl_config(config, texts))


@torch.no_grad()
def read_sd15_unet(stored: dict, unet: torch.nn.Module) -> None:
    """A start from the UNet of a miniature of SD1.5's shape: what has the same place and shape."""
    own = unet.state_dict()
    for theirs, ours in LIKE_SD15.items():
        for key, tensor in stored.items():
            name = ours + key.removeprefix(theirs)
            if key.startswith(theirs) and name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)


def sizes_of(shape, like: torch.Tensor) -> torch.Tensor:
    """What SDXL is told of a picture with latents of this shape, uncropped -> (b, 6 * 256).
    like: (b, ...)"""
    from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

    height, width = 8 * shape[-2], 8 * shape[-1]
    told = torch.tensor([height, width, 0, 0, height, width], device=like.device).float()
    return timestep_embedding(told, 256).flatten().to(like).expand(len(like), -1)


class SDXLTexts(torch.nn.Module):
    """CLIP-L's and CLIP-G's layers before the last, side by side, and CLIP-G's pooled text. Both
    read the ids of CLIP-L's tokenizer."""

    def __init__(self, configs: dict, token_rows: torch.Tensor):
        super().__init__()
        clip_l, clip_g = configs["clip_l"], configs["clip_g"]
        # nothing reads CLIP-L's last layer
        without_last = {**clip_l, "num_hidden_layers": clip_l["num_hidden_layers"] - 1}
        self.clip_l = TextEncoder(without_last, token_rows)
        del self.clip_l.final_layer_norm
        self.clip_g = TextEncoder(clip_g, torch.cat([token_rows.new_zeros(1), token_rows]).unique())
        self.projection = torch.nn.Linear(clip_g["hidden_size"], clip_g["hidden_size"], bias=False)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, n) -> text (b, n, both widths), pooled (b, width of G)"""
        ended = (ids == END_OF_TEXT).int()
        after = (ended.cumsum(1) - ended) > 0
        *_, before_last, last = self.clip_g.hidden(ids.masked_fill(after, 0))
        rows = torch.arange(len(ids), device=ids.device)
        pooled = self.clip_g.final_layer_norm(last[rows, ended.argmax(1)])
        text = torch.cat([self.clip_l.hidden(ids)[-1], before_last], -1)
        return text, self.projection(pooled)

    def checkpoint(self) -> dict[str, torch.Tensor]:
        """The weights under ComfyUI's names, without `text_encoders.`"""
        out = self.clip_l.checkpoint()
        layer, last = "transformer.text_model.encoder.layers.", len(self.clip_l.layers)
        for key, tensor in list(out.items()):  # a last layer that adds nothing
            if key.startswith(layer + "0."):
                out[layer + str(last) + key.removeprefix(layer + "0")] = torch.zeros_like(tensor)
        norm = "transformer.text_model.final_layer_norm."
        width = out[TOKEN_TABLE].shape[1]
        out |= {norm + "weight": torch.ones(width), norm + "bias": torch.zeros(width)}
        out = {"clip_l." + key: value for key, value in out.items()}
        out |= {"clip_g." + key: value for key, value in self.clip_g.checkpoint().items()}
        return {**out, "clip_g.transformer.text_projection.weight": self.projection.weight.detach()}
