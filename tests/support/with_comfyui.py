"""ComfyUI in this process: importing this module brings one where it must, and prepares it.

Tests then import ComfyUI as it is (`import comfy.model_patcher`); its folder for models and outputs
is a temporary one. Starts no server, and does not import torch by itself.
"""

import tempfile
from pathlib import Path

from lib import comfyui, inprocess

COMFYUI = comfyui.find_or_bring()
BASE = tempfile.TemporaryDirectory(prefix="mix-of-show-tests-", ignore_cleanup_errors=True)
inprocess.prepare(COMFYUI.path, Path(BASE.name))
