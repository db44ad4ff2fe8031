"""Descriptions shared with others: a set that `datasets` loads, with a data card, and the way back into a store."""

from gpt4image.descriptions.exchange.export import DatasetSummary, export_descriptions
from gpt4image.descriptions.exchange.import_ import ImportSummary, import_descriptions

__all__ = ["DatasetSummary", "ImportSummary", "export_descriptions", "import_descriptions"]
