"""A fusion on a clone of MODEL and CLIP, and the base model that it belongs to."""

import hashlib
from functools import partial

import torch

from ...errors import ArchitectureError
from ...families.unet import architecture_of, comfy_text_key, comfy_unet_key
from ...records import Fused
from ..apply import check_fits_clip, check_fits_model
from ..host.weights import add_full_deltas
from ..text.layerwise_clip import add_vocabulary, vocabulary_of
from ..text.layerwise_model import add_layerwise_text

SAMPLES = 64  # values per weight that go into a fingerprint


def apply_fused(model, clip, fused: Fused, any_base: bool = False):
    """(MODEL, CLIP) with the fused weights, knowing all tokens; neither input is changed.

    Raises ArchitectureError for another kind of model, or (unless `any_base`) another base model.
    """
    config = model.model.model_config.unet_config
    architecture = architecture_of(config)
    vocabulary = vocabulary_of(clip)
    for concept in fused.concepts:
        check_fits_model(concept, model)
        check_fits_clip(concept, clip)
        vocabulary = vocabulary.extended(concept)
    patched, coder = model.clone(), clip.clone()
    add_full_deltas(
        patched, fused.unet, partial(comfy_unet_key, architecture=architecture), "the fusion"
    )
    add_full_deltas(coder.patcher, fused.text, comfy_text_key, "the fusion")
    if not any_base:
        found = fingerprint(model, clip, fused.text, fused.unet)
        if found != fused.base:
            raise ArchitectureError(
                "this fusion was made from another base model than this MODEL and CLIP; load the "
                "checkpoint that it was made from, or switch on 'allow_other_base'"
            )
    add_layerwise_text(patched)
    add_vocabulary(coder, vocabulary)
    return patched, coder


def fingerprint(model, clip, text, unet) -> str:
    """A hash of the unpatched base weights of the changed layers (a few values of each, as fp16).

    The same for a checkpoint loaded in fp16 and in fp32; not in bf16 or fp8, which round otherwise.
    """
    architecture = architecture_of(model.model.model_config.unet_config)
    digest = hashlib.sha256()
    for patcher, keys in (
        (clip.patcher, sorted(comfy_text_key(m) or "" for m in text)),
        (model, sorted(comfy_unet_key(m, architecture) or "" for m in unet)),
    ):
        originals = patcher.get_key_patches()
        for key in keys:
            weight = originals[key][0]
            weight = weight[0] if isinstance(weight, tuple) else weight
            flat = weight.detach().flatten()
            picked = flat[:: max(1, flat.numel() // SAMPLES)].to("cpu", torch.float16)
            digest.update(f"{key} {tuple(weight.shape)}".encode() + picked.numpy().tobytes())
    return digest.hexdigest()
