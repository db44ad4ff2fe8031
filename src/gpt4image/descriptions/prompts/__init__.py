"""Prompts as data: named strategies, their placeholders, and the conversation about an image that results."""

from gpt4image.descriptions.prompts.prompt import Prompt, load_prompts
from gpt4image.descriptions.prompts.values import PromptValues

__all__ = ["Prompt", "PromptValues", "load_prompts"]
