"""What the fork server of `support.forks` has imported before it forks, so that no process it starts has to."""

import datasets  # noqa: F401
import sentence_transformers  # noqa: F401
import sklearn.linear_model  # noqa: F401
import timm  # noqa: F401

import gpt4image.cli.main
import gpt4image.compare.arms
import gpt4image.compare.model_facts
import gpt4image.descriptions.exchange
import gpt4image.llm.openai_client
import gpt4image.report.comparison.page
import gpt4image.teachers
import gpt4image.workflows.describe
import gpt4image.workflows.train  # noqa: F401
import support.batching  # noqa: F401
