"""Write the miniature checkpoint (8 bits, ComfyUI's key names) and contact sheets of a model in
training."""

import json
import os

import torch
from families import CLIP_TABLE, FAMILIES
from networks import TextEncoder
from PIL import Image, ImageDraw
from safetensors import safe_open
from safetensors.torch import save_file
from vae import decode, read_vae

CARD = """\
Miniature world: a text-to-image model with the topology of Stable Diffusion 1.5 (16 cross-
attention layers), of SDXL or of Flux.1, trained from nothing on composed pictures of Fluent emoji
(MIT, Microsoft Corporation). It knows the characters and backgrounds of demo/characters.py and
demo/compose.py and nothing else. Scripts, numbers and licence: demo/README.md."""
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


def write_checkpoint(path: str, family, config, model, text, vae_path: str, facts: dict) -> None:
    """One `.safetensors`, in 8 bits, renamed into place when complete. family: of families.py;
    config: of its sizes."""
    from mos_core.formats.packed import pack

    tensors = family.tensors(model, text)
    vae = read_vae(vae_path).state_dict()
    vae["vae_scale"] = torch.tensor(family.latent_scale)  # the same latents under another scale
    tensors.update({family.vae_prefix + key: value for key, value in vae.items()})
    record = {**family.record(config), "vae": "taesd", "training": facts}
    save_file(
        pack({key: value.detach().cpu() for key, value in tensors.items()}),
        str(path) + ".part",
        metadata={"mos_miniature": json.dumps(record), "model_card": CARD, "format": "pt"},
    )
    os.replace(str(path) + ".part", path)


def read_networks(path: str) -> tuple[torch.nn.Module, TextEncoder]:
    """UNet and text encoder of a miniature checkpoint of Stable Diffusion's shape, in fp32."""
    with safe_open(path, "pt") as file:
        record = json.loads(file.metadata()["mos_miniature"])
        rows = file.get_tensor("cond_stage_model." + CLIP_TABLE + "rows")
    family = FAMILIES["sd15"]
    unet, text = family.networks((record["unet"], record["text_encoder"]), rows)
    family.read(path, unet, text)
    return unet, text


@torch.no_grad()
def write_contact_sheet(
    folder: str,
    name: str,
    family,
    model,
    text,
    vae_path: str,
    empty: torch.Tensor,
    steps: int = 20,
) -> None:
    os.makedirs(folder, exist_ok=True)
    vae, pictures = read_vae(vae_path).to(empty.device), []
    for captions, width in ((SQUARES, 16), (WIDES, 48)):
        ids = family.token_ids(list(captions)).long().to(empty.device)
        shape = (family.channels, 16, width)
        with torch.autocast(empty.device.type, torch.bfloat16):
            x = decode(vae, family.sample(model, text, ids, empty, shape, steps))
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
