"""Regions on a MODEL: one forward pass, each region with a text (and a concept) of its own."""
