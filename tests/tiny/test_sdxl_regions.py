"""Ring 2: regions and LoRA-Composer on tiny SDXL models, against stock graphs."""

import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_pag import PerturbedAttentionGuidance

import nodes
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.sample import RegionalAttention
from support.sampling import encode, fingerprint, sample, some_picture, tiny_t2i_adapter
from support.sdxl_concepts import tiny_concept
from support.sdxl_models import TEXT_WIDTH, tiny_sdxl, tiny_sdxl_clip, tiny_sdxl_controlnet

WHOLE, LEFT, RIGHT = Box(0, 0, 1, 1), Box(0, 0, 0.45, 1), Box(0.55, 0, 1, 1)
SIZE = (16, 24)
QUIET = {"guidance_steps": 0, "reinitialise": False}
NEAR = 1e-4


@pytest.fixture(scope="module")
def model():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def clip():
    return tiny_sdxl_clip()


@pytest.fixture(scope="module")
def knight(model, clip):
    return tiny_concept(model, clip, "knight", 0)


@pytest.fixture(scope="module")
def queen(model, clip):
    """An ordinary LoRA: no embeddings."""
    return tiny_concept(model, clip, "queen", 1, tables=False)


def layout(*regions, size=SIZE):
    return Regions(size[1] * 8, size[0] * 8, regions)


def composed(model, clip, concepts, regions, **options):
    return ComposerAttention.execute(model, clip, concepts, regions, **{**QUIET, **options}).args


def picture(model, clip, prompt, negative="", size=SIZE, **options):
    return sample(model, encode(clip, prompt), encode(clip, negative), size=size, **options)


def patched_by(node, *given):
    """What a stock node makes of a MODEL, in old versions of ComfyUI and in new ones."""
    return (node.execute(*given) if hasattr(node, "execute") else node().patch(*given))[0]


def far(found, expected) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_no_regions_are_the_plain_model_bit_for_bit(model, clip, knight):
    found, coder, *_ = composed(model, clip, (knight,), layout())
    assert torch.equal(picture(found, coder, "a field"), picture(model, clip, "a field"))


@pytest.mark.parametrize("size", [(16, 24), (13, 19), (26, 38)])
def test_one_concept_over_everything_is_that_concept_applied(size, model, clip, knight):
    prompt = "a photo of <knight>"
    regions = layout(Region(prompt, box=WHOLE), size=size)
    found, coder, *_ = composed(model, clip, (knight,), regions)
    own = apply_concepts(model, clip, (knight,))
    expected = picture(*own, prompt, cfg=1.0, size=size)
    assert far(picture(found, coder, "a field", cfg=1.0, size=size), expected) < NEAR


def test_an_ordinary_lora_over_everything_is_that_lora_loaded(model, clip, queen):
    prompt = "a photo of queen"
    regions = layout(Region(prompt, box=WHOLE, concept="queen"))
    found, coder, *_ = composed(model, clip, (queen,), regions)
    own = apply_concepts(model, clip, (queen,))
    assert far(picture(found, coder, "x", cfg=1.0), picture(*own, prompt, cfg=1.0)) < NEAR


def test_two_concepts_do_not_reach_each_other_in_a_step(model, clip, knight, queen):
    """The prompt of the other region changes nothing in the first one's cross-attention layers:
    one layer deep, so the picture's own half is compared in the very first attention."""
    seen = {}

    def watch(name):
        def keep(n, extra):
            seen.setdefault(name, n.clone())
            return n

        return keep

    for name, other in (("one", "a photo of queen"), ("two", "a queen, in the rain")):
        regions = layout(Region("a <knight>", box=LEFT), Region(other, box=RIGHT, concept="queen"))
        found, coder, *_ = composed(model, clip, (knight, queen), regions)
        found.set_model_attn2_output_patch(watch(name))
        picture(found, coder, "a field", cfg=1.0, steps=1)
    changed = (seen["one"] != seen["two"]).any(-1)[0].unflatten(0, (SIZE[0] // 2, SIZE[1] // 2))
    assert changed[:, 7:].any()
    assert not changed[:, :6].any()


def test_guided_steps_lower_the_loss_and_are_reported(model, clip, knight, queen):
    regions = layout(
        Region("a <knight>", box=LEFT), Region("a photo of queen", box=RIGHT, concept="queen")
    )
    found, coder, log, *_ = ComposerAttention.execute(
        model, clip, (knight, queen), regions, guidance_step_size=1.0
    ).args
    result = picture(found, coder, "a field", steps=4)
    assert torch.isfinite(result).all()
    assert len(log.steps) == 4
    for step in log.steps:
        assert min(step.terms["enhancement"]) > 0  # the token's, and the trigger word's


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("other", ["freeu", "pag", "hypertile", "lora"])
def test_other_patches_act_beside_the_regions_in_either_order(other, first, model, clip, knight):
    def theirs(given):
        if other == "freeu":
            return patched_by(FreeU_V2, given, 1.3, 1.4, 0.9, 0.2)
        if other == "pag":
            return patched_by(PerturbedAttentionGuidance, given, 3.0)
        if other == "hypertile":
            return patched_by(HyperTile, given, 64, 2, 0, False)
        return apply_concepts(given, clip, (tiny_concept(model, clip, "x", 7, tables=False),))[0]

    prompt = "a photo of <knight>"
    regions = layout(Region(prompt, box=WHOLE))
    own, words = apply_concepts(model, clip, (knight,))
    if first:
        found, coder, *_ = composed(theirs(model), clip, (knight,), regions)
    else:
        patched, coder, *_ = composed(model, clip, (knight,), regions)
        found = theirs(patched)
    result = picture(found, coder, "a field", cfg=1.0, steps=1)
    assert torch.isfinite(result).all()
    if other != "hypertile":  # it draws its tiles' sizes at random
        expected = picture(theirs(own), words, prompt, cfg=1.0, steps=1)
        assert far(result, expected) < 10 * NEAR


def test_a_t2i_adapter_acts_beside_the_regions(model, clip, knight):
    own, words = apply_concepts(model, clip, (knight,))
    regional = RegionalAttention.execute(own, words, layout(Region("a <knight>", box=LEFT))).args[0]
    plain = picture(regional, words, "a field", cfg=1.0, steps=1)
    both = [encode(words, "a field"), encode(words, "")]
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    c, n = apply(*both, tiny_t2i_adapter(), some_picture(SIZE), 1.0, 0.0, 1.0)
    found = sample(regional, c, n, size=SIZE, cfg=1.0, steps=1)
    assert torch.isfinite(found).all()
    assert far(found, plain) > 1e-3


def image_prompt(q, k, v, extra):
    """As IP-Adapter's: a layer's own attention, and something more that counts its cells."""
    import comfy.ldm.modules.attention as attention

    height, width = extra["activations_shape"][-2:]
    assert q.shape[1] == height * width
    return attention.optimized_attention(q, k, v, extra["n_heads"]) + 0.3 * q.flip(1)


def with_image_prompt(model):
    """On layers of both levels, as packs set it: by block and transformer block."""
    patched = model.clone()
    for place in (("input", 4, 1), ("input", 8, 7), ("middle", 0, 3), ("output", 3, 0)):
        patched.set_model_attn2_replace(image_prompt, *place)
    return patched


@pytest.mark.parametrize("kind", ["ed-lora", "ordinary"])
def test_an_image_prompt_acts_inside_the_regions_in_either_order(kind, model, clip, knight, queen):
    entry, prompt = (knight, "a <knight>") if kind == "ed-lora" else (queen, "a queen")
    sides = layout(
        Region("a <knight>", box=LEFT), Region("a photo of queen", box=RIGHT, concept="queen")
    )
    both = (knight, queen)
    given, coder, *_ = composed(with_image_prompt(model), clip, both, sides)
    before = picture(given, coder, "a field")
    found, coder, *_ = composed(model, clip, both, sides)
    assert torch.equal(before, picture(with_image_prompt(found), coder, "a field"))
    assert far(before, picture(found, coder, "a field")) > 1e-3
    whole = layout(Region(prompt, box=WHOLE, concept=entry.concept.name))
    found, coder, *_ = composed(model, clip, (entry,), whole)
    own, words = apply_concepts(model, clip, (entry,))
    expected = picture(with_image_prompt(own), words, prompt, cfg=1.0)
    assert far(picture(with_image_prompt(found), coder, "x", cfg=1.0), expected) < NEAR


def controlled(both, *nets):
    """Both conditionings with one control after the other."""
    for net in nets:
        apply = nodes.ControlNetApplyAdvanced().apply_controlnet
        both = apply(*both, net, some_picture(SIZE), 1.0, 0.0, 1.0)
    return both


@pytest.mark.parametrize("order", [1, -1], ids=["controlnet first", "adapter first"])
def test_a_controlnet_acts_beside_the_regions_in_either_order(order, model, clip, knight):
    """With a T2I-Adapter before or behind it, and an image prompt set before or after. A ControlNet
    reads the global prompt, without layers."""
    nets = (tiny_sdxl_controlnet(), tiny_t2i_adapter())[::order]
    prompt = "a photo of <knight>"
    found, coder, *_ = composed(model, clip, (knight,), layout(Region(prompt, box=WHOLE)))
    base = [encode(coder, text) for text in ("a field", "")]
    own, words = apply_concepts(model, clip, (knight,))
    theirs = [encode(words, prompt), encode(words, "")]
    for one, other in zip(theirs, base, strict=True):
        one[0][1]["cross_attn_controlnet"] = other[0][0].unflatten(-1, (-1, TEXT_WIDTH)).mean(-2)
    expected = sample(own, *controlled(theirs, *nets), size=SIZE, cfg=1.0)
    result = sample(found, *controlled(base, *nets), size=SIZE, cfg=1.0)
    assert far(result, expected) < NEAR
    assert far(result, sample(found, *base, size=SIZE, cfg=1.0)) > 1e-3
    half = layout(Region(prompt, box=LEFT))
    given, coder, *_ = composed(with_image_prompt(model), clip, (knight,), half)
    both = controlled([encode(coder, text) for text in ("a field", "")], *nets)
    before = sample(given, *both, size=SIZE)
    found, *_ = composed(model, clip, (knight,), half)
    assert torch.equal(before, sample(with_image_prompt(found), *both, size=SIZE))
    assert torch.isfinite(before).all()


def test_the_pooled_text_is_the_global_prompts(clip):
    """In the other tests' UNet each channel is a group of its norms, which takes out whatever the
    pooled text adds; this one's middle level has two channels in a group."""
    model, prompt = tiny_sdxl(channel_mult=[1, 2, 1]), "a photo of <knight>"
    knight = tiny_concept(model, clip, "knight", 0)
    found, coder, *_ = composed(model, clip, (knight,), layout(Region(prompt, box=WHOLE)))
    own, words = apply_concepts(model, clip, (knight,))
    both, field = encode(words, prompt), encode(coder, "a field")
    unlike = sample(own, both, both, size=SIZE, cfg=1.0)
    both[0][1]["pooled_output"] = field[0][1]["pooled_output"]
    expected = sample(own, both, both, size=SIZE, cfg=1.0)
    result = sample(found, field, field, size=SIZE, cfg=1.0)
    assert far(result, expected) < NEAR
    assert far(result, unlike) > 10 * NEAR


def test_bfloat16_is_close_to_float32(clip, knight):
    regions = layout(Region("a <knight>", box=LEFT))
    results = []
    for given in (tiny_sdxl(dtype=torch.bfloat16), tiny_sdxl()):
        found, coder, *_ = composed(given, clip, (knight,), regions)
        results.append(picture(found, coder, "a field", cfg=1.0, steps=1))
    assert far(*results) < 0.1


def test_velocity_models_draw_too(clip, knight):
    own = tiny_sdxl(sampling="v_prediction")
    prompt = "a photo of <knight>"
    found, coder, *_ = composed(own, clip, (knight,), layout(Region(prompt, box=WHOLE)))
    applied = apply_concepts(own, clip, (knight,))
    assert far(picture(found, coder, "x", cfg=1.0), picture(*applied, prompt, cfg=1.0)) < NEAR


def test_strength_zero_everywhere_is_the_plain_model_in_its_regions(model, clip, queen):
    silent = (WeightedConcept(queen.concept, 0.0, 0.0),)
    regions = layout(Region("a queen", box=WHOLE, concept="queen"))
    found, coder, *_ = composed(model, clip, silent, regions)
    expected = picture(model, clip, "a queen", cfg=1.0)
    assert far(picture(found, coder, "a field", cfg=1.0), expected) < NEAR


def test_the_inputs_stay_as_they_were(model, clip, knight, queen):
    before = fingerprint(model), fingerprint(clip.patcher)
    regions = layout(Region("a <knight>", box=LEFT), Region("queen", box=RIGHT, concept="queen"))
    found, coder, *_ = ComposerAttention.execute(model, clip, (knight, queen), regions).args
    picture(found, coder, "a field")
    assert (fingerprint(model), fingerprint(clip.patcher)) == before
