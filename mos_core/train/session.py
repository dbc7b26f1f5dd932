"""What the training loop needs of the models; `patch/train/session.py` has it on ComfyUI's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..noise import Prediction
from .pictures import Frame

Maps = Mapping[tuple[int, int], Sequence[torch.Tensor]]  # see loss.regularise_attention


class StopTraining(Exception):
    """Ends a run early, from a callback or a session; what was learnt so far is handed back."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Encoded captions.

    rows: for each what ComfyUI's conditionings hold: `cross_attn` (1, tokens, width), wide for
    layer-wise embeddings, `pooled_output` (1, width) where the model reads one, ... concept_tokens:
    (batch, concept tokens, tokens), 1 where a concept token stands, else 0.
    """

    rows: Sequence[Mapping[str, Any]]
    concept_tokens: torch.Tensor

    @property
    def cross(self) -> torch.Tensor:
        """(batch, tokens, width), of texts that are equally long."""
        return torch.cat([row["cross_attn"] for row in self.rows])


class TrainSession(Protocol):
    """Models that are open for training.

    device: where they run; prediction: what the model puts out; levels: (n,), the sigmas that it
    knows, ascending; needs_loss_scaling: gradients pass float16.
    """

    device: torch.device
    prediction: Prediction
    levels: torch.Tensor

    @property
    def needs_loss_scaling(self) -> bool: ...

    def encode(self, captions: Sequence[str]) -> Texts:
        """Differentiable with respect to what is trained. Raises StopTraining on a cancel."""
        ...

    def predict(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        texts: Texts,
        frames: Sequence[Frame] = (),
        record: bool = False,
    ) -> tuple[torch.Tensor, Maps]:
        """One forward pass. x: (batch, channels, h, w), noised; sigma: (batch,); frames: of the
        batch, for models that are told sizes; () for whole pictures.

        Returns the model's output, float32 and of x's shape, and (if record) the attention maps
        of the concept tokens by grid. Raises StopTraining on a cancel.
        """
        ...
