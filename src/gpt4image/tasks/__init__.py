"""Tasks: what a model predicts for an image, such as one class, labels, boxes or masks."""

from gpt4image.tasks.task import TASKS, ClassComparison, Predictions, Task, find_task

__all__ = ["TASKS", "ClassComparison", "Predictions", "Task", "find_task"]
