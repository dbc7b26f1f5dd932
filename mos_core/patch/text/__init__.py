"""Layer-wise text on ComfyUI's CLIP and UNet."""
