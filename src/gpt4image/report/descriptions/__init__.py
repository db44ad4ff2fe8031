"""Pages of descriptions: a preview of a few, and the findings of a check or an audit of all."""

from gpt4image.images.thumbnails import image_thumbnails
from gpt4image.report.descriptions.check_page import write_check_page
from gpt4image.report.descriptions.preview import PreviewHead, PreviewItem, write_preview

__all__ = ["PreviewHead", "PreviewItem", "image_thumbnails", "write_check_page", "write_preview"]
