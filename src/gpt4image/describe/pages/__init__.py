"""Pages to look at descriptions: a preview of a few, and what a check of all of them found."""

from gpt4image.describe.pages.check import write_check_page
from gpt4image.describe.pages.preview import PreviewHead, PreviewItem, write_preview
from gpt4image.describe.pages.thumbnails import image_thumbnails

__all__ = ["PreviewHead", "PreviewItem", "image_thumbnails", "write_check_page", "write_preview"]
