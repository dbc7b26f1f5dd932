"""Where files live: names in a node's list <-> paths, inside ComfyUI's model folders."""

import logging
import os
from pathlib import Path

import folder_paths

from ..mos_core.errors import FileFormatError, SaveError
from ..mos_core.formats.saving import resolve_inside
from ..mos_core.train.folder import list_training_folders

LOG = logging.getLogger(__name__)
PACK = Path(__file__).resolve().parent.parent
FUSED = "mix_of_show"  # our folder type: fusions, models/mix_of_show
DEMO = "demo: "  # prefix of the names of what ships with the pack
DEMO_FOLDERS = {
    "loras": PACK / "demo" / "models" / "concepts",
    "checkpoints": PACK / "demo" / "models",
    FUSED: PACK / "demo" / "models" / "fused",
}
DEMO_TRAINING = PACK / "demo" / "concepts"
CONCEPT_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".sft")
EMBEDDING = "embedding: "  # prefix of the names of textual inversions, in the list of concepts


def register_folders() -> None:
    """Adds models/mix_of_show; extra_model_paths.yaml may add more folders of that type."""
    folder_paths.add_model_folder_path(
        FUSED, os.path.join(folder_paths.models_dir, FUSED), is_default=True
    )


def list_files(kind: str, endings: tuple[str, ...]) -> list[str]:
    """Names of the files of a folder type ("loras", ...), the pack's own demo files last."""
    names = [
        name
        for name in folder_paths.get_filename_list(kind)
        if name.lower().endswith(endings) and is_listable(name)
    ]
    demo = DEMO_FOLDERS.get(kind)
    if demo is not None and demo.is_dir():
        names += sorted(DEMO + f.name for f in demo.iterdir() if f.name.lower().endswith(endings))
    return names


def list_concepts() -> list[str]:
    """Names of what Load ED-LoRA / LoRA reads: LoRAs, textual inversions, the pack's demo last."""
    loras = list_files("loras", CONCEPT_ENDINGS)
    embeddings = [EMBEDDING + name for name in list_files("embeddings", CONCEPT_ENDINGS)]
    own = [name for name in loras if not name.startswith(DEMO)]
    return [*own, *embeddings, *(name for name in loras if name.startswith(DEMO))]


def is_listable(name: str) -> bool:
    """Whether a file's name may stand in a list: the editor's drop-downs take names for HTML."""
    if "<" in name:
        LOG.warning("'%s' is not listed: take the '<' out of its name", name)
        return False
    return True


def path_of(kind: str, name: str) -> Path:
    """The path of a listed name. Raises FileFormatError if it is gone or leaves its folder."""
    if kind == "loras" and name.startswith(EMBEDDING):
        return path_of("embeddings", name.removeprefix(EMBEDDING))
    if name.startswith(DEMO):
        folder = DEMO_FOLDERS[kind]
        path = (folder / name.removeprefix(DEMO)).resolve()
        found = path.is_file() and path.parent == folder.resolve()
    else:
        full = folder_paths.get_full_path(kind, name)
        found, path = full is not None, Path(full or "")
        roots = [Path(root).absolute() for root in folder_paths.get_folder_paths(kind)]
        found = found and any(root in Path(os.path.abspath(path)).parents for root in roots)
    if not found:
        raise FileFormatError(f"'{name}' is not in the {kind} folders; press R to read them again")
    return path


def fingerprint(kind: str, name: str) -> str:
    """Changes when the file changes, so that the node runs again."""
    status = path_of(kind, name).stat()
    return f"{status.st_mtime_ns}-{status.st_size}"


def save_folder(kind: str) -> Path:
    """The first folder of a type: where new files go."""
    return Path(folder_paths.get_folder_paths(kind)[0])


def can_save(kind: str, prefix: str | None) -> bool | str:
    """For a node's validate_inputs: whether a result may go there, before anything is made. None:
    the prefix comes from another node."""
    try:
        if prefix is not None:
            resolve_inside(save_folder(kind), prefix)
        return True
    except SaveError as problem:
        return str(problem)


def kept_folder(name: str) -> Path:
    """A folder of the pack's own below ComfyUI's user folder, for what can be made again."""
    return Path(folder_paths.get_user_directory()) / "mix_of_show" / name


def list_training() -> list[str]:
    """Folders of training images: below ComfyUI's input folder, and the pack's demo."""
    names = list_training_folders(Path(folder_paths.get_input_directory()))
    names = [name for name in names if is_listable(name)]
    return names + [DEMO + name for name in list_training_folders(DEMO_TRAINING)]


def training_path(name: str) -> Path:
    """The path of a listed training folder; a link that lies inside its root counts as inside.

    Raises FileFormatError if it is gone or leaves its root.
    """
    demo = name.startswith(DEMO)
    root = DEMO_TRAINING if demo else Path(folder_paths.get_input_directory())
    root = Path(os.path.abspath(root))
    path = Path(os.path.abspath(root / name.removeprefix(DEMO).replace("\\", "/")))
    if root not in path.parents or not path.is_dir():
        raise FileFormatError(
            f"there is no folder '{name}' of training images in the input folder; press R to read "
            "the list again"
        )
    return path
