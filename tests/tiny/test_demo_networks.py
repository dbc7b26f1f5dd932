"""The world's networks in training are ComfyUI's: a checkpoint that is written from them and loaded
by the pack predicts the same, and a step of training moves every weight."""

import sys
from pathlib import Path

import pytest
import torch

from mix_of_show.mos_core.patch.host.miniature import load_miniature

DEMO = Path(__file__).absolute().parents[2] / "demo"
CAPTIONS = ["a fox, red background", "an owl on the left, a cat on the right, night background"]
TINY = {
    "sd15": (
        {"model_channels": 32, "channel_mult": [1, 1, 1, 1], "context_dim": 16, "num_heads": 2},
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
    ),
    "flux": (
        {"hidden_size": 32, "num_heads": 2, "axes_dim": [4, 6, 6], "depth": 1}
        | {"depth_single_blocks": 1, "context_in_dim": 24, "vec_in_dim": 16},
        {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
        {"d_model": 24, "d_ff": 48, "d_kv": 8, "num_heads": 3, "num_layers": 2},
    ),
}
for sizes in TINY.values():
    sizes[1]["num_hidden_layers"] = 2
TINY["sdxl"] = (
    {"model_channels": 32, "channel_mult": [1, 1, 1], "num_heads": 2},
    {**TINY["sd15"][1], "num_hidden_layers": 3},
    {**TINY["sd15"][1], "num_hidden_layers": 3, "hidden_size": 24, "hidden_act": "gelu"},
)


class Args:
    fp32, times, layout, own_pooled = True, 1.0, 1.0, 0.5


@pytest.fixture(params=TINY)
def world(request, monkeypatch):
    """family, config, model, text encoder, token ids of the captions"""
    monkeypatch.syspath_prepend(str(DEMO))
    monkeypatch.syspath_prepend(str(DEMO.parent))
    before = set(sys.modules)
    from families import FAMILIES

    torch.manual_seed(3)
    family, config = FAMILIES[request.param], TINY[request.param]
    ids = family.token_ids([*CAPTIONS, ""]).long()
    with torch.inference_mode(False):
        yield family, config, *family.networks(config, ids), ids
    for name in set(sys.modules) - before:
        demo = str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(DEMO))
        if demo or name.split(".")[0] == "mos_core":  # the pack has its own name everywhere else
            del sys.modules[name]


def test_a_step_of_training_moves_every_weight(world):
    family, _, model, text, ids = world
    parameters = {**dict(model.named_parameters()), **dict(text.named_parameters())}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    latents = torch.randn(3, family.channels, 16, 16)
    for _ in range(6):  # what begins at zero lets others move only after it has moved
        loss = family.loss(model, text, latents, ids, Args)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    still = [name for name, p in parameters.items() if not p.grad.any()]
    assert not still


def test_a_written_checkpoint_predicts_what_the_networks_predict(world, tmp_path):
    family, config, model, text, ids = world
    from export import write_checkpoint
    from safetensors.torch import save_file
    from vae import new_vae

    for p in model.parameters():  # nothing is zero
        torch.nn.init.normal_(p.data, std=0.05)
    text.half().float()
    save_file(new_vae(family.channels).state_dict(), tmp_path / "vae.safetensors")
    path = tmp_path / "world.safetensors"
    write_checkpoint(path, family, config, model, text, tmp_path / "vae.safetensors", {})
    family.read(path, model, text)  # as the file keeps them: in 8 bits
    loaded, clip, _ = load_miniature(path)
    latents, t = torch.randn(1, family.channels, 16, 16), torch.tensor([0.7])
    cond = clip.encode_from_tokens(clip.tokenize(CAPTIONS[1]), return_pooled=True)
    with torch.no_grad():
        if family.channels == 16:
            context, pooled = text(ids[1:2])
            own = model(latents, t, context, pooled)
            torch.testing.assert_close(cond[1], pooled, atol=1e-4, rtol=1e-4)
            their = loaded.model.diffusion_model(latents, t, cond[0], cond[1])
        else:
            given = family.conditions(text, ids[1:2], latents.shape)
            context, own = given["context"], model(latents, t, **given)
            asked = {"pooled_output": cond[1], "width": 128, "height": 128, "device": "cpu"}
            y = loaded.model.encode_adm(**asked)
            if "y" in given:
                torch.testing.assert_close(y, given["y"], atol=1e-4, rtol=1e-4)
            their = loaded.model.diffusion_model(latents, t, context=cond[0], y=y)
    torch.testing.assert_close(cond[0], context, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(their, own, atol=1e-4, rtol=1e-3)


def test_weights_that_were_written_are_read_again(world, tmp_path):
    family, config, model, text, ids = world
    from export import write_checkpoint
    from safetensors.torch import save_file
    from vae import new_vae

    save_file(new_vae(family.channels).state_dict(), tmp_path / "vae.safetensors")
    path = tmp_path / "world.safetensors"
    write_checkpoint(path, family, config, model, text, tmp_path / "vae.safetensors", {})
    other, other_text = family.networks(config, ids)
    family.read(path, other, other_text)
    for mine, read in ((model, other), (text, other_text)):
        for key, tensor in mine.state_dict().items():
            torch.testing.assert_close(read.state_dict()[key], tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("world", ["flux"], indirect=True)
def test_a_transformer_is_mostly_given_another_pictures_pooled_text(world):
    """Else a small one reads captions from it alone, and regions' prompts say nothing to it."""
    family, seen = world[0], []

    def model(noisy, t, context, pooled, transformer_options):
        seen.append(pooled[:, 0].tolist())
        return torch.zeros_like(noisy)

    def text(ids):
        return ids[..., None].float(), ids[:, :1].float()

    ids = torch.arange(6.0)[:, None].expand(-1, 4)
    for share, expected in ((1.0, [0, 1, 2, 3, 4, 5]), (0.0, [5, 0, 1, 2, 3, 4])):
        args = type("", (Args,), {"own_pooled": share})
        family.loss(model, text, torch.zeros(6, 16, 4, 4), ids, args)
        assert seen.pop() == expected
