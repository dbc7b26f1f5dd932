"""Regions that are found, on the real server: other seeds, another size, and an edit by hand."""

import io
import json

import numpy as np
from PIL import Image

from lib.client import Picture

PLACES = "a <wizard> on the left, a <taxi> on the right, red background"


def found_graph(seed: int, width: int = 128, steps: int = 4) -> dict:
    """Find Regions, and each region's mask as a picture."""
    return {
        "1": node("MOS_LoadMiniature", ckpt_name="demo: miniature.safetensors"),
        "2": loaded("wizard"),
        "3": loaded("taxi", concepts=["2", 0]),
        "4": node("EmptyLatentImage", width=width, height=128, batch_size=1),
        "5": node(
            "MOS_FindRegions",
            model=["1", 0],
            clip=["1", 1],
            concepts=["3", 0],
            latent_image=["4", 0],
            positive=PLACES,
            negative="",
            seed=seed,
            steps=steps,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            region_prompt="",
            shape="silhouette",
            grow=0.25,
            feather=0.5,
            concept_strength=0.3,
            spread=1,
            background=0.35,
            missing="a free place",
        ),
        **shown_masks("5"),
    }


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def loaded(name: str, **more) -> dict:
    inputs = {"strength_model": 1.0, "strength_clip": 1.0, "name": "", "trigger_words": ""}
    file = f"demo: {name}.safetensors"
    return node("MOS_LoadEDLoRA", lora_name=file, max_rank=0, **inputs, **more)


def shown_masks(regions: str) -> dict:
    options = {"grow": 0, "feather": 0.0, "crop_factor": 1.25, "crop_size": 64}
    return {
        "8": node("MOS_RegionsToMasks", regions=[regions, 0], **options),
        "9": node("MaskToImage", mask=["8", 0]),
        "10": node("PreviewImage", images=["9", 0]),
    }


def masks_of(client, graph) -> tuple[np.ndarray, dict]:
    """(regions, height, width) in 0..1, and the run's outputs."""
    outputs = client.run(graph, timeout=600).check().outputs
    masks = [picture_of(client, image) for image in outputs["10"]["images"]]
    return np.stack([mask[..., 0] for mask in masks]).astype(np.float32) / 255, outputs


def check_places(masks: np.ndarray, width: int) -> None:
    """Two places beside each other, in the words' order, on top of each other nowhere."""
    assert masks.shape == (2, 128, width)
    columns = np.arange(width) + 0.5
    middles = [float((mask.sum(0) * columns).sum() / mask.sum()) for mask in masks]
    assert middles[0] < middles[1]
    for mask in masks:
        assert 0.02 < mask.mean() < 0.75
    both = np.minimum(*masks)
    assert both.mean() < 0.1 * masks.mean()


def test_the_same_graph_with_ten_seeds_then_at_another_size(client):
    """Nothing is kept from run to run: the first seed, drawn again at the end, finds the same."""
    seen = []
    for seed in range(10):
        masks, _ = masks_of(client, found_graph(seed))
        check_places(masks, 128)
        seen.append(masks)
    assert any(not np.array_equal(seen[0], other) for other in seen[1:])
    wide, _ = masks_of(client, found_graph(3, 384))
    check_places(wide, 384)
    again, _ = masks_of(client, found_graph(0))
    np.testing.assert_array_equal(again, seen[0])


def test_what_was_edited_by_hand_is_drawn_whatever_is_found_later(client):
    layout = '{"version": 2, "regions": []}'
    graph = found_graph(0) | {
        "6": node("MOS_RegionLayout", width=128, height=128, layout=layout, regions=["5", 0]),
        **shown_masks("6"),
    }
    masks, outputs = masks_of(client, graph)
    check_places(masks, 128)
    (incoming,) = outputs["6"]["mos_incoming"]
    edited = json.loads(incoming)
    assert [region["concept"] for region in edited["regions"]] == ["wizard", "taxi"]
    # as the editor does it: the regions become the layout's own, the link goes; one is moved
    edited["regions"][0].pop("mask")
    edited["regions"][0].update(x=0, y=64, width=64, height=64)
    expected = np.zeros((128, 128), np.float32)
    expected[64:, :64] = 1
    pictures = []
    for seed in (0, 1):
        graph = found_graph(seed) | {
            "6": node("MOS_RegionLayout", width=128, height=128, layout=json.dumps(edited)),
            **shown_masks("6"),
            **composed(client, "6"),
        }
        after, outputs = masks_of(client, graph)
        np.testing.assert_array_equal(after[0], expected)
        assert np.abs(after[1] - masks[1]).mean() < 0.02  # the other one, in black and white
        (saved,) = outputs["16"]["images"]
        pictures.append(picture_of(client, saved))
    np.testing.assert_array_equal(*pictures)  # another seed of the finder changes nothing
    graph["6"]["inputs"]["layout"] = incoming
    _, outputs = masks_of(client, graph)
    assert not np.array_equal(picture_of(client, outputs["16"]["images"][0]), pictures[0])


def composed(client, regions: str) -> dict:
    """Composer and a sampler that draw in the regions."""
    inputs = {}
    for name, spec in client.object_info()["MOS_ComposerAttention"]["input"]["required"].items():
        kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
        choices = kind if isinstance(kind, list) else options.get("options", [None])
        inputs[name] = options.get("default", choices[0])
    inputs.update(model=["1", 0], clip=["1", 1], concepts=["3", 0], regions=[regions, 0])
    return {
        "11": node("MOS_ComposerAttention", **{**inputs, "guidance_steps": 0}),
        "12": node("CLIPTextEncode", text="red background", clip=["11", 1]),
        "13": node("CLIPTextEncode", text="", clip=["11", 1]),
        "14": node(
            "KSampler",
            model=["11", 0],
            positive=["12", 0],
            negative=["13", 0],
            latent_image=["4", 0],
            seed=5,
            steps=3,
            cfg=3.0,
            denoise=1.0,
            sampler_name="euler",
            scheduler="normal",
        ),
        "15": node("VAEDecode", samples=["14", 0], vae=["1", 2]),
        "16": node("PreviewImage", images=["15", 0]),
    }


def picture_of(client, image: dict) -> np.ndarray:
    picture = Picture(image["filename"], image.get("subfolder", ""), image.get("type", "temp"))
    return np.asarray(Image.open(io.BytesIO(client.fetch(picture))))
