"""Ring 2 on devices: every method on the CPU and, where there is one, on a GPU."""

import pytest

import support.with_comfyui  # noqa: F401 (before any test file imports ComfyUI)
from support.golden import GOLDEN


@pytest.fixture(scope="session")
def concepts():
    """Two golden concepts as a chain."""
    from mix_of_show.mos_core.formats import read_concept
    from mix_of_show.mos_core.records import WeightedConcept

    return tuple(WeightedConcept(read_concept(GOLDEN / f"edlora_{name}.pth")) for name in "ab")


@pytest.fixture(autouse=True)
def inference_mode():
    """As ComfyUI runs all nodes."""
    import torch

    with torch.inference_mode():
        yield
