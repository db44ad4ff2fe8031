"""What a model learns to say about an image: one class, or any number of labels."""

from gpt4image.tasks.task import TASKS, ClassComparison, Predictions, Task, find_task

__all__ = ["TASKS", "ClassComparison", "Predictions", "Task", "find_task"]
