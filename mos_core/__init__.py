"""The core of the pack: records, formats, text, methods, ComfyUI patches (see ARCHITECTURE.md)."""
