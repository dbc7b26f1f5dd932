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

from collections.abc import Sequence
from contextlib import ExitStack

import comfy.patcher_extension

from ...compose.injection import Injection
from ...compose.isolation import ISOLATIONS
from ...errors import ArchitectureError, RegionError
from ...families.unet import architecture_of, comfy_unet_key
from ...regions.region import Regions
from ..apply import check_fits_model
from ..host.weights import check_fit
from .cross import RegionalPass
from .hooks import injected
from .map_recorder import KEEP, RECORDER
from .run import RegionalRun
from .texts import RegionText

KEY = "mix_of_show_regional"  # of our wrappers on a ModelPatcher
HOOKED = "mix_of_show_hooked"  # key in transformer_options: weights change between steps
WrappersMP = comfy.patcher_extension.WrappersMP


def add_regional_attention(
    model,
    regions: Regions,
    texts: Sequence[RegionText],
    injection: Injection | None = None,
    isolation: str = "off",
):
    """A clone of the ModelPatcher that samples with regions. texts: one per region.

    injection: the regions' concepts, or None for prompts alone. isolation: of ISOLATIONS. Without
    regions the model stays as it is. Raises ArchitectureError if texts or concepts do not fit the
    model, RegionError if it has regions already.
    """
    assert len(texts) == len(regions.regions)
    assert isolation in ISOLATIONS
    config = model.model.model_config.unet_config
    architecture = architecture_of(config)
    width = config["context_dim"]
    for region, text in zip(regions.regions, texts, strict=True):
        for tensor in (text.positive, text.negative):
            check_text(tensor, region.name, width, len(architecture.layers))
    if model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        raise RegionError(
            "this MODEL has regions already, from a Regional Attention Patch, Regional Sampler or "
            "Composer node before this one; chain the layouts by their 'regions' input and use one "
            "such node"
        )
    patched = model.clone()
    if injection is not None:
        check_concepts(patched, injection, architecture, width)
    if not any(region.weight > 0 for region in regions.regions):
        return patched
    attention = RegionalAttention(architecture, width, regions, tuple(texts), injection, isolation)
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, attention.sample),
        (WrappersMP.APPLY_MODEL, attention.note_hooks),
        (WrappersMP.DIFFUSION_MODEL, attention.run_unet),
    ):
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


class RegionalAttention:
    """The three wrappers of a model with regions. Holds no module and no weight of the model."""

    def __init__(self, architecture, width, regions, texts, injection, isolation):
        self.architecture = architecture
        self.width = width
        self.regions = regions
        self.texts = texts
        self.injection = injection
        self.isolation = isolation
        self.runs: list[RegionalRun] = []  # the sampling runs that are going on; the last is ours

    def __deepcopy__(self, memo):
        return self

    def sample(self, executor, *args, **kwargs):
        """OUTER_SAMPLE wrapper: what is computed once lives for one sampling run."""
        self.runs.append(RegionalRun(self))
        try:
            return executor(*args, **kwargs)
        finally:
            self.runs.pop()

    def note_hooks(self, executor, *args, **kwargs):
        """APPLY_MODEL wrapper: with ComfyUI's hooks, weights may change from step to step."""
        options = kwargs.get("transformer_options") or (args[5] if len(args) > 5 else None)
        patcher = getattr(executor.class_obj, "current_patcher", None)
        if options is not None and getattr(patcher, "current_hooks", None) is not None:
            options[HOOKED] = True
        return executor(*args, **kwargs)

    def run_unet(self, executor, x, timesteps=None, context=None, y=None, control=None,
                 transformer_options=None, **kwargs):  # fmt: skip
        """DIFFUSION_MODEL wrapper: the patches of this call."""
        options = transformer_options or {}
        lasting = self.runs and not options.get(HOOKED)
        run = self.runs[-1] if lasting else RegionalRun(self)
        call = RegionalPass(run, executor.class_obj, options.get(RECORDER))
        with ExitStack() as ours:
            (options.get(KEEP) or ours).enter_context(injected(call))
            return executor(x, timesteps, context, y, control, call.patch(options), **kwargs)


def check_text(text, name: str, width: int, layers: int) -> None:
    """Raises ArchitectureError unless the text is as wide as the UNet's, once or once per layer."""
    if text is not None and text.shape[-1] not in (width, layers * width):
        raise ArchitectureError(
            f"the text of the region '{name}' is {text.shape[-1]} wide, this MODEL reads {width}; "
            "connect MODEL and CLIP of the same checkpoint"
        )


def check_concepts(patcher, injection: Injection, architecture, width: int) -> None:
    """Raises ArchitectureError unless every concept that a region draws fits the model."""
    for number in {n for n in injection.assigned if n is not None}:
        concept = injection.concepts[number].concept
        check_fits_model(concept, patcher)
        for module, pair in concept.unet.items():
            key = comfy_unet_key(module, architecture)
            check_fit(patcher, key, pair.shape, module, concept.name)
