"""Prompts as data: named strategies, their placeholders, and the conversation they make of an image."""

from gpt4image.describe.prompts.strategy import Strategy, load_strategies
from gpt4image.describe.prompts.values import PromptValues

__all__ = ["PromptValues", "Strategy", "load_strategies"]
