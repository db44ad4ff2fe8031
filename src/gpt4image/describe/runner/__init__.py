"""The runner: tasks to records, as fast as the servers take them, whatever fails on the way."""

from gpt4image.describe.runner.runner import RunSettings, run_tasks
from gpt4image.describe.tally import Tally

__all__ = ["RunSettings", "Tally", "run_tasks"]
