"""Images in: any source becomes one table of ids, paths, labels and splits."""

from gpt4image.images.decode import MAX_PIXELS, decode
from gpt4image.images.duplicates import DuplicateReport, drop_leaks, find_duplicates
from gpt4image.images.load import load_images
from gpt4image.images.table import SPLITS, ImageReader, ImageTable, RejectedImage

__all__ = [
    "MAX_PIXELS",
    "SPLITS",
    "DuplicateReport",
    "ImageReader",
    "ImageTable",
    "RejectedImage",
    "decode",
    "drop_leaks",
    "find_duplicates",
    "load_images",
]
