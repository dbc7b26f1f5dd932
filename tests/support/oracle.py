"""The same thing from stock parts: what layer-wise text must be equal to."""

import re

import torch

from .golden import read_tensors

WORDS = ("cat", "dog", "bird", "fish")  # each is one token of CLIP; they stand for concept tokens


def word_id(tokenizer, word: str) -> int:
    """The id of a word that is one token for ComfyUI's SD1Tokenizer."""
    begin, *ids, end = tokenizer.clip_l.tokenizer(word)["input_ids"]
    assert len(ids) == 1, f"'{word}' is {len(ids)} tokens"
    return ids[0]


def stock_tokens(tokenizer, prompt: str, tables: dict[str, torch.Tensor], layer: int, **options):
    """Token list of a stock tokenizer with every concept token's embedding of one layer put in.

    Each concept token is written as a word of one token, which is then replaced by hand.
    """
    rows = {}
    for word, (token, table) in zip(WORDS, tables.items(), strict=False):
        assert word not in prompt.split()
        prompt = re.sub(re.escape(token), f" {word} ", prompt, flags=re.IGNORECASE)
        rows[word_id(tokenizer, word)] = table[layer]
    chunks = tokenizer.tokenize_with_weights(prompt, **options)["l"]
    return {"l": [[(rows.get(t[0], t[0]), *t[1:]) for t in chunk] for chunk in chunks]}


def stock_encoding(clip, prompt: str, tables: dict[str, torch.Tensor]) -> torch.Tensor:
    """(layers, tokens, width): an ordinary encoding by the stock CLIP for every layer."""
    layers = len(next(iter(tables.values())))
    return torch.cat(
        [
            clip.encode_from_tokens(stock_tokens(clip.tokenizer, prompt, tables, layer))
            for layer in range(layers)
        ]
    )


def small_lora(seed: int = 0, part: str = "both", scale: float = 0.3) -> dict[str, torch.Tensor]:
    """A made-up ordinary LoRA (kohya's names, with alpha) for the golden UNet and text encoder."""
    generator = torch.Generator().manual_seed(seed)
    modules = {
        "unet": [
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q",
        ],
        "text": [
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
            "lora_te_text_model_encoder_layers_1_mlp_fc1",
        ],
    }
    shapes = {"mlp_fc1": (64, 32)}
    lora = {}
    for module in [m for p, names in modules.items() if part in (p, "both") for m in names]:
        out, into = next((s for end, s in shapes.items() if module.endswith(end)), (32, 32))
        lora[f"{module}.lora_down.weight"] = torch.randn(2, into, generator=generator) * scale
        lora[f"{module}.lora_up.weight"] = torch.randn(out, 2, generator=generator) * scale
        lora[f"{module}.alpha"] = torch.tensor(1.0)
    return lora


def golden_words() -> torch.Tensor:
    """Ids of the words that the golden text encoder has embeddings for."""
    return read_tensors("text_encoder")["token_embedding.ids"]
