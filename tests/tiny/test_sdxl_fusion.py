"""Ring 2: fusion on models of SDXL's shape: ED-LoRAs and ordinary LoRAs, portions, refinement."""

from dataclasses import replace

import comfy.model_management
import comfy.sd
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import OTHERS
from mix_of_show.mos_core.formats.fused_file import read_fused, save_fused
from mix_of_show.mos_core.formats.kohya_file import save_kohya
from mix_of_show.mos_core.fuse import refine as core_refine
from mix_of_show.mos_core.fuse.low_rank import factorise
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.fuse.solve import (
    LBFGS_STEPS,
    LBFGS_STEPS_SPATIAL,
    SolveOptions,
    solve_lbfgs,
)
from mix_of_show.mos_core.fuse.stage import StageSums
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse import refine as patch_refine
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.train.targets import targets_of
from mix_of_show.mos_core.records import Concept, WeightedConcept
from support.sampling import encode
from support.sdxl_models import G_WIDTH, L_WIDTH, tiny_sdxl, tiny_sdxl_clip

QUICK = FuseSettings(steps=2, width=64, height=64, text_rows="all tokens")
ROWS = 11


@pytest.fixture(scope="module")
def unet():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def clip():
    return tiny_sdxl_clip()


@pytest.fixture(scope="module")
def make(unet, clip):
    """A concept with random factors on every attention layer; rows 0: an ordinary LoRA."""
    family, attention = family_of(unet.model.model_config.unet_config)

    def make(name: str, seed: int, rows: int = ROWS, layers: str = "attention") -> Concept:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        token = f"<{name}>"
        tables = {
            "clip_l": {token: normal(rows, L_WIDTH)}, "clip_g": {token: normal(rows, G_WIDTH)}
        } if rows else {}  # fmt: skip
        deltas = {
            key: LowRank(normal(2, t.shape[1]) * 0.2, normal(t.shape[0], 2) * 0.1)
            for key, t in targets_of(unet, clip, family, attention, layers).items()
        }
        return Concept(name, (token,) if rows else (f"a {name}",), tables, deltas, "sdxl")

    return make


def nothing(done, total):
    pass


def noise_of(model, coder, prompt: str) -> torch.Tensor:
    """What the model predicts for some latent, pooled text and sizes and all."""
    ((cond, extras),) = encode(coder, prompt)
    comfy.model_management.load_models_gpu([model])
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    given = model.model.extra_conds(
        noise=x, device="cpu", width=64, height=64, prompt_type="positive",
        pooled_output=extras["pooled_output"],
    )  # fmt: skip
    options = {"wrappers": {k: dict(v) for k, v in model.wrappers.items()}}
    sigma = torch.tensor([4.0])
    denoised = model.model.apply_model(
        x * 4, sigma, c_crossattn=cond, y=given["y"].cond, transformer_options=options
    )
    return (x * 4 - denoised) / 4


def error_of(unet, clip, entry, fused, prompt: str) -> float:
    """Of the fused model against the concept's own, as a share of what the concept changes."""
    own = noise_of(*apply_concepts(unet, clip, (entry,)), prompt)
    silent = replace(entry, strength_model=0, strength_clip=0)
    plain = noise_of(*apply_concepts(unet, clip, (silent,)), prompt)
    found = noise_of(*apply_fused(unet, clip, fused), prompt)
    return ((found - own).norm() / (plain - own).norm()).item()


def test_a_fusion_is_saved_and_loaded_bit_identical_and_exported_for_the_stock_loader(
    unet, clip, make, tmp_path
):
    both = (WeightedConcept(make("ann", 1)), WeightedConcept(make("bob", 2, rows=0)))
    fused, _ = fuse_concepts(unet, clip, both, QUICK, nothing)
    again = read_fused(save_fused(fused, tmp_path, "two"))
    assert again.trigger_words == fused.trigger_words
    assert again.metadata == fused.metadata
    live, stored = apply_fused(unet, clip, fused), apply_fused(unet, clip, again)
    for prompt in ("a <ann> beside a bob", "a tree"):
        assert torch.equal(noise_of(*live, prompt), noise_of(*stored, prompt))
    parts = (fused.text, fused.unet)
    text, model = ({n: factorise(d, 10_000)[0] for n, d in part.items()} for part in parts)
    lora = comfy.utils.load_torch_file(str(save_kohya(tmp_path, "lora", text, model, {})))
    stock = comfy.sd.load_lora_for_models(unet, clip, lora, 1.0, 1.0)
    assert len(stock[0].patches) == len(fused.unet)
    assert len(stock[1].patcher.patches) == len(fused.text)
    torch.testing.assert_close(
        noise_of(*stock, "a tree"), noise_of(*live, "a tree"), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("rows", [0, ROWS, 70])
def test_one_concept_fused_alone_comes_back(unet, clip, make, rows):
    """Where every layer sees more rows than it has inputs: everything, for any prompt."""
    entry = WeightedConcept(make("ann", 1, rows), 0.8, 0.9)
    settings = replace(QUICK, steps=8, width=128, height=128)
    fused, report = fuse_concepts(unet, clip, (entry,), settings, nothing)
    words = entry.concept.trigger_words
    assert len(fused.text) == 2 * 3 * 4
    assert len(fused.unet) == 560
    assert "fewer rows" not in report
    for prompt in (f"photo of a {words}", f"a {words} in the snow"):
        assert error_of(unet, clip, entry, fused, prompt) < 1e-4


def test_from_few_rows_a_concept_comes_back_for_these_rows_alone(unet, clip, make):
    """Two steps of 2 x 2 cells show a layer at 1/32 eight rows of its 32 inputs: these it answers
    as the concept does, all else stays the base model's, and the report says so."""
    entry = WeightedConcept(make("ann", 1))
    fused, report = fuse_concepts(unet, clip, (entry,), QUICK, nothing)
    for name, (before, after) in fused.metadata["loss"].items():
        assert after <= 1e-8 * before, name
    assert error_of(unet, clip, entry, fused, "a <ann> in the snow") > 0.1
    assert "layers saw fewer rows than they have inputs" in report


def test_the_exact_solution_loses_no_more_than_l_bfgs_on_the_same_rows(
    unet, clip, make, monkeypatch
):
    """Every seventh layer, which are of all kinds and blocks. Both from the same sums: two fusions
    would differ in what later layers see, the fused text encoder being another. The rest is the
    rounding of the sums, which L-BFGS follows into directions that the exact solution leaves."""
    losses = {}

    def both(self, layer, sums, asked, settings):
        found = original(self, layer, sums, asked, settings)
        options = SolveOptions(steps=LBFGS_STEPS_SPATIAL if layer.stage == OTHERS else LBFGS_STEPS)
        other = solve_lbfgs(sums, asked, options)
        deltas = (torch.zeros_like(found.delta), found.delta, other.delta)
        losses[layer.site.path] = tuple(map(sums.loss, deltas))
        return found

    original = StageSums.solution
    monkeypatch.setattr(StageSums, "solution", both)
    two = tuple(
        WeightedConcept(replace(c, deltas=dict(list(c.deltas.items())[::7])))
        for c in (make("ann", 1), make("bob", 2))
    )
    fuse_concepts(unet, clip, two, QUICK, nothing)
    assert len(losses) == 84
    for path, (before, exact, lbfgs) in losses.items():
        assert exact <= lbfgs + 1e-10 * before, path


def test_ordinary_loras_fuse_with_ed_loras_from_their_words(unet, clip, make):
    both = (WeightedConcept(make("ann", 1)), WeightedConcept(make("bob", 2, rows=0)))
    settings = QUICK
    fused, report = fuse_concepts(unet, clip, both, settings, nothing)
    assert fused.trigger_words == "<ann>\na bob"
    summed, _ = fuse_concepts(unet, clip, both, replace(settings, solver="sum"), nothing)
    for name, (before, after) in fused.metadata["loss"].items():
        assert after <= summed.metadata["loss"][name][1] * (1 + 1e-6) + 1e-9 * before, name
    for _, shares in fused.metadata["lost"]:
        assert len(shares) == 3
        assert all(share < 1 for share in shares.values())  # each gets some of what it asks for
    assert "ann: text encoder" in report
    assert "bob: text encoder" in report


def test_ordinary_text_needs_one_gram_matrix_for_all_keys_and_values(unet, clip, make, monkeypatch):
    from mix_of_show.mos_core.patch.fuse import plan

    widths = {}

    def note(coder, source, sums, rows, all_tokens):
        grams = original(coder, source, sums, rows, all_tokens)
        widths[rows] = len(grams)
        return grams

    original = plan.key_value_rows
    monkeypatch.setattr(plan, "key_value_rows", note)
    for rows in (0, ROWS):
        entry = (WeightedConcept(make("ann", 1, rows)),)
        fuse_concepts(unet, clip, entry, replace(QUICK, steps=1), nothing)
    assert widths == {1: 1, ROWS: ROWS}


def test_portions_give_the_same_answer_as_all_at_once(unet, clip, make):
    two = tuple(WeightedConcept(make(name, seed)) for name, seed in (("ann", 1), ("bob", 2)))
    settings, said = replace(QUICK, ridge=0.01), []
    whole, _ = fuse_concepts(unet, clip, two, settings, nothing)
    limit = replace(settings, memory_limit=0.005)  # GiB
    parts, _ = fuse_concepts(unet, clip, two, limit, nothing, on_text=said.append)
    samplings = int(said[0].split()[0])
    assert "portions" in said[0]
    assert samplings >= 4
    for name, delta in whole.unet.items():
        assert (parts.unet[name] - delta).norm() <= 1e-6 * delta.norm(), name


def test_refinement_lowers_the_error_of_what_is_predicted(unet, clip, make, monkeypatch):
    for module in (core_refine, patch_refine):
        monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(core_refine, "CHECKS", 4)
    two = tuple(WeightedConcept(make(name, seed)) for name, seed in (("ann", 1), ("bob", 2)))
    settings = replace(QUICK, ridge=0.02, refine_steps=4, prompts=("a {}",), anchor_prompts=("x",))
    comfy.model_management.unload_all_models()
    before = {k: v.clone() for k, v in unet.model.state_dict().items()}
    fused, _ = fuse_concepts(unet, clip, two, settings, nothing)
    errors = fused.metadata["refined"]
    assert set(errors) == {"ann", "bob", "the base model"}
    assert sum(b - a for b, a in errors.values()) > 0
    comfy.model_management.unload_all_models()
    assert all(torch.equal(v, before[k]) for k, v in unet.model.state_dict().items())
