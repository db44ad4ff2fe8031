"""Descriptions shared with others: a set that `datasets` loads, with a data card, and the way back into a store."""

from gpt4image.descriptions.exchange.export import ExportSummary, export_descriptions
from gpt4image.descriptions.exchange.import_ import ImportSummary, import_descriptions

__all__ = ["ExportSummary", "ImportSummary", "export_descriptions", "import_descriptions"]
