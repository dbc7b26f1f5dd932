"""Layer-wise text on the model's side: cross-attention layer l reads the l-th slice.

Nothing is written on modules: wrappers on the ModelPatcher build the attention patch of each call,
so that clones, low-memory modes, other packs' patches and torch.compile are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.conds
import comfy.patcher_extension
import torch

from ...errors import ArchitectureError
from ...families import AttentionLayer, family_of
from ...families.rows import row_counts, row_of_layers
from ...text.layerwise import layer_mean, split_layers

KEY = "mix_of_show_layerwise"  # of our wrappers on a ModelPatcher
MARK = "mix_of_show_layers"  # of our entry in a conditioning's model_conds
WrappersMP = comfy.patcher_extension.WrappersMP


class LayerwiseMark(comfy.conds.CONDConstant):
    """Rides along with a wide conditioning; a patched model takes it off, any other stops at it."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> None:
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

    layers: of the model, in running order. width: text width of the UNet (its context_dim).
    """

    def __init__(self, layers: Sequence[AttentionLayer], width: int):
        self.layers = tuple(layers)
        self.width = width
        self.counts = row_counts(layers)  # of rows that a text may have
        self.rows = {
            rows: dict(
                zip((layer.key for layer in layers), row_of_layers(layers, rows) or (), strict=True)
            )
            for rows in self.counts
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerwiseText:
        return self  # immutable

    def rows_of(self, text: torch.Tensor | None) -> int | None:
        """The rows of a wide text; None for a narrow one, and for no text."""
        if text is None:
            return None
        return next((n for n in self.counts if text.shape[-1] == n * self.width), None)

    def is_wide(self, text: torch.Tensor | None) -> bool:
        return self.rows_of(text) is not None

    def accept_marked(
        self,
        executor: Any,
        model: Any,
        conds: Any,
        x_in: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict | None,
    ) -> Any:
        """CALC_COND_BATCH wrapper: takes the marks off, gives ControlNets a narrow text."""
        ready = [cond and [self.unmark(entry) for entry in cond] for cond in conds]
        return executor(model, ready, x_in, timestep, model_options)

    def unmark(self, entry: dict) -> dict:
        """One conditioning entry as the stock code expects it; the caller's stays as it is."""
        conds = entry.get("model_conds", {})
        text = conds.get("c_crossattn")
        mark = conds.get(MARK)
        if mark is not None and mark.cond not in self.counts:
            raise ArchitectureError(
                f"this conditioning holds {mark.cond} layer-wise texts, the MODEL has "
                f"{len(self.layers)} cross-attention layers; encode the prompt with the CLIP of "
                "the same Apply Concepts node as the MODEL"
            )
        conds = {k: v for k, v in conds.items() if k != MARK}
        if entry.get("control") is not None:
            for_control = conds.get("crossattn_controlnet", text)  # another node may have set it
            rows = None if for_control is None else self.rows_of(for_control.cond)
            if rows is not None:
                narrow = layer_mean(for_control.cond, rows)
                conds["crossattn_controlnet"] = comfy.conds.CONDCrossAttn(narrow)
        return {**entry, "model_conds": conds}

    def slice_text(
        self,
        executor: Any,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Any:
        """DIFFUSION_MODEL wrapper: puts the slicing first in every cross-attention.

        context: (batch, tokens, rows * width), or narrow, which passes as it is.
        """
        options = transformer_options or {}
        rows = self.rows_of(context)
        if rows is not None:
            options = with_first_patch(
                options, "attn2_patch", self.pick(split_layers(context, rows))
            )
        patches = options.get("patches", {})
        if patches.get("attn2_patch"):
            own = [*patches["attn2_patch"], self.slice_foreign]
            options = {**options, "patches": {**patches, "attn2_patch": own}}
        return executor(x, timesteps, context, y, control, options, **kwargs)

    def slice_foreign(
        self, n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra_options: dict
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The last attn2_patch: a wide text that another pack's patch has put in, out of the
        conditioning where no mark travels, is cut to this layer's own part."""
        name, number = extra_options["block"]
        key = name, number, extra_options.get("block_index", 0)
        return n, self.own_part(context, key), self.own_part(value, key)

    def own_part(self, text: torch.Tensor, key: tuple) -> torch.Tensor:
        rows = self.rows_of(text)
        if rows is None or rows == 1:
            return text
        start = self.rows[rows][key] * self.width
        return text[..., start : start + self.width]

    def pick(self, texts: Sequence[torch.Tensor]) -> Callable:
        """The attn2_patch that hands each layer its own of `texts`, (batch, tokens, width) each."""
        rows = self.rows[len(texts)]

        def slice_of_layer(
            n: torch.Tensor, context: torch.Tensor, value: torch.Tensor, extra_options: dict
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            name, number = extra_options["block"]
            text = texts[rows[name, number, extra_options.get("block_index", 0)]]
            return n, text, text

        return slice_of_layer


def with_first_patch(transformer_options: dict, kind: str, patch: Any) -> dict:
    """A copy of `transformer_options` with `patch` before all others of its kind."""
    patches = dict(transformer_options.get("patches", {}))
    patches[kind] = [patch, *patches.get(kind, [])]
    return {**transformer_options, "patches": patches}


def text_options(model: Any) -> dict:
    """transformer_options of a pass of our own that reads wide conditionings, where the model (a
    ModelPatcher) is of a kind that can."""
    if "transformer_depth" not in model.model.model_config.unet_config:
        return {}
    patched = model.clone()
    add_layerwise_text(patched)
    kind = WrappersMP.DIFFUSION_MODEL
    return {"wrappers": {kind: {KEY: list(patched.get_wrappers(kind, KEY))}}}


def add_layerwise_text(model: Any) -> None:
    """Makes `model` (a ModelPatcher clone of ours) read wide conditionings. Idempotent.

    Raises ArchitectureError if the model is no SD-style UNet.
    """
    config = model.model.model_config.unet_config
    layerwise = LayerwiseText(family_of(config)[1], config["context_dim"])
    for kind, wrapper in (
        (WrappersMP.CALC_COND_BATCH, layerwise.accept_marked),
        (WrappersMP.DIFFUSION_MODEL, layerwise.slice_text),
    ):
        if not model.get_wrappers(kind, KEY):
            model.add_wrapper_with_key(kind, KEY, wrapper)
