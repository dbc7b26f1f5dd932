"""Ring 2: what training cannot use is refused in the user's words, before any work."""

import comfy.model_sampling
import comfy.sd
import comfy.taesd.taesd
import folder_paths
import pytest
import torch
from PIL import Image

from mix_of_show.mos_core.errors import FileFormatError, MosError
from mix_of_show.nodes.folders import list_training, training_path
from mix_of_show.nodes.fuse import SaveFused
from mix_of_show.nodes.fuse_export import SaveFusedLoRA
from mix_of_show.nodes.load import SaveEDLoRA
from mix_of_show.nodes.train import TrainEDLoRA
from support.tiny_models import empty_unet


@pytest.fixture(scope="module")
def vae():
    return comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())


@pytest.fixture
def train(unet, clip, vae, monkeypatch):
    """The node, with one small picture; nothing may be encoded."""

    def refuse(*args, **kwargs):
        raise AssertionError("work was done")

    def train(**changes):
        fields = {
            "model": unet, "clip": clip, "vae": vae, "steps": 1, "batch_size": 1,
            "accumulation": 1, "rank": 2, "layers": "attention", "rate_embedding": 1e-3,
            "rate_text": 1e-5, "rate_unet": 1e-4, "layerwise": True, "resolution": 128, "views": 1,
            "noise_offset": 0.0, "regularisation": "off", "regularisation_weight": 0.01,
            "masked_loss": "mask", "embedding_norm": 0.0, "shuffle_captions": True,
            "gradient_checkpointing": False, "dtype": "auto", "seed": 0, "preview_every": 0,
            "preview_prompt": "", "concept_name": "x", "concept_tokens": "<x1> <x2>",
            "initializer": "<rand-0.1> man",
        }  # fmt: skip
        captions = changes.pop("captions", ["a <TOK>"])
        given = {name: [value] for name, value in {**fields, **changes}.items()}
        monkeypatch.setattr(type(vae), "encode", refuse)
        return TrainEDLoRA.execute(images=[torch.rand(1, 128, 128, 3)], captions=captions, **given)

    return train


@pytest.mark.parametrize(
    ("channels", "message"), [(9, "takes 9 channels.*inpainting"), (8, "takes 8 channels")]
)
def test_models_that_take_more_than_a_latent_are_refused(train, channels, message):
    with pytest.raises(MosError, match=message):
        train(model=empty_unet(in_channels=channels))


class Other(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.X0):
    pass


class Continuous(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM):
    pass


@pytest.mark.parametrize(("kind", "name"), [(Other, "X0"), (Continuous, "EDM")])
def test_models_set_to_predict_something_else_are_refused(train, unet, kind, name):
    model = unet.clone()
    model.add_object_patch("model_sampling", kind(unet.model.model_config))
    with pytest.raises(MosError, match=f"neither noise, velocity nor flow.*{name}"):
        train(model=model)


def test_a_clip_of_another_kind_of_model_is_refused(train):
    small = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    small |= {"num_hidden_layers": 3, "projection_dim": 32}
    options = {"clip_l_model_config": small, "clip_g_model_config": small, "dtype": torch.float32}

    class SDXL:
        from comfy.sdxl_clip import SDXLClipModel as clip
        from comfy.sdxl_clip import SDXLTokenizer as tokenizer

        params: dict = {}  # noqa: RUF012

    with pytest.raises(MosError, match=r"text encoders clip_l, clip_g.*SD1\.5 needs clip_l"):
        train(clip=comfy.sd.CLIP(SDXL, model_options=options))


def test_a_vae_of_other_latents_is_refused(train, vae, monkeypatch):
    monkeypatch.setattr(vae, "latent_channels", 16)
    with pytest.raises(MosError, match="latents of 16 channels, this MODEL takes 4"):
        train()


@pytest.mark.parametrize("captions", [[""], ["", "a <TOK>"], ["\n"]])
def test_empty_captions_are_refused(train, captions):
    with pytest.raises(MosError, match="caption"):
        train(captions=captions)


# --- folders of training images --------------------------------------------------------------


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """ComfyUI's input folder with a link to a folder elsewhere."""
    for folder in ("elsewhere", "input/own/deep"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / folder / "a.png")
    (tmp_path / "input" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "input" / "round").symlink_to(tmp_path / "input")  # a circle
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    return tmp_path


def test_every_listed_folder_can_be_read_links_too(inputs):
    listed = [name for name in list_training() if not name.startswith("demo")]
    assert {"linked", "own/deep"} <= set(listed)
    for name in listed:
        assert list(training_path(name).glob("a.png"))


@pytest.mark.parametrize(
    "name",
    ["../elsewhere", "own/../../elsewhere", "", ".", "/etc", "own\\..\\..\\elsewhere", "gone"],
)
def test_names_that_leave_the_input_folder_are_refused(inputs, name):
    with pytest.raises(FileFormatError, match="there is no folder"):
        training_path(name)


# --- where the result goes -------------------------------------------------------------------


@pytest.mark.parametrize("node", [SaveEDLoRA, SaveFused, SaveFusedLoRA])
def test_a_name_that_cannot_be_saved_is_refused_before_anything_is_made(
    node, tmp_path, monkeypatch
):
    """ComfyUI asks when the workflow is queued, so no training is done for nothing."""
    for folder in ("models", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models" / "linked").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda kind: [str(tmp_path / "models")])
    for wrong in ("linked/x", "../x", "", "a:b"):
        assert isinstance(node.validate_inputs(wrong), str), wrong
    for right in ("x", "sub/%name%", None):
        assert node.validate_inputs(right) is True
