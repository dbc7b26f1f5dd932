"""Train: Train ED-LoRA, and the images for it."""

import logging
from functools import partial

import comfy.model_management
import comfy.utils
from comfy_api.latest import io

from ..mos_core.formats.saving import check_room
from ..mos_core.patch.host.preview import decode_preview
from ..mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from ..mos_core.records import WeightedConcept
from ..mos_core.train.curve import draw_curve
from ..mos_core.train.pictures import unpack_batches
from ..mos_core.train.session import StopTraining
from ..mos_core.train.settings import (
    LAYERS,
    MASKED_LOSS,
    RECOMMENDED,
    REGULARISATION,
    ROWS,
    SHAPES,
    TrainSettings,
)
from .folders import save_folder
from .progress import send_text
from .schema import CATEGORY, MosConcepts, schema
from .training_images import LoadTrainingImages

LOG = logging.getLogger(__name__)
RATE = {"min": 0.0, "max": 1.0, "step": 1e-6, "round": False}


class TrainEDLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        d = RECOMMENDED
        return schema(
            node_id="MOS_TrainEDLoRA",
            display_name="Train ED-LoRA",
            category=f"{CATEGORY}/train",
            description="Trains one concept from a few pictures: layer-wise embeddings and LoRA "
            "factors of text encoder and UNet (Mix-of-Show). Cancel keeps what was learnt so far "
            "and hands it on.",
            search_aliases=["train lora", "dreambooth", "textual inversion", "mix of show"],
            is_input_list=True,
            hidden=[io.Hidden.unique_id],
            advanced=(
                "accumulation", "layers", "rate_embedding", "rate_text", "rate_unet", "layerwise",
                "views", "noise_offset", "regularisation_weight", "embedding_norm",
                "shuffle_captions", "gradient_checkpointing", "dtype", "preview_prompt",
            ),
            inputs=[
                io.Model.Input("model", tooltip="The base model to train on; it stays as it is."),
                io.Clip.Input("clip", tooltip="Its text encoder; it stays as it is."),
                io.Vae.Input("vae", tooltip="Encodes the training images, once."),
                io.Image.Input(
                    "images", tooltip="Training images: batches or lists, of any and mixed sizes."
                ),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="photo of a <TOK>",
                    tooltip="One text for all images, or a line per image, or a list from Load "
                    "Training Images. <TOK> stands for the concept. A caption that is <TOK> alone "
                    "is put into templates such as 'a close-up photo of the <TOK>'.",
                ),
                io.String.Input(
                    "concept_tokens",
                    default="<concept1> <concept2>",
                    tooltip="The tokens that will stand for the concept in prompts: in angle "
                    "brackets, separated by spaces. Two are usual. With layerwise off, words "
                    "without brackets are the trigger words of an ordinary LoRA.",
                ),
                io.String.Input(
                    "initializer",
                    default="<rand-0.013> man",
                    tooltip="What each token starts from: <rand-0.013> (random, that standard "
                    "deviation), or a word that is one token, such as the concept's class.",
                ),
                io.Int.Input(
                    "steps", default=d.steps, min=1, max=1_000_000, tooltip="Training steps."
                ),
                io.Int.Input(
                    "batch_size", default=d.batch_size, min=1, max=64,
                    tooltip="Images per step. More is steadier and needs more memory.",
                ),
                io.Int.Input(
                    "accumulation", default=d.accumulation, min=1, max=64,
                    tooltip="Batches added up before each update: a larger batch without memory.",
                ),
                io.Int.Input("rank", default=d.rank, min=1, max=256, tooltip="Rank of the LoRA."),
                io.Combo.Input(
                    "layers", options=list(LAYERS), default=d.layers,
                    tooltip="attention: the attention layers, as published. all linear: also "
                    "feed-forward and projection layers. linear and convolution: also a UNet's "
                    "convolutions (LoCon), for shapes that the base model does not know.",
                ),
                io.Float.Input(
                    "rate_embedding", default=d.rate_embedding, **RATE,
                    tooltip="Learning rate of the embeddings; 0 does not train them.",
                ),
                io.Float.Input(
                    "rate_text", default=d.rate_text, **RATE,
                    tooltip="Learning rate of the text encoder's LoRA; 0 leaves it out.",
                ),
                io.Float.Input(
                    "rate_unet", default=d.rate_unet, **RATE,
                    tooltip="Learning rate of the UNet's LoRA; 0 leaves it out.",
                ),
                io.Boolean.Input(
                    "layerwise", default=d.layerwise,
                    tooltip="An embedding per cross-attention layer (ED-LoRA). Off: one embedding "
                    "for all layers, as a LoRA with textual inversion; or none, if concept_tokens "
                    "are words without brackets.",
                ),
                io.Int.Input(
                    "resolution", default=d.resolution, min=64, max=2048, step=8,
                    tooltip="Short side, in pixels, of what is trained on; 512 for SD1.5.",
                ),
                io.Int.Input(
                    "views", default=d.views, min=1, max=64,
                    tooltip="Views per image: 1 is the whole image, more add random crops.",
                ),
                io.Float.Input(
                    "noise_offset", default=d.noise_offset, min=0.0, max=1.0, step=0.005,
                    tooltip="Shifts the noise of each channel by this much; the paper calls it "
                    "crucial for identity.",
                ),
                io.Combo.Input(
                    "regularisation", options=list(REGULARISATION), default=d.regularisation,
                    tooltip="Attention regularisation, needs masks. whole object: the mask shows "
                    "all of what the concept is. part of the object: the identity is a part of it.",
                ),
                io.Float.Input(
                    "regularisation_weight", default=d.regularisation_weight, min=0.0, max=10.0,
                    step=0.005, tooltip="Weight of the attention regularisation.",
                ),
                io.Combo.Input(
                    "masked_loss", options=list(MASKED_LOSS), default=d.masked_loss,
                    tooltip="mask: only what the masks show is learnt. whole picture: the "
                    "background is learnt too.",
                ),
                io.Float.Input(
                    "embedding_norm", default=d.embedding_norm, min=0.0, max=1000.0, step=0.01,
                    tooltip="The embeddings stop once their mean norm is this large (0.55 for "
                    "SD1.5); 0 never stops them.",
                ),
                io.Boolean.Input(
                    "shuffle_captions", default=d.shuffle_captions,
                    tooltip="Shuffles the comma-separated parts after the first.",
                ),
                io.Boolean.Input(
                    "gradient_checkpointing", default=d.checkpointing,
                    tooltip="Computes parts of the UNet twice to need a fraction of the memory.",
                ),
                io.Combo.Input(
                    "dtype", options=["auto", "fp32", "bf16", "fp16"], default=d.dtype,
                    tooltip="What the models compute in; auto is the model's own. The trained "
                    "values are always fp32.",
                ),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFF, control_after_generate=False,
                    tooltip="Same seed, same inputs: same concept.",
                ),
                io.Int.Input(
                    "preview_every", default=100, min=0, max=100_000,
                    tooltip="Draws a picture every so many steps; 0 draws none.",
                ),
                io.String.Input(
                    "preview_prompt", default="",
                    tooltip="Prompt of the preview, <TOK> stands for the concept; empty uses the "
                    "first caption.",
                ),
                io.String.Input(
                    "concept_name", default="concept", tooltip="The concept's name in reports."
                ),
                io.Combo.Input(
                    "shape", options=list(SHAPES), default=d.shape, optional=True,
                    tooltip="square: whole pictures are padded to a square, as published. as the "
                    "image: wide pictures stay wide, so that places are learnt; a step of them "
                    "costs more.",
                ),
                io.Mask.Input(
                    "masks", optional=True,
                    tooltip="Where the concept is, white; one per image, of the image's size.",
                ),
                MosConcepts.Input(
                    "resume", optional=True,
                    tooltip="A concept to go on with: a stopped training continues at its step, a "
                    "finished one is trained again from its values. Its own tokens are used.",
                ),
                io.Combo.Input(
                    "rows", options=list(ROWS), default=d.rows, optional=True,
                    tooltip="What has an embedding of its own, where layerwise is on. auto: every "
                    "layer of SD1.5, every block of layers of SDXL (11 instead of 70: a sixth of "
                    "the time and memory for texts).",
                ),
            ],
            outputs=[
                MosConcepts.Output(display_name="concepts", tooltip="The trained concept."),
                io.Image.Output(display_name="loss_curve", tooltip="The loss over the steps."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, **lists) -> io.NodeOutput:
        pictures = TrainingSet(
            unpack_batches(lists.pop("images"), "images"),
            unpack_batches(lists.pop("masks", None) or [], "masks"),
            lists.pop("captions"),
        )
        given = {name: value[0] for name, value in lists.items() if value}
        given["checkpointing"] = given.pop("gradient_checkpointing")
        fields = TrainSettings.__dataclass_fields__
        settings = TrainSettings(**{name: given[name] for name in fields if name in given})
        resume = given.get("resume")
        report = Reporter(
            cls.hidden.unique_id if cls.hidden else None,
            settings,
            given["vae"],
            given["preview_every"],
            given["preview_prompt"] or first_line(pictures.captions),
        )
        concept, progress = train_concept(
            given["model"],
            given["clip"],
            given["vae"],
            pictures,
            Wanted(given["concept_name"], given["concept_tokens"], given["initializer"]),
            settings,
            report,
            resume[-1].concept if resume else None,
            partial(check_room, save_folder("loras")),
        )
        report.finish(progress)
        first = progress.step - len(progress.losses)
        curve = draw_curve(progress.losses, max(first, 0))
        return io.NodeOutput((WeightedConcept(concept),), curve)


def first_line(texts) -> str:
    """The first line that says something; "" if none does."""
    lines = (line.strip() for text in texts for line in text.splitlines())
    return next(filter(None, lines), "")


class Reporter:
    """Progress bar, text and previews while a run goes on; turns a cancel into an early end."""

    def __init__(self, node_id, settings: TrainSettings, vae, preview_every: int, prompt: str):
        self.node_id, self.settings, self.vae = node_id, settings, vae
        self.preview_every, self.prompt = preview_every, prompt
        self.bar = comfy.utils.ProgressBar(settings.steps, node_id=node_id)
        self.told = False

    def __call__(self, progress, session) -> None:
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            preview = None
            if self.preview_every and progress.step % self.preview_every == 0:
                preview = self.draw(session)
            self.bar.update_absolute(progress.step, progress.steps, preview)
        except comfy.model_management.InterruptProcessingException:
            raise StopTraining(f"cancelled at step {progress.step}") from None
        if progress.step % 10 == 0 or not self.told:  # what an earlier run told goes at once
            self.told = True
            minutes, seconds = divmod(round(progress.seconds_left), 60)
            send_text(
                self.node_id,
                f"step {progress.step} of {progress.steps}, loss {progress.mean_loss:.4f}, "
                f"{minutes}:{seconds:02} left",
            )

    def draw(self, session):
        prompt = self.prompt.replace("<TOK>", " ".join(session.trainable.words))
        latent = session.sample(prompt, self.settings.resolution, 12, 5.0, self.settings.seed)
        return decode_preview(session.patcher, self.vae, latent)

    def finish(self, progress) -> None:
        end = progress.stopped or f"finished after {progress.step} steps"
        message = f"{end}; loss {progress.mean_loss:.4f}"
        LOG.info("training %s", message)
        send_text(self.node_id, message)


NODES = [TrainEDLoRA, LoadTrainingImages]
