"""The shipped concepts that have embeddings of their own; ordinary LoRAs lie in the same folder."""

import json
from pathlib import Path

DEMO = Path(__file__).absolute().parent.parent / "demo"


def concept_files(folder: Path) -> list[Path]:
    """`<name>.safetensors` of the characters of demo/concepts.json, by name."""
    known = json.loads((DEMO / "concepts.json").read_text(encoding="utf-8"))
    files = (folder / f"{name}.safetensors" for name in sorted(entry["name"] for entry in known))
    return [file for file in files if file.is_file()]
