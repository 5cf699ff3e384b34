"""Modelfile templates per model family (data)."""
