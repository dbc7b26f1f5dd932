"""Train held-out characters as ordinary LoRAs, with the pack's own Train ED-LoRA node.

    python demo/train_loras.py [polarbear superhero] [--world sd15] [--set INPUT=VALUE ...] [--out
    demo/models/concepts]

Runs the shipped workflow train_a_concept without anything layer-wise and without a token of its
own: the class word ("bear") is what asks for the character. Kept in fp16 with the metadata that
such files carry: for Stable Diffusion as kohya's trainer writes its files,
`<out>/<name>_lora.safetensors` and `<out>/sdxl_<name>_lora.safetensors`; for the world of Flux's
shape as ai-toolkit does, `<out>/flux_<name>.safetensors`.
"""

import argparse
import json
from pathlib import Path

from run_workflow import DEMO, read_changes, running
from train_concepts import settings_of, wanted

from lib.problem import run_script

NAMES = ("polarbear", "superhero")
SETTINGS = {
    "rank": 4,
    "layerwise": False,
    "rate_embedding": 0,  # the token stays the class word
    "rate_text": 0.001,
}
WORLDS = {  # --world: what else the workflow is given, the file's name, ss_base_model_version
    "sd15": ({}, "{}_lora.safetensors", "sd_v1"),
    "sdxl": (
        {
            "ckpt_name": "demo: miniature_sdxl.safetensors",
            "layers": "linear and convolution",
            "rank": 8,
            "rate_unet": 0.003,
        },
        "sdxl_{}_lora.safetensors",
        "sdxl_base_v1-0",
    ),
    "flux": (
        {"ckpt_name": "demo: miniature_flux.safetensors", "initializer": "", "rate_text": 0},
        "flux_{}.safetensors",
        "flux1",
    ),
}
PARTS = {  # ours -> kohya's
    "sd15": {"text_encoder.": "lora_te_", "unet.": "lora_unet_"},
    "sdxl": {"text_encoder.": "lora_te1_", "text_encoder_2.": "lora_te2_", "unet.": "lora_unet_"},
}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help="characters")
    parser.add_argument("--world", choices=list(WORLDS), default="sd15")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=DEMO / "models" / "concepts")
    return parser.parse_args()


def keep_as_kohya(saved: Path, kept: Path, concept: dict, world: str) -> None:
    """A concept's factors as kohya names them, fp16, with alpha = rank; its embedding is the class
    word's and is left out."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    tensors = {}
    with safe_open(saved, framework="pt") as file:
        trained = json.loads(file.metadata()["training"])
        for key in file.keys():
            part = next((part for part in PARTS[world] if key.startswith(part)), None)
            if part is None:
                continue
            module, _, factor = key.removeprefix(part).rpartition(".lora_")
            name = PARTS[world][part] + module.replace(".", "_")
            tensors[f"{name}.lora_{factor}"] = file.get_tensor(key).half().contiguous()
            tensors[f"{name}.alpha"] = torch.tensor(float(trained["rank"])).half()
    save_file(tensors, kept, metadata_of(concept, trained, world))


def keep_as_peft(saved: Path, kept: Path, concept: dict, world: str) -> None:
    """A transformer's factors under its own names, lora_A and lora_B, fp16, scaled by one."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(saved, framework="pt") as file:
        trained = json.loads(file.metadata()["training"])
        names = {
            k: k.replace("lora_down", "lora_A").replace("lora_up", "lora_B") for k in file.keys()
        }
        tensors = {name: file.get_tensor(k).half().contiguous() for k, name in names.items()}
    save_file(tensors, kept, metadata_of(concept, trained, world))


def metadata_of(concept: dict, trained: dict, world: str) -> dict[str, str]:
    """What kohya's trainer would have written of this run."""
    word, (changes, _, base) = concept["class_word"], WORLDS[world]
    checkpoint = changes.get("ckpt_name", "demo: miniature.safetensors")
    return {
        "ss_base_model_version": base,
        "ss_sd_model_name": checkpoint.removeprefix("demo: "),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(trained["rank"]),
        "ss_network_alpha": str(trained["rank"]),
        "ss_output_name": concept["name"],
        "ss_steps": str(trained["steps"]),
        "ss_learning_rate": str(trained["rate_unet"]),
        "ss_unet_lr": str(trained["rate_unet"]),
        "ss_text_encoder_lr": str(trained["rate_text"]),
        "ss_resolution": f"({trained['resolution']}, {trained['resolution']})",
        "ss_tag_frequency": json.dumps({concept["name"]: {word: 20}}),
        "modelspec.title": concept["name"],
        "modelspec.trigger_phrase": word,
    }


def main() -> int:
    arguments = read_arguments()
    concepts = json.loads((DEMO / "concepts.json").read_text(encoding="utf-8"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    keep = keep_as_kohya if arguments.world in PARTS else keep_as_peft
    changes, file_name, _ = WORLDS[arguments.world]
    with running(__file__, "train_a_concept") as run:
        run.keep(wanted)
        for concept in (c for c in concepts if c["name"] in arguments.names):
            name, word = concept["name"], concept["class_word"]
            given = {**settings_of(concept), **SETTINGS, **changes}
            if (
                arguments.world not in PARTS
            ):  # no text is trained: the word itself is what asks for it
                given["concept_tokens"] = word
            seconds = run({**given, **read_changes(arguments.changes)})
            (saved,) = (run.models / "loras").rglob(f"{name}_*.safetensors")
            keep(saved, arguments.out / file_name.format(name), concept, arguments.world)
            print(f"{name}: {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
