"""Images without a label are described, exported, embedded, labelled by their texts, and learnt from."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpt4image import DescriptionStore, load_images, open_run
from gpt4image.cli.main import main
from gpt4image.core.errors import DataError
from gpt4image.core.workdir import WorkDir
from gpt4image.soft_labels import SoftLabels
from support.drawings import write_image_set
from support.image_files import noise, write
from support.stub_scenario import Scenario
from support.stub_server import MODEL, StubServer

TEXTS = {"cat": "a furry cat with whiskers", "dog": "a barking dog on a leash"}
TINY = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]


@pytest.mark.slow
def test_images_without_a_label_are_described(tmp_path):
    labelled = write_image_set(tmp_path / "set", per_class=4)
    more = write_image_set(tmp_path / "more", per_class=2)
    for number, path in enumerate(sorted(more.rglob("*.png"))):
        write(path, noise((4, number), size=32))
    with StubServer(Scenario()) as server:
        data = [str(labelled), "--unlabelled", str(more), "--work", str(tmp_path / "work")]
        assert main(["describe", *data, "--base-url", server.base_url, "--model", MODEL, "--yes"]) == 0
    images = load_images(labelled, unlabelled=[more], work=tmp_path / "work")
    in_train = {identity.decode() for identity in images.ids[images.split("train")].tolist()}
    store = DescriptionStore(WorkDir(tmp_path / "work").description_store)
    assert {record.image_id for record in store.records()} == in_train
    assert (images.labels < 0).sum() == len(list(more.rglob("*.png")))
    assert main(["describe", "check", *data]) == 0
    assert main(["describe", "export", *data, "--out", str(tmp_path / "out")]) == 0
    exported = pq.read_table(next((tmp_path / "out").rglob("train*.parquet")), columns=["path", "label"]).to_pylist()
    assert {row["label"] is None for row in exported if row["path"].startswith(str(more))} == {True}
    assert {row["label"] is None for row in exported if not row["path"].startswith(str(more))} == {False}


@pytest.mark.slow
def test_texts_label_images_without_a_label_and_training_uses_them(tmp_path, capsys):
    rows = []
    for number in range(40):
        name = list(TEXTS)[number % 2]
        write(tmp_path / f"{number}.png", noise(number, size=32))
        label = name if number < 24 else None
        rows.append({"path": f"{number}.png", "label": label, "description": f"{TEXTS[name]}, number {number}"})
    for file, part in (("set", rows[:32]), ("more", rows[32:])):
        (tmp_path / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = [str(tmp_path / "set.jsonl"), "--unlabelled", str(tmp_path / "more.jsonl"), "--work", str(tmp_path / "work")]
    for command in (["train", "--soft-labels", "0.5"], ["train", "--arm", "baseline"]):
        assert main([command[0], *data, *command[1:], *TINY]) == 0
    images = load_images(tmp_path / "set.jsonl", unlabelled=[tmp_path / "more.jsonl"], work=tmp_path / "work")
    (folder,) = WorkDir(tmp_path / "work").labels("x").parent.glob("*/manifest.json")
    stored = np.load(folder.with_name("ids.npy"))
    assert np.isin(images.ids[images.labels < 0], stored).all() and (images.labels < 0).sum() == 16
    assert "without a label: 16 training images" in capsys.readouterr().err
    described, baseline = (open_run(WorkDir(tmp_path / "work").run(arm, 0)) for arm in ("described", "baseline"))
    assert described.recipe.unlabelled == "align" and baseline.classes == described.classes == ("cat", "dog")


@pytest.mark.slow
def test_names_of_classes_are_enough_to_train(tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    with (tmp_path / "texts.jsonl").open("w") as texts:
        for number in range(24):
            path = f"unlabelled/{number}.png"
            write(tmp_path / "photos" / path, noise(number, size=32))
            texts.write(json.dumps({"path": path, "text": f"{TEXTS[list(TEXTS)[number % 2]]}, number {number}"}) + "\n")
    photos, work = tmp_path / "photos", WorkDir(tmp_path / "work")
    data = [str(photos), "--work", str(work.folder)]
    with StubServer(Scenario()) as server:
        assert main(["describe", *data, "--base-url", server.base_url, "--model", MODEL, "--yes"]) == 0
    assert len(list(DescriptionStore(work.description_store).records())) == 24  # validation images among them
    data += ["--text", str(tmp_path / "texts.jsonl")]
    assert main(["describe", "check", *data]) == 0
    capsys.readouterr()
    assert main(["label", *data]) == 1
    assert "labelled images of 0 classes: name all classes in a file with --classes FILE" in " ".join(
        capsys.readouterr().err.split()
    )
    named = [*data, "--classes", str(tmp_path / "classes.txt")]
    assert main(["label", *named]) == 0
    images = load_images(photos, work=work.folder)
    labels = SoftLabels(work.text_labels("minilm"))
    assert labels.classes == ("cat", "dog")
    found = labels.take(labels.find(images.ids)).argmax(axis=1)
    assert found.tolist() == [int(path.stem) % 2 for path in map(Path, images.rows["path"].to_pylist())]
    capsys.readouterr()
    assert main(["train", *named, "--arm", "text-labels", *TINY]) == 0
    judged = f"{len(images.split('validation'))} validation images without a label: judged by text labels."
    assert judged in " ".join(capsys.readouterr().err.split())
    assert open_run(work.run("text-labels", 0)).classes == ("cat", "dog")
    assert main(["compare", *named, "--arms", "text-labels", *TINY]) == 1
    assert "no labelled test images" in " ".join(capsys.readouterr().err.split())


def test_names_join_the_class_of_the_labelled_images(tmp_path, capsys):
    for number in range(12):
        write(tmp_path / ("cat" if number < 6 else "unlabelled") / f"{number}.png", noise(number, size=32))
    images = load_images(tmp_path)
    assert images.classes == ("cat",) and "name all classes in a file" in " ".join(capsys.readouterr().err.split())
    known = images.labels >= 0
    assert set(images.rows["split"].to_pylist()) == {"train", "validation"} and known.sum() == 6
    joined = images.with_classes(["dog", "cat", "ant"])
    assert joined.classes == ("ant", "cat", "dog")
    assert joined.labels.tolist() == [1 if each else -1 for each in known]
    with pytest.raises(DataError, match=r"cat/0\.png has the label 'cat', which the file of classes lacks"):
        images.with_classes(["dog", "ant"])
