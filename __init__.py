"""Mix of Show & LoRA-Composer: many custom concepts in one picture. Entry point for ComfyUI only.

Importing this file imports neither torch nor ComfyUI; both are imported when ComfyUI asks for the
nodes.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI once, when it loads the pack."""
    from .nodes import MixOfShowExtension

    return MixOfShowExtension()
