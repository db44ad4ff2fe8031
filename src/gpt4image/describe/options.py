"""Settings of describing, grouped by feature in base classes, and the registry of describers.

The docstring below a field is its help text on the command line; its annotation holds its constraints. This module
imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from gpt4image.core.errors import ConfigError
from gpt4image.core.options import SplitName, check_splits
from gpt4image.core.registry import Registry
from gpt4image.core.validation import Count, NotNegative, Positive, Whole, check_fields

if TYPE_CHECKING:
    from gpt4image.llm.base import Describer

DESCRIBERS: Registry[Callable[[DescribeOptions], Awaitable[list[Describer]]]] = Registry(
    "describer",
    {
        "openai": "gpt4image.describe.clients:open_servers",
        "batch": "gpt4image.describe.clients:open_servers",
        "local": "gpt4image.describe.clients:open_local",
        "replay": "gpt4image.describe.clients:open_recording",
    },
    group="gpt4image.describers",
)
"""Coroutine functions that open the describers for some options and check that they can answer."""


@dataclass(frozen=True)
class ModelOptions:
    """Model and server."""

    describer: Annotated[str, DESCRIBERS] = "openai"
    """Who writes the descriptions. openai: any server that speaks OpenAI's protocol; batch: a vendor's batch interface
    (half the price, up to a day); local: a model in this process; replay: recorded answers."""
    model: str | None = None
    """Name of the model; optional if the server has only one."""
    base_url: tuple[str, ...] = ()
    """Addresses of one or more servers, up to /v1, such as http://localhost:8000/v1. Several servers share the work.
    Default: OpenAI."""
    key_env: str | None = None
    """Environment variable with the API key. Default: OPENAI_API_KEY for OpenAI, no key for other servers."""
    at_once: Count = 128
    """Maximum number of concurrent requests per server; lowered automatically at rate limits."""
    image_seconds: Positive = 180.0
    """Time-out for one description, in seconds."""
    retry_failed: bool = False
    """Retry descriptions that failed in earlier runs."""
    recording: Path | None = None
    """Exported set from which --describer replay answers."""


@dataclass(frozen=True)
class QuestionOptions:
    """Prompts and sampling."""

    prompts: tuple[str, ...] = ()
    """Prompts to use: plain, class-conditioned, attributes, questions, contrast, classify, or those of --prompt-file.
    Default: all prompts of --prompt-file, else plain."""
    prompt_file: Path | None = None
    """TOML file with your own prompts."""
    confusions: Path | None = None
    """Trained run, such as WORK/runs/baseline-0, whose confusion matrix provides the similar classes for the contrast
    prompt."""
    class_names: Path | None = None
    """JSON file that maps folder names to readable names, for classes such as n01440764."""
    classes: Path | None = None
    """Classes from which the model picks with the classify prompt: a file with one name per line, or a table with the
    columns class and text, whose texts explain the names. Default: the classes of the images."""
    samples: Count = 1
    """Answers per prompt."""
    splits: tuple[SplitName, ...] = ("train",)
    """Splits to describe. Training needs only train."""
    max_tokens: Count = 300
    """Maximum tokens per answer."""
    temperature: NotNegative | None = None
    """Sampling temperature. Default: that of the model."""
    top_p: float | None = None
    """Nucleus sampling threshold. Default: that of the model."""
    seed: int | None = None
    """Sampling seed, for servers that support one."""
    retry_temperature: NotNegative | None = None
    """Sampling temperature for descriptions that are written again. Default: the same temperature."""
    extra_body: Path | None = None
    """JSON file with additional fields for every request, such as {"reasoning_effort": "low"}, if the server supports
    them."""
    max_side: Whole = 768
    """Longest side in pixels at which pictures are sent; larger ones are scaled down. 0 sends them at their original
    size."""


@dataclass(frozen=True)
class CostOptions:
    """Budget and prices."""

    budget: NotNegative | None = None
    """Maximum cost in dollars of all descriptions by this model, including earlier runs. Skips the confirmation."""
    prices: Path | None = None
    """TOML file with your own prices."""
    price_in: NotNegative | None = None
    """Dollars per million input tokens."""
    price_out: NotNegative | None = None
    """Dollars per million output tokens."""


@dataclass(frozen=True)
class LocalModelOptions:
    """Model in this process."""

    local_batch: Count = 8
    """Pictures per batch, with --describer local."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Number format of the model, with --describer local."""


@dataclass(frozen=True)
class WorkerOptions:
    """Workers on this machine, on Ray or on Slurm."""

    engine: Literal["here", "local", "ray", "slurm"] = "here"
    """Run in this process, in worker processes on this machine, on a Ray cluster, or on Slurm."""
    workers: Count = 2
    """Number of workers. They share --at-once and --budget."""
    worker_cpus: Count = 1
    """CPUs per worker on Ray and Slurm."""
    worker_memory: Count = 2
    """Memory per CPU in GB on Ray and Slurm."""
    worker_gpus: Whole = 0
    """GPUs per worker on Ray and Slurm, for a local model."""
    ray_address: str | None = None
    """Ray cluster that this machine belongs to, such as HOST:6379. Default: RAY_ADDRESS, else a new cluster on this
    machine."""
    slurm_partition: str | None = None
    """Slurm partition; sinfo lists them. Set other options with sbatch's environment variables, such as
    SBATCH_ACCOUNT."""
    slurm_time: str = "24:00:00"
    """Time limit of the Slurm job."""


# dataclasses collect the fields of their bases from last to first
@dataclass(frozen=True)
class DescribeOptions(WorkerOptions, LocalModelOptions, CostOptions, QuestionOptions, ModelOptions):
    """What to ask about the images, which model to ask, and at what cost.

    Raises:
        ConfigError: a setting is invalid, or two settings exclude each other.
    """

    def __post_init__(self) -> None:
        check_fields(self)
        check_splits(self.splits)
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("Set both price_in (--price-in) and price_out (--price-out), or neither.")
        if self.describer == "replay" and self.recording is None:
            raise ConfigError(
                "The replay describer needs a recording: set recording (--recording FOLDER) to a set that gpt4image "
                "describe export has written."
            )
        if self.describer == "local" and self.extra_body is not None:
            raise ConfigError("A model in this process has no request body: omit extra_body (--extra-body).")
        if self.describer == "batch" and len(self.base_url) > 1:
            raise ConfigError("A batch goes to one server: set a single base_url (--base-url).")
        if self.engine != "here" and self.describer == "batch":
            raise ConfigError("A batch already contains all images: leave engine at its default.")
        if self.engine != "here" and self.describer == "replay":
            raise ConfigError("Replaying a recording is faster than starting workers: leave engine at its default.")
        if self.engine == "slurm" and self.slurm_partition is None:
            raise ConfigError("Slurm needs a partition: set slurm_partition (--slurm-partition); sinfo lists them.")
