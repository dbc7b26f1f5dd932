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

from ...compose.drawn import Conditioning, Drawn
from ...compose.injection import Injection
from ...compose.isolation import ISOLATIONS
from ...errors import ArchitectureError, RegionError
from ...families import AttentionLayer, family_of
from ...families.rows import BLOCKS, row_counts
from .cross import RegionalPass
from .hooks import injected
from .map_recorder import KEEP, RECORDER
from .run import Deltas, Places, RegionalRun, Texts, attention_path

KEY = "mix_of_show_regional"  # of our wrappers on a ModelPatcher
HOOKED = "mix_of_show_hooked"  # key in transformer_options: weights change between steps
WrappersMP = comfy.patcher_extension.WrappersMP


def add_regional_attention(
    model, drawn: Sequence[Drawn], injection: str = "full", isolation: str = "off"
):
    """A clone of the ModelPatcher that samples with regions.

    drawn: each region with its text and the concept that is bound to this model. injection: of
    INJECTIONS. isolation: of ISOLATIONS. Without regions the model stays as it is. Raises
    ArchitectureError if a text does not fit the model, RegionError if it has regions already.
    """
    assert isolation in ISOLATIONS
    config = model.model.model_config.unet_config
    _, layers = family_of(config)
    width = config["context_dim"]
    for one in drawn:
        for text in (one.text.positive, one.text.negative):
            check_text(text, one.region.name, width, layers)
    if model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY):
        raise RegionError(
            "this MODEL has regions already, from a Regional Attention Patch, Regional Sampler or "
            "Composer node before this one; chain the layouts by their 'regions' input and use one "
            "such node"
        )
    patched = model.clone()
    if not any(one.region.weight > 0 for one in drawn):
        return patched
    cross = [attention_path(layer) for layer in layers]
    attention = RegionalAttention(
        layers, width, drawn, Injection(injection, drawn, cross), isolation
    )
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, attention.sample),
        (WrappersMP.APPLY_MODEL, attention.note_hooks),
        (WrappersMP.DIFFUSION_MODEL, attention.run_unet),
    ):
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


class RegionalAttention:
    """The three wrappers of a model with regions. Holds no module and no weight of the model.

    layers: of the model, in running order. width: of its text.
    """

    def __init__(
        self,
        layers: Sequence[AttentionLayer],
        width: int,
        drawn: Sequence[Drawn],
        injection: Injection,
        isolation: str,
    ):
        self.layers, self.width = layers, width
        self.drawn = tuple(drawn)
        self.injection = injection
        self.isolation = isolation
        self.transformers = list(dict.fromkeys(layer.path.split(BLOCKS)[0] for layer in layers))
        self.runs: list[RegionalRun] = []  # the sampling runs that are going on; the last is ours

    def __deepcopy__(self, memo):
        return self

    def new_run(self) -> RegionalRun:
        deltas = Deltas(self.injection)
        texts = Texts(self.drawn, self.layers, self.width, deltas)
        return RegionalRun(Places(self.drawn, self.isolation), deltas, texts)

    def sample(self, executor, *args, **kwargs):
        """OUTER_SAMPLE wrapper: what is computed once lives for one sampling run."""
        self.runs.append(self.new_run())
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
        run = self.runs[-1] if lasting else self.new_run()
        unet = executor.class_obj
        call = RegionalPass(run, self.layers, unet, options.get(RECORDER))
        with ExitStack() as ours:
            hooks = injected(unet, run.deltas, self.transformers)
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
