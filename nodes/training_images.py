"""Train: Load Training Images."""

from comfy_api.latest import io

from ..mos_core.train.folder import folder_fingerprint, read_training_folder
from ..mos_core.train.sheet import draw_sheet
from .folders import list_training, training_path
from .schema import CATEGORY, schema


class LoadTrainingImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="MOS_LoadTrainingImages",
            display_name="Load Training Images",
            category=f"{CATEGORY}/train",
            description="Reads a folder of training images below ComfyUI's input folder: pictures, "
            "a caption file of the same name (.txt) beside each, and a mask (the picture's alpha, "
            "or a file <name>.mask.png).",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=list_training(),
                    tooltip="A folder below ComfyUI's input folder, or of the pack's demo.",
                ),
                io.String.Input(
                    "default_caption",
                    default="photo of a <TOK>",
                    tooltip="For images that have no caption file.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", is_output_list=True, tooltip="The images, in order."
                ),
                io.Mask.Output(
                    display_name="masks", is_output_list=True,
                    tooltip="Their masks; all white for an image without one.",
                ),
                io.String.Output(
                    display_name="captions", is_output_list=True, tooltip="Their captions."
                ),
                io.Image.Output(
                    display_name="contact_sheet", tooltip="All of them in one picture, to look at."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, folder, default_caption):
        return folder_fingerprint(training_path(folder))

    @classmethod
    def execute(cls, folder, default_caption) -> io.NodeOutput:
        images, masks, captions = read_training_folder(training_path(folder), default_caption)
        return io.NodeOutput(images, masks, captions, draw_sheet(images))
