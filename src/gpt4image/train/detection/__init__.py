"""Detectors: torchvision's on timm's backbones, and what they are fed with: pictures and boxes, augmented together."""
