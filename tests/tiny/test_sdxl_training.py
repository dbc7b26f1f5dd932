"""Ring 2: training on models of SDXL's shape: two text encoders, pooled text, sizes, 70 layers."""

from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch

from mix_of_show.mos_core.errors import MosError
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats.safetensors_edlora import tensors_of
from mix_of_show.mos_core.noise import Velocity
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.train.session import StopTraining
from mix_of_show.mos_core.train.settings import TrainSettings
from support.sampling import encode
from support.sdxl_models import G_WIDTH, L_WIDTH, tiny_sdxl, tiny_sdxl_clip
from support.tiny_models import random_taesd

SETTINGS = TrainSettings(
    steps=2, resolution=64, views=1, rate_embedding=1e-2, rate_text=1e-3, rate_unet=1e-3,
    embedding_norm=0, rank=2,
)  # fmt: skip
PROMPT = "a <x1> <x2> here"


@pytest.fixture(scope="module")
def unet():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def clip():
    return tiny_sdxl_clip()


@pytest.fixture(scope="module")
def vae():
    return random_taesd()


@pytest.fixture
def run(unet, clip, vae):
    generator = torch.Generator().manual_seed(1)
    images = [
        torch.rand(64, 128, 3, generator=generator),
        torch.rand(80, 64, 3, generator=generator),
    ]

    def run(settings=SETTINGS, on_step=lambda *a: None, resume=None, model=unet, **wanted):
        asked = {"name": "x", "tokens": "<x1> <x2>", "initializer": "<rand-0.5> man", **wanted}
        pictures = TrainingSet(images, [], ["photo of a <TOK>, red"])
        return train_concept(model, clip, vae, pictures, Wanted(**asked), settings, on_step, resume)

    return run


def noise_of(model, coder, prompt=PROMPT) -> torch.Tensor:
    """The model's noise for some latent, through ComfyUI's own sampling of one step."""
    comfy.model_management.load_models_gpu([model])
    positive = encode(coder, prompt)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    sigmas = torch.tensor([2.0, 0.0])
    return guider.sample(x, torch.zeros_like(x), comfy.samplers.ksampler("euler"), sigmas, seed=0)


@pytest.mark.parametrize(("rows", "count"), [("auto", 11), ("every layer", 70)])
def test_both_encoders_and_the_unet_learn_and_a_trained_concept_is_its_session(
    run, unet, clip, tmp_path, rows, count
):
    """Oracle: Apply Concepts of the result equals what the open session predicted, y and all."""
    seen = {}

    def keep(progress, session):
        if progress.step == 2:
            with torch.no_grad():
                texts = session.encode([PROMPT])
                x, sigma = torch.ones(1, 4, 16, 16), torch.tensor([2.0])
                seen["cross"] = texts.cross.clone()
                seen["pooled"] = texts.rows[0]["pooled_output"].clone()
                seen["denoised"] = session.run(x, sigma, texts)[0].clone()

    concept, progress = run(replace(SETTINGS, rows=rows), keep)
    assert progress.step == 2
    assert concept.family == "sdxl"
    tables = concept.tables
    assert {e: t["<x1>"].shape for e, t in tables.items()} == {
        "clip_l": (count, L_WIDTH), "clip_g": (count, G_WIDTH)
    }  # fmt: skip
    assert all(t["<x1>"].std(0).max() > 0 for t in tables.values())
    assert len(concept.deltas) == 560 + 2 * 3 * 4
    assert sum(pair.up.abs().max() > 0 for pair in concept.deltas.values()) > 560
    stored = read_concept(save_concept(concept, tmp_path, "x"))
    model, coder = apply_concepts(unet, clip, (WeightedConcept(stored),))
    ((cond, extras),) = encode(coder, PROMPT)
    torch.testing.assert_close(cond, seen["cross"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(extras["pooled_output"], seen["pooled"], rtol=1e-4, atol=1e-5)
    comfy.model_management.load_models_gpu([model])
    given = model.model.extra_conds(
        noise=torch.ones(1, 4, 16, 16), device="cpu", width=128, height=128, prompt_type="positive",
        pooled_output=extras["pooled_output"],
    )  # fmt: skip
    options = {"wrappers": {k: dict(v) for k, v in model.wrappers.items()}}
    denoised = model.model.apply_model(
        torch.ones(1, 4, 16, 16), torch.tensor([2.0]), c_crossattn=cond, y=given["y"].cond,
        transformer_options=options,
    )  # fmt: skip
    torch.testing.assert_close(denoised, seen["denoised"], rtol=1e-3, atol=1e-4)


def test_the_unet_is_told_original_size_crop_and_size_of_each_view(run, unet):
    """As SDXL's report has them: (height, width) of the picture, (top, left), (height, width)."""
    seen = []

    def note(module, args, kwargs):
        seen.append(kwargs["y"][:, G_WIDTH:].unflatten(-1, (6, 256)).detach().clone())

    handle = unet.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        run(replace(SETTINGS, shape="as the image", views=3, steps=4))
    finally:
        handle.remove()
    embed = unet.model.embedder
    known = {tuple(embed(torch.tensor([float(v)]))[0].tolist()): v for v in range(200)}
    told = {tuple(known[tuple(value.tolist())] for value in row) for batch in seen for row in batch}
    originals = {row[:2] for row in told}
    assert originals == {(64, 128), (80, 64)}
    for height, width, *_, across, down in told:
        assert [across, down] == ([64, 128] if (height, width) == (64, 128) else [64, 64])
    assert any(row[2:4] != (0, 0) for row in told)


def test_checkpointing_changes_nothing_and_the_models_stay_as_they_were(run, unet, clip):
    comfy.model_management.unload_all_models()
    before = {k: v.clone() for k, v in unet.model.state_dict().items()}
    texts = {k: v.clone() for k, v in clip.cond_stage_model.state_dict().items()}
    plain, again = run()[0], run(replace(SETTINGS, checkpointing=True))[0]
    for name, pair in plain.deltas.items():
        torch.testing.assert_close(again.deltas[name].up, pair.up, rtol=1e-3, atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in unet.model.state_dict().items())
    assert all(torch.equal(v, texts[k]) for k, v in clip.cond_stage_model.state_dict().items())


def test_a_cancelled_and_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    whole, _ = run()

    def cancel(progress, session):
        if progress.step == 1:
            raise StopTraining("cancelled")

    part, _ = run(on_step=cancel)
    stored = read_concept(save_concept(part, tmp_path, "part"))
    resumed, progress = run(resume=stored)
    assert progress.step == 2
    for name, pair in whole.deltas.items():
        torch.testing.assert_close(resumed.deltas[name].up, pair.up, rtol=1e-4, atol=1e-6)
    for encoder, tables in whole.tables.items():
        torch.testing.assert_close(resumed.tables[encoder]["<x1>"], tables["<x1>"])


@pytest.mark.parametrize("zsnr", [False, True])
def test_velocity_models_learn_velocity_at_a_signal_of_nothing_too(run, zsnr):
    model = tiny_sdxl(sampling="v_prediction")
    if zsnr:
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        (model,) = ModelSamplingDiscrete().patch(model, "v_prediction", True)
    seen = []
    concept, progress = run(model=model, on_step=lambda p, s: seen.append(s))
    assert isinstance(seen[0].prediction, Velocity)
    assert (seen[0].levels[-1] > 1000) == zsnr
    assert all(loss < 100 for loss in progress.losses)
    assert any(pair.up.abs().max() > 0 for pair in concept.deltas.values())


@pytest.mark.parametrize("layers", ["all linear", "linear and convolution"])
def test_an_ordinary_lora_learns_no_token_and_is_one_for_the_stock_loader(run, unet, clip, layers):
    settings = replace(SETTINGS, layerwise=False, layers=layers)
    concept, _ = run(settings, tokens="a red bear", initializer="")
    assert concept.words == ("a red bear",)
    assert not concept.tables
    assert concept.trigger_words == "a red bear"
    ours = noise_of(*apply_concepts(unet, clip, (WeightedConcept(concept),)), "a red bear")
    tensors = {
        name + end: tensor
        for name, delta in concept.deltas.items()
        for end, tensor in tensors_of(delta).items()
    }
    kohya = {
        key.replace("text_encoder_2.", "lora_te2_").replace("text_encoder.", "lora_te1_")
        .replace("unet.", "lora_unet_").replace(".lora_", "|lora_").replace(".", "_")
        .replace("|", ".").replace("_weight", ".weight"): value
        for key, value in tensors.items()
    }  # fmt: skip
    stock = comfy.sd.load_lora_for_models(unet, clip, kohya, 1.0, 1.0)
    assert torch.equal(ours, noise_of(*stock, "a red bear"))
    assert not torch.equal(ours, noise_of(unet, clip, "a red bear"))


def test_words_that_learn_nothing_are_refused(run):
    nothing = replace(SETTINGS, layerwise=False, rate_text=0, rate_unet=0)
    with pytest.raises(MosError, match="nothing would be trained"):
        run(nothing, tokens="bear", initializer="")
