"""Images without a label are described, exported, embedded, labelled by their texts, and learnt from."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from gpt4image import DescriptionStore, load_images, open_run
from gpt4image.cli.main import main
from gpt4image.core.workdir import WorkDir
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
