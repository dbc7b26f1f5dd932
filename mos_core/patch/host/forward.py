"""One forward pass through ComfyUI's own `apply_model`, differentiable where its inputs are.

Nobody but the host knows what a family is given beside latent and text (pooled text, sizes,
guidance, masks): `conditions` asks its `extra_conds`, `predict` hands all of it on.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_sampling
import comfy.patcher_extension
import torch

from ...errors import ArchitectureError, MosError
from ...noise import Eps, Flow, Prediction, Velocity

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KEY = "mix_of_show_forward"
WrappersMP = comfy.patcher_extension.WrappersMP


def predict(
    model: Any,
    x: torch.Tensor,
    sigma: torch.Tensor,
    conditions: Mapping[str, Any],
    transformer_options: Mapping[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(denoised, output), both float32 and of x's shape: what is left without the noise, and what
    the network itself put out (noise, velocity, ...).

    model: BaseModel, loaded; x: (batch, channels, ...), noised; sigma: (batch,). conditions: from
    `conditions`. transformer_options: of this pass alone; copied.
    """
    outputs: list[torch.Tensor] = []

    def keep(executor: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        outputs.append(executor(*args, **kwargs))
        return outputs[-1]

    options = with_wrapper(transformer_options, WrappersMP.DIFFUSION_MODEL, KEY, keep)
    denoised = model.apply_model(x, sigma, transformer_options=options, **conditions)
    return denoised.float(), outputs[-1].float()


def conditions(
    model: Any, texts: Sequence[Mapping[str, Any]], latent: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What `apply_model` takes beside latent and time, a row for each text.

    texts: for every row of the batch `cross_attn` (1, tokens, width), and what else ComfyUI's
    conditionings hold: `pooled_output`, `width`, `height`, `crop_w`, `crop_h`, ... in pixels.
    latent: (rows, channels, ...). All texts must have equally many tokens.
    """
    rows = []
    for number, text in enumerate(texts):
        one = latent[number : number + 1]
        height, width = (side * 8 for side in one.shape[-2:])
        asked = {"width": width, "height": height, "prompt_type": "positive", **text}
        made = model.extra_conds(noise=one, device=latent.device, **asked)
        rows.append(
            {
                name: cond.process_cond(batch_size=1, device=latent.device, area=None).cond
                for name, cond in made.items()
            }
        )
    return {name: together([row[name] for row in rows]) for name in rows[0]}


def together(values: Sequence[Any]) -> Any:
    """One row each -> all rows; what is no tensor is the same for all."""
    return torch.cat(list(values)) if torch.is_tensor(values[0]) else values[0]


def with_wrapper(transformer_options: Mapping[str, Any], kind: str, key: str, wrapper: Any) -> dict:
    """A copy of `transformer_options` with one more wrapper, inside all others of its kind."""
    wrappers = {k: dict(v) for k, v in transformer_options.get("wrappers", {}).items()}
    wrappers.setdefault(kind, {})[key] = [wrapper]
    return {**transformer_options, "wrappers": wrappers}


def prediction_of(sampling: Any, purpose: str) -> Prediction:
    """What a model predicts, from its `model_sampling`.

    purpose: what it is wanted for, as in "training". Raises ArchitectureError for other kinds.
    """
    kinds = comfy.model_sampling
    found = {
        kind: isinstance(sampling, getattr(kinds, kind, ()))
        for kind in ("EDM", "X0", "IMG_TO_IMG", "COSMOS_RFLOW", "V_PREDICTION", "EPS", "CONST")
    }
    if not any(found[kind] for kind in ("EDM", "X0", "IMG_TO_IMG", "COSMOS_RFLOW")):
        if found["V_PREDICTION"]:
            return Velocity()
        if found["EPS"]:
            return Eps()
        if found["CONST"]:
            return Flow()
    kind = next((k for k, yes in found.items() if yes), type(sampling).__name__)
    raise ArchitectureError(
        f"this MODEL is set to predict neither noise, velocity nor flow ({kind}), which {purpose} "
        "needs; use a base model without a ModelSampling node that says otherwise"
    )


def clone_for_gradients(patcher: Any) -> Any:
    """A clone whose weights stay put for the backward pass (newer ComfyUI streams them)."""
    try:
        return patcher.clone(disable_dynamic=True)
    except TypeError:
        return patcher.clone()


def plain_attention(func: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    """PyTorch's own attention: the faster kernels have no backward."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def choose_dtype(model: Any, choice: str) -> torch.dtype:
    """The compute dtype: "auto" is the model's own. Raises MosError for an unknown name."""
    if choice == "auto":
        # Not as it is now: another clone of the model may be loaded with a dtype of its own.
        return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()
    if choice not in DTYPES:
        raise MosError(f"dtype is '{choice}'; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[choice]
