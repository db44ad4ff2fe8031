"""Export of descriptions as a dataset with a card, and import into a store."""

from gpt4image.descriptions.exchange.export import DatasetSummary, export_descriptions
from gpt4image.descriptions.exchange.import_ import ImportSummary, import_descriptions

__all__ = ["DatasetSummary", "ImportSummary", "export_descriptions", "import_descriptions"]
