"""File <-> Concept, a file per format."""

from .concept_file import read_concept, save_concept
from .reference_pth import write_reference
from .safetensors_edlora import write_safetensors

__all__ = ["read_concept", "save_concept", "write_reference", "write_safetensors"]
