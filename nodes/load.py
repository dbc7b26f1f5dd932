"""Load and save: Load ED-LoRA, Save ED-LoRA, Load Miniature Checkpoint."""

from comfy_api.latest import io, ui

from ..mos_core.formats import save_concept
from ..mos_core.formats.concept_file import WRITERS
from ..mos_core.formats.lora_report import describe_concept
from ..mos_core.formats.max_rank import cut_concept
from ..mos_core.patch.host.miniature import load_miniature
from ..mos_core.patch.host.read import read_any
from ..mos_core.records import WeightedConcept
from .folders import can_save, fingerprint, list_concepts, list_files, path_of, save_folder
from .progress import send_text, teller
from .schema import CATEGORY, MosConcepts, schema

STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}


class LoadEDLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_LoadEDLoRA",
            display_name="Load ED-LoRA / LoRA (Character LoRA)",
            category=f"{CATEGORY}/load",
            description="Reads a concept: an ED-LoRA, any LoRA of any trainer (LoRA, LoCon, LoHa, "
            "LoKr, DoRA, OFT, GLoRA, full), or a textual inversion. Chain several to load several.",
            search_aliases=[
                "mix of show",
                "concept",
                "lora loader",
                "character lora",
                "edlora",
                "ed-lora",
                "locon",
                "lokr",
                "dora",
                "textual inversion",
                "embedding",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "lora_name",
                    options=list_concepts(),
                    tooltip="The concept's file, from the loras and embeddings folders or the "
                    "pack's demo.",
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
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="What regions call this concept; empty: the file's name.",
                ),
                io.String.Input(
                    "trigger_words",
                    default="",
                    optional=True,
                    tooltip="Words that call an ordinary LoRA, by commas, instead of those that "
                    "its file names. A region whose prompt has one of them draws this concept.",
                ),
                io.Int.Input(
                    "max_rank",
                    default=0,
                    min=0,
                    max=4096,
                    optional=True,
                    tooltip="Cuts every layer of the LoRA to this rank, which makes large ones "
                    "faster in regions; the report says how much is kept. 0: as it is.",
                ),
            ],
            outputs=[
                MosConcepts.Output(display_name="concepts", tooltip="All concepts of the chain."),
                io.String.Output(
                    display_name="trigger_words",
                    tooltip="This concept's words, as they are written in a prompt.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="What the file holds: base model, kind, rank, layers, words, and what "
                    "was left over.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name, **kwargs):
        return fingerprint("loras", lora_name)

    @classmethod
    def execute(
        cls,
        lora_name,
        strength_model,
        strength_clip,
        concepts=(),
        name="",
        trigger_words="",
        max_rank=0,
    ) -> io.NodeOutput:
        concept = read_any(path_of("loras", lora_name), trigger_words, name)
        concept, cut = cut_concept(concept, max_rank) if max_rank else (concept, "")
        report = describe_concept(concept, cut)
        entry = WeightedConcept(concept, strength_model, strength_clip)
        teller(cls)(report)
        return io.NodeOutput((*concepts, entry), concept.trigger_words, report)


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
    def validate_inputs(cls, filename_prefix=None):
        return can_save("loras", filename_prefix)

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
            description="Loads a small checkpoint of SD1.5's, SDXL's or Flux.1's shape and any "
            "width: the demo model that ships with the pack, and test models. For full-size models "
            "use Load Checkpoint.",
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
