"""Train ED-LoRA: single-client concept tuning (Mix-of-Show). No ComfyUI in this room."""
