"""The runner: sends all tasks to the servers as fast as they allow, and records the outcomes."""

from gpt4image.describe.runner.ledger import Ledger
from gpt4image.describe.runner.patience import RunSettings
from gpt4image.describe.runner.runner import run_tasks

__all__ = ["Ledger", "RunSettings", "run_tasks"]
