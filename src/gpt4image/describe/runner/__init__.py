"""The runner: tasks to records, as fast as the servers take them, whatever fails on the way."""

from gpt4image.describe.runner.run import run_tasks
from gpt4image.describe.runner.settings import RunSettings
from gpt4image.describe.runner.tally import Tally

__all__ = ["RunSettings", "Tally", "run_tasks"]
