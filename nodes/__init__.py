"""The nodes: schema -> one call into mos_core -> output. A file per stage."""

from comfy_api.latest import ComfyExtension

from . import apply, compose, detail, find, fuse, fuse_export, handoff, load, regions, sample, train
from .concept_names import add_routes
from .folders import register_folders

NODES = [
    *load.NODES,
    *apply.NODES,
    *train.NODES,
    *fuse.NODES,
    *fuse_export.NODES,
    *regions.NODES,
    *handoff.NODES,
    *find.NODES,
    *detail.NODES,
    *sample.NODES,
    *compose.NODES,
]


register_folders()  # before the nodes list what is in them
add_routes()


class MixOfShowExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES
