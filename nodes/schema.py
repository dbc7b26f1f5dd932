"""Socket types of the pack, and schemas that every ComfyUI version accepts."""

from comfy_api.latest import io

MosConcepts = io.Custom("MOS_CONCEPTS")
MosFused = io.Custom("MOS_FUSED")
MosRegions = io.Custom("MOS_REGIONS")
MosComposerLog = io.Custom("MOS_COMPOSER_LOG")


@io.comfytype(io_type="MOS_LAYOUT")
class MosLayout(io.ComfyTypeIO):
    """The layout's JSON; web/region_layout.js gives it a canvas as its widget."""

    Type = str

    class Input(io.WidgetInput):
        pass


CATEGORY = "Mix-of-Show"


def schema(advanced: tuple[str, ...] = (), **fields) -> io.Schema:
    """An io.Schema from the fields that the running ComfyUI knows (newer ones have more).

    advanced: names of inputs that are rarely used; editors that know the mark fold them away.
    """
    inputs = {each.id: each for each in fields.get("inputs", ())}
    for name in advanced:
        if hasattr(inputs[name], "advanced"):
            inputs[name].advanced = True
    known = io.Schema.__dataclass_fields__
    return io.Schema(**{name: value for name, value in fields.items() if name in known})
