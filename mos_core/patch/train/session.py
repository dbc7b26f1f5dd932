"""Training on ComfyUI's own models: encode text and predict noise, differentiably.

A session is open for a `with` block; when it closes, MODEL and CLIP are bit for bit as before.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch

from ...errors import ArchitectureError, MosError
from ...families.unet import architecture_of, comfy_text_key, comfy_unet_key
from ...text.layerwise import expand_layers, widen
from ...text.tokenizer import ConceptTokenizer, concept_table
from ...text.vocabulary import Vocabulary
from ...train.loss import token_maps
from ..host.autograd import autograd_on, checkpointed, frozen, residuals_kept, weights_for_autograd
from ..host.branches import lora_branches
from ..host.forward import choose_dtype, clone_for_gradients, plain_attention
from ..text.layerwise_clip import vocabulary_of
from ..text.layerwise_model import LayerwiseText, with_first_patch


class TrainSession:
    """What the training loop needs of the models. Made by open_session."""

    Interrupted = comfy.model_management.InterruptProcessingException

    def __init__(self, model, clip, trainable, dtype: torch.dtype):
        self.patcher = model
        self.model = model.model
        self.sampling = model.get_model_object("model_sampling")
        self.text = clip.cond_stage_model
        self.clip_skip = clip.layer_idx
        self.trainable = trainable
        self.device = model.load_device
        self.dtype = dtype
        self.architecture = architecture_of(self.model.model_config.unet_config)
        self.layerwise = LayerwiseText(
            self.architecture.layers, self.model.model_config.unet_config["context_dim"]
        )
        self.velocity = predicts_velocity(self.sampling)
        self.timesteps = len(self.sampling.sigmas)
        self.tokenizer = session_tokenizer(clip, trainable)

    @property
    def needs_loss_scaling(self) -> bool:
        return self.dtype == torch.float16

    def encode(self, captions: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> wide text (batch, tokens, layers * width) and where the concept tokens stand
        (batch, concept tokens, tokens), 1 or 0. Equal captions are encoded once."""
        unique = list(dict.fromkeys(captions))
        tables = self.trainable.tables()
        tokenised = [self.tokenise(text, tables) for text in unique]
        sections = max(len(chunks) for chunks in tokenised)
        empty = self.tokenise("", tables)[0]
        chunks = [c for t in tokenised for c in t + [empty] * (sections - len(t))]
        expanded, index = expand_layers(chunks, self.trainable.layers)
        encoder = getattr(self.text, self.text.clip)
        encoder.reset_clip_options()
        if self.clip_skip is not None:
            encoder.set_clip_options({"layer": self.clip_skip})
        rows = encoder([[pair[0] for pair in chunk] for chunk in expanded])[0]
        wide = widen(rows.flatten(0, 1)[None], index).unflatten(1, (len(unique), -1))[0]
        select = torch.stack([self.positions(c) for c in chunks]).to(wide.device)
        select = select.unflatten(0, (len(unique), sections)).transpose(1, 2).flatten(2)
        order = [unique.index(text) for text in captions]
        return wide[order], select[order]

    def tokenise(self, text: str, tables: Mapping[str, torch.Tensor]) -> list:
        """ComfyUI's chunks of (token, weight), concept tokens carrying the trainable tables."""
        chunks = self.tokenizer.tokenize_with_weights(text)[self.text.clip_name]
        return [[(self.with_table(t[0], tables), *t[1:]) for t in chunk] for chunk in chunks]

    @staticmethod
    def with_table(token, tables: Mapping[str, torch.Tensor]):
        name = getattr(concept_table(token), "mos_name", None)
        if name is None:
            return token
        token = token.detach().clone()
        token.mos_table, token.mos_name = tables[name], name
        return token

    def positions(self, chunk) -> torch.Tensor:
        """(concept tokens, tokens of the chunk): 1 where the concept token stands."""
        names = [getattr(pair[0], "mos_name", None) for pair in chunk]
        return torch.tensor([[float(n == t) for n in names] for t in self.trainable.tokens])

    def predict(self, clean, noise, times, context, select=None):
        """One UNet pass. clean, noise: (batch, 4, h, w) in the model's scale; times: (batch,).

        Returns prediction and target, both (batch, 4, h, w) float32 (noise, or velocity for
        v-prediction models), and the concept tokens' attention maps by grid if `select` is given.
        """
        clean, noise = clean.to(self.device), noise.to(self.device)
        sigma = self.sampling.sigmas.to(self.device)[times.to(self.device)]
        wide_sigma = sigma.view(-1, 1, 1, 1)
        x = clean + wide_sigma * noise
        output, maps = self.run_unet(x, sigma, context, select)
        target = noise
        if self.velocity:
            target = (noise - wide_sigma * clean) / (1 + wide_sigma**2).sqrt()
        return output, target, maps

    def run_unet(self, x, sigma, context, select=None):
        """x: (batch, 4, h, w) noised, sigma: (batch,). Output (batch, 4, h, w) float32, maps."""
        maps: dict[tuple[int, int], list[torch.Tensor]] = {}
        options: dict = {"optimized_attention_override": plain_attention}
        texts = context.to(self.device, self.dtype)
        texts = texts.unflatten(-1, (self.trainable.layers, -1)).permute(2, 0, 1, 3).unbind(0)
        options = with_first_patch(options, "attn2_patch", self.layerwise.pick(texts))
        if select is not None:
            record = partial(record_maps, maps=maps, select=select.to(self.device))
            blocks = {layer.block: record for layer in self.architecture.layers}
            options["patches_replace"] = {"attn2": blocks}
        scaled = self.sampling.calculate_input(sigma, x).to(self.dtype)
        t = self.sampling.timestep(sigma).float()
        output = self.model.diffusion_model(
            scaled, t, context=texts[0], transformer_options=options
        )
        return output.float(), maps

    @torch.no_grad()
    def sample(self, prompt: str, size: int, steps: int, cfg: float, seed: int) -> torch.Tensor:
        """A preview latent (1, 4, size / 8, size / 8) in the model's scale, by Euler steps."""
        sigmas = comfy.samplers.calculate_sigmas(self.sampling, "normal", steps).to(self.device)
        context, _ = self.encode([prompt, ""])
        noise = torch.randn(
            1, 4, size // 8, size // 8, generator=torch.Generator().manual_seed(seed)
        ).to(self.device)
        x = noise * (1 + sigmas[0] ** 2).sqrt()
        for now, after in itertools.pairwise(sigmas):
            comfy.model_management.throw_exception_if_processing_interrupted()
            both = x.repeat(2, 1, 1, 1)
            output, _ = self.run_unet(both, now.expand(2), context)
            denoised = self.sampling.calculate_denoised(now.expand(2), output, both)
            guided = denoised[1:] + cfg * (denoised[:1] - denoised[1:])
            x = x + (x - guided) / now * (after - now)
        return x.float().cpu()


def record_maps(q, k, v, extra_options, maps, select):
    """attn2 replacement: the plain result, keeping the concept tokens' maps by grid (h, w)."""
    heads = extra_options["n_heads"]
    h, w = extra_options["activations_shape"][2:]
    maps.setdefault((h, w), []).append(token_maps(q, k, heads, select))
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads)


def predicts_velocity(sampling) -> bool:
    """Whether the model predicts velocity; False for noise. Raises ArchitectureError for others."""
    kinds = comfy.model_sampling
    if isinstance(sampling, kinds.V_PREDICTION) and not isinstance(sampling, kinds.EDM):
        return True
    if isinstance(sampling, kinds.EPS) and not isinstance(sampling, (kinds.V_PREDICTION, kinds.X0)):
        return False
    raise ArchitectureError(
        "this MODEL predicts neither noise nor velocity; ED-LoRA training knows SD1.5-like models"
    )


def session_tokenizer(clip, trainable) -> ConceptTokenizer:
    """The CLIP's tokenizer with the trained tokens; their placeholder tables carry their name."""
    known = vocabulary_of(clip)
    tables = {}
    for token, start in trainable.embeddings.items():
        tables[token] = torch.zeros(trainable.layers, start.shape[-1])
        tables[token].mos_name = token
    owners = dict.fromkeys(tables, "the concept to train")
    base = clip.tokenizer.base if isinstance(clip.tokenizer, ConceptTokenizer) else clip.tokenizer
    tables = {"clip_l": {**known.tables.get("clip_l", {}), **tables}}
    vocabulary = Vocabulary(tables, {**known.owners, **owners})
    return ConceptTokenizer(base, vocabulary)


def word_embedding(clip, word: str) -> torch.Tensor:
    """(width,) float32: the text encoder's embedding of a word that is one token.

    Raises MosError for a word of several tokens.
    """
    encoder = getattr(clip.cond_stage_model, clip.cond_stage_model.clip)
    inner = getattr(clip.tokenizer, clip.cond_stage_model.clip).tokenizer
    ids = inner(word)["input_ids"][1:-1]
    if len(ids) != 1 or not isinstance(ids[0], int):
        raise MosError(
            f"the initialiser '{word}' is {len(ids)} tokens, or a concept token; use a word that "
            "is one token, such as 'man', 'dog' or 'car', or a random start like <rand-0.013>"
        )
    table = encoder.transformer.get_input_embeddings()
    with torch.inference_mode(False), torch.no_grad():
        row = table(torch.tensor(ids, device=table.weight.device), out_dtype=torch.float32)[0]
        return row.clone().cpu()


@contextmanager
def open_session(model, clip, trainable, dtype: str, checkpointing: bool) -> Iterator[TrainSession]:
    """Loads clones of MODEL and CLIP fully, and makes them differentiable for the `with` block."""
    compute = choose_dtype(model, dtype)
    model = clone_for_gradients(model)
    given, clip = clip, clip.clone()
    clip.patcher = clone_for_gradients(given.patcher)  # a child of the given one, which lives on
    if compute != model.model.get_dtype():
        model.set_model_compute_dtype(compute)
    comfy.model_management.load_models_gpu([model, clip.patcher], force_full_load=True)
    unet, text = model.model, clip.cond_stage_model
    architecture = architecture_of(unet.model_config.unet_config)
    device = torch.device(model.load_device)
    with (
        autograd_on(),
        weights_for_autograd(unet, text),
        frozen(unet, text),
        residuals_kept(text),
        lora_branches(unet, trainable.unet, partial(comfy_unet_key, architecture=architecture)),
        lora_branches(text, trainable.text, comfy_text_key),
    ):
        session = TrainSession(model, clip, trainable, compute)
        for parameter in trainable.parameters().values():
            parameter.data = parameter.data.to(device)
        if checkpointing:
            with checkpointed(unet, text):
                yield session
        else:
            yield session
