"""What every method needs of ComfyUI's models: gradients, weight patches, hooks, sampler plans."""
