"""Training of convolutions beside linear layers (LoCon)."""

from dataclasses import replace

import pytest
import torch

from mix_of_show.mos_core.adapters import DOWN, UP
from mix_of_show.mos_core.errors import TrainError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats.safetensors_edlora import tensors_of
from mix_of_show.mos_core.patch.train.targets import targets_of
from mix_of_show.mos_core.train.session import StopTraining
from mix_of_show.mos_core.train.settings import CONVOLUTIONS
from support.dit_clips import CLIPS
from support.dit_models import tiny_dit
from support.training import SETTINGS, pictures, run, vae  # noqa: F401 (fixtures)

LOCON = replace(SETTINGS, layers=CONVOLUTIONS)


def tensors(concept) -> dict[str, torch.Tensor]:
    return {n + end: t for n, d in concept.deltas.items() for end, t in tensors_of(d).items()}


def test_every_convolution_of_blocks_learns_and_the_file_holds_it(run, unet, tmp_path):
    concept, _ = run(LOCON)
    linear, _ = run(replace(SETTINGS, layers="all linear"))
    added = {name for name in concept.deltas if name not in linear.deltas}
    modules = dict(unet.model.diffusion_model.named_modules())
    inside = [m for n, m in modules.items() if "in_layers.2" in n or "out_layers.3" in n]
    assert len([n for n in added if n.endswith(("conv1", "conv2"))]) == len(inside)
    assert any(n.endswith("samplers.0.conv") for n in added)
    assert any(n.endswith("time_emb_proj") for n in added)
    kept = tensors(concept)
    learnt = [t for n, t in kept.items() if n.removesuffix(DOWN).removesuffix(UP) in added]
    assert len(learnt) == 2 * len(added)
    assert all(tensor.abs().max() > 0 for tensor in learnt)
    assert kept["unet.down_blocks.0.resnets.0.conv1.lora_down.weight"].shape[2:] == (3, 3)
    again = tensors(read_concept(save_concept(concept, tmp_path, "x")))
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_recomputation_changes_nothing(run):
    once, twice = (tensors(run(replace(LOCON, checkpointing=on))[0]) for on in (False, True))
    for name, tensor in once.items():
        torch.testing.assert_close(tensor, twice[name], rtol=1e-4, atol=1e-6)


def test_a_stopped_training_of_convolutions_goes_on_as_if_it_had_not_stopped(run, tmp_path):
    whole, _ = run(LOCON)

    def stop(progress, session):
        if progress.step == 2:
            raise StopTraining

    half, _ = run(LOCON, stop)
    file = save_concept(half, tmp_path, "half")
    rest, _ = run(LOCON, resume=read_concept(file))
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor, tensors(rest)[name]), name


def test_a_model_without_residual_blocks_says_so():
    model = tiny_dit("flux")
    family, attention = family_of(model.model.model_config.unet_config)
    with pytest.raises(TrainError, match=r"has no residual blocks .* 'all linear'"):
        targets_of(model, CLIPS["flux"](), family, attention, CONVOLUTIONS)
