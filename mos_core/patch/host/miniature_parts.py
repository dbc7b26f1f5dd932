"""What miniature checkpoints of every family are put together with: a model with its weights, the
VAE, and the checks that a file's weights and its configuration belong together."""

from typing import Any

import torch

from ...errors import FileFormatError

TEXT_KEYS = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")


def as_patcher(model_config: Any, state_dict: dict, what: str) -> Any:
    """A model of ComfyUI with these weights, all of them, -> its ModelPatcher, in the dtype that
    ComfyUI would choose. model_config: of comfy.supported_models."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.utils

    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    supported = list(model_config.supported_inference_dtypes)
    dtype = management.unet_dtype(
        device=load_device,
        model_params=comfy.utils.calculate_parameters(state_dict),
        supported_dtypes=supported,
        weight_dtype=comfy.utils.weight_dtype(state_dict),
    )
    model_config.set_inference_dtype(
        dtype, management.unet_manual_cast(dtype, load_device, supported)
    )
    model = model_config.get_model({}, "", device=offload_device)
    load_exactly(model.diffusion_model, state_dict, what)
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model, load_device=load_device, offload_device=offload_device)


def build_vae(state_dict: dict) -> Any:
    """A TAESD-shaped VAE, `taesd_encoder.*`, `taesd_decoder.*`, `vae_scale`, `vae_shift` ->
    comfy.sd.VAE."""
    import comfy.sd

    if "taesd_decoder.1.weight" not in state_dict:
        raise FileFormatError(
            "The VAE of this checkpoint is not TAESD-shaped (no 'taesd_decoder.1.weight')."
        )
    vae = comfy.sd.VAE(sd=dict(state_dict))
    load_exactly(vae.first_stage_model, state_dict, "VAE")
    return vae


def load_exactly(module: torch.nn.Module, state_dict: dict, what: str) -> None:
    """Loads the weights; raises FileFormatError if one is missing, unknown or misshapen."""
    expected = module.state_dict()
    missing = [key for key in expected if key not in state_dict]
    unexpected = [key for key in state_dict if key not in expected]
    wrong = [
        f"{key} is {tuple(state_dict[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state_dict and state_dict[key].shape != expected[key].shape
    ]
    for problem, found in (
        ("lacks", missing),
        ("has unknown", unexpected),
        ("has misshapen", wrong),
    ):
        if found:
            raise FileFormatError(
                f"The {what} {problem} weights: {'; '.join(found[:3])} ({len(found)} in all). "
                "Weights and configuration do not belong together."
            )
    module.load_state_dict(state_dict)


def check_keys(config: dict, keys: tuple, what: str) -> None:
    """Raises FileFormatError if the configuration lacks one of the keys."""
    missing = [key for key in keys if key not in config]
    if missing:
        raise FileFormatError(f"The {what} configuration lacks: {', '.join(missing)}.")
