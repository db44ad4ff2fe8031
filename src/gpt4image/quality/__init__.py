"""Check descriptions before they are used: bad texts, likely label errors, and what texts know beyond the model."""

from gpt4image.quality.check import CHECK_FILE, CheckSettings, check_descriptions

__all__ = ["CHECK_FILE", "CheckSettings", "check_descriptions"]
