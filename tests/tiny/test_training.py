"""Ring 2: training on ComfyUI's own classes, tiny."""

from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch

from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.train.session import open_session
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.train.pictures import make_views
from mix_of_show.mos_core.train.session import StopTraining
from mix_of_show.mos_core.train.settings import LAYERS
from mix_of_show.mos_core.train.step import make_example, step_loss
from support.training import CAPTION, SETTINGS, flat, pictures, run, trainable_of, vae, weights_hash  # noqa: F401 (fixtures)


def test_training_learns_all_three_parts_and_leaves_the_models_as_they_were(run, unet, clip, vae):
    comfy.model_management.unload_all_models()  # what earlier tests left patched
    before = [weights_hash(m) for m in (unet.model, clip.cond_stage_model, vae.first_stage_model)]
    concept, progress = run(replace(SETTINGS, layers="all linear", resolution=128))
    after = [weights_hash(m) for m in (unet.model, clip.cond_stage_model, vae.first_stage_model)]
    assert before == after
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.model.modules()]
    assert not any(hooks)
    assert not any("forward" in m.__dict__ for m in unet.model.modules())
    assert progress.step == 4
    assert len(progress.losses) == 4
    assert len(concept.unet) == 192
    assert len(concept.text) == 12
    assert all(pair.up.abs().max() > 0 for pair in (*concept.unet.values(), *concept.text.values()))
    assert concept.embeddings["<x1>"].std(0).max() > 0  # the layers went their own ways
    assert concept.resume is None


def test_two_runs_are_equal_and_checkpointing_changes_nothing(run):
    first, second = run()[0], run()[0]
    again = run(replace(SETTINGS, checkpointing=True))[0]
    for name, tensor in flat(first).items():
        assert torch.equal(tensor, flat(second)[name])
        torch.testing.assert_close(tensor, flat(again)[name], rtol=1e-4, atol=1e-6)


def test_pictures_of_several_shapes_train_together_in_their_own_shape(run, unet, pictures):
    settings = replace(SETTINGS, shape="as the image", regularisation="whole object")
    wide = torch.rand(64, 192, 3, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(64, 192)
    mask[8:40, 100:180] = 1
    shapes = set()

    def note(module, args):
        shapes.add(tuple(args[0].shape[2:]))

    seen = unet.model.diffusion_model.register_forward_pre_hook(note)
    try:
        given = {"images": [*pictures[0], wide], "masks": [*pictures[1], mask]}
        _, progress = run(settings, **given)
    finally:
        seen.remove()
    assert len(progress.losses) == 4
    assert shapes == {(8, 8), (8, 24)}


def test_a_cancelled_and_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    whole, unbroken = run()

    def cancel(progress, session):
        if progress.step == 2:
            raise StopTraining("cancelled")

    part, progress = run(on_step=cancel)
    assert progress.stopped == "cancelled"
    assert part.metadata["steps_done"] == 2
    stored = read_concept(save_concept(part, tmp_path, "part"))
    resumed, progress = run(resume=stored)
    assert progress.losses == pytest.approx(unbroken.losses, abs=1e-5)  # the curve goes on
    assert progress.step == 4
    assert "losses" not in resumed.metadata
    for name, tensor in flat(whole).items():
        torch.testing.assert_close(tensor, flat(resumed)[name], rtol=1e-5, atol=1e-7)


def test_an_interrupt_inside_a_step_takes_the_step_back_and_hands_back_the_rest(
    run, unet, monkeypatch
):
    two, _ = run(
        on_step=lambda p, s: (_ for _ in ()).throw(StopTraining()) if p.step == 2 else None
    )

    def raise_interrupt(*args, **kwargs):
        raise comfy.model_management.InterruptProcessingException

    def interrupt_in_next_step(progress, session):
        if progress.step == 2:
            monkeypatch.setattr(unet.model.diffusion_model, "forward", raise_interrupt)

    concept, progress = run(on_step=interrupt_in_next_step)
    assert progress.step == 2
    assert "cancelled" in progress.stopped
    for name, tensor in flat(two).items():
        assert torch.equal(tensor, flat(concept)[name])


def test_a_cancel_acts_before_the_next_batch_of_an_accumulated_step(run):
    def cancel(progress, session):
        if progress.step == 2:
            comfy.model_management.interrupt_current_processing()

    concept, progress = run(replace(SETTINGS, accumulation=2, steps=3), cancel)
    assert progress.step == 2
    assert progress.stopped == "cancelled after step 2"
    assert concept.metadata["steps_done"] == 2


@pytest.mark.parametrize("layers", LAYERS)
def test_a_trained_concept_draws_the_same_noise_as_its_training_session(run, unet, clip, layers):
    """Oracle: W0 + up @ down through ComfyUI's patching equals the branches of the session."""
    seen = {}

    def keep(progress, session):
        if progress.step == 4:
            with torch.no_grad():
                texts = session.encode(["a <x1> <x2> here"])
                x, sigma = torch.ones(1, 4, 16, 16), torch.tensor([2.0])
                seen["context"] = texts.cross.clone()
                seen["noise"] = session.predict(x, sigma, texts)[0].clone()

    concept, _ = run(replace(SETTINGS, layers=layers), on_step=keep)
    model, coder = apply_concepts(unet, clip, (WeightedConcept(concept),))
    wide = coder.encode_from_tokens_scheduled(coder.tokenize("a <x1> <x2> here"))[0][0]
    torch.testing.assert_close(wide, seen["context"], rtol=1e-4, atol=1e-5)
    comfy.model_management.load_models_gpu([model])
    sampling = model.model.model_sampling
    x, sigma = torch.ones(1, 4, 16, 16), torch.tensor([2.0])
    options = {"wrappers": {k: dict(v) for k, v in model.wrappers.items()}}
    noise = model.model.diffusion_model(
        sampling.calculate_input(sigma, x), sampling.timestep(sigma).float(), context=wide,
        transformer_options=options,
    )  # fmt: skip
    torch.testing.assert_close(noise, seen["noise"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("regularisation", ["off", "whole object", "part of the object"])
@pytest.mark.parametrize("part", ["emb.<x1>", "text_encoder.", "unet."])
def test_gradients_agree_with_finite_differences(unet, clip, pictures, part, regularisation, run):
    settings = replace(SETTINGS, regularisation=regularisation, regularisation_weight=1.0)
    concept, _ = run(replace(settings, steps=1))
    with torch.inference_mode(False), torch.enable_grad():
        views = make_views(*[[t.clone() for t in p] for p in pictures], CAPTION * 2, 64, 1, 0)
        latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        examples = [make_example(*p, settings) for p in zip(views, latents, strict=True)]
        trainable = trainable_of(concept, unet, clip)
    with open_session(unet, clip, trainable, "auto", False) as session:

        def loss():
            return step_loss(session, trainable.words, examples, settings, 0)

        chosen = {n: p for n, p in trainable.parameters().items() if n.startswith(part)}
        loss().backward()
        slope = sum(p.grad.square().sum() for p in chosen.values()).sqrt().item()
        directions = {n: p.grad / slope for n, p in chosen.items()}
        h = 1e-3 / max(1.0, slope)
        values = []
        with torch.no_grad():
            for sign in (1, -2):
                for name, parameter in chosen.items():
                    parameter.add_(directions[name], alpha=sign * h)
                values.append(loss().item())
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=0.05)
