"""Fuse: Fuse Concepts, Save and Load Fused Concepts."""

import comfy.utils
from comfy_api.latest import io, ui

from ..mos_core.formats.fused_file import read_fused, save_fused
from ..mos_core.fuse.chart import draw_fusion
from ..mos_core.fuse.settings import RECOMMENDED, TEXT_ROWS, FuseSettings
from ..mos_core.fuse.solve import SOLVERS
from ..mos_core.patch.fuse.concepts import fuse_concepts
from ..mos_core.patch.fuse.fused import apply_fused
from ..mos_core.patch.text.notes import tell_of_plain_text
from .folders import FUSED, can_save, fingerprint, kept_folder, list_files, path_of, save_folder
from .inputs import base_inputs
from .progress import send_text, teller
from .schema import CATEGORY, MosConcepts, MosFused, schema


class FuseConcepts(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_FuseConcepts",
            display_name="Fuse Concepts (Merge LoRAs)",
            category=f"{CATEGORY}/fuse",
            description="Fuses several concepts into one MODEL and CLIP that draw all of them "
            "(Mix-of-Show, gradient fusion), solved exactly. Stock text encode and sampler nodes "
            "then understand every concept's tokens.",
            search_aliases=["mix of show", "merge lora", "gradient fusion", "combine lora"],
            hidden=[io.Hidden.unique_id],
            advanced=(
                "ridge",
                "text_rows",
                "anchor",
                "anchor_prompts",
                "reuse_sums",
                "convolutions",
            ),
            inputs=[
                *base_inputs(),
                MosConcepts.Input("concepts", tooltip="The concepts to fuse, from Load ED-LoRA."),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVERS),
                    default=RECOMMENDED.solver,
                    tooltip="exact: the best weights, in closed form. lbfgs: the published "
                    "iterative solver. sum: a plain weighted merge, for comparison.",
                ),
                io.Int.Input(
                    "steps",
                    default=RECOMMENDED.steps,
                    min=1,
                    max=1000,
                    tooltip="Sampling steps per concept from which the UNet's inputs are learnt.",
                ),
                io.Int.Input(
                    "width",
                    default=RECOMMENDED.width,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Width of the picture that is sampled for it.",
                ),
                io.Int.Input(
                    "height",
                    default=RECOMMENDED.height,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Height of the picture that is sampled for it.",
                ),
                io.Int.Input(
                    "seed",
                    default=RECOMMENDED.seed,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the sampled pictures.",
                ),
                io.Float.Input(
                    "ridge",
                    default=RECOMMENDED.ridge,
                    min=0.0,
                    max=100.0,
                    step=0.0001,
                    round=False,
                    tooltip="Holds the fused weights to the base model's where the concepts do not "
                    "care, relative to the mean eigenvalue of a layer's inputs. 0 is the published "
                    "objective.",
                ),
                io.Combo.Input(
                    "text_rows",
                    options=list(TEXT_ROWS),
                    default=RECOMMENDED.text_rows,
                    tooltip="What of a prompt the text layers are solved for. concept tokens: as "
                    "published. all tokens: the padding too, so that with ridge 0 one concept "
                    "fused alone stays exactly that concept.",
                ),
                io.String.Input(
                    "prompts",
                    default="",
                    multiline=True,
                    tooltip="What each concept is learnt from, a prompt per line, {} for its "
                    "tokens: prompts of the kind that you will ask for. Empty: the published "
                    "'photo of a {}', and a dozen general ones for refining. Every line costs a "
                    "sampling per concept.",
                ),
                io.Float.Input(
                    "anchor",
                    default=RECOMMENDED.anchor,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    round=False,
                    tooltip="Keeps what the base model does on the anchor prompts: its own "
                    "features count as this many concepts. 0: off. It costs the concepts some of "
                    "their looks.",
                ),
                io.String.Input(
                    "anchor_prompts",
                    default="",
                    multiline=True,
                    tooltip="What is not to be unlearnt, a prompt per line, without concept "
                    "tokens. Empty: the empty prompt for the anchor, general ones for refining.",
                ),
                io.Boolean.Input(
                    "reuse_sums",
                    default=RECOMMENDED.reuse_sums,
                    tooltip="Keeps what was learnt of each concept on disk, so that fusing it "
                    "again with others needs no sampling of it. Each concept is then run with its "
                    "own text encoder instead of the fused one: not quite the published order.",
                ),
                io.Int.Input(
                    "refine_steps",
                    default=RECOMMENDED.refine_steps,
                    min=0,
                    max=100_000,
                    tooltip="Gradient steps for each concept, after solving: the fused UNet learns "
                    "to predict what each concept's own model predicts on the prompts, and what "
                    "the base model predicts on the anchor prompts. It takes most of the time, "
                    "and makes the concepts much more like themselves. 0: off, as published.",
                ),
                io.Float.Input(
                    "memory_limit",
                    default=RECOMMENDED.memory_limit,
                    min=0.0,
                    max=1e6,
                    step=0.1,
                    optional=True,
                    tooltip="GiB that may be taken at once by what is learnt from (the sums of the "
                    "layers' inputs). 0: what is free. What does not fit is taken in portions, "
                    "each of which samples every concept once more; the node says how many "
                    "samplings there will be.",
                ),
                io.Boolean.Input(
                    "convolutions",
                    default=RECOMMENDED.convolutions,
                    optional=True,
                    tooltip="Fuses the convolutions larger than one cell that concepts change "
                    "(LoCon), too. Their sums take the most memory. Off: they are left out, and "
                    "the report says so.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The fused model."),
                io.Clip.Output(tooltip="The fused text encoder, knowing all tokens."),
                MosFused.Output(display_name="fused", tooltip="For Save Fused Concepts."),
                io.String.Output(display_name="report", tooltip="What each layer lost."),
                io.Image.Output(
                    display_name="chart",
                    tooltip="The same as bars: what each layer, and each concept, lost.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, concepts, prompts="", anchor_prompts="", **settings
    ) -> io.NodeOutput:
        node_id = cls.hidden.unique_id if cls.hidden else None
        bar = comfy.utils.ProgressBar(100, node_id=node_id)
        fused, report = fuse_concepts(
            model,
            clip,
            concepts,
            FuseSettings(
                **settings,
                prompts=lines_of(prompts),
                anchor_prompts=lines_of(anchor_prompts) or ("",),
            ),
            lambda done, total: bar.update_absolute(done, total),
            sums_folder=kept_folder("sums"),
            on_text=lambda text: send_text(node_id, text),
        )
        send_text(node_id, report)
        chart = draw_fusion(fused.metadata)
        patched = apply_fused(model, clip, fused)
        tell_of_plain_text(*patched, lambda note: send_text(node_id, f"{note}\n{report}".strip()))
        return io.NodeOutput(*patched, fused, report, chart)


def lines_of(text: str) -> tuple[str, ...]:
    """The lines that say something."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


class SaveFused(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_SaveFused",
            display_name="Save Fused Concepts",
            category=f"{CATEGORY}/fuse",
            description="Writes a fusion to models/mix_of_show, to load it in other workflows.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                MosFused.Input("fused", tooltip="From Fuse Concepts."),
                io.String.Input(
                    "filename_prefix",
                    default="fused",
                    tooltip="Name inside models/mix_of_show; '/' makes subfolders. Nothing is "
                    "overwritten: files are numbered.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return can_save(FUSED, filename_prefix)

    @classmethod
    def execute(cls, fused, filename_prefix) -> io.NodeOutput:
        folder = save_folder(FUSED)
        path = save_fused(fused, folder, filename_prefix)
        name = path.relative_to(folder.resolve()).as_posix()
        report = f"saved in {FUSED}:\n{name}"
        send_text(cls.hidden.unique_id if cls.hidden else None, report)
        return io.NodeOutput(ui=ui.PreviewText(report))


class LoadFused(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_LoadFused",
            display_name="Load Fused Concepts",
            category=f"{CATEGORY}/fuse",
            description="Puts a saved fusion on the base model that it was made from.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                *base_inputs(),
                io.Combo.Input(
                    "fused_name",
                    options=list_files(FUSED, (".safetensors",)),
                    tooltip="A fusion from the models/mix_of_show folders.",
                ),
                io.Boolean.Input(
                    "allow_other_base",
                    default=False,
                    tooltip="Loads the fusion on another base model than it was made from; the "
                    "result is your own responsibility.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The fused model."),
                io.Clip.Output(tooltip="The fused text encoder, knowing all tokens."),
                io.String.Output(
                    display_name="trigger_words", tooltip="The tokens, a line per concept."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, fused_name, **kwargs):
        return fingerprint(FUSED, fused_name)

    @classmethod
    def execute(cls, model, clip, fused_name, allow_other_base=False) -> io.NodeOutput:
        fused = read_fused(path_of(FUSED, fused_name))
        patched = apply_fused(model, clip, fused, allow_other_base)
        tell_of_plain_text(*patched, teller(cls))
        return io.NodeOutput(*patched, fused.trigger_words)


NODES = [FuseConcepts, SaveFused, LoadFused]
