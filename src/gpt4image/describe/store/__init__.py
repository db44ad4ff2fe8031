"""The description store: every answer durable at once, nothing asked twice."""

from gpt4image.describe.store.records import DescriptionRecord, Mark
from gpt4image.describe.store.store import DescriptionStore

__all__ = ["DescriptionRecord", "DescriptionStore", "Mark"]
