from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny real vision-language model."""
    from tiny_vlm import build_tiny_vlm

    return build_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


@pytest.fixture(scope="session")
def vlm_server(tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address, up to `/v1`, of a real server of that model; the model's name there is `str(tiny_vlm)`."""
    from transformers_server import served

    with served(tiny_vlm, tmp_path_factory.mktemp("transformers-serve")) as base_url:
        yield base_url
