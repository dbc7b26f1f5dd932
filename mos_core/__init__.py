"""The core of the pack: records, formats, text, methods and ComfyUI patches (see ARCHITECTURE.md)."""
