"""Settings of the stages before training, as the command line shows them. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gpt4image.core.errors import ConfigError


@dataclass(frozen=True)
class DataOptions:
    """Which images, and what to do about bad ones."""

    data: Annotated[str, tyro.conf.Positional]
    """Folder of class folders, folder with metadata, CSV/JSONL, Parquet/Arrow, WebDataset tars, or a hub name."""
    on_bad_image: Literal["skip", "fail"] = "skip"
    """List and leave out images that cannot be read, or stop."""
    leaks: Literal["keep", "drop", "fail"] = "keep"
    """The same image in two splits: keep it and say so, drop it from the training side, or stop."""
    image_column: str | None = None
    """Column that holds the images, where it cannot be told."""
    label_column: str | None = None
    """Column that holds the labels, where it cannot be told."""
    max_pixels: int = 89_478_485
    """Largest width x height that is decoded."""
    validation_share: float = 0.1
    """Share of the images that becomes the validation split where there is none."""
    test_share: float = 0.2
    """Share of the images that becomes the test split where there is none."""
    split_seed: int = 0
    """Seed of that choice."""


@dataclass(frozen=True)
class TextOptions:
    """Which descriptions, and how they become vectors."""

    text: str | None = None
    """Text column of the image set, or a file: CSV/JSONL/Parquet keyed by path or id, or the reference's .pth list.
    Or another work folder: what `describe` has written there. When not given: what it has written into this one, else
    the column `description`. `none`: teachers alone."""
    use_prompts: tuple[str, ...] = ()
    """Of what `describe` has written: only the texts of these prompts."""
    use_models: tuple[str, ...] = ()
    """Of what `describe` has written: only the texts of these models."""
    text_column: str | None = None
    """The file's text column, where it is not called text, description or caption."""
    orphan_texts: Literal["fail", "skip"] = "fail"
    """Texts that fit no image: stop, or leave them out."""
    encoder: tuple[str, ...] = ("minilm",)
    """Text encoder: minilm, sentence-transformers:MODEL, or open-clip:MODEL/PRETRAINED; or several."""
    long_text: Literal["truncate", "pool"] = "truncate"
    """Texts longer than the encoder reads: read their beginning, or encode them in chunks and pool."""
    embed_batch: int = 64
    """Texts encoded at a time."""


@dataclass(frozen=True)
class GuidanceOptions(TextOptions):
    """What guides a training: descriptions, and vision teachers beside them or in their place."""

    teachers: tuple[str, ...] = ()
    """Vision teachers to align with beside the text in training, such as timm:MODEL; run:FOLDER gives soft labels."""


@dataclass(frozen=True)
class TeacherOptions:
    """Which vision teacher, and which images it answers."""

    teacher: str
    """timm:MODEL, any timm model's pooled features; open-clip:MODEL/PRETRAINED, an image tower; or run:FOLDER, the
    logits of a finished run or an exported model, which become soft labels."""
    teacher_checkpoint: Path | None = None
    """For timm: weights file, in place of its pretrained weights."""
    teacher_size: int | None = None
    """For timm: height and width in pixels of the images it sees, in place of its own."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Which images. Only training images are needed for training."""
    views: int = 1
    """Vectors of each image: of the picture as it is, and of random crops of it."""
    view_seed: int = 0
    """Seed of these crops."""
    teacher_batch: int = 64
    """Images at a time."""
    workers: int = 0
    """Processes that prepare images. Changes speed alone."""

    def __post_init__(self) -> None:
        for name in ("teacher_size", "views", "teacher_batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be 1 or more, not {value}.")
        if self.view_seed < 0 or self.workers < 0:
            raise ConfigError(f"view_seed and workers must be 0 or more, not {self.view_seed} and {self.workers}.")
        if not self.splits:
            raise ConfigError("Name at least one split, such as --splits train.")


@dataclass(frozen=True)
class LabelOptions:
    """How the classifier on the texts is fitted."""

    strength: float = 3.0
    """Inverse strength of its regularisation: higher fits the texts more closely."""
    folds: int = 5
    """Parts of the images; each is labelled by a classifier that was fitted to the others."""
    label_seed: int = 0
    """Seed of the parts."""

    def __post_init__(self) -> None:
        if not 0 < self.strength < math.inf or self.folds < 2:
            raise ConfigError(f"Labelling takes a strength above 0 and 2 folds, not {self.strength} and {self.folds}.")


@dataclass(frozen=True)
class CheckOptions:
    """What the descriptions are held against, and what becomes of what is found."""

    backbone: str | None = None
    """The timm model that is to be trained. What the texts know is set beside what its frozen features know."""
    checkpoint: Path | None = None
    """Weights file of that model, in place of timm's pretrained weights."""
    image_size: int = 224
    """Height and width in pixels of the images it sees."""
    language: str | None = None
    """Language the texts should be in, such as en; that of most of them when not given."""
    splits: tuple[Literal["train", "validation", "test"], ...] | None = None
    """Splits that were to be described; those in which anything is described when not given."""
    prompt_file: Path | None = None
    """TOML file with prompts of your own."""
    class_was_told: bool | None = None
    """Of texts whose prompt is not known: whether their writer knew the class."""
    drop: tuple[str, ...] = ()
    """Kinds of findings whose texts are left out of training, such as refusal loop."""
    retry: tuple[str, ...] = ()
    """Kinds of findings whose texts are written again by the next `gpt4image describe`."""
    undo: bool = False
    """First take back all that was dropped, or was to be written again, by earlier checks."""


@dataclass(frozen=True)
class DescribeOptions:
    """Who describes the images, what is asked, and what it may cost."""

    describer: Literal["openai", "batch", "local", "replay"] = "openai"
    """A server that speaks OpenAI's protocol; a vendor's batch interface (half the price, up to a day); a model in this
    process; or a recorded set."""
    model: str | None = None
    """Model name. A server that has only one need not be told."""
    base_url: tuple[str, ...] = ()
    """Addresses up to /v1, such as http://localhost:8000/v1. Several share the work. OpenAI's when not given."""
    key_env: str | None = None
    """Environment variable that holds the key. OPENAI_API_KEY for OpenAI itself, none for other addresses."""
    prompts: tuple[str, ...] = ()
    """Prompt strategies: plain, class-conditioned, attributes, questions, contrast, or those of the prompt file. When
    none is named: all of the prompt file, or plain."""
    prompt_file: Path | None = None
    """TOML file with prompts of your own."""
    confusions: Path | None = None
    """For the contrast prompt: a trained run, such as WORK/runs/baseline-0, that knows which classes look alike."""
    class_names: Path | None = None
    """JSON file {folder name: name to say} for prompts, where classes are called n01440764."""
    samples: int = 1
    """Answers to each prompt."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train",)
    """Which images are described. Only training images are needed for training."""
    max_tokens: int = 300
    """Most tokens of an answer."""
    temperature: float | None = None
    """0 for the likeliest words, higher for more variety; left to the model when not given."""
    top_p: float | None = None
    """Share of the probability that words are drawn from; left to the model when not given."""
    seed: int | None = None
    """Seed of the draw, where the server knows one."""
    retry_temperature: float | None = None
    """Temperature for descriptions that are written again."""
    max_side: int = 768
    """Longest side in pixels of the pictures sent; larger ones are made smaller. 0 sends them as they are."""
    retry_failed: bool = False
    """Try again what failed before."""
    at_once: int = 128
    """Most requests under way at a server. Fewer are sent where it pushes back."""
    image_seconds: float = 180.0
    """Time limit for one description."""
    budget: float | None = None
    """Most dollars that this model's descriptions may cost in all, earlier runs included. Asks no more questions."""
    prices: Path | None = None
    """TOML file with prices of your own."""
    price_in: float | None = None
    """Dollars for a million tokens read."""
    price_out: float | None = None
    """Dollars for a million tokens written."""
    recording: Path | None = None
    """For replay: an exported set."""
    local_batch: int = 8
    """For a local model: pictures at a time."""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """For a local model: number format."""
    engine: Literal["here", "local", "ray", "slurm"] = "here"
    """Where the work is done: in this process, in several on this machine, on a Ray cluster, or on Slurm."""
    workers: int = 2
    """Processes of an engine other than `here`. They share what may be under way at once, and the budget."""
    worker_cpus: int = 1
    """On Ray and Slurm: processors of a worker."""
    worker_memory: int = 2
    """On Ray and Slurm: GB of memory for each of its processors."""
    worker_gpus: int = 0
    """On Ray and Slurm: GPUs of a worker, for a local model."""
    ray_address: str | None = None
    """Ray cluster that this machine is part of, such as HOST:6379. RAY_ADDRESS, or one on this machine alone, when not
    given."""
    slurm_partition: str | None = None
    """Partition for Slurm; sinfo lists them. Other settings of a site: sbatch's variables, such as SBATCH_ACCOUNT."""
    slurm_time: str = "24:00:00"
    """Time limit of a Slurm job."""

    def __post_init__(self) -> None:
        whole = ("samples", "max_tokens", "at_once", "local_batch", "workers", "worker_cpus", "worker_memory")
        for name in (*whole, "image_seconds"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be above 0, not {getattr(self, name)}.")
        for name in ("max_side", "temperature", "retry_temperature", "budget", "price_in", "price_out", "worker_gpus"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name} must not be negative, but is {value}.")
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("Give both --price-in and --price-out, or neither.")
        if self.describer == "replay" and self.recording is None:
            raise ConfigError("Replay needs a recorded set: --recording FOLDER (made by gpt4image describe export).")
        if self.describer == "batch" and len(self.base_url) > 1:
            raise ConfigError("A batch goes to one server: give one --base-url.")
        if not self.splits:
            raise ConfigError("Name at least one split to describe, such as --splits train.")
        self._check_engine()

    def _check_engine(self) -> None:
        if self.engine != "here" and self.describer == "batch":
            raise ConfigError("The batch interface works on all images at once by itself: leave --engine out.")
        if self.engine != "here" and self.describer == "replay":
            raise ConfigError("A recorded set is answered faster than workers start: leave --engine out.")
        if self.engine == "slurm" and self.slurm_partition is None:
            raise ConfigError("Slurm needs a partition: --slurm-partition NAME (sinfo lists them).")


WORK = Path("gpt4image-work")


"""The work directory where none is named."""
