"""The nodes: schema -> one call into mos_core -> output. A file per stage."""

from comfy_api.latest import ComfyExtension

from . import apply, load, train
from .folders import register_folders

NODES = [*load.NODES, *apply.NODES, *train.NODES]


class MixOfShowExtension(ComfyExtension):
    async def on_load(self):
        register_folders()

    async def get_node_list(self):
        return NODES
