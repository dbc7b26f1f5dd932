"""Fuse concepts into one set of weights (Mix-of-Show, gradient fusion). No ComfyUI in this room."""
