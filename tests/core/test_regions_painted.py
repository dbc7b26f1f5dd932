"""Ring 1: regions from masks and from colours."""

import numpy as np
import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.regions.from_colors import add_colors, find_colors
from mix_of_show.mos_core.regions.from_masks import add_mask
from mix_of_show.mos_core.regions.region import Regions

# ------------------------------------------------------------------------- masks


def test_a_mask_of_another_size_covers_the_whole_canvas():
    """Twice as large in each direction: the same weights on the feature map."""
    small = torch.rand(64, 64, generator=torch.Generator().manual_seed(1))
    large = small.repeat_interleave(2, 0).repeat_interleave(2, 1)
    canvas = Regions(512, 512)
    one = add_mask(small, "a cat", before=canvas).regions[0].weights(32, 32)
    other = add_mask(large, "a cat", before=canvas).regions[0].weights(32, 32)
    torch.testing.assert_close(one, other)
    (note,) = add_mask(small, "a cat", before=canvas).notes
    assert "64 x 64 pixels and was scaled to the canvas of 512 x 512" in note


def test_a_mask_without_a_canvas_is_the_canvas():
    regions = add_mask(torch.ones(1, 48, 64), "a cat")
    assert (regions.width, regions.height, regions.notes) == (64, 48, ())


def test_a_mask_of_another_aspect_ratio_is_stretched_with_a_note():
    regions = add_mask(torch.ones(64, 32), "a cat", before=Regions(512, 512))
    assert "a cat" in regions.notes[0]
    assert "32 x 64" in regions.notes[0]


def test_grey_of_a_mask_is_a_weight():
    mask = torch.full((8, 8), 0.25)
    region = add_mask(mask, "a cat", weight=0.5).regions[0]
    torch.testing.assert_close(region.weights(4, 4), torch.full((4, 4), 0.125))


def test_the_masks_of_a_batch_are_joined():
    masks = torch.zeros(2, 8, 8)
    masks[0, :4] = 1
    masks[1, 2:6] = 0.5
    joined = add_mask(masks, "a cat").regions[0].mask
    assert joined[:4].eq(1).all()
    assert joined[4:6].eq(0.5).all()
    assert joined[6:].eq(0).all()


def test_the_mask_that_came_in_stays_as_it_is():
    mask = torch.full((1, 8, 8), 1.5)
    region = add_mask(mask, "a cat").regions[0]
    assert region.mask.max() == 1
    assert mask.eq(1.5).all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(1, 64, 64), ["a cat", "empty", "black"]),
        (torch.full((1, 8, 8), float("nan")), ["a cat", "no numbers"]),
        (torch.zeros(1, 0, 8), ["a cat", "shape"]),
        (torch.zeros(8), ["a cat", "shape"]),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_by_its_prompt(mask, words):
    with pytest.raises(RegionError) as error:
        add_mask(mask, "a cat")
    assert [word for word in words if word not in str(error.value)] == []


# ------------------------------------------------------------------------- colours


def painted(*areas, size=(64, 96)):
    """A black picture (1, height, width, 3) with areas (rows, columns, "#rrggbb")."""
    picture = torch.zeros(1, *size, 3)
    for rows, columns, color in areas:
        rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        picture[0, rows, columns] = torch.tensor(rgb)
    return picture


RED, GREEN, BLUE = "#ff0000", "#00ff00", "#0000ff"
THREE = painted(
    (slice(8, 56), slice(64, 90), RED),
    (slice(8, 56), slice(4, 30), GREEN),
    (slice(0, 30), slice(34, 60), BLUE),
)


def test_colours_take_the_prompts_from_left_to_right():
    regions = add_colors(THREE, "the green one\n\nthe blue one\n the red one \n")
    assert [r.prompt for r in regions.regions] == ["the green one", "the blue one", "the red one"]
    expected = (THREE[0, ..., 1] == 1).float()
    assert torch.equal(regions.regions[0].mask, expected)


def test_colours_one_below_the_other_take_the_prompts_from_top_to_bottom():
    rows = painted((slice(40, 60), slice(10, 80), RED), (slice(5, 25), slice(10, 80), BLUE))
    regions = add_colors(rows, "above\nbelow")
    assert regions.regions[0].mask[10, 40] == 1
    assert regions.regions[1].mask[50, 40] == 1


def test_a_line_that_names_a_colour_is_for_that_colour():
    regions = add_colors(THREE, "#f80808 red\nleft\nmiddle").regions
    assert [region.prompt for region in regions] == ["red", "left", "middle"]
    assert regions[0].mask[30, 70] == 1
    assert regions[1].mask[30, 10] == 1


def test_noise_and_soft_edges_do_not_make_colours():
    """Blurred and noisy as after JPEG: the same regions, but for the pixels at the edges."""
    soft = THREE.movedim(-1, 1)
    soft = torch.nn.functional.avg_pool2d(soft, 3, 1, 1).movedim(1, -1)
    noise = torch.randn(soft.shape, generator=torch.Generator().manual_seed(3))
    regions = add_colors((soft + 0.02 * noise).clamp(0, 1), "a\nb\nc")
    for region, exact in zip(regions.regions, add_colors(THREE, "a\nb\nc").regions, strict=True):
        assert (region.mask != exact.mask).float().mean() < 0.01


def test_every_pixel_has_a_colour():
    colors, labels = find_colors(THREE[0])
    assert {tuple(color) for color in colors.tolist()} == {
        (0, 0, 0),
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    }
    assert np.array_equal(colors[labels], (THREE[0] * 255).byte().numpy())


def test_without_a_background_black_is_a_region_too():
    regions = add_colors(painted((slice(0, 64), slice(0, 48), RED)), "left\nright", "none")
    assert [region.mask.mean().item() for region in regions.regions] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("picture", "prompts", "background", "words"),
    [
        (THREE, "one\ntwo", "black", ["3 colours", "#00ff00, #0000ff, #ff0000", "2 prompts"]),
        (painted(), "one", "black", ["no colour beside its background"]),
        (THREE, "#ffff00 sun\nb\nc", "black", ["#ffff00 sun", "does not have"]),
        (THREE, "#ff0000 a\n#ff0000 b\nc", "black", ["#ff0000 b", "has a prompt already"]),
        (THREE, "a", "purple", ["'purple' is no colour", "#rrggbb"]),
    ],
)
def test_colours_that_do_not_match_the_prompts_are_named(picture, prompts, background, words):
    with pytest.raises(RegionError) as error:
        add_colors(picture, prompts, background)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_photograph_is_no_colour_mask():
    noise = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(5))
    with pytest.raises(RegionError, match="flat colour") as error:
        add_colors(noise, "a")
    assert len(str(error.value)) < 400
