"""Export of a fusion: Save Fused as LoRA."""

from comfy_api.latest import io, ui

from ..mos_core.formats.kohya_file import save_kohya
from ..mos_core.fuse.low_rank import describe_truncation, factorise
from .folders import can_save, save_folder
from .progress import send_text
from .schema import CATEGORY, MosFused, schema


class SaveFusedLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_SaveFusedLoRA",
            display_name="Save Fused as LoRA",
            category=f"{CATEGORY}/fuse",
            description="Writes the weights of a fusion as an ordinary LoRA that Load LoRA and "
            "other programs read. The concepts' embeddings cannot be in such a file.",
            search_aliases=["export lora", "extract lora", "svd"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                MosFused.Input("fused", tooltip="From Fuse Concepts."),
                io.String.Input(
                    "filename_prefix",
                    default="fused_lora",
                    tooltip="Name inside the loras folder; '/' makes subfolders. Nothing is "
                    "overwritten: files are numbered.",
                ),
                io.Int.Input(
                    "rank",
                    default=64,
                    min=1,
                    max=4096,
                    tooltip="Rank of the LoRA. The larger, the larger the file and the less is "
                    "lost; the report says how much.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="What the truncation loses."),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix=None):
        return can_save("loras", filename_prefix)

    @classmethod
    def execute(cls, fused, filename_prefix, rank) -> io.NodeOutput:
        made = {m: factorise(d, rank) for m, d in {**fused.text, **fused.unet}.items()}
        text, unet = ({m: made[m][0] for m in part} for part in (fused.text, fused.unet))
        metadata = {"ss_network_dim": str(rank), "ss_network_alpha": str(rank)}
        folder = save_folder("loras")
        path = save_kohya(folder, filename_prefix, text, unet, metadata)
        name = path.relative_to(folder.resolve()).as_posix()
        lost = describe_truncation({m: share for m, (_, share) in made.items()}, rank)
        report = f"saved in loras:\n{name}\n{lost}"
        send_text(cls.hidden.unique_id if cls.hidden else None, report)
        return io.NodeOutput(report, ui=ui.PreviewText(report))


NODES = [SaveFusedLoRA]
