"""Ring 2: training on ComfyUI's own classes, tiny."""

import hashlib
import shutil
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch

from mix_of_show.mos_core.errors import MosError, SaveError, TrainError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats.saving import check_room
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.forward import DTYPES, choose_dtype
from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.patch.train.session import open_session
from mix_of_show.mos_core.patch.train.targets import targets_of
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.train import step
from mix_of_show.mos_core.train.loop import Progress, add_gradients
from mix_of_show.mos_core.train.pictures import make_views
from mix_of_show.mos_core.train.session import StopTraining
from mix_of_show.mos_core.train.settings import TrainSettings
from mix_of_show.mos_core.train.step import make_example, step_loss
from mix_of_show.mos_core.train.trainable import TrainableConcept, make_trainable

SETTINGS = TrainSettings(
    steps=4, resolution=64, views=1, rate_embedding=1e-2, rate_text=1e-3, rate_unet=1e-3,
    embedding_norm=0,
)  # fmt: skip
TOKENS, START, CAPTION = "<x1> <x2>", "<rand-0.5> man", ["photo of a <TOK>, red, big"]


@pytest.fixture(scope="module")
def vae():
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    generator = torch.Generator().manual_seed(0)
    for weight in vae.first_stage_model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return vae


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(64, 80, 3, generator=generator) for _ in range(2)]
    masks = [torch.zeros(64, 80) for _ in range(2)]
    for mask in masks:
        mask[8:40, 20:60] = 1
    return images, masks


@pytest.fixture
def run(unet, clip, vae, pictures):
    def run(settings=SETTINGS, on_step=lambda progress, session: None, resume=None, **given):
        arguments = {"images": pictures[0], "masks": pictures[1], "captions": CAPTION, **given}
        images, masks, captions = (arguments.pop(k) for k in ("images", "masks", "captions"))
        tokens, start = arguments.pop("tokens", TOKENS), arguments.pop("start", START)
        wanted = Wanted("concept", tokens, start)
        given = TrainingSet(images, masks, captions)
        return train_concept(unet, clip, vae, given, wanted, settings, on_step, resume)

    return run


def trainable_of(concept, unet, clip) -> TrainableConcept:
    """The concept's values as parameters."""
    family, attention = family_of(unet.model.model_config.unet_config)
    targets = targets_of(unet, clip, family, attention, "attention")
    return make_trainable((), {}, targets, SETTINGS, len(attention), family.name, concept)


def token_alone(table) -> TrainableConcept:
    """One token with this table, and nothing else."""
    return TrainableConcept(("<x1>",), {"clip_l": {"<x1>": table}}, {}, {}, 16, "sd15")


def weights_hash(module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def flat(concept) -> dict[str, torch.Tensor]:
    factors = {**concept.text, **{f"u.{k}": v for k, v in concept.unet.items()}}
    pairs = {f"{k}.{half}": getattr(v, half) for k, v in factors.items() for half in ("down", "up")}
    return {**concept.embeddings, **pairs}


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


def test_a_trained_concept_draws_the_same_noise_as_its_training_session(run, unet, clip):
    """Oracle: W0 + up @ down through ComfyUI's patching equals the branches of the session."""
    seen = {}

    def keep(progress, session):
        if progress.step == 4:
            with torch.no_grad():
                texts = session.encode(["a <x1> <x2> here"])
                x, sigma = torch.ones(1, 4, 16, 16), torch.tensor([2.0])
                seen["context"] = texts.cross.clone()
                seen["noise"] = session.predict(x, sigma, texts)[0].clone()

    concept, _ = run(on_step=keep)
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
