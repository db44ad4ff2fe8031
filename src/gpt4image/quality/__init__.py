"""Check descriptions before use: bad texts, likely label errors, and what the texts add to the image features."""

from gpt4image.quality.check import CHECK_FILE, CheckSettings, check_descriptions

__all__ = ["CHECK_FILE", "CheckSettings", "check_descriptions"]
