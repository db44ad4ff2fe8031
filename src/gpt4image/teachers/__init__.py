"""Frozen vision teachers: vectors and soft labels of images, computed once and read by every training run."""

from gpt4image.teachers.anchors import anchor_classes
from gpt4image.teachers.base import Teacher, load_teacher
from gpt4image.teachers.embedding import embed_images
from gpt4image.teachers.labels import label_images

__all__ = ["Teacher", "anchor_classes", "embed_images", "label_images", "load_teacher"]
