"""Crops around regions: the rectangle, its size, and back into the picture."""

import pytest
import torch

from mix_of_show.mos_core.regions.crops import Crop, cut, paste, plan_crop


def mask(x0, y0, x1, y1, width=200, height=100):
    alpha = torch.zeros(height, width)
    alpha[y0:y1, x0:x1] = 1
    return alpha


def test_a_crop_holds_the_region_and_its_surroundings_in_the_shape_it_is_drawn_in():
    crop = plan_crop(mask(80, 30, 120, 70), context=1.5, side=128)
    assert crop == Crop(70, 20, 130, 80, 128, 128)


def test_a_tall_region_is_drawn_tall_with_as_many_pixels_as_the_square():
    crop = plan_crop(mask(90, 10, 110, 90), context=1.0, side=128)
    assert (crop.width, crop.height) == (64, 256)
    assert crop.y1 - crop.y0 == 80
    assert crop.x1 - crop.x0 == 20


def test_a_crop_is_moved_inside_the_picture():
    crop = plan_crop(mask(0, 0, 40, 40), context=1.5, side=128)
    assert (crop.x0, crop.y0, crop.x1, crop.y1) == (0, 0, 60, 60)
    whole = plan_crop(mask(0, 0, 200, 100), context=2.0, side=128)
    assert (whole.x0, whole.y0, whole.x1, whole.y1) == (0, 0, 200, 100)


def test_a_crop_that_the_picture_limits_keeps_its_shape():
    crop = plan_crop(mask(60, 5, 150, 95), context=2.0, side=128)
    assert (crop.x1 - crop.x0) / (crop.y1 - crop.y0) == pytest.approx(1.8, abs=0.05)
    assert crop.width / crop.height == pytest.approx(1.8, abs=0.15)


@pytest.mark.parametrize("context", [1.0, 1.3, 2.7])
def test_the_whole_region_lies_in_its_crop(context):
    alpha = mask(13, 5, 190, 64)
    crop = plan_crop(alpha, context, side=512)
    assert alpha[crop.y0 : crop.y1, crop.x0 : crop.x1].sum() == alpha.sum()
    assert crop.width % 16 == crop.height % 16 == 0


def test_nothing_has_no_crop():
    assert plan_crop(torch.zeros(8, 8), 1.5, 128) is None


def test_pasting_changes_no_bit_outside_the_mask():
    picture, alpha = torch.rand(1, 100, 200, 3), mask(80, 30, 120, 70)
    crop = plan_crop(alpha, 1.5, 128)
    after = paste(picture, torch.rand(1, 128, 128, 3), crop, alpha)
    assert torch.equal(after[0][alpha == 0], picture[0][alpha == 0])
    assert not torch.equal(after[0][alpha == 1], picture[0][alpha == 1])


def test_pasting_mixes_by_the_mask_and_keeps_an_alpha_channel():
    picture = torch.zeros(1, 10, 10, 4)
    picture[..., 3] = 0.7
    alpha = torch.full((10, 10), 0.25)
    after = paste(picture, torch.ones(1, 16, 16, 3), Crop(0, 0, 10, 10, 16, 16), alpha)
    torch.testing.assert_close(after[..., :3], torch.full((1, 10, 10, 3), 0.25))
    torch.testing.assert_close(after[..., 3], picture[..., 3])


def test_cutting_and_pasting_at_the_same_size_is_the_picture():
    picture = torch.rand(1, 32, 32, 3)
    crop = Crop(4, 8, 20, 24, 16, 16)
    assert torch.equal(paste(picture, cut(picture, crop), crop, torch.ones(32, 32)), picture)
