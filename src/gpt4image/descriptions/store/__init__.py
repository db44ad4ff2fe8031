"""The description store: every answer is saved immediately, and nothing is paid for twice."""

from gpt4image.descriptions.store.description_store import DescriptionStore
from gpt4image.descriptions.store.records import DescriptionRecord, Mark

__all__ = ["DescriptionRecord", "DescriptionStore", "Mark"]
