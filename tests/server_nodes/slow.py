"""A node for tests that takes its time, counts its steps and can be cancelled."""

import time

import comfy.utils
import torch


class SlowImage:
    """Gives a black image of 8 x 8 pixels after `steps` steps of `seconds` each."""

    CATEGORY = "tests"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "steps": ("INT", {"default": 4, "min": 1}),
                "seconds": ("FLOAT", {"default": 0.05}),
                "seed": ("INT", {"default": 0, "control_after_generate": True}),
            }
        }

    def run(self, steps, seconds, seed):
        bar = comfy.utils.ProgressBar(steps)
        for _ in range(steps):
            time.sleep(seconds)
            bar.update(1)  # raises where the prompt was cancelled
        return (torch.zeros(1, 8, 8, 3),)


NODE_CLASS_MAPPINGS = {"TestSlowImage": SlowImage}
