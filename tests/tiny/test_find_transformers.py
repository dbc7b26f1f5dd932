"""Regions From Attention on diffusion transformers: what is read, and that it leaves no trace."""

import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import CROSS, JOINT
from mix_of_show.mos_core.find.settings import FindSettings
from mix_of_show.mos_core.patch.find import joint_watch
from mix_of_show.mos_core.patch.find.find_regions import ShortRun, find_regions
from mix_of_show.mos_core.patch.find.joint_watch import KEY, JointWatch, places_in
from mix_of_show.mos_core.patch.find.mentions import text_places, token_keys
from mix_of_show.mos_core.patch.regional.joint_attention import OVERRIDE
from mix_of_show.mos_core.patch.regional.wrappers import WrappersMP
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.dit_clips import CLIPS
from support.dit_models import TINY, dit_conditioning, dit_latent, draw_dit, tiny_dit
from support.dit_regions import two_loras
from support.sampling import describe, fingerprint

PROMPT = "anna on the left, boris on the right, snow"
POSITIONS = [(2, 3), (5,)]


def family(model):
    return family_of(model.model.model_config.unet_config)[0]


def watched(model, positions=POSITIONS):
    """A clone that is looked at, and what looks."""
    clone, watch = model.clone(), JointWatch(family(model), positions)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, watch.run_model)
    return clone, watch


def draw(model, name, **options):
    texts = dit_conditioning(name, 0), dit_conditioning(name, 1)
    return draw_dit(model, name, *texts, **{"steps": 1, "cfg": 1.0, "size": (12, 16), **options})


class Measured:
    """What image cells see of the words, as a share of what they see of the text in each head,
    measured by ComfyUI's own attention: its values are 1 at the words, or at the text, and 0
    elsewhere."""

    def __init__(self, positions, cells: int, before: int, total: int):
        """before: tokens of the text, in front of the image's. total: of the whole sequence."""
        self.positions, self.cells = positions, cells
        self.before, self.total = before, total
        self.maps = [0.0] * len(positions)

    def __call__(self, func, q, k, v, heads, *args, **kwargs):
        along = 2 if kwargs.get("skip_reshape") else 1
        axis = 2 if kwargs.get("skip_output_reshape") else 1
        sizes = q.shape[along], k.shape[along]
        starts = {(self.total, self.total): self.before, (self.cells, self.before): 0}
        if sizes in starts:
            start = starts[sizes]

            def seen(at):
                marked = torch.zeros_like(v)
                marked.index_fill_(along, torch.tensor(at), 1.0)
                found = func(q, k, marked, heads, *args, **kwargs)[:1].movedim(axis, 0)
                return found.flatten(1)[start : start + self.cells]

            text = seen(range(self.before))
            for number, at in enumerate(self.positions):
                share = (seen(at) / text).mean(1)
                self.maps[number] = self.maps[number] + share / share.mean()
        return func(q, k, v, heads, *args, **kwargs)


# ------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", TINY)
def test_every_family_is_read_as_it_attends(name):
    model = tiny_dit(name)
    patch = family(model).latent.patch
    rows, columns = 12 // patch, 16 // patch
    length = max(9, TINY[name].text)
    start = length - 9  # a text that is filled up in front
    positions = [tuple(start + p for p in own) for own in POSITIONS]
    clone, watch = watched(model, positions)
    multiple = 32 if name == "z_image" else 1  # it pads texts and images to that
    before, behind = (-(-n // multiple) * multiple for n in (length, rows * columns))
    measured = Measured(positions, rows * columns, before, before + behind)
    options = clone.model_options.setdefault("transformer_options", {})
    options[OVERRIDE] = measured
    draw(clone, name)
    maps = watch.maps()
    assert maps.words.shape == (2, rows, columns)
    for found, expected in zip(maps.words, measured.maps, strict=True):
        torch.testing.assert_close(found.flatten(), expected, rtol=1e-4, atol=1e-4)
    assert maps.own.shape == (rows * columns, rows * columns)
    torch.testing.assert_close(maps.own.sum(1), torch.ones(rows * columns))


@pytest.mark.parametrize("name", TINY)
def test_watching_changes_nothing_of_the_drawing(name):
    model = tiny_dit(name)
    before = describe(model), fingerprint(model)
    clone, _ = watched(model)
    assert torch.equal(draw(clone, name, cfg=2.0), draw(model, name, cfg=2.0))
    assert (describe(model), fingerprint(model)) == before


@pytest.mark.parametrize("name", TINY)
def test_the_maps_are_those_of_the_positive_prompt_alone(name):
    model = tiny_dit(name)
    alone, both = watched(model), watched(model)
    draw(alone[0], name)
    draw(both[0], name, cfg=3.0)
    torch.testing.assert_close(alone[1].maps().words, both[1].maps().words, rtol=1e-3, atol=1e-3)


def test_a_large_picture_is_looked_at_on_a_coarser_grid(monkeypatch):
    monkeypatch.setattr(joint_watch, "MOST_CELLS", 12)
    clone, watch = watched(tiny_dit("flux"))
    draw(clone, "flux")
    assert watch.maps().words.shape == (2, 3, 4)
    assert watch.maps().own.shape == (12, 12)


def test_another_packs_override_is_still_asked():
    asked = []

    def prior(func, *args, **kwargs):
        asked.append(1)
        return func(*args, **kwargs)

    clone, watch = watched(tiny_dit("flux"))
    clone.model_options.setdefault("transformer_options", {})[OVERRIDE] = prior
    draw(clone, "flux")
    assert asked
    assert watch.maps() is not None


def test_places_count_from_the_start_or_from_the_end():
    assert places_in([(1, 2), (-3,), (9,)], 5) == ((0, (1, 2)), (1, (2,)))


# ------------------------------------------------------------------------- prompts to regions


@pytest.fixture(scope="module", params=tuple(CLIPS))
def loaded(request):
    """(family, MODEL, CLIP, two concepts)"""
    model = tiny_dit(request.param)
    return request.param, model, CLIPS[request.param](), two_loras(model, "anna", "boris")


def find(loaded, prompt=PROMPT, **more):
    name, model, clip, chain = loaded
    run = ShortRun(prompt, "", 3, 2, 1.0, "euler", "simple")
    latent = {"samples": dit_latent(name, (12, 16))}
    return find_regions(model, clip, chain, latent, run, FindSettings(), **more)


def test_words_stand_where_the_models_text_has_them(loaded):
    name, model, clip, chain = loaded
    mentions, places = text_places(clip, PROMPT, chain, family(model))
    assert [mention.concept for mention in mentions] == [0, 1]
    ((text, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))
    ((other, _),) = clip.encode_from_tokens_scheduled(
        clip.tokenize(PROMPT.replace("boris", "peter"))
    )
    encoder = family(model).sequence.words or family(model).texts[0].tokens
    tokens = token_keys(clip, PROMPT, encoder)
    first = [p if p >= 0 else text.shape[1] + p for p in places[1]]
    if name != "flux":  # a language model reads forwards: what differs begins with the word
        changed = (text[0, : other.shape[1]] != other[0, : text.shape[1]]).any(-1)
        assert int(changed.nonzero()[0]) == first[0]
    else:
        assert text.shape[1] == len(tokens)


def test_every_concept_gets_a_region_and_the_same_seed_the_same(loaded):
    before = describe(loaded[1]), fingerprint(loaded[1]), describe(loaded[2].patcher)
    first = find(loaded)
    assert [r.concept for r in first.regions.regions] == ["anna", "boris"]
    assert (first.regions.width, first.regions.height) == (128, 96)
    assert first.regions.regions[0].prompt == "anna on the left, anna, snow"
    find(loaded, "boris beside anna")
    again = find(loaded)
    for one, other in zip(first.regions.regions, again.regions.regions, strict=True):
        assert torch.equal(one.mask, other.mask)
    assert (describe(loaded[1]), fingerprint(loaded[1]), describe(loaded[2].patcher)) == before


def test_a_prompt_without_a_concept_is_refused_by_name(loaded):
    with pytest.raises(RegionError, match="'boris'"):
        find(loaded, "anna in the snow")


def test_inside_boxes_regions_keep_their_prompts(loaded):
    boxes = Regions(
        128,
        96,
        (
            Region("anna in red", box=Box(0, 0, 0.5, 1), concept="anna"),
            Region("boris in blue", box=Box(0.5, 0, 1, 1), concept="boris"),
        ),
    )
    found = find(loaded, before=boxes).regions.regions
    assert [region.prompt for region in found] == ["anna in red", "boris in blue"]


def test_every_family_has_an_attention_to_read():
    for name in TINY:
        kinds = family(tiny_dit(name)).sequence.attention.values()
        assert JOINT in kinds or CROSS in kinds
