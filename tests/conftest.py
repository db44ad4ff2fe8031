"""Fixtures that tests of several packages share: small real images, texts, stores and models."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import pytest

from support.drawings import write_image_set
from support.page_checks import chromium, dump_dom  # noqa: F401 - fixtures

os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # test files run in parallel: more threads per process only slow them down
    os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # while the tests are imported, which leaves no garbage


def pytest_collection_finish() -> None:
    """Leave out what was imported whenever garbage is looked for: a million objects."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries report what is left at the end
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files, which run in parallel.

    Those of the longest tests are first, as none of these should be the last, alone, and those of quick tests are last.
    Between them those of a folder are apart, so that those that wait for servers run beside others that compute.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    first = "smoke", "examples", "site", "tutorials", "judged_sets", "tuning", "kill", "command", "local"
    items.sort(
        key=lambda item: (
            item.path.stem.removeprefix("test_") not in first,
            item.path not in slow,
            crc32(item.nodeid.partition("::")[0].encode()),
        )
    )


@pytest.fixture(autouse=True)
def notes_on_standard_error(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Print notes as the command line does. What commands print must not depend on how long their steps take."""
    from gpt4image.core.console import command_output

    monkeypatch.setattr("gpt4image.core.console.QUIET_SECONDS", 1e6)
    with command_output():
        yield


@pytest.fixture(autouse=True)
def whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrap results at no width of a terminal: tests look for sentences in them."""
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.fixture(autouse=True)
def speed_of_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the speed of a model on one batch, not for a second: there is one in every comparison."""
    if "gpt4image.compare.model_facts" in sys.modules:  # which a file that compares nothing need not load
        monkeypatch.setattr("gpt4image.compare.model_facts.SECONDS", 0.0)


@pytest.fixture(scope="session")
def image_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of 3 x 12 images, with `<folder>-descriptions.jsonl` next to it. Copy it to change an image."""
    folder = write_image_set(tmp_path_factory.mktemp("set") / "images")
    written = contents(folder.parent)
    yield folder
    assert contents(folder.parent) == written, "a test has changed the shared images"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def descriptions_file(image_set: Path) -> Path:
    return image_set.with_name("images-descriptions.jsonl")


@pytest.fixture(scope="session")
def images(image_set: Path):
    from gpt4image import load_images

    return load_images(image_set, validation_share=0.2, test_share=0.25)


@pytest.fixture(scope="session")
def descriptions(images, descriptions_file: Path):
    from gpt4image import load_descriptions

    return load_descriptions(images, str(descriptions_file))


@pytest.fixture(scope="session")
def minilm():
    from gpt4image import load_encoder

    return load_encoder("minilm")


@pytest.fixture(scope="session")
def store(descriptions, minilm, tmp_path_factory: pytest.TempPathFactory):
    from gpt4image import embed_descriptions

    return embed_descriptions(descriptions, minilm, tmp_path_factory.mktemp("store") / "minilm")


@pytest.fixture(scope="session")
def several_descriptions(images, descriptions):
    """One, two or three texts per image."""
    from gpt4image.descriptions.description_set import join_texts

    pairs = [
        (image_id, f"{text} {more}")
        for number, (image_id, text) in enumerate(descriptions.pairs())
        for more in ("", "Seen from above.", "A sketch.")[: 1 + number % 3]
    ]
    return join_texts(images, pairs, 0, "several")


@pytest.fixture(scope="session")
def several_store(several_descriptions, minilm, tmp_path_factory: pytest.TempPathFactory):
    from gpt4image import embed_descriptions

    return embed_descriptions(several_descriptions, minilm, tmp_path_factory.mktemp("several") / "minilm")


@pytest.fixture
def small_recipe() -> Callable:
    from gpt4image import Recipe

    def make(**changes):
        settings = {
            "backbone": "test_resnet",
            "pretrained": False,
            "image_size": 32,
            "epochs": 2,
            "batch_size": 8,
            "lr": 1e-3,
            "warmup_epochs": 0.5,
        }
        return Recipe(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def clip_name(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Name of a tiny open_clip model with weights in a file."""
    import json

    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-teacher.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-teacher.json")
    torch.manual_seed(2)
    torch.save(open_clip.create_model("tiny-teacher").state_dict(), folder / "weights.pt")
    return f"open-clip:tiny-teacher/{folder / 'weights.pt'}"


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny but real vision-language model."""
    from support.tiny_vlm import build_tiny_vlm

    return build_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


@pytest.fixture(scope="session")
def vlm_server(tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address, up to `/v1`, of a real server of that model, which it calls `str(tiny_vlm)`."""
    from support.transformers_server import served

    with served(tiny_vlm, tmp_path_factory.mktemp("transformers-serve")) as base_url:
        yield base_url
