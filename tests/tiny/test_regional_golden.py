"""Regional sampling against the reference's numbers (Mix-of-Show)."""

import pytest
import torch

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.regional.texts import encode_text
from mix_of_show.mos_core.patch.text.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.composer_models import region_text, wide
from support.golden import read_meta, read_tensors, relative_error
from support.sampling import predict_noise

TOLERANCE = 1e-5  # the issue asks for 1e-4; measured: 2e-6
STORED = read_tensors("region")


def golden_regions(case):
    height, width = STORED[f"{case}.size_px"].tolist()
    regions = []
    for number, entry in enumerate(read_meta()["region_cases"][case]["regions"]):
        stored = STORED[f"{case}.region{number}.box_frac"].tolist()
        y0, x0, y1, x1 = stored or (0, 0, 1, 1)  # no box: the whole picture
        regions.append(Region(entry["prompt"], entry["negative"], box=Box(x0, y0, x1, y1)))
    return Regions(width, height, tuple(regions))


def golden_drawn(case, texts):
    """The regions of one case with the stored texts of another."""
    halves = ("cond", "uncond")
    return [
        Drawn(
            region,
            region_text(*(wide(STORED[f"{texts}.region{number}.{half}"]) for half in halves)),
        )
        for number, region in enumerate(golden_regions(case).regions)
    ]


def golden_context(case):
    return torch.cat([wide(STORED[f"{case}.context.{half}"]) for half in ("uncond", "cond")])


def predicted(model, case, context):
    latent = STORED[f"{case}.latent"].repeat(2, 1, 1, 1)
    return predict_noise(model, latent, int(STORED[f"{case}.timestep"]), context, [1, 0])


@pytest.fixture(scope="module")
def model(unet):
    patched = unet.clone()
    add_layerwise_text(patched)
    return patched


@pytest.mark.parametrize(("case", "texts"), [("sq_base", "sq_base"), ("full_base", "sq_base")])
def test_noise_prediction_equals_the_reference(case, texts, model):
    context = golden_context(texts)
    regional = add_regional_attention(model, golden_drawn(case, texts))
    found = predicted(regional, case, context)
    assert relative_error(found, STORED[f"{case}.noise_pred"]) <= TOLERANCE
    without = predicted(model, case, context)
    assert relative_error(without, STORED[f"{case}.noise_pred_noregion"]) <= TOLERANCE


def test_noise_prediction_from_prompts_equals_the_reference(unet, clip, concepts):
    case = "nonsq_base"
    chain = tuple(WeightedConcept(concepts[name], 0.0, 0.0) for name in "abc")
    model, text = apply_concepts(unet, clip, chain)
    regions, prompts = golden_regions(case), read_meta()["region_cases"][case]
    # (The reference's empty negative prompt is one of its own; ours is the global one.)
    drawn = [
        Drawn(r, RegionText(encode_text(text, r.prompt), encode_text(text, r.negative)))
        for r in regions.regions
    ]
    context = torch.cat([encode_text(text, prompts[half])[0][0] for half in ("negative", "prompt")])
    found = predicted(add_regional_attention(model, drawn), case, context)
    assert relative_error(found, STORED[f"{case}.noise_pred"]) <= TOLERANCE


@pytest.mark.parametrize("layer", [0, 5])
def test_hidden_states_of_a_layer_equal_the_reference(layer, model):
    case, inputs, outputs = "sq_base", [], []
    regional = add_regional_attention(model, golden_drawn(case, case))
    regional.set_model_attn2_patch(lambda n, c, v, extra: (inputs.append(n) or n, c, v))
    regional.set_model_patch(lambda n, extra: outputs.append(n) or n, "attn2_output_patch")
    predicted(regional, case, golden_context(case))
    assert relative_error(inputs[layer], STORED[f"{case}.attn{layer}.x"]) <= TOLERANCE
    assert relative_error(outputs[layer], STORED[f"{case}.attn{layer}.out"]) <= TOLERANCE


def test_the_boxes_of_every_stored_picture_size_cover_the_references_cells():
    """Where the reference's rounding puts an edge that lies on the grid one cell inwards (sides of
    704, 832, 896, ... pixels), ours keeps it."""
    differing = 0
    for row in STORED["box_table"].tolist():
        height, width, y0, x0, y1, x1, rows, columns, *cells = row
        box = Box(x0 / width, y0 / height, x1 / width, y1 / height)
        down, across = box.cells(rows, columns)
        found = [down.start, across.start, down.stop, across.stop]
        if cells[0] < 0:
            assert down.start == down.stop or across.start == across.stop
        elif found != cells:
            differing += 1
            exact = [
                -(-y0 * rows // height),
                -(-x0 * columns // width),
                y1 * rows // height,
                x1 * columns // width,
            ]
            assert found == exact
    assert differing < len(STORED["box_table"]) / 4
