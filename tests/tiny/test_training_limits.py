"""Training in every type; models, rates, texts and settings at their limits; refusals."""

import shutil
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mix_of_show.mos_core.errors import MosError, SaveError, TrainError
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats.saving import check_room
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.forward import DTYPES, choose_dtype
from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.patch.train.session import open_session
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.train import step
from mix_of_show.mos_core.train.loop import Progress, add_gradients
from mix_of_show.mos_core.train.pictures import make_views
from mix_of_show.mos_core.train.session import StopTraining
from mix_of_show.mos_core.train.step import make_example, step_loss
from mix_of_show.mos_core.train.trainable import TrainableConcept
from support.training import (  # noqa: F401 (fixtures)
    CAPTION,
    SETTINGS,
    START,
    TOKENS,
    flat,
    pictures,
    run,
    trainable_of,
    vae,
    weights_hash,
)


def token_alone(table) -> TrainableConcept:
    """One token with this table, and nothing else."""
    return TrainableConcept(("<x1>",), {"clip_l": {"<x1>": table}}, {}, {}, 16, "sd15")


@contextmanager
def disturbed_weights(model, dtype):
    """Every weight off by as much as rounding to this type can put it; given back at the end."""
    before = {name: w.clone() for name, w in model.named_parameters()}
    generator, eps = torch.Generator().manual_seed(7), torch.finfo(dtype).eps
    try:
        for weight in model.parameters():
            weight.data.mul_(1 + eps * (torch.rand(weight.shape, generator=generator) - 0.5))
        yield
    finally:
        for name, weight in model.named_parameters():
            weight.data.copy_(before[name])


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_gradients_in_half_precision_are_as_near_as_the_rounding_of_weights_leaves_them(
    unet, clip, pictures, dtype, run
):
    """The limit is measured here: what such a disturbance of the weights does in fp32."""
    concept, _ = run(replace(SETTINGS, steps=1))

    def gradients(kind):
        with torch.inference_mode(False), torch.enable_grad():
            views = make_views(*[[t.clone() for t in p] for p in pictures], CAPTION * 2, 64, 1, 0)
            latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
            examples = [make_example(*p, SETTINGS) for p in zip(views, latents, strict=True)]
            trainable = trainable_of(concept, unet, clip)
        with open_session(unet.clone(), clip, trainable, kind, False) as session:
            scale = 2.0**14 if session.needs_loss_scaling else 1.0
            loss = step_loss(session, trainable.words, examples, SETTINGS, 0)
            (loss * scale).backward()
        parts: dict[str, list[torch.Tensor]] = {}
        for name, parameter in trainable.parameters().items():
            parts.setdefault(name.split(".")[0], []).append(parameter.grad.flatten() / scale)
        return {part: torch.cat(found) for part, found in parts.items()}

    exact, half = gradients("fp32"), gradients(dtype)
    with disturbed_weights(unet.model.diffusion_model, DTYPES[dtype]):
        disturbed = gradients("fp32")
    for part, gradient in exact.items():
        limit = 4 * (disturbed[part] - gradient).norm()  # inputs and results are rounded as well
        assert torch.isfinite(half[part]).all(), part
        assert (half[part] - gradient).norm() < limit < gradient.norm(), part


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_training_in_half_precision_learns_and_keeps_parameters_in_fp32(run, unet, dtype):
    before = weights_hash(unet.model)
    concept, progress = run(replace(SETTINGS, steps=6, dtype=dtype))
    assert progress.step == 6
    assert not progress.stopped
    for name, tensor in flat(concept).items():
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all(), name
        if name.endswith("attn2.to_v.up"):
            assert tensor.abs().max() > 0, name  # factors start at zero
    assert weights_hash(unet.model) == before


def test_the_models_own_dtype_is_what_it_was_after_a_training_in_another(run, unet):
    run(replace(SETTINGS, steps=1, dtype="bf16"))
    assert choose_dtype(unet, "auto") == torch.float32


def test_velocity_models_train_towards_velocity(unet, clip):
    """Oracle: ComfyUI's own calculate_denoised turns the target back into the clean latent."""
    import comfy.model_sampling

    class Velocity(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    model = unet.clone()
    for kind, patch in (("noise", None), ("velocity", Velocity(unet.model.model_config))):
        if patch is not None:
            model.add_object_patch("model_sampling", patch)
        with torch.inference_mode(False):
            trainable = token_alone(torch.zeros(16, 32))
        with open_session(model, clip, trainable, "auto", False) as session:
            clean, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
            times = torch.tensor([30, 700])
            sigma = session.levels[times]
            target = session.prediction.target(clean, noise, sigma)
            noised = session.prediction.noised(clean, noise, sigma)
            back = session.sampling.calculate_denoised(sigma, target, noised)
            torch.testing.assert_close(back, clean, rtol=1e-3, atol=1e-3, msg=kind)


def test_rates_that_blow_up_stop_the_run_with_the_last_good_state(run):
    def spoil(progress, session):
        if progress.step == 2:
            with torch.no_grad():
                for pair in session.trainable.at_sites(text=False).values():
                    pair.up.fill_(float("inf"))

    concept, progress = run(on_step=spoil)
    assert "last good state" in progress.stopped
    assert all(torch.isfinite(t).all() for t in flat(concept).values())


def test_embeddings_stop_at_the_norm_threshold(run):
    concept, _ = run(replace(SETTINGS, embedding_norm=1e-3))
    rows = concept.embeddings["<x2>"]
    assert torch.equal(rows, rows[:1].expand_as(rows))  # still the word's embedding in every layer
    assert any(pair.up.abs().max() > 0 for pair in concept.unet.values())


def test_rates_of_zero_leave_parts_out(run):
    concept, _ = run(replace(SETTINGS, rate_text=0, rate_unet=0))
    assert not concept.text
    assert not concept.unet
    assert concept.rank == 0
    concept, _ = run(replace(SETTINGS, layerwise=False))
    rows = concept.embeddings["<x1>"]
    assert torch.equal(rows, rows[:1].expand_as(rows))


def test_accumulated_batches_add_up_to_the_gradient_of_one_large_batch(
    unet, clip, pictures, run, monkeypatch
):
    """The same two views under the same noise, as one batch of two and as two batches of one."""
    concept, _ = run(replace(SETTINGS, steps=1))
    with torch.inference_mode(False), torch.enable_grad():
        views = make_views(*[[t.clone() for t in p] for p in pictures], CAPTION * 2, 128, 1, 0)
        latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
        noises = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(6))
        examples = [make_example(*p, SETTINGS) for p in zip(views, latents, strict=True)]
        trainable = trainable_of(concept, unet, clip)
    noise_of = {
        tuple(e.latent.flatten().tolist()): n for e, n in zip(examples, noises, strict=True)
    }

    def same_noise(like, offset, generator):
        return torch.stack([noise_of[tuple(clean.flatten().tolist())] for clean in like])

    monkeypatch.setattr(step, "draw_noise", same_noise)
    gradients = []
    for size, parts in ((2, 1), (1, 2)):
        settings = replace(SETTINGS, batch_size=size, accumulation=parts, shuffle_captions=False)
        with open_session(unet, clip, trainable, "auto", False) as session:
            session.levels = session.levels[600:601]  # one noise level for all
            add_gradients(
                session,
                trainable,
                examples,
                settings,
                0,
                torch.amp.GradScaler("cpu", enabled=False),
            )
        gradients.append({n: p.grad.clone() for n, p in trainable.parameters().items()})
        for parameter in trainable.parameters().values():
            parameter.grad = None
    whole, halves = gradients
    for name, gradient in whole.items():
        assert (halves[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert max(g.abs().max() for g in whole.values()) > 1e-4


def test_the_reference_file_of_a_trained_concept_has_the_golden_layout(run, tmp_path, concepts):
    concept, _ = run(replace(SETTINGS, steps=1))
    path = save_concept(concept, tmp_path, "x", "reference pth")
    params = torch.load(path, weights_only=True)["params"]
    golden = concepts["a"]
    assert list(params) == ["new_concept_embedding", "text_encoder", "unet"]
    assert set(read_concept(path).unet) == set(golden.unet)
    assert set(read_concept(path).text) == set(golden.text)
    assert read_concept(path).embeddings["<x1>"].shape == golden.embeddings["<a1>"].shape


def test_text_of_equal_captions_is_encoded_once(unet, clip):
    with torch.inference_mode(False):
        trainable = token_alone(torch.randn(16, 32))
    with open_session(unet, clip, trainable, "auto", False) as session:
        rows = []
        encoder = clip.cond_stage_model.clip_l
        handle = encoder.register_forward_pre_hook(lambda m, a: rows.append(len(a[0])))
        texts = session.encode(["a <x1>", "a <x1>", "plain"])
        handle.remove()
    context, select = texts.cross, texts.concept_tokens
    assert rows == [17]  # 16 layers of one caption, the plain one once
    assert torch.equal(context[0], context[1])
    assert context.shape == (3, 77, 512)
    assert select[0].sum() == 1
    assert select[2].sum() == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": [], "masks": []}, "no training images"),
        ({"captions": ["a dog"]}, "does not say where the concept is"),
        ({"start": "<rand-0.1> hogwartsian"}, "is [234] tokens"),
        ({"start": "man"}, "1 initialisers"),
        ({"tokens": "potter man"}, "cannot be a concept token"),
        ({"masks": [torch.ones(8, 8)]}, "mask 1 is 8 x 8"),
    ],
)
def test_bad_input_is_refused_before_any_step(run, given, message):
    steps = []
    with pytest.raises(MosError, match=message):
        run(on_step=lambda *a: steps.append(1), **given)
    assert not steps


def test_a_disk_without_room_for_the_largest_result_is_told_before_any_step(
    unet, clip, vae, pictures, tmp_path, monkeypatch
):
    asked, steps = [], []

    def stop(progress, session):
        steps.append(progress.step)
        raise StopTraining("")

    def room(free):
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        return lambda size: (asked.append(size), check_room(tmp_path / "loras", size))

    def train(free):
        given, wanted = TrainingSet(*pictures, CAPTION), Wanted("concept", TOKENS, START)
        settings = replace(SETTINGS, steps=2)
        return train_concept(unet, clip, vae, given, wanted, settings, stop, check_room=room(free))

    with pytest.raises(SaveError, match="disk of the loras folder has 0 MiB left"):
        train(1000)
    assert not steps
    concept, _ = train(asked[0])  # stopped at once: the largest file there can be
    size = save_concept(concept, tmp_path, "x", "safetensors").stat().st_size
    assert 0.7 * asked[0] < size <= asked[0]


def test_regularisation_without_masks_is_refused(run):
    with pytest.raises(TrainError, match="needs masks"):
        run(replace(SETTINGS, regularisation="whole object"), masks=[])


def test_a_token_of_an_applied_concept_is_refused(run, unet, clip, vae, pictures, concepts):
    _, applied = apply_concepts(unet, clip, (WeightedConcept(concepts["a"]),))
    given, wanted = TrainingSet(*pictures, CAPTION), Wanted("concept", "<a1> <y>", START)
    with pytest.raises(TrainError, match="already belongs"):
        train_concept(unet, applied, vae, given, wanted, SETTINGS, lambda *a: None)


def test_the_nodes_text_is_of_this_run_from_its_first_step(monkeypatch):
    """Also of one that goes on at step 33: what the last run told must not stand."""
    from mix_of_show.nodes import train as node

    told = []
    monkeypatch.setattr(node, "send_text", lambda node_id, text: told.append(text))
    report = node.Reporter("7", SETTINGS, None, 0, "a <TOK>")
    for number in range(34, 42):
        report(Progress(number, 100, [0.5] * number), None)
    assert [text.split(",")[0] for text in told] == ["step 34 of 100", "step 40 of 100"]
