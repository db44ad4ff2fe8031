"""The command line: what overrides what, errors, and the way from a folder to a deployed model."""

import errno
import re
import shutil
from importlib.metadata import version

import pytest
from safetensors import SafetensorError

from gpt4image.cli.main import main, parse

TINY = ["--backbone", "test_resnet", "--no-pretrained", "--image-size", "32", "--epochs", "1", "--batch-size", "8"]


def test_options_override_the_config_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("lr = 0.01\nepochs = 3\n")
    for arguments in (["--config", str(path)], [f"--config={path}"]):
        command = parse(["compare", "data", *arguments, "--epochs", "7", "--freeze", "conv1", "bn1"])
        assert (command.recipe.lr, command.recipe.epochs, command.recipe.freeze) == (0.01, 7, ("conv1", "bn1"))
        assert command.source.data == "data"


def test_config_file_overrides_the_named_recipe_and_options_override_both(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("lr = 0.01\nepochs = 3\n")
    for arguments in (["--recipe", "reference-deit-b"], ["--recipe=reference-deit-b"]):
        command = parse(["train", "data", *arguments, "--config", str(path), "--epochs", "7"])
        recipe = command.recipe
        assert (recipe.mixup, recipe.clip_grad, recipe.lr, recipe.epochs) == (0.8, None, 0.01, 7)
    alone = parse(["compare", "data", "--recipe", "fine-tune", "--clip-grad", "None"]).recipe
    assert (alone.lr, alone.targets, alone.clip_grad) == (1e-4, "label", None)


def test_recipes_prints_config_files_and_suggests_the_nearest_name(tmp_path, capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("# Source: ") == 6
    assert "# fine-tune: Fine-tune a pretrained model" in listed
    assert main(["recipes", "fine-tune"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    named = parse(["train", "data", "--recipe", "fine-tune"]).recipe
    assert parse(["train", "data", "--config", str(tmp_path / "mine.toml")]).recipe == named
    for arguments in (["train", "data", "--recipe", "fine-tun"], ["recipes", "fine-tun"]):
        assert main(arguments) == 1
        assert "Did you mean 'fine-tune'? Known: demo, fine-tune, fine-tune-labels" in " ".join(
            capsys.readouterr().err.split()
        )


def test_only_training_commands_accept_teachers(capsys):
    assert parse(["train", "data", "--teachers", "timm:resnet18"]).descriptions.teachers == ("timm:resnet18",)
    for command in (["embed"], ["embed", "compare"], ["label"], ["describe", "check"]):
        with pytest.raises(SystemExit):
            parse([*command, "data", "--teachers", "timm:resnet18"])
        assert "--teachers" in capsys.readouterr().err


def test_error_is_one_message_with_status_1_and_a_wrong_option_has_status_2(tmp_path, capsys, image_set):
    assert main(["images", str(tmp_path / "nowhere"), "--work", str(tmp_path / "work")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    (tmp_path / "recipe.toml").write_text("epoch = 3\n")
    assert main(["train", str(image_set), "--config", str(tmp_path / "recipe.toml")]) == 1
    assert "Did you mean 'epochs'" in capsys.readouterr().err
    assert main(["report", "--work", str(tmp_path)]) == 1
    assert main(["comapre", "data"]) == 1
    assert "Did you mean 'compare'" in capsys.readouterr().err
    for arguments, status in ((["compare", "data", "--epoch", "3"], 2), ([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == status


@pytest.mark.slow
def test_from_folder_to_report_and_deployed_model(image_set, descriptions_file, tmp_path, capsys):
    work, model = tmp_path / "work", tmp_path / "model"
    where = [str(image_set), "--work", str(work)]
    text = ["--text", str(descriptions_file)]

    assert main(["images", *where]) == 0
    assert main(["embed", *where, *text]) == 0
    assert "36 distinct texts of 36 images, 384 numbers each" in capsys.readouterr().out
    assert main(["train", *where, *text, *TINY, "--seed", "1"]) == 0
    assert "Train described, seed 1" in capsys.readouterr().err
    assert main(["compare", *where, *text, *TINY, "--seeds", "2"]) == 0
    captured = capsys.readouterr()
    assert "report.html" in captured.out
    shown = captured.err
    assert "Run 3 of 4: baseline, seed 1" in shown and "All 4 runs" in shown
    assert "Run 4 of 4" not in shown  # trained by the command before
    assert f"gpt4image compare {image_set}" in re.sub("<[^>]+>", "", (work / "report.html").read_text())
    assert main(["report", "--work", str(work)]) == 0
    assert main(["export", *where, "--run", str(work / "runs" / "described-1"), "--out", str(model), "--no-onnx"]) == 0
    assert "largest logit difference" in capsys.readouterr().out
    assert main(["predict", str(model), str(image_set / "red" / "000.png")]) == 0
    path, *answers, error = capsys.readouterr().out.splitlines()[1].split("\t")
    assert path.endswith("000.png") and not error
    assert set(answers[::2]) == {"blue", "green", "red"}


def test_escape_codes_in_file_names_are_escaped(image_set, tmp_path, capsys):
    folder = tmp_path / "set"
    shutil.copytree(image_set, folder)
    (folder / "red" / "a\x1b[31m.png").write_bytes(b"broken")
    assert main(["images", str(folder), "--work", str(tmp_path / "work")]) == 0
    captured = capsys.readouterr()
    assert "\x1b[31m.png" not in captured.out + captured.err
    assert r"a\x1b[31m.png" in captured.out


def test_images_command_lists_copies_and_conflicting_labels(image_set, tmp_path, capsys):
    folder = shutil.copytree(image_set, tmp_path / "set")
    shutil.copy(folder / "red" / "000.png", folder / "red" / "copy.png")
    shutil.copy(folder / "red" / "001.png", folder / "blue" / "red.png")
    assert main(["images", str(folder), "--work", str(tmp_path / "work")]) == 0
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines()]
    assert ["red/000.png, red/copy.png"] in [line[2:] for line in lines if line[0] == "copies"]
    assert {tuple(line[2:]) for line in lines if line[0] == "labels"} == {
        ("blue", "blue/red.png"),
        ("red", "red/001.png"),
    }
    assert "To list them" not in captured.err


@pytest.mark.slow
def test_embed_compare_needs_no_training(image_set, descriptions_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # the table fits
    arguments = ["--text", str(descriptions_file), "--work", str(tmp_path), "--validation-share", "0.2"]
    assert main(["embed", "compare", str(image_set), *arguments]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["encoder", "width", "cut", "right", "balanced", "NLL"]
    name, width, cut, right, *_ = line.split()
    assert (name, width, cut) == ("minilm", "384", "0.0%")
    assert float(right.rstrip("%")) > 90  # the texts name the class
    assert (tmp_path / "labels" / "compared-minilm" / "manifest.json").exists()


def test_interrupted_command_says_how_to_resume(image_set, tmp_path, capsys, monkeypatch):
    def interrupt(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt4image.images.open.load_images", interrupt)
    assert main(["images", str(image_set), "--work", str(tmp_path)]) == 130
    assert "Run the same command again to resume." in capsys.readouterr().err


@pytest.mark.parametrize("name", [None, "some/file"])
def test_full_disk_is_named_with_the_remedy(image_set, tmp_path, capsys, monkeypatch, name):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("gpt4image.images.open.load_images", fail)
    assert main(["images", str(image_set), "--work", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"the disk is full for {name or tmp_path} (No space left on device). Free some space and run the" in said


def test_full_disk_in_the_error_of_another_library_is_named(image_set, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("gpt4image.images.open.load_images", fail)
    assert main(["images", str(image_set), "--work", str(tmp_path)]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"error: the disk is full \(.*No space left on device.*\)\. Free some space and run the", said)


def test_cost_cannot_be_confirmed_without_a_terminal(monkeypatch, capsys):
    from types import SimpleNamespace

    from gpt4image.cli.commands.describe import ask_user
    from gpt4image.core.errors import ConfigError

    estimate = SimpleNamespace(lines=lambda: ["money: $3.00 online"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match="pass --yes or --budget DOLLARS"):
        ask_user(estimate)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, expected in (("y", True), ("Yes ", True), ("", False), ("n", False)):
        monkeypatch.setattr("builtins.input", lambda answer=answer: answer)
        assert ask_user(estimate) is expected
    assert "money: $3.00 online" in capsys.readouterr().err


def test_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"gpt4image {version('gpt4image')}\n"


@pytest.mark.parametrize("option", ["--class-was-told", "--class-was-told=True"])
def test_renamed_option_names_the_new_one(option, capsys):
    assert main(["describe", "check", "photos", option]) == 1
    assert "--class-was-told is now --class-in-prompt" in capsys.readouterr().err
