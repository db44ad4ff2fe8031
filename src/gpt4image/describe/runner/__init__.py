"""The runner: asks the servers for every task, as fast as they allow, and records what each task comes to."""

from gpt4image.describe.runner.ledger import Ledger
from gpt4image.describe.runner.patience import RunSettings
from gpt4image.describe.runner.runner import run_tasks

__all__ = ["Ledger", "RunSettings", "run_tasks"]
