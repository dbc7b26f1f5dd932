"""Regional attention on a MODEL: one forward pass, each region with a text of its own.

`add_regional_attention` serves regional sampling (no deltas) and LoRA-Composer (deltas on a
region's own tokens, isolation) alike. Nothing is written on modules: a wrapper around the UNet
builds the attention patches of each call, before which other packs' patches are chained.

Attention maps: a recorder under `RECORDER` in the transformer_options of a call is asked
`wants(layer)` and then handed

* `self_attention(layer, region, q, k, heads, allowed)`: q, k (batch, cells, inner) of the whole
  canvas, after every delta; allowed: None or (cells, cells) float32 [query, key], added to logits;
* `cross(layer, region, q, k, heads)`: q (batch, cells, inner) of the whole canvas, with the
  region's own query delta where the injection has one; k (batch, tokens, inner) of the region's
  text. Conditional chunks only;
* `done(layer)`, after the layer's cross-attention; it may raise to end the pass.

All are differentiable with respect to the latent while gradients are on. The hooks of "full"
injection live until the call ends, or as long as the `contextlib.ExitStack` under `KEEP` in the
transformer_options (for blocks that are computed again in a backward pass).
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from ...compose.drawn import Conditioning, Drawn
from ...compose.injection import Injection
from ...compose.isolation import Isolation
from ...compose.placement import placement_scale
from ...compose.settings import BY_AREA, PICTURE_LAYERS
from ...errors import ArchitectureError, RegionError
from ...families import AttentionLayer, family_of
from ...families.rows import row_counts
from ...regions.region import Region
from .cross import RegionalPass
from .hooks import injected, transformers_of
from .joint import JointRegions
from .joint_run import progress_of
from .map_recorder import KEEP, RECORDER
from .missed import Missed, Say
from .run import Deltas, Places, RegionalRun, Texts, attention_path
from .scheduled import ScheduledTexts
from .wrappers import KEY, RegionalWrappers, WrappersMP

LOG = logging.getLogger(__name__)


def add_regional_attention(
    model: Any,
    drawn: Sequence[Drawn],
    injection: str = "full",
    isolation: Isolation | str = "off",
    picture_layers: str = BY_AREA,
    placement: float = 0.0,
    say: Say = LOG.warning,
) -> Any:
    """A clone of the ModelPatcher that samples with regions.

    drawn: each region with its text and the concept that is bound to this model. injection: of
    INJECTIONS, for UNets; all layers of a transformer get their deltas. isolation: or its mode.
    picture_layers: of PICTURE_LAYERS, for transformers. placement: what is added to the logits
    between a region's cells and its own words (compose/placement.py); 0: nothing. say: hears after
    each sampling, a sentence each, what did not act in it. Without regions the model stays as it
    is. Raises ArchitectureError for a model of no known family or a text that does not fit it,
    RegionError if it has regions already.
    """
    isolation = Isolation.of(isolation)
    assert picture_layers in PICTURE_LAYERS
    if model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        raise RegionError(
            "this MODEL has regions already, from a Regional Attention Patch, Regional Sampler or "
            "Composer node before this one; chain the layouts by their 'regions' input and use one "
            "such node"
        )
    config = model.model.model_config.unet_config
    family, layers = family_of(config)
    wrappers: RegionalWrappers
    if family.sequence is not None:
        wrappers = JointRegions(family, drawn, isolation, picture_layers, placement, say)
    else:
        for one in drawn:
            for text in (one.text.positive, one.text.negative):
                check_text(text, one.region.name, config["context_dim"], layers)
        cross = [attention_path(layer) for layer in layers]
        inside = Injection(injection, drawn, cross)
        wrappers = RegionalAttention(
            layers, config["context_dim"], drawn, inside, isolation, placement, say
        )
    patched = model.clone()
    if any(one.region.weight > 0 for one in drawn):
        wrappers.put_on(patched)
    return patched


class RegionalAttention(RegionalWrappers):
    """The wrappers of a UNet with regions.

    layers: of the model, in running order. width: of its text.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        width: int,
        drawn: Sequence[Drawn],
        injection: Injection,
        isolation: Isolation,
        placement: float,
        say: Say,
    ):
        super().__init__(self._new_run, say)
        self.layers, self.width = layers, width
        self.drawn = tuple(drawn)
        self.injection = injection
        self.isolation = isolation
        self.placement = placement
        self.transformers = transformers_of(layers)

    def _new_run(self) -> RegionalRun:
        return self.run_in([one.region for one in self.drawn])

    def run_in(self, regions: Sequence[Region]) -> RegionalRun:
        """What is computed for a run whose regions lie elsewhere than ours; as many."""
        drawn = [replace(one, region=own) for one, own in zip(self.drawn, regions, strict=True)]
        deltas = Deltas(Injection(self.injection.setting, drawn, self.injection.cross))
        texts = ScheduledTexts(drawn, lambda chosen: Texts(chosen, self.layers, self.width, deltas))
        places = Places(drawn, self.isolation)
        return RegionalRun(places, deltas, texts, Missed(len(self.layers)))

    def note_call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL wrapper: the model knows when a text holds."""
        if self.runs:
            self.runs[-1].texts.sampling = executor.class_obj.model_sampling
        return super().note_call(executor, *args, **kwargs)

    def missed_in(self, run: RegionalRun) -> tuple[str, ...]:
        return run.missed.sentences()

    def run_model(
        self,
        executor: Any,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control: dict | None = None,
        transformer_options: dict | None = None,
        **kwargs: Any,
    ) -> Any:
        """DIFFUSION_MODEL wrapper: the patches of this call."""
        options = transformer_options or {}
        run = self.run_of(options)
        unet = executor.class_obj
        recorder, placement = options.get(RECORDER), 0.0
        if self.placement and not getattr(recorder, "leads", False):
            placement = self.placement * placement_scale(progress_of(options))
        call = RegionalPass(run, run.texts.at(options), self.layers, unet, recorder, placement)
        with ExitStack() as ours:
            hooks = injected(unet, run.deltas, self.transformers, run.missed, options)
            (options.get(KEEP) or ours).enter_context(hooks)
            return executor(x, timesteps, context, y, control, call.patch(options), **kwargs)


def check_text(
    text: Conditioning | None, name: str, width: int, layers: Sequence[AttentionLayer]
) -> None:
    """Raises ArchitectureError unless the text is as wide as the UNet's, once or once per row."""
    for tensor, *_ in text or ():
        if tensor.shape[-1] not in (width, *(rows * width for rows in row_counts(layers))):
            raise ArchitectureError(
                f"the text of the region '{name}' is {tensor.shape[-1]} wide, this MODEL reads "
                f"{width}; connect MODEL and CLIP of the same checkpoint"
            )
