"""Ring 1: folders of training images, as people and their systems leave them."""

import numpy as np
import pytest
import torch
from PIL import Image

from mix_of_show.mos_core.errors import TrainError
from mix_of_show.mos_core.train.folder import (
    folder_fingerprint,
    list_training_folders,
    read_training_folder,
)

RAMP = np.tile(np.linspace(0, 1, 64), (32, 1))  # (32, 64), dark on the left


def test_a_folder_gives_pictures_masks_and_captions_in_order(tmp_path):
    folder = tmp_path / "cats" / "tom"
    folder.mkdir(parents=True)
    Image.new("RGBA", (16, 8), (255, 0, 0, 0)).save(folder / "2.png")
    Image.new("RGB", (8, 8), "blue").save(folder / "1.jpg")
    Image.new("L", (8, 8), 255).save(folder / "1.mask.png")
    (folder / "1.txt").write_text("a blue <TOK>\n")
    assert list_training_folders(tmp_path) == ["cats/tom"]
    images, masks, captions = read_training_folder(folder, "photo of <TOK>")
    assert [tuple(i.shape) for i in images] == [(1, 8, 8, 3), (1, 8, 16, 3)]
    assert masks[0].eq(1).all()
    assert masks[1].eq(0).all()
    assert captions == ["a blue <TOK>", "photo of <TOK>"]


def test_a_damaged_picture_is_named(tmp_path):
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(TrainError, match=r"'1\.png'"):
        read_training_folder(tmp_path, "")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(TrainError, match="holds no pictures"):
        read_training_folder(tmp_path, "")


# --- kinds of pictures -----------------------------------------------------------------------


def in_mode(mode: str) -> Image.Image:
    """The ramp as a picture of that kind."""
    if mode == "I;16":
        return Image.fromarray((RAMP * 65535).astype(np.uint16))
    gray = Image.fromarray((RAMP * 255).round().astype(np.uint8))
    return gray.convert(mode) if mode != "P" else gray.convert("RGB").quantize(256)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16", "LA", "RGBA"])
def test_a_ramp_is_that_ramp_whatever_the_file_holds(mode, tmp_path):
    for name in ("a.png", "a.mask.png"):
        in_mode(mode).save(tmp_path / name)
    (image,), (mask,), _ = read_training_folder(tmp_path, "a <TOK>")
    expected = torch.from_numpy(RAMP).float()
    torch.testing.assert_close(image[0].mean(-1), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(mask[0], expected, rtol=0, atol=0.02)


def test_sixteen_bits_of_gray_keep_their_steps(tmp_path):
    values = np.tile(np.arange(1000, 1064, dtype=np.uint16), (8, 1))
    Image.fromarray(values).save(tmp_path / "a.png")
    (image,), _, _ = read_training_folder(tmp_path, "a <TOK>")
    expected = torch.from_numpy(values.astype(np.float32) / 65535)
    torch.testing.assert_close(image[0, ..., 0], expected)


def test_a_palette_with_a_transparent_colour_is_a_mask(tmp_path):
    picture = Image.new("P", (16, 8), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (8, 0, 16, 8))
    picture.save(tmp_path / "a.png", transparency=0)
    (image,), (mask,), _ = read_training_folder(tmp_path, "a <TOK>")
    assert mask[0, :, :8].eq(0).all()
    assert mask[0, :, 8:].eq(1).all()
    assert image[0, :, :8].eq(1).all()  # transparent parts on white
    assert image[0, 0, 15].tolist() == [0, 0, 1]


def test_a_mask_may_be_painted_in_its_transparency(tmp_path):
    Image.new("RGB", (16, 8), "red").save(tmp_path / "a.png")
    mask = Image.new("RGBA", (16, 8), (255, 255, 255, 0))
    mask.paste((255, 255, 255, 255), (8, 0, 16, 8))
    mask.save(tmp_path / "a.mask.png")
    _, (found,), _ = read_training_folder(tmp_path, "a <TOK>")
    assert found[0, :, :8].eq(0).all()
    assert found[0, :, 8:].eq(1).all()


def test_a_picture_that_its_camera_turned_stands_upright_with_its_mask(tmp_path):
    picture = in_mode("RGB")
    note = Image.Exif()
    note[0x0112] = 6  # to be turned a quarter clockwise
    picture.save(tmp_path / "a.jpg", exif=note, quality=95)
    upright = torch.from_numpy(np.rot90(RAMP, -1).copy()).float()
    Image.fromarray((upright.numpy() * 255).astype(np.uint8)).save(tmp_path / "a.mask.png")
    (image,), (mask,), _ = read_training_folder(tmp_path, "a <TOK>")
    assert image.shape[1:3] == mask.shape[1:] == (64, 32)
    torch.testing.assert_close(image[0].mean(-1), upright, rtol=0, atol=0.03)


# --- what other systems leave ----------------------------------------------------------------


def test_companions_of_other_file_systems_are_left_out(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    (tmp_path / "._a.mask.png").write_bytes(bytes(100))
    (tmp_path / "._a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "desktop.ini").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    images, masks, captions = read_training_folder(tmp_path, "a <TOK>")
    assert len(images) == len(masks) == len(captions) == 1


@pytest.mark.parametrize("name", [".hidden", "@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN"])
def test_folders_of_other_systems_are_not_listed(name, tmp_path):
    for folder in ("mine", f"mine/{name}", name):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "thumb.jpg")
    assert list_training_folders(tmp_path) == ["mine"]


def test_names_match_in_upper_and_lower_case(tmp_path):
    Image.new("RGB", (8, 8), "white").save(tmp_path / "Tom.PNG")
    Image.new("L", (8, 8), 0).save(tmp_path / "tom.Mask.png")
    (tmp_path / "TOM.TXT").write_text("a <TOK>")
    _, (mask,), captions = read_training_folder(tmp_path, "other")
    assert mask.eq(0).all()
    assert captions == ["a <TOK>"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_of_any_editor_are_read(encoding, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("größer <TOK>\r\n".encode(encoding))
    assert read_training_folder(tmp_path, "")[2] == ["größer <TOK>"]


def test_a_caption_that_is_no_text_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes(b"\x80\x81\xff")
    with pytest.raises(TrainError, match=r"'a\.txt' is not readable text"):
        read_training_folder(tmp_path, "")


@pytest.mark.parametrize("kept", [0, 20, 45, 60])
def test_a_picture_that_was_cut_off_is_named(kept, tmp_path):
    in_mode("RGB").save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: kept * len(whole) // 100])
    with pytest.raises(TrainError, match=r"'a\.png'"):
        read_training_folder(tmp_path, "")


def test_a_fingerprint_survives_broken_links_and_sees_changes(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    before = folder_fingerprint(tmp_path)
    assert before == folder_fingerprint(tmp_path)
    (tmp_path / "a.txt").write_text("new")
    assert before != folder_fingerprint(tmp_path)
