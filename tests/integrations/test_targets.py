"""Descriptions find the images of anyone's dataset by their bytes or paths."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from timm.data import create_dataset
from torch.utils.data import ConcatDataset, Subset

from gpt4image.core.errors import ConfigError, DataError, DescriptionError
from gpt4image.integrations import text_targets
from gpt4image.integrations.targets import INDEX
from support.stored import ask, fill


@pytest.fixture(scope="module")
def paths(image_set: Path) -> list[Path]:
    return sorted(image_set.rglob("*.png"))


@pytest.fixture(scope="module")
def table(paths: list[Path]) -> datasets.Dataset:
    rows = {"picture": [{"bytes": path.read_bytes(), "path": None} for path in paths], "label": [0] * len(paths)}
    return datasets.Dataset.from_dict(rows).cast_column("picture", datasets.Image())


def vectors_of(targets, index):
    found = targets[index]
    return found.vectors[0], found.known[0]


def expected_vectors(store, images, paths, image_set):
    ids = {str(image_set / images.path(row)): images.ids[row] for row in range(len(images))}
    return store.lookup(np.array([ids[str(path)] for path in paths], "S32"))


def test_paths_get_the_vectors_of_their_own_images(store, images, paths, image_set):
    targets = text_targets(paths, store.layout.folder)
    vectors, known = expected_vectors(store, images, paths, image_set)
    found = vectors_of(targets, range(len(paths)))
    assert torch.equal(found[0], vectors) and torch.equal(found[1], known)
    assert targets.described == int(known.sum()) > 0
    assert targets.width == store.width == vectors.shape[1]


@pytest.mark.parametrize("kind", ["strings", "bytes", "folder", "timm", "subset", "concat", "table", "selected"])
def test_every_kind_of_dataset_gives_the_same_vectors_as_its_paths(kind, store, paths, folder, table, image_set):
    count = len(paths)
    data, order = {
        "strings": lambda: ([str(path) for path in paths], range(count)),
        "bytes": lambda: ([path.read_bytes() for path in paths], range(count)),
        "folder": lambda: (folder, range(count)),
        "timm": lambda: (create_dataset("", root=str(image_set)), range(count)),
        "subset": lambda: (Subset(folder, [5, 3, 20]), [5, 3, 20]),
        "concat": lambda: (ConcatDataset([Subset(folder, [4]), folder]), [4, *range(count)]),
        "table": lambda: (table, range(count)),
        "selected": lambda: (table.select([7, 2]).map(lambda row: row), [7, 2]),
    }[kind]()
    expected = vectors_of(text_targets(paths, store.layout.folder), list(order))
    found = vectors_of(text_targets(data, store.layout.folder), range(len(order)))
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_one_text_a_sample_is_embedded_and_missing_ones_are_unknown(paths, minilm, tmp_path):
    texts = [None if number % 3 == 0 else f"picture number {number}" for number in range(len(paths))]
    vectors, known = vectors_of(text_targets(paths, texts, work=tmp_path), range(len(paths)))
    assert known.tolist() == [text is not None for text in texts]
    expected = minilm.encode([texts[4]])[0]
    assert float(vectors[4] @ torch.tensor(expected / np.linalg.norm(expected)).float()) == pytest.approx(1, abs=1e-3)
    assert not vectors[~known].any()


def test_captions_are_joined_by_the_path_of_the_file(folder, image_set, tmp_path):
    named = [Path(path).relative_to(image_set).as_posix() for path, _ in folder.samples[:4]]
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"path": path, "text": f"about {path}"}) + "\n" for path in named))
    targets = text_targets(folder, captions, work=tmp_path / "work")
    assert vectors_of(targets, range(6))[1].tolist() == [True] * 4 + [False] * 2


def test_captions_of_the_whole_set_fit_a_dataset_of_one_of_its_folders(paths, image_set, tmp_path):
    captions = tmp_path / "captions.csv"
    rows = [f"{path.relative_to(image_set).as_posix()},a {path.parent.name} picture {path.stem}" for path in paths]
    captions.write_text("\n".join(["path,text", *rows]))
    part = [path for path in paths if path.parent.name == paths[0].parent.name]
    targets = text_targets(part, captions, work=tmp_path / "work")
    assert targets.described == len(part) < len(paths)


def test_descriptions_of_a_work_directory_are_the_default(images, image_set, paths, tmp_path):
    fill(tmp_path, images, ask("model", prompts=("plain",)))
    targets = text_targets(paths, work=tmp_path)
    assert targets.described == len(images)


def test_copies_of_an_image_share_a_number(paths, store):
    targets = text_targets([paths[0], paths[1], paths[0]], store.layout.folder)
    first, second, copy = targets[[0, 1, 2]].ids.tolist()
    assert first == copy != second


def test_indexed_samples_end_with_their_position(folder, table, store):
    sample = text_targets(folder, store.layout.folder).indexed(folder)[5]
    assert sample[1:] == (folder[5][1], 5)
    row = text_targets(table, store.layout.folder).indexed(table)[5]
    assert row[INDEX] == 5 and set(row) == {"picture", "label", INDEX}


def test_dataset_of_another_length_is_refused(folder, store):
    targets = text_targets(folder, store.layout.folder)
    with pytest.raises(ConfigError, match="has 3 samples, the targets were made for 36"):
        targets.indexed(Subset(folder, [0, 1, 2]))


def test_images_that_match_no_text_are_an_error_that_names_the_remedy(store):
    with pytest.raises(DescriptionError, match="None of the 2 images has a vector"):
        text_targets([b"converted", b"resized"], store.layout.folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["gone.png"], "gone.png cannot be read: No such file"),
        ([3], "must be a path or encoded bytes, not int"),
        ([], "has no images"),
        (object(), "object does not say where its images are: pass the list of their paths"),
    ],
)
def test_data_without_images_is_refused_by_name(data, message, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        text_targets(data, store.layout.folder)


def test_texts_of_another_number_are_refused(paths):
    with pytest.raises(DescriptionError, match="There are 1 texts for 36 images"):
        text_targets(paths, ["one"])
