"""Reference pictures of edit models: regions are of the picture that is drawn."""

import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from support.dit_models import TINY, dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import (
    LEFT,
    RIGHT,
    WHOLE,
    error,
    merged,
    random_lora,
    region,
    text_of,
    with_regions,
)

FAMILIES = ("flux", "flux2", "qwen_image", "krea2")
MERGED = 1e-4


def references(name, *seeds):
    """Latents of other sizes than the picture's."""
    time = (1,) if TINY[name].time else ()
    sizes = ((8, 12), (6, 6), (10, 4))
    return [
        torch.randn(
            1, TINY[name].channels, *time, *size, generator=torch.Generator().manual_seed(seed)
        )
        for seed, size in zip(seeds, sizes, strict=False)
    ]


def prompts(name, positive, negative, pictures):
    """With the reference pictures on the positive prompt and the negative one."""
    more = {"reference_latents": pictures, "reference_latents_method": "index"}
    return tuple(
        [[text, {**extras, **more}] for text, extras in dit_conditioning(name, seed)]
        for seed in (positive, negative)
    )


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return tiny_dit(name)


@pytest.mark.parametrize("number", [None, "1", "picture 1"])
def test_a_region_everywhere_is_the_plain_picture_with_its_prompt_and_the_reference(
    name, model, number
):
    pictures = references(name, 7)
    plain = draw_dit(model, name, *prompts(name, 3, 4, pictures))
    assert not torch.equal(plain, draw_dit(model, name, *prompts(name, 3, 4, [])))
    lora = random_lora(model)
    for own, expected in ((None, plain), (lora, None)):
        drawn = (region(WHOLE, text_of(name, 3, 4), own, reference=number),)
        found = draw_dit(with_regions(model, drawn), name, *prompts(name, 1, 2, pictures))
        if expected is None:
            expected = draw_dit(merged(model, lora), name, *prompts(name, 3, 4, pictures))
            assert error(found, expected) <= MERGED
        else:
            assert torch.equal(found, expected)


@pytest.mark.parametrize("named", [True, False])
def test_a_reference_is_seen_by_all_or_by_the_region_that_names_it(name, model, named):
    pictures = []
    for seed in (7, 8):
        given = references(name, 9, seed)
        drawn = (
            region(LEFT, text_of(name, 3, 4), reference="2" if named else None),
            region(RIGHT, text_of(name, 5, 6), reference="1" if named else None),
        )
        patched = with_regions(model, drawn)
        pictures.append(draw_dit(patched, name, *prompts(name, 1, 2, given)))
    difference = (pictures[0] - pictures[1]).abs()
    assert difference[..., :8].max() > 1e-3
    assert bool(difference[..., 8:].any()) is not named


@pytest.mark.parametrize("number", ["2", "0", "anna"])
def test_a_reference_that_there_is_not_is_named(name, model, number):
    patched = with_regions(model, (region(LEFT, text_of(name, 3), reference=number),))
    with pytest.raises(RegionError, match=f"names the reference picture '{number}'.*1 to 1"):
        draw_dit(patched, name, *prompts(name, 1, 2, references(name, 7)))


def test_without_reference_pictures_the_name_means_nothing(name, model):
    both = dit_conditioning(name, 1), dit_conditioning(name, 2)
    pictures = [
        draw_dit(
            with_regions(model, (region(LEFT, text_of(name, 3), reference=number),)), name, *both
        )
        for number in (None, "1")
    ]
    assert torch.equal(*pictures)
