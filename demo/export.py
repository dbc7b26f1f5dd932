"""Write the miniature checkpoint (fp16, ComfyUI's key names) and contact sheets of a model in
training."""

import json
import os

import torch
from make_cache import new_tokenizer, token_ids
from networks import TextEncoder, new_unet, sample
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from vae import decode, read_vae

CARD = """\
Miniature world: a text-to-image model with the topology of Stable Diffusion 1.5 (16 cross-
attention layers), trained from nothing on composed pictures of Fluent emoji (MIT, Microsoft
Corporation). It knows the characters and backgrounds of demo/characters.py and demo/compose.py
and nothing else. Scripts, numbers and licence: demo/README.md."""
SQUARES = (
    "a cat, red background",
    "a dog, blue background",
    "a penguin, snow background",
    "a robot, yellow background",
    "a horse, meadow background",
    "a man, white background",
    "a dragon, night background",
    "a car, beach background",
    "a fox on the left, an owl on the right, green background",
    "a pig on the left, a frog on the right, pink background",
    "a santa on the left, a ghost on the right, night background",
    "a bee, a photo of a bee",
)
WIDES = (
    "a cat on the left, a robot in the middle, a penguin on the right, beach background",
    "a woman on the left, a lion on the right, purple background",
)


def write_checkpoint(
    path: str,
    unet,
    unet_config: dict,
    text: TextEncoder,
    text_config: dict,
    vae_path: str,
    facts: dict,
) -> None:
    """One `.safetensors`, renamed into place when complete."""
    tensors = {"model.diffusion_model." + key: value for key, value in unet.state_dict().items()}
    tensors.update({"cond_stage_model." + key: value for key, value in text.checkpoint().items()})
    tensors.update(
        {"first_stage_model." + key: p for key, p in read_vae(vae_path).state_dict().items()}
    )
    tensors = {
        key: (value.detach().half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in tensors.items()
    }
    record = {
        "version": 1,
        "unet": unet_config,
        "text_encoder": text_config,
        "vae": "taesd",
        "training": facts,
    }
    save_file(
        tensors,
        str(path) + ".part",
        metadata={"mos_miniature": json.dumps(record), "model_card": CARD, "format": "pt"},
    )
    os.replace(str(path) + ".part", path)


@torch.no_grad()
def read_weights(path: str, unet, text: TextEncoder) -> None:
    """Puts the weights of a miniature checkpoint into a UNet and text encoder of the same shape.

    Token rows that the checkpoint does not store stay as they are.
    """
    tensors = load_file(path)
    prefix = "model.diffusion_model."
    unet.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
    embeddings = "cond_stage_model.transformer.text_model.embeddings.token_embedding."
    stored = {int(row): i for i, row in enumerate(tensors[embeddings + "rows"])}
    for name, target in text.checkpoint().items():
        source = tensors["cond_stage_model." + name]
        if name.endswith("token_embedding.weight"):
            for i, row in enumerate(text.rows.tolist()):
                if row in stored:
                    target[i] = source[stored[row]]
        elif not name.endswith("token_embedding.rows"):
            target.copy_(source)


def read_networks(path: str) -> tuple[torch.nn.Module, TextEncoder]:
    """UNet and text encoder of a miniature checkpoint, in fp32."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["mos_miniature"])
        rows = file.get_tensor(
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.rows"
        )
    unet, text = new_unet(record["unet"]), TextEncoder(record["text_encoder"], rows)
    read_weights(path, unet, text)
    return unet, text


@torch.no_grad()
def write_contact_sheet(
    folder: str,
    name: str,
    unet,
    text: TextEncoder,
    vae_path: str,
    empty: torch.Tensor,
    steps: int = 20,
) -> None:
    os.makedirs(folder, exist_ok=True)
    vae, tokenizer, pictures = read_vae(vae_path).to(empty.device), new_tokenizer(), []
    for captions, shape in ((SQUARES, (4, 16, 16)), (WIDES, (4, 16, 48))):
        ids = token_ids(tokenizer, list(captions)).long().to(empty.device)
        with torch.autocast(empty.device.type, torch.bfloat16):
            x = decode(vae, sample(unet, text, ids, empty, shape, steps))
        pictures += [
            Image.fromarray(p)
            for p in x.float().clamp(0, 1).mul(255).byte().permute(0, 2, 3, 1).cpu().numpy()
        ]
    sheet, x, y = Image.new("RGB", (6 * 128, 3 * 142), "white"), 0, 0
    for picture, caption in zip(pictures, SQUARES + WIDES, strict=True):
        sheet.paste(picture, (x, y))
        ImageDraw.Draw(sheet).text((x + 2, y + 129), caption[: picture.width // 6], fill="black")
        x += picture.width
        if x >= sheet.width:
            x, y = 0, y + 142
    sheet.save(os.path.join(folder, f"{name}.png"))
