"""Put another VAE into a miniature checkpoint; every other byte of it stays.

python demo/replace_vae.py --checkpoint demo/models/miniature.safetensors --vae vae.safetensors
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
    parser.add_argument("--vae", required=True)
    parser.add_argument("--facts", default="{}", help="JSON, joins the record's `training`")
    args = parser.parse_args()
    start_comfy(1)
    from vae import read_vae

    with safe_open(args.checkpoint, "pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    for key, tensor in read_vae(args.vae).state_dict().items():
        name = "first_stage_model." + key
        if tensors[name].shape != tensor.shape:
            raise SystemExit(f"{name} is {tuple(tensors[name].shape)}, not {tuple(tensor.shape)}")
        tensors[name] = tensor.half().contiguous()
    record = json.loads(metadata["mos_miniature"])
    record["training"] = {**record["training"], **json.loads(args.facts)}
    metadata["mos_miniature"] = json.dumps(record)
    save_file(tensors, args.checkpoint + ".part", metadata)
    os.replace(args.checkpoint + ".part", args.checkpoint)


if __name__ == "__main__":
    main()
