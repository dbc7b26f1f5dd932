"""Load and save: Load ED-LoRA, Save ED-LoRA, Load Miniature Checkpoint."""

from comfy_api.latest import io, ui

from ..mos_core.formats import read_concept, save_concept
from ..mos_core.formats.concept_file import WRITERS
from ..mos_core.patch.host.miniature import load_miniature
from ..mos_core.records import WeightedConcept
from .folders import CONCEPT_ENDINGS, fingerprint, list_files, path_of, save_folder
from .progress import send_text
from .schema import CATEGORY, MosConcepts, schema

STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}


class LoadEDLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_LoadEDLoRA",
            display_name="Load ED-LoRA (Character LoRA)",
            category=f"{CATEGORY}/load",
            description="Reads a concept (ED-LoRA): the reference's .pth or this pack's "
            ".safetensors. Chain several to load several concepts.",
            search_aliases=["mix of show", "concept", "lora", "edlora", "character lora"],
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=list_files("loras", CONCEPT_ENDINGS),
                    tooltip="The concept's file, from the loras folders or the pack's demo.",
                ),
                io.Float.Input(
                    "strength_model",
                    **STRENGTH,
                    tooltip="Strength of the concept's LoRA in the UNet. 0 leaves the UNet as it "
                    "is; the concept's embeddings still work.",
                ),
                io.Float.Input(
                    "strength_clip",
                    **STRENGTH,
                    tooltip="Strength of the concept's LoRA in the text encoder. 0 leaves the text "
                    "encoder as it is; the concept's embeddings still work.",
                ),
                MosConcepts.Input(
                    "concepts",
                    optional=True,
                    tooltip="Concepts loaded before this one; this one is added at the end.",
                ),
            ],
            outputs=[
                MosConcepts.Output(display_name="concepts", tooltip="All concepts of the chain."),
                io.String.Output(
                    display_name="trigger_words",
                    tooltip="This concept's tokens, as they are written in a prompt.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **kwargs):
        return fingerprint("loras", lora_name)

    @classmethod
    def execute(cls, lora_name, strength_model, strength_clip, concepts=()) -> io.NodeOutput:
        concept = read_concept(path_of("loras", lora_name))
        entry = WeightedConcept(concept, strength_model, strength_clip)
        return io.NodeOutput((*concepts, entry), concept.trigger_words)


class SaveEDLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_SaveEDLoRA",
            display_name="Save ED-LoRA",
            category=f"{CATEGORY}/load",
            description="Writes each concept into the loras folder, under the next free number.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                MosConcepts.Input("concepts", tooltip="The concepts to save, one file each."),
                io.String.Input(
                    "filename_prefix",
                    default="mix_of_show/concept",
                    tooltip="Name inside the loras folder; '/' makes subfolders, %name% stands for "
                    "the concept's name. Nothing is overwritten: files are numbered.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(WRITERS),
                    default="safetensors",
                    tooltip="safetensors: this pack's own format. reference pth: the format of the "
                    "papers' public code.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, concepts, filename_prefix, format="safetensors") -> io.NodeOutput:
        folder = save_folder("loras")
        saved = []
        for entry in concepts:
            prefix = filename_prefix.replace("%name%", entry.concept.name)
            path = save_concept(entry.concept, folder, prefix, format)
            saved.append(path.relative_to(folder.resolve()).as_posix())
        report = "saved in loras:\n" + "\n".join(saved)
        send_text(cls.hidden.unique_id if cls.hidden else None, report)
        return io.NodeOutput(ui=ui.PreviewText(report))


class LoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_LoadMiniature",
            display_name="Load Miniature Checkpoint",
            category=f"{CATEGORY}/load",
            description="Loads a small SD1.5-shaped checkpoint of any width: the demo model that "
            "ships with the pack, and test models. For full-size models use Load Checkpoint.",
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=list_files("checkpoints", (".safetensors",)),
                    tooltip="A miniature checkpoint, from the checkpoints folders or the demo.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The UNet."),
                io.Clip.Output(tooltip="The text encoder."),
                io.Vae.Output(tooltip="The image decoder and encoder."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name):
        return fingerprint("checkpoints", ckpt_name)

    @classmethod
    def execute(cls, ckpt_name) -> io.NodeOutput:
        return io.NodeOutput(*load_miniature(path_of("checkpoints", ckpt_name)))


NODES = [LoadEDLoRA, SaveEDLoRA, LoadMiniature]
