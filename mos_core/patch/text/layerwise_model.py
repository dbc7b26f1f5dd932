"""Layer-wise text on the model's side: cross-attention layer l reads the l-th slice.

Nothing is written on modules: wrappers on the ModelPatcher build the attention patch of each call,
so that clones, low-memory modes, other packs' patches and torch.compile are left alone.
"""

import comfy.conds
import comfy.patcher_extension
import torch

from ...errors import ArchitectureError
from ...families.unet import Architecture, architecture_of
from ...text.layerwise import layer_mean, split_layers

KEY = "mix_of_show_layerwise"  # of our wrappers on a ModelPatcher
MARK = "mix_of_show_layers"  # of our entry in a conditioning's model_conds
WrappersMP = comfy.patcher_extension.WrappersMP


class LayerwiseMark(comfy.conds.CONDConstant):
    """Rides along with a wide conditioning; a patched model takes it off, any other stops at it."""

    def process_cond(self, batch_size, **kwargs):
        raise ArchitectureError(
            f"this conditioning holds {self.cond} layer-wise texts (concept tokens), but the MODEL "
            "that samples it does not know them: connect the MODEL output of the same Apply "
            "Concepts node to the sampler"
        )


def mark_conditioning(layers: int) -> dict:
    """Entries for the dict of a wide conditioning: {'model_conds': {MARK: ...}}."""
    return {"model_conds": {MARK: LayerwiseMark(layers)}}


class LayerwiseText:
    """The two wrappers of a model that reads wide conditionings.

    width: text width of the UNet (its context_dim).
    """

    def __init__(self, architecture: Architecture, width: int):
        self.layers = len(architecture.layers)
        self.width = width
        self.index = {
            (layer.block[0], layer.block[1], layer.depth): layer.index
            for layer in architecture.layers
        }

    def __deepcopy__(self, memo):
        return self  # immutable

    def is_wide(self, text: torch.Tensor | None) -> bool:
        return text is not None and text.shape[-1] == self.layers * self.width

    def accept_marked(self, executor, model, conds, x_in, timestep, model_options):
        """CALC_COND_BATCH wrapper: takes the marks off, gives ControlNets a narrow text."""
        ready = [cond and [self.unmark(entry) for entry in cond] for cond in conds]
        return executor(model, ready, x_in, timestep, model_options)

    def unmark(self, entry: dict) -> dict:
        """One conditioning entry as the stock code expects it; the caller's stays as it is."""
        conds = entry.get("model_conds", {})
        text = conds.get("c_crossattn")
        mark = conds.get(MARK)
        if mark is not None and mark.cond != self.layers:
            raise ArchitectureError(
                f"this conditioning holds {mark.cond} layer-wise texts, the MODEL has "
                f"{self.layers} cross-attention layers; encode the prompt with the CLIP of the "
                "same Apply Concepts node as the MODEL"
            )
        conds = {k: v for k, v in conds.items() if k != MARK}
        if entry.get("control") is not None:
            for_control = conds.get("crossattn_controlnet", text)  # another node may have set it
            if for_control is not None and self.is_wide(for_control.cond):
                narrow = layer_mean(for_control.cond, self.layers)
                conds["crossattn_controlnet"] = comfy.conds.CONDCrossAttn(narrow)
        return {**entry, "model_conds": conds}

    def slice_text(self, executor, x, timesteps=None, context=None, y=None, control=None,
                   transformer_options=None, **kwargs):  # fmt: skip
        """DIFFUSION_MODEL wrapper: puts the slicing first in every cross-attention.

        context: (batch, tokens, layers * width), or narrow, which passes as it is.
        """
        options = transformer_options or {}
        if self.is_wide(context):
            texts = split_layers(context, self.layers)
            options = with_first_patch(options, "attn2_patch", self.pick(texts))
        return executor(x, timesteps, context, y, control, options, **kwargs)

    def pick(self, texts: tuple[torch.Tensor, ...]):
        def slice_of_layer(n, context, value, extra_options):
            name, number = extra_options["block"]
            text = texts[self.index[name, number, extra_options.get("block_index", 0)]]
            return n, text, text

        return slice_of_layer


def with_first_patch(transformer_options: dict, kind: str, patch) -> dict:
    """A copy of `transformer_options` with `patch` before all others of its kind."""
    patches = dict(transformer_options.get("patches", {}))
    patches[kind] = [patch, *patches.get(kind, [])]
    return {**transformer_options, "patches": patches}


def add_layerwise_text(model) -> None:
    """Makes `model` (a ModelPatcher clone of ours) read wide conditionings. Idempotent.

    Raises ArchitectureError if the model is no SD-style UNet.
    """
    config = model.model.model_config.unet_config
    architecture = architecture_of(config)
    layerwise = LayerwiseText(architecture, config["context_dim"])
    for kind, wrapper in (
        (WrappersMP.CALC_COND_BATCH, layerwise.accept_marked),
        (WrappersMP.DIFFUSION_MODEL, layerwise.slice_text),
    ):
        if not model.get_wrappers(kind, KEY):
            model.add_wrapper_with_key(kind, KEY, wrapper)
