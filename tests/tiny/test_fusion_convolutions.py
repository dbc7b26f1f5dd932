"""Ring 2: fusion of convolutions larger than one cell (LoCon)."""

from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.adapters import BIAS, Adapter, delta_of_factors
from mix_of_show.mos_core.errors import FuseError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.formats.fused_file import read_fused, save_fused
from mix_of_show.mos_core.formats.kohya_file import save_kohya
from mix_of_show.mos_core.fuse import refine as core_refine
from mix_of_show.mos_core.fuse.low_rank import factorise
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse import refine as patch_refine
from mix_of_show.mos_core.patch.fuse import sums_place as place
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.train.targets import targets_of
from mix_of_show.mos_core.records import Concept, WeightedConcept
from mix_of_show.mos_core.train.settings import CONVOLUTIONS
from support.sampling import encode

QUICK = FuseSettings(steps=4, width=128, height=128, text_rows="all tokens")
CONVOLUTION = "diffusion_model.input_blocks.1.0.in_layers.2"


@pytest.fixture(scope="module")
def make(unet, clip):
    """An ordinary LoRA with random factors on every linear layer and convolution."""
    family, attention = family_of(unet.model.model_config.unet_config)
    targets = targets_of(unet, clip, family, attention, CONVOLUTIONS)

    def make(name: str, seed: int, rank: int = 2) -> WeightedConcept:
        generator = torch.Generator().manual_seed(seed)
        deltas = {}
        for key, target in targets.items():
            out, width, *kernel = target.shape
            down = torch.randn(rank, width, *kernel, generator=generator)
            up = torch.randn(out, rank, *(1 for _ in kernel), generator=generator)
            deltas[key] = delta_of_factors(down / down[0].numel() ** 0.5, up * 0.1)
        return WeightedConcept(Concept(name, (f"a {name}",), {}, deltas, "sd15"))

    return make


def fuse(unet, clip, entries, settings=QUICK):
    return fuse_concepts(unet, clip, entries, settings, lambda done, total: None)


def noise_of(model, coder, prompt: str) -> torch.Tensor:
    """What the model predicts for a latent that no fusion has seen."""
    ((cond, _),) = encode(coder, prompt)
    comfy.model_management.load_models_gpu([model])
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    options = {"wrappers": {k: dict(v) for k, v in model.wrappers.items()}}
    denoised = model.model.apply_model(
        x * 4, torch.tensor([4.0]), c_crossattn=cond, transformer_options=options
    )
    return (x * 4 - denoised) / 4


def error_of(unet, clip, entry, fused) -> float:
    """Of the fused model against the concept's own, as a share of what the concept changes."""
    prompt = f"photo of {entry.concept.trigger_words}"
    own = noise_of(*apply_concepts(unet, clip, (entry,)), prompt)
    plain = noise_of(unet, clip, prompt)
    found = noise_of(*apply_fused(unet, clip, fused), prompt)
    return ((found - own).norm() / (plain - own).norm()).item()


def test_convolutions_are_fused_with_their_kernels(unet, clip, make):
    fused, report = fuse(unet, clip, (make("ann", 1), make("bob", 2)))
    shapes = {name: delta.shape[2:] for name, delta in fused.unet.items()}
    assert shapes[CONVOLUTION] == (3, 3)
    assert sum(shape == (3, 3) for shape in shapes.values()) >= 44  # 22 residual blocks
    assert all(after <= before * (1 + 1e-6) for before, after in fused.metadata["loss"].values())
    assert "convolutions" not in report


def test_one_concept_fused_alone_is_that_concept_only_with_its_convolutions(unet, clip, make):
    (entry,) = entries = (make("ann", 1),)
    settings = replace(QUICK, steps=20)
    fused, _ = fuse(unet, clip, entries, settings)
    assert error_of(unet, clip, entry, fused) < 0.1
    linear, report = fuse(unet, clip, entries, replace(settings, convolutions=False))
    assert CONVOLUTION not in linear.unet
    assert "not fused of 'ann':" in report
    assert "left out by the setting" in report
    assert error_of(unet, clip, entry, linear) > 0.3


def test_a_fusion_with_convolutions_is_saved_and_exported(unet, clip, make, tmp_path):
    fused, _ = fuse(unet, clip, (make("ann", 1), make("bob", 2)))
    again = read_fused(save_fused(fused, tmp_path, "two"))
    live, stored = apply_fused(unet, clip, fused), apply_fused(unet, clip, again)
    assert torch.equal(noise_of(*live, "an ann"), noise_of(*stored, "an ann"))
    text, model = (
        {n: factorise(d, 10_000)[0] for n, d in part.items()} for part in (fused.text, fused.unet)
    )
    lora = comfy.utils.load_torch_file(str(save_kohya(tmp_path, "lora", text, model, {})))
    stock = comfy.sd.load_lora_for_models(unet, clip, lora, 1.0, 1.0)
    assert len(stock[0].patches) == len(fused.unet)
    torch.testing.assert_close(
        noise_of(*stock, "an ann"), noise_of(*live, "an ann"), rtol=1e-3, atol=1e-3
    )


def test_refinement_reaches_convolutions_and_leaves_the_model(unet, clip, make, monkeypatch):
    for module in (core_refine, patch_refine):
        monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(core_refine, "CHECKS", 4)
    both = make("ann", 1), make("bob", 2)
    settings = replace(QUICK, steps=2, ridge=0.02, prompts=("a {}",), anchor_prompts=("x",))
    comfy.model_management.unload_all_models()
    before = {k: v.clone() for k, v in unet.model.state_dict().items()}
    solved, _ = fuse(unet, clip, both, settings)
    fused, _ = fuse(unet, clip, both, replace(settings, refine_steps=4))
    assert sum(b - a for b, a in fused.metadata["refined"].values()) > 0
    assert not torch.equal(fused.unet[CONVOLUTION], solved.unet[CONVOLUTION])
    comfy.model_management.unload_all_models()
    assert all(torch.equal(v, before[k]) for k, v in unet.model.state_dict().items())


def test_portions_give_the_same_answer_as_all_at_once(unet, clip, make):
    both, settings = (make("ann", 1), make("bob", 2)), replace(QUICK, steps=2, ridge=0.01)
    whole, _ = fuse(unet, clip, both, settings)
    parts, _ = fuse(unet, clip, both, replace(settings, memory_limit=0.02))
    for name, delta in whole.unet.items():
        assert (parts.unet[name] - delta).norm() <= 1e-6 * delta.norm(), name


def test_biases_stay_out_and_are_named(unet, clip, make):
    entry = make("ann", 1)
    deltas, entries = dict(entry.concept.deltas), []
    name = "unet.down_blocks.0.resnets.0.conv1"
    for tensors in (deltas[name].tensors, {}):
        deltas[name] = Adapter(
            "LoRA" if tensors else "bias", {**tensors, BIAS: torch.ones(deltas[name].shape[0])}
        )
        entries.append(WeightedConcept(replace(entry.concept, deltas=dict(deltas))))
    plain, _ = fuse(unet, clip, (entry,))
    weight, report = fuse(unet, clip, entries[:1])
    assert f"not fused of 'ann': 1, first {CONVOLUTION}.bias (a bias, which" in report
    for site, delta in plain.unet.items():
        assert torch.equal(weight.unet[site], delta), site
    alone, report = fuse(unet, clip, entries[1:])
    assert f"not fused of 'ann': 1, first {CONVOLUTION}.bias (a bias, which" in report
    assert CONVOLUTION not in alone.unet


def test_sums_that_do_not_fit_are_refused_before_any_work(unet, clip, make, monkeypatch):
    memory = SimpleNamespace(
        is_device_cpu=lambda device: True, get_free_memory=lambda device: 10**6
    )
    monkeypatch.setattr(place, "management", memory)
    ticks = []
    with pytest.raises(FuseError, match=r"the sums of '.*' alone take .*switch 'convolutions' off"):
        fuse_concepts(unet, clip, (make("ann", 1),), QUICK, lambda *at: ticks.append(at))
    assert not ticks
