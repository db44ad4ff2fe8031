"""Segmentation models: heads of torchvision and transformers on timm's backbones, and pictures with masks."""
