"""The only room that touches ComfyUI's model objects. Everything here works on clones."""
