"""The command gpt4image embed images."""

import json

from gpt4image import EmbeddingStore, SoftLabels, load_images
from gpt4image.cli.main import main

SHARES = ["--validation-share", "0.2", "--test-share", "0.25"]


def test_embed_images_command_stores_vectors(image_set, resnet_weights, tmp_path, capsys):
    weights = ["--teacher", "timm:test_resnet", "--teacher-checkpoint", str(resnet_weights), "--teacher-size", "32"]
    command = ["embed", "images", str(image_set), "--work", str(tmp_path), *SHARES, *weights]
    assert (
        main([*command, "--views", "2", "--view-seed", "1", "--splits", "train", "test", "--teacher-batch", "8"]) == 0
    )
    captured = capsys.readouterr()
    folder = tmp_path / "embeddings" / "images-timm-test_resnet"
    store = EmbeddingStore(folder)
    assert captured.out == f"58 vectors of 29 distinct images, {store.width} numbers each: {folder}\n"
    assert "Embed 58 views" in captured.err
    images = load_images(image_set, validation_share=0.2, test_share=0.25)
    assert (store.find(images.ids) >= 0).sum() == 29
    assert store.manifest.kind == "images"


def test_embed_images_command_stores_soft_labels_of_a_run(image_set, run, tmp_path, capsys):
    command = ["embed", "images", str(image_set), "--work", str(tmp_path), *SHARES]
    command += ["--teacher", f"run:{run.layout.folder}"]
    assert main(command) == 0
    (folder,) = (tmp_path / "labels").glob("run-*/")
    labels = SoftLabels(folder)
    validation, said = capsys.readouterr().out.splitlines()
    assert validation == f"validation images: {labels.manifest.quality.accuracy:.1%} of 7 correct"
    temperature = labels.manifest.temperature
    assert said == f"soft labels of 20 distinct images in 3 classes, temperature {temperature:.2f}: {folder}"
    assert json.loads((folder / "manifest.json").read_text())["origin"]["kind"] == "classifier"


def test_mistakes_end_in_one_message(image_set, run, tmp_path, capsys):
    def said(*options: str) -> str:
        assert main(["embed", "images", str(image_set), "--work", str(tmp_path), *options]) == 1
        return " ".join(capsys.readouterr().err.split())

    assert "Did you mean 'timm'" in said("--teacher", "tim:resnet50")
    assert "--teacher-checkpoint FILE" in said("--teacher", "timm:test_resnet")
    assert "views should be greater than or equal to 1, not 0" in said("--teacher", "timm:test_resnet", "--views", "0")
    assert "workers should be greater than or equal to 0" in said("--teacher", "timm:test_resnet", "--workers", "-1")
    assert "leave --views at 1" in said("--teacher", f"run:{run.layout.folder}", "--views", "2")
