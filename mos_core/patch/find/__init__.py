"""Find Regions on the models of ComfyUI: the short run, and what its attention saw."""
