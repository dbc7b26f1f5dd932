"""LoRA-Composer on ComfyUI's samplers: guidance and re-initialisation."""
