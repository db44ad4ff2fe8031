"""Pages to look at descriptions: a preview of a few, and what a check of all of them found."""

from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.report.descriptions.check_page import write_check_page
from gpt4image.report.descriptions.preview import PreviewHead, PreviewItem, write_preview

__all__ = ["PreviewHead", "PreviewItem", "image_thumbnails", "write_check_page", "write_preview"]
