"""Ring 2: ComfyUI's own classes on tiny models, in this process."""

import pytest

import support.with_comfyui  # noqa: F401 (before any test file imports ComfyUI)
from support.golden import CONCEPTS, GOLDEN


@pytest.fixture(scope="session")
def concepts():
    """The golden concepts, read from the reference's files: 'a' -> Concept."""
    from mix_of_show.mos_core.formats import read_concept

    return {name: read_concept(GOLDEN / f"edlora_{name}.pth") for name in CONCEPTS}


@pytest.fixture(scope="session")
def unet():
    """The golden UNet; every test must leave it as it was."""
    from support.tiny_models import golden_unet

    return golden_unet()


@pytest.fixture(scope="session")
def clip():
    """The golden text encoder; every test must leave it as it was."""
    from support.tiny_models import golden_clip

    return golden_clip()


@pytest.fixture(autouse=True)
def inference_mode():
    """As ComfyUI runs all nodes."""
    import torch

    with torch.inference_mode():
        yield
