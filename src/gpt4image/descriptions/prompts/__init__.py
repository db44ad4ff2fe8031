"""Prompts as data: named strategies, their placeholders, and the conversation they make of an image."""

from gpt4image.descriptions.prompts.prompt import Strategy, load_strategies
from gpt4image.descriptions.prompts.values import PromptValues

__all__ = ["PromptValues", "Strategy", "load_strategies"]
