"""Multimodal models in this process."""
