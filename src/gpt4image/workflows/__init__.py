"""Workflows that connect the stages, from images to descriptions, vectors, models and reports; commands call them."""
