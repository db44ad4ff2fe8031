"""The vendors' batch interface: half the price, answers within a day, nothing paid twice whenever the process dies."""

from gpt4image.describe.batch.jobs import keys_under_way
from gpt4image.describe.batch.run import BatchSettings, run_batches
from gpt4image.llm.batch_api import BatchServer

__all__ = ["BatchServer", "BatchSettings", "keys_under_way", "run_batches"]
