"""Makes ComfyUI's `comfy` package importable in a plain script: `COMFYUI_PATH` names the ComfyUI
folder."""

import contextlib
import os
import sys

import torch


def start_comfy(threads: int = 0) -> None:
    """Call before the first `import comfy...`; raises if `COMFYUI_PATH` is not a ComfyUI folder."""
    folder = os.environ.get("COMFYUI_PATH", "")
    if not os.path.isdir(os.path.join(folder, "comfy")):
        raise SystemExit("Set COMFYUI_PATH to a ComfyUI folder (the one with main.py in it).")
    for path in (folder, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))):
        if path not in sys.path:
            sys.path.append(path)
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        _declare_torchvision_operators()
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        comfy.cli_args.args.use_pytorch_cross_attention = (
            True  # the fastest here, and it has a gradient
        )


def _declare_torchvision_operators() -> None:
    """torchvision of another build than torch's looks for these two names when imported."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # already there
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare_torchvision_operators.keep = library
