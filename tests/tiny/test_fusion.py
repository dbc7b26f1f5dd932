"""Ring 2: fusion on ComfyUI's own classes, against the reference's whole pipeline."""

from dataclasses import replace
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.errors import (
    ArchitectureError,
    ConceptTokenError,
    FileFormatError,
    MosError,
)
from mix_of_show.mos_core.families.family import OTHERS
from mix_of_show.mos_core.formats.fused_file import read_fused, save_fused
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.fuse.stage import Layer
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse import sums_place as place
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.fuse.rows import published_sigmas
from mix_of_show.mos_core.records import Site, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.sample import RegionalSampler
from support.golden import read_meta, read_tensors
from support.sampling import encode
from support.tiny_models import empty_unet, golden_unet

SIZE = {"width": 128, "height": 128}
QUICK = FuseSettings(steps=2, width=128, height=128)


def entries(concepts, tag: str):
    return tuple(
        WeightedConcept(concepts[c["lora"]], c["unet_alpha"], c["text_encoder_alpha"])
        for c in read_meta()["fusion"][tag]["concepts"]
    )


def nothing(done, total):
    pass


@pytest.fixture(scope="module")
def fused(unet, clip, concepts):
    """The golden fusion of three concepts, the reference's noise, exact."""
    trace = read_tensors("fusion_trace")
    noises = [trace[f"{j}.noise"] for j in range(3)]
    with torch.inference_mode():
        return fuse_concepts(
            unet, clip, entries(concepts, "fusion"), FuseSettings(**SIZE), nothing, noises
        )


def test_every_layer_is_the_one_of_the_references_pipeline_with_an_exact_solver(fused):
    exact = read_tensors("fusion_state_exact")
    base = {f"unet.{k}": v for k, v in read_tensors("unet").items()}
    base |= {f"text_encoder.{k}": v for k, v in read_tensors("text_encoder").items()}
    parts = {"text_encoder": fused[0].text, "unet": fused[0].unet}
    ours = {f"{p}.{m}.weight": d for p, deltas in parts.items() for m, d in deltas.items()}
    assert set(ours) == set(exact)
    for name, delta in ours.items():
        change = exact[name] - base[name].float()
        error = (delta.reshape(change.shape) - change).norm() / change.norm()
        assert error <= 5e-4, (name, error)


def test_the_sigmas_are_the_published_time_steps(unet):
    times = read_tensors("fusion_trace")["0.timesteps"].long()
    sigmas = published_sigmas(unet, 20)
    torch.testing.assert_close(sigmas[:-1], unet.model.model_sampling.sigmas[times])
    assert sigmas[-1] == 0


def test_the_loss_per_stage_is_the_references(fused):
    loss = fused[0].metadata["loss"]
    summary = read_meta()["fusion"]["fusion"]["summary_exact_run"]
    spatial = [
        v for m, v in loss.items() if m[0] in "dmu" and not m.endswith(("attn2.to_k", "attn2.to_v"))
    ]
    text = [v for m, v in loss.items() if m.startswith("text_model")]
    for layers, stage in ((text, "merge_text_encoder"), (spatial, "merge_spatial_attention")):
        assert len(layers) == summary[stage]["n_layers"]
        before, after = (sum(column) / len(layers) for column in zip(*layers, strict=True))
        assert before == pytest.approx(summary[stage]["mse_before_mean"], rel=1e-4)
        assert after == pytest.approx(summary[stage]["mse_exact_mean"], rel=1e-3)


def noise_prediction(model, coder, prompt: str) -> torch.Tensor:
    cond = coder.encode_from_tokens_scheduled(coder.tokenize(prompt))[0][0]
    comfy.model_management.load_models_gpu([model])
    options = {"wrappers": {k: dict(v) for k, v in model.wrappers.items()}}
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([601.0])
    return model.model.diffusion_model(x, t, context=cond, transformer_options=options)


@pytest.mark.parametrize(("text_rows", "limit"), [("all tokens", 1e-3), ("concept tokens", 0.6)])
def test_one_concept_fused_alone_draws_as_that_concept_applied(
    unet, clip, concepts, text_rows, limit
):
    """With the published rows the padding is left free, and sampling attends to it as well."""
    one = (WeightedConcept(concepts["a"], 0.8, 0.9),)
    settings = FuseSettings(text_rows=text_rows, **SIZE)
    fused, _ = fuse_concepts(unet, clip, one, settings, nothing)
    silent = (WeightedConcept(concepts["a"], 0, 0),)
    for prompt in ("photo of a <a1> <a2>", "<a1> <a2>"):
        ours = noise_prediction(*apply_fused(unet, clip, fused), prompt)
        own = noise_prediction(*apply_concepts(unet, clip, one), prompt)
        plain = noise_prediction(*apply_concepts(unet, clip, silent), prompt)
        assert (ours - own).norm() <= limit * (plain - own).norm()


def test_sum_is_the_plain_weighted_merge(unet, clip, concepts):
    both = entries(concepts, "fusion")[:2]
    fused, _ = fuse_concepts(unet, clip, both, FuseSettings(solver="sum", steps=1, **SIZE), nothing)
    ours = noise_prediction(*apply_fused(unet, clip, fused), "a <a1> <b2>")
    stock = noise_prediction(*apply_concepts(unet, clip, both), "a <a1> <b2>")
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-4)


def test_feed_forward_and_convolution_layers_fuse_and_missing_ones_keep_the_base(
    unet, clip, concepts
):
    fused, report = fuse_concepts(unet, clip, entries(concepts, "fusion_variant"), QUICK, nothing)
    assert len(fused.unet) == 192
    assert len(fused.text) == 12
    assert all(after <= before * (1 + 1e-6) for before, after in fused.metadata["loss"].values())
    assert "text encoder (12 layers)" in report
    model, coder = apply_fused(unet, clip, fused)
    assert torch.isfinite(noise_prediction(model, coder, "<v1> <v2> and <b1> <b2>")).all()


def test_a_saved_fusion_loads_bit_identical(unet, clip, fused, tmp_path):
    path = save_fused(fused[0], tmp_path, "three")
    again = read_fused(path)
    assert again.trigger_words == "<a1> <a2>\n<b1> <b2>\n<c1> <c2>"
    assert again.metadata == fused[0].metadata
    for prompt in ("<a1> <a2> beside <c1> <c2>", "a tree"):
        live = noise_prediction(*apply_fused(unet, clip, fused[0]), prompt)
        stored = noise_prediction(*apply_fused(unet, clip, again), prompt)
        assert torch.equal(live, stored)


def test_a_loaded_fusion_stays_when_its_file_is_overwritten_in_place(fused, tmp_path):
    path = save_fused(fused[0], tmp_path, "three")
    again = read_fused(path)
    half = path.stat().st_size // 2
    with open(path, "r+b") as file:
        file.seek(half)
        file.write(bytes(path.stat().st_size - half))
    for part in ("text", "unet"):
        for name, delta in getattr(fused[0], part).items():
            assert torch.equal(getattr(again, part)[name], delta), name


def test_a_fused_model_with_the_base_clip_is_refused_before_any_sampling(unet, clip, fused):
    model, coder = apply_fused(unet, clip, fused[0])
    text, latent = encode(coder, "a photo"), {"samples": torch.zeros(1, 4, 16, 16)}
    regions = Regions(128, 128, (Region("a <a1> <a2>", box=Box(0, 0, 1, 1)),))
    with pytest.raises(ConceptTokenError, match=r"names <a1>.*CLIP output"):
        RegionalSampler.execute(
            model, clip, regions, text, text, latent, 0, 1, 1.0, "euler", "normal", 1.0
        )  # fmt: skip


def test_another_base_is_refused_unless_asked_for(unet, clip, fused):
    other = golden_unet()
    for weight in other.model.diffusion_model.parameters():
        weight.data.mul_(1.01)
    with pytest.raises(ArchitectureError, match="another base model"):
        apply_fused(other, clip, fused[0])
    model, _ = apply_fused(other, clip, fused[0], any_base=True)
    assert len(model.patches) == 128


def test_tokens_of_a_fusion_and_of_applied_concepts_may_not_clash(unet, clip, fused, concepts):
    model, coder = apply_concepts(unet, clip, (WeightedConcept(concepts["a"]),))
    with pytest.raises(MosError, match="<a1>"):
        apply_fused(model, coder, fused[0])


def test_cancelling_leaves_no_hook_and_no_patch(unet, clip, concepts):
    def cancel(done, total):
        if done == 25:  # in the middle of a sampling
            raise comfy.model_management.InterruptProcessingException

    comfy.model_management.unload_all_models()
    before = {k: v.clone() for k, v in unet.model.state_dict().items()}
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        fuse_concepts(unet, clip, entries(concepts, "fusion"), FuseSettings(**SIZE), cancel)
    comfy.model_management.unload_all_models()
    for root in (unet.model, clip.cond_stage_model):
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in root.modules())
    assert all(torch.equal(v, before[k]) for k, v in unet.model.state_dict().items())
    assert not unet.patches


def test_the_order_of_concepts_does_not_matter(unet, clip, concepts):
    two = entries(concepts, "fusion")[:2]
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    one, _ = fuse_concepts(unet, clip, two, QUICK, nothing, [noise, noise])
    other, _ = fuse_concepts(unet, clip, two[::-1], QUICK, nothing, [noise, noise])
    for module, delta in one.unet.items():
        torch.testing.assert_close(delta, other.unet[module], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_files_that_are_no_fusion_are_refused(content, tmp_path, concepts):
    path = tmp_path / "x.safetensors"
    if content is None:
        from mix_of_show.mos_core.formats import write_safetensors

        write_safetensors(concepts["a"], path)
    else:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"x\.safetensors"):
        read_fused(path)


@pytest.mark.parametrize("wrong", [{"solver": "x"}, {"width": 100}, {"steps": 0}, {"ridge": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(MosError):
        FuseSettings(**wrong).check()


def layer(number: int) -> Layer:
    """One whose sums take 600 bytes."""
    return Layer(Site(f"{number}.weight"), f"{number}", (5, 5), OTHERS)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU on which 940 bytes are free beside the model; the CPU has 2000."""
    monkeypatch.setattr(place.management, "minimum_inference_memory", lambda: 1000)
    monkeypatch.setattr(place.management, "get_free_memory", lambda device: 2000)
    monkeypatch.setattr(place, "has_float64", lambda device: True)
    return SimpleNamespace(
        load_device=torch.device("cuda"), model_size=lambda: 100, loaded_size=lambda: 40
    )


def test_sums_go_to_the_cpu_when_the_device_is_short(gpu):
    one, two, three = ([layer(i) for i in range(count)] for count in (1, 2, 3))
    cpu = torch.device("cpu")
    assert place.plan_sums(gpu, one, 0) == (None, [one])
    assert place.plan_sums(gpu, two, 0) == (cpu, [two])
    assert place.plan_sums(gpu, three, 0) == (cpu, [three[:2], three[2:]])
    assert place.plan_sums(gpu, two, 700 / place.GIB) == (None, [two[:1], two[1:]])
    assert place.plan_sums(gpu, [], 0) == (None, [])
    gpu.load_device = cpu
    assert place.plan_sums(gpu, two, 0) == (None, [two])


def test_sums_go_to_the_cpu_where_the_device_cannot_add_in_float64(gpu, monkeypatch):
    monkeypatch.setattr(place, "has_float64", lambda device: False)
    assert place.plan_sums(gpu, [layer(0)], 0)[0] == torch.device("cpu")
    assert place.place_of_few_sums(gpu) == torch.device("cpu")
    assert place.dtype_of_products(gpu) == torch.float32


@pytest.mark.parametrize("problem", [TypeError, RuntimeError, NotImplementedError])
def test_whether_a_device_can_add_in_float64_is_found_by_trying(monkeypatch, problem):
    def refuse(*args, **kwargs):
        raise problem("no float64 here")

    assert place.has_float64.__wrapped__(torch.device("cpu"))
    monkeypatch.setattr(place.torch, "ones", refuse)
    assert not place.has_float64.__wrapped__(torch.device("mps"))


@pytest.mark.parametrize("solver", ["exact", "lbfgs"])
def test_portions_give_the_same_answer_as_all_at_once(unet, clip, concepts, solver):
    two = entries(concepts, "fusion")[:2]
    limit = 0.0001  # GiB: a few layers at a time
    settings = replace(QUICK, solver=solver, ridge=0.01)
    said, ticks = [], []
    whole, _ = fuse_concepts(unet, clip, two, settings, nothing)
    parts, _ = fuse_concepts(
        unet, clip, two, replace(settings, memory_limit=limit),
        lambda *at: ticks.append(at), on_text=said.append,
    )  # fmt: skip
    assert "do not fit at once" in said[0]
    assert int(said[0].split()[0]) > 2 * 2
    assert ticks[-1][0] == ticks[-1][1] == len(ticks)
    for name, delta in whole.unet.items():
        assert (parts.unet[name] - delta).norm() <= 1e-6 * delta.norm(), name


def test_an_inpainting_model_is_not_refined_and_told_before_any_work(clip, concepts):
    ticks = []
    with pytest.raises(ArchitectureError, match=r"9 channels.*refining a fusion"):
        fuse_concepts(
            empty_unet(in_channels=9), clip, entries(concepts, "fusion")[:1],
            replace(QUICK, refine_steps=1), lambda *at: ticks.append(at),
        )  # fmt: skip
    assert not ticks
