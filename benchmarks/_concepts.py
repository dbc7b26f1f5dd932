"""The shipped concepts that have embeddings of their own; ordinary LoRAs lie in the same folder."""

import json
from pathlib import Path

DEMO = Path(__file__).absolute().parent.parent / "demo"


def concept_files(folder: Path, pattern: str = "{}.safetensors") -> dict[str, Path]:
    """Name of each character of demo/concepts.json that has such a file -> the file, by name.
    pattern: of the file's name, with {} for the character."""
    known = json.loads((DEMO / "concepts.json").read_text(encoding="utf-8"))
    files = {name: folder / pattern.format(name) for name in sorted(c["name"] for c in known)}
    return {name: file for name, file in files.items() if file.is_file()}
