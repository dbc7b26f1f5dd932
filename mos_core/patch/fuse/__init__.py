"""Gradient fusion on ComfyUI's models, and its result on a MODEL and CLIP."""
