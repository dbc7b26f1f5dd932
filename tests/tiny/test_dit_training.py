"""Ring 2: ordinary LoRAs trained and fused on diffusion transformers: the model alone, by flow."""

from dataclasses import replace

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.errors import MosError
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.noise import Flow
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.train.settings import TrainSettings
from support.dit_clips import flux_clip, z_image_clip
from support.dit_models import draw_dit, tiny_dit
from support.sampling import encode
from support.tiny_models import random_taesd

SETTINGS = TrainSettings(
    steps=2, resolution=64, views=1, rate_unet=1e-2, rate_text=0, layerwise=False, rank=2,
    shape="as the image",
)  # fmt: skip
CLIPS = {"flux": flux_clip, "z_image": z_image_clip}


@pytest.fixture(scope="module", params=list(CLIPS))
def models(request):
    """(name, MODEL, CLIP, VAE)"""
    name = request.param
    return name, tiny_dit(name), CLIPS[name](), random_taesd(16)


@pytest.fixture
def run(models):
    _, model, clip, vae = models
    generator = torch.Generator().manual_seed(1)
    pictures = TrainingSet(
        [torch.rand(64, 128, 3, generator=generator), torch.rand(64, 64, 3, generator=generator)],
        [],
        ["a <TOK>, big", "the large <TOK> on a beach with many other people"],
    )

    def run(settings=SETTINGS, tokens="red bear", on_step=lambda *a: None):
        wanted = Wanted("bear", tokens, "")
        return train_concept(model, clip, vae, pictures, wanted, settings, on_step)

    return run


def test_a_lora_of_the_model_is_learnt_and_applies_by_its_own_names(models, run):
    name, model, clip, _ = models
    comfy.model_management.unload_all_models()
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    sessions = []
    concept, progress = run(on_step=lambda p, s: sessions.append(s))
    assert progress.step == 2
    assert isinstance(sessions[0].prediction, Flow)
    assert concept.words == ("red bear",)
    assert not concept.tables
    assert all(key.startswith("diffusion_model.") for key in concept.deltas)
    assert sum(pair.up.abs().max() > 0 for pair in concept.deltas.values()) > 4
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.model.modules())
    applied, coder = apply_concepts(model, clip, (WeightedConcept(concept),))
    text = encode(coder, "a red bear")
    drawn, plain = draw_dit(applied, name, text, text), draw_dit(model, name, text, text)
    assert torch.isfinite(drawn).all()
    assert not torch.equal(drawn, plain)


def test_checkpointing_changes_nothing(run):
    plain, again = run()[0], run(replace(SETTINGS, checkpointing=True))[0]
    for key, pair in plain.deltas.items():
        torch.testing.assert_close(again.deltas[key].up, pair.up, rtol=1e-3, atol=1e-5)


def test_tokens_of_their_own_are_refused_with_what_to_do(run):
    with pytest.raises(MosError, match=r"learns no tokens.*'layerwise' off"):
        run(tokens="<bear>")


def test_gradients_agree_with_finite_differences(models, run):
    seen = {}

    def measure(progress, session):
        pairs = session.trainable.at_sites(text=False).values()
        texts = session.encode(["a red bear"])
        x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(2))

        def loss():
            output, _ = session.predict(x, torch.tensor([0.6]), texts)
            return output.square().mean()

        with torch.enable_grad():
            for pair in pairs:
                pair.up.grad = None
            loss().backward()
        slope = sum(pair.up.grad.square().sum() for pair in pairs).sqrt().item()
        moves = [(pair.up, pair.up.grad.clone() / slope) for pair in pairs]
        values = []
        with torch.no_grad():
            for step in (1e-3, -2e-3):
                for up, move in moves:
                    up.add_(move, alpha=step)
                values.append(loss().item())
            for up, move in moves:
                up.add_(move, alpha=1e-3)
        seen["found"], seen["slope"] = (values[0] - values[1]) / 2e-3, slope
        for up, _ in moves:
            up.grad = None

    run(replace(SETTINGS, steps=1), on_step=measure)
    assert seen["found"] == pytest.approx(seen["slope"], rel=0.02)


def test_loras_of_a_transformer_fuse_and_one_alone_comes_back(models, run):
    name, model, clip, _ = models
    concept, _ = run(replace(SETTINGS, steps=3, rate_unet=0.1))
    settings = FuseSettings(steps=4, width=128, height=128, prompts=("a {}",))
    fused, report = fuse_concepts(model, clip, (WeightedConcept(concept),), settings, lambda *a: 0)
    assert "other UNet layers" in report
    text = encode(clip, "a red bear")
    own = draw_dit(apply_concepts(model, clip, (WeightedConcept(concept),))[0], name, text, text)
    ours = draw_dit(apply_fused(model, clip, fused)[0], name, text, text)
    plain = draw_dit(model, name, text, text)
    assert (ours - own).norm() < 0.05 * (plain - own).norm()
