"""Pack a miniature checkpoint into 8 bits, and put another VAE into it.

python demo/replace_vae.py --checkpoint demo/models/miniature.safetensors [--vae vae.safetensors]
[--out packed.safetensors]
"""

import argparse
import json
import os

from safetensors import safe_open
from safetensors.torch import save_file
from start_comfy import start_comfy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--vae")
    parser.add_argument("--out", help="else the checkpoint itself is replaced")
    parser.add_argument("--facts", default="{}", help="JSON, joins the record's `training`")
    args = parser.parse_args()
    start_comfy(1)
    from vae import read_tensors, read_vae

    from mos_core.formats.miniature_file import read_miniature_metadata
    from mos_core.formats.packed import pack

    record, tensors = read_miniature_metadata(args.checkpoint), read_tensors(args.checkpoint)
    with safe_open(args.checkpoint, "pt") as file:
        metadata = dict(file.metadata())
    for key, tensor in read_vae(args.vae).state_dict().items() if args.vae else ():
        if key in ("vae_scale", "vae_shift"):  # of the model's latents, not of the VAE
            continue
        name = "first_stage_model." + key
        if tensors[name].shape != tensor.shape:
            raise SystemExit(f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        tensors[name] = tensor
    record["training"] = {**record["training"], **json.loads(args.facts)}
    metadata["mos_miniature"] = json.dumps(record)
    out = args.out or args.checkpoint
    save_file(pack(tensors), out + ".part", metadata)
    os.replace(out + ".part", out)


if __name__ == "__main__":
    main()
