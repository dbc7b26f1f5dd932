"""A picture of a latent for the progress bar, without disturbing the models at work."""

from typing import Any

import comfy.model_management
import latent_preview
import torch
from PIL import Image

SIZE = 512  # longest side that the browser is sent


def decode_preview(patcher: Any, vae: Any, latent: torch.Tensor) -> tuple | None:
    """('JPEG', image, size) for ProgressBar, or None if there is no way to show the latent.

    latent: (1, 4, h, w) in the model's scale. The VAE decodes it if it fits beside what is loaded;
    otherwise ComfyUI's own latent previewer does.
    """
    needed = vae.memory_used_decode(latent.shape, vae.vae_dtype)
    with torch.inference_mode():
        if comfy.model_management.get_free_memory(patcher.load_device) > 1.5 * needed:
            pixels = vae.decode(patcher.model.process_latent_out(latent))[0]
            array = (pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            return "JPEG", Image.fromarray(array), SIZE
        previewer = latent_preview.get_previewer(patcher.load_device, patcher.model.latent_format)
        if previewer is None:
            return None
        return previewer.decode_latent_to_preview_image("JPEG", latent)
