"""Regions from attention: maps of words become silhouettes. Tensors only, no model."""
