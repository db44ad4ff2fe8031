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
"""Coroutine functions that open the describers for the given options and check that they can answer."""


@dataclass(frozen=True)
class ModelOptions:
    """Model and server."""

    describer: Annotated[str, DESCRIBERS] = "openai"
    """openai: any server with OpenAI's protocol; batch: a vendor's batch interface (half the price, up to a day);
    local: a model in this process; replay: recorded answers."""
    model: str | None = None
    """Model name; optional if the server has only one."""
    base_url: tuple[str, ...] = ()
    """Server addresses up to /v1, such as http://localhost:8000/v1; several share the work. Default: OpenAI."""
    key_env: str | None = None
    """Environment variable that holds the API key. Default: OPENAI_API_KEY for OpenAI, no key for others."""
    at_once: Count = 128
    """Maximum concurrent requests per server; adapts to rate limits."""
    image_seconds: Positive = 180.0
    """Time-out of a description in seconds."""
    retry_failed: bool = False
    """Retry descriptions that failed in earlier runs."""
    recording: Path | None = None
    """Exported set that --describer replay answers from."""


@dataclass(frozen=True)
class QuestionOptions:
    """Prompts and sampling."""

    prompts: tuple[str, ...] = ()
    """Prompts: plain, class-conditioned, attributes, questions, contrast, classify, or those of --prompt-file. Default:
    all of --prompt-file, else plain."""
    prompt_file: Path | None = None
    """TOML file with your own prompts."""
    confusions: Path | None = None
    """Trained run, such as WORK/runs/baseline-0, whose confusion matrix gives the contrast prompt its similar
    classes."""
    class_names: Path | None = None
    """JSON file {folder name: readable name}, for classes such as n01440764."""
    classes: Path | None = None
    """Classes that the classify prompt has the model pick from: a file with a name per line, or a table with the
    columns class and text, whose texts explain the names. Default: the classes of the images."""
    samples: Count = 1
    """Answers per prompt."""
    splits: tuple[SplitName, ...] = ("train",)
    """Splits to describe. Training needs train only."""
    max_tokens: Count = 300
    """Maximum tokens per answer."""
    temperature: NotNegative | None = None
    """Sampling temperature. Default: the model's."""
    top_p: float | None = None
    """Nucleus sampling threshold. Default: the model's."""
    seed: int | None = None
    """Sampling seed, for servers that support one."""
    retry_temperature: NotNegative | None = None
    """Sampling temperature for descriptions that are written again. Default: as for the first."""
    extra_body: Path | None = None
    """JSON file with further fields of every request, such as {"reasoning_effort": "low"}, for servers that support
    them."""
    max_side: Whole = 768
    """Longest side of the pictures sent, in pixels; larger ones are scaled down. 0 sends the original files."""


@dataclass(frozen=True)
class CostOptions:
    """Budget and prices."""

    budget: NotNegative | None = None
    """Maximum dollars for all descriptions by this model, earlier runs included. Skips the confirmation."""
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
    """Pictures per batch of --describer local."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """Number format of --describer local."""


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
    """Ray cluster that this machine belongs to, such as HOST:6379. Default: RAY_ADDRESS, else a new one on this
    machine."""
    slurm_partition: str | None = None
    """Slurm partition; sinfo lists them. Set other options by sbatch's variables, such as SBATCH_ACCOUNT."""
    slurm_time: str = "24:00:00"
    """Time limit of the Slurm job."""


# dataclasses collect the fields of their bases from last to first
@dataclass(frozen=True)
class DescribeOptions(WorkerOptions, LocalModelOptions, CostOptions, QuestionOptions, ModelOptions):
    """What to ask about the images, of which model, and at what cost.

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
            raise ConfigError("A batch contains all images already: leave engine at its default.")
        if self.engine != "here" and self.describer == "replay":
            raise ConfigError("Replaying a recording is faster than starting workers: leave engine at its default.")
        if self.engine == "slurm" and self.slurm_partition is None:
            raise ConfigError("Slurm needs a partition: set slurm_partition (--slurm-partition); sinfo lists them.")
