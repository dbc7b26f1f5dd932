"""Training of a concept on ComfyUI's models."""
