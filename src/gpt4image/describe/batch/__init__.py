"""The vendors' batch interface: half the price, answers within a day, nothing paid twice whenever the process dies."""

from gpt4image.describe.batch.run import run_batches
from gpt4image.describe.batch.server import BatchServer
from gpt4image.describe.batch.settings import BatchSettings
from gpt4image.describe.batch.state import keys_under_way

__all__ = ["BatchServer", "BatchSettings", "keys_under_way", "run_batches"]
