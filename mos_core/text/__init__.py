"""Concept tokens in prompts, and layer-wise encoding of what they mean."""
