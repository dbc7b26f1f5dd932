"""Ring 1: the contact sheet of training images."""

import torch

from mix_of_show.mos_core.train.sheet import CELL, draw_sheet


def test_small_images_lie_row_by_row_unchanged():
    images = [torch.full((1, 8, 8, 3), i / 10) for i in range(5)]
    sheet = draw_sheet(images)
    assert sheet.shape == (1, 16, 24, 3)
    cells = sheet.unflatten(1, (2, 8)).unflatten(3, (3, 8)).movedim(3, 2)[0]  # (2, 3, 8, 8, 3)
    for i in range(5):
        assert torch.equal(cells[i // 3, i % 3], images[i][0])
    assert (cells[1, 2] == 1).all()  # the empty cell is white


def test_large_and_mixed_images_are_shrunk_into_the_middle_of_their_cells():
    sheet = draw_sheet([torch.zeros(1, 1024, 512, 3), torch.zeros(1, 100, 200, 3)])
    assert sheet.shape == (1, CELL, 2 * CELL, 3)
    tall, wide = sheet[0, :, :CELL, 0], sheet[0, :, CELL:, 0]
    assert (tall == 0).sum() == CELL * CELL // 2
    assert (tall[:, CELL // 2] == 0).all()
    assert (wide == 0).sum() == 100 * 200


def test_no_more_than_the_first_64_are_shown():
    images = [torch.zeros(1, 4, 4, 3)] * 64 + [torch.ones(1, 4, 4, 3)] * 10
    assert draw_sheet(images).shape == (1, 32, 32, 3)
    assert (draw_sheet(images) == 0).all()
