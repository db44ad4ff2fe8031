"""Detectors of torchvision on timm's backbones, and their inputs: pictures and boxes, augmented together."""
