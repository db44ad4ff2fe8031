"""What guides each arm: descriptions, those of a control, vision teachers, and soft labels made of them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from gpt4image import Recipe
from gpt4image.core.errors import ConfigError
from gpt4image.core.options import ArmOptions, GuidanceOptions, LabelOptions, SimulationOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.description_set import join_texts
from gpt4image.soft_labels import label_by_vectors
from gpt4image.train.guidance import Guidance, VectorSource
from gpt4image.train.spec import add_controls
from gpt4image.workflows.arm_inputs import ArmInputs

CONTROLS = ["class-name", "shuffled", "shuffled-within-class", "random-words", "random-vectors"]


@pytest.fixture(scope="module")
def teacher_store(images, tmp_path_factory):
    import timm

    from gpt4image.teachers import embed_images, load_teacher

    folder = tmp_path_factory.mktemp("teacher")
    torch.manual_seed(1)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "weights.safetensors")
    teacher = load_teacher("timm:test_resnet", "cpu", checkpoint=folder / "weights.safetensors", image_size=32)
    return embed_images(images, teacher, folder / "vectors")


@pytest.fixture
def make(images, descriptions, store, teacher_store, tmp_path):
    def make(arms=(), teachers=("timm:test_resnet",), soft_labels=(), **options):
        stores = (store, teacher_store) if teachers else (store,)
        text = GuidanceOptions(teachers=teachers)
        recipe = Recipe(soft_labels=0.5 if soft_labels else 0.0)
        workdir = WorkDir(tmp_path)
        return ArmInputs(images, descriptions, stores, soft_labels, text, recipe, workdir, ArmOptions(arms, **options))

    return make


def test_controls_follow_the_arms_that_they_control():
    assert list(add_controls()) == ["baseline", "described", *CONTROLS]
    assert list(add_controls(("text-labels",))) == ["baseline", "text-labels", "shuffled-text-labels"]
    assert list(add_controls(("shuffled", "described"))) == ["baseline", "shuffled", "described", *sorted(
        set(CONTROLS) - {"shuffled"}, key=CONTROLS.index)]  # fmt: skip


@pytest.mark.slow
def test_every_control_and_every_seed_is_another_guidance(make):
    inputs = make(teachers=())

    def identity(arm, seed):
        stores = inputs(arm, seed).stores
        return str(Guidance(sources=(VectorSource(stores),)).identity())

    found = {(arm, seed): identity(arm, seed) for arm in ("described", *CONTROLS) for seed in (0, 1)}
    assert len({found[arm, 0] for arm in ("described", *CONTROLS)}) == len(CONTROLS) + 1
    for arm in CONTROLS[1:]:
        assert found[arm, 0] != found[arm, 1]
    assert found["described", 0] == found["described", 1] and found["class-name", 0] == found["class-name", 1]


def test_arm_of_picked_classes_needs_some_and_says_how_to_get_them(make):
    with pytest.raises(ConfigError, match=r"The arm llm-labels needs.*gpt4image describe DATA --prompts classify"):
        make(teachers=())("llm-labels", 0)


def test_controls_learn_nothing_of_labels_that_a_simulation_took_away(make, images):
    inputs = make(teachers=(), simulation=SimulationOptions(labels_per_class=2))
    learned = inputs("class-name", 0)
    (named,) = learned.stores
    unlabelled = learned.images.ids[learned.images.labels < 0]
    assert len(unlabelled) and (named.find(unlabelled) < 0).all()


def test_arms_of_teachers_show_what_each_contributes(make, store, teacher_store):
    kinds = {
        arm: [each.manifest.kind for each in make(("teacher", "described", "teacher+described"))(arm, 0).stores]
        for arm in ("teacher", "described", "shuffled", "teacher+described")
    }
    assert kinds == {
        "teacher": ["images"],
        "described": ["text"],
        "shuffled": ["text"],
        "teacher+described": ["text", "images"],
    }
    beside = make(("described",))
    assert [each.manifest.kind for each in beside("described", 0).stores] == ["text", "images"]
    assert [each.manifest.kind for each in beside("shuffled", 0).stores] == ["text", "images"]
    with pytest.raises(ConfigError, match="The control shuffled replaces descriptions"):
        replace(beside, stores=(teacher_store,))("shuffled", 0)
    with pytest.raises(ConfigError, match="The arm teacher needs a vision teacher"):
        make(("teacher",), teachers=())("teacher", 0)


@pytest.mark.slow
def test_soft_labels_of_a_control_come_from_its_texts(make, images, store, tmp_path):
    own = label_by_vectors(images, [store], tmp_path / "own")
    inputs = make(teachers=(), soft_labels=(own,))
    assert inputs("described", 0).soft_labels == (own,)
    (shuffled,) = inputs("shuffled", 0).soft_labels
    assert shuffled.manifest.origin.sources != own.manifest.origin.sources
    assert shuffled.manifest.quality.accuracy < own.manifest.quality.accuracy
    with pytest.raises(ConfigError, match="The arm teacher has no soft labels"):
        make(("teacher",), soft_labels=(own,))("teacher", 0)


def test_class_anchors_follow_their_texts_and_need_a_vision_language_teacher(make, clip_name, tmp_path):
    plain = make(("class-anchored", "described"))
    with pytest.raises(ConfigError, match="set teachers to open-clip"):
        plain("class-anchored", 0)
    found = {}
    for kind in ("class-texts", "descriptions"):
        inputs = replace(plain, text=GuidanceOptions(teachers=(clip_name,), anchors=kind))
        found[kind] = inputs("class-anchored", 0)
        assert not found[kind].stores and not found[kind].soft_labels
        assert inputs("class-anchored", 1).anchors.teacher is found[kind].anchors.teacher  # loaded once
    named, described = (each.anchors for each in found.values())
    assert named.text_hash != described.text_hash
    assert not (named.vectors == described.vectors).any()
    assert [each.manifest.kind for each in plain("described", 0).stores] == ["text"]
    (tmp_path / "classes.csv").write_text("class,text\n" + "".join(f"{c},all {c}\n" for c in plain.images.classes))
    options = ArmOptions(labeller=LabelOptions(classes=tmp_path / "classes.csv"))
    own = replace(plain, text=GuidanceOptions(teachers=(clip_name,)), options=options)("class-anchored", 0)
    assert own.anchors.text_hash not in (named.text_hash, described.text_hash)
    with pytest.raises(ConfigError, match="anchors = descriptions needs descriptions"):
        nothing = join_texts(plain.images, (), 0, "none")
        text = GuidanceOptions(teachers=(clip_name,), anchors="descriptions")
        replace(plain, descriptions=nothing, text=text)("class-anchored", 0)


@pytest.mark.slow
def test_co_training_labels_by_texts_and_image_features(make, tmp_path):
    import timm

    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), tmp_path / "weights.safetensors")
    recipe = Recipe(backbone="test_resnet", checkpoint=str(tmp_path / "weights.safetensors"), image_size=32)
    inputs = replace(make(teachers=(), simulation=SimulationOptions(labels_per_class=3)), recipe=recipe)
    (labels,) = inputs("co-training", 0).soft_labels
    assert [source.name for source in labels.manifest.origin.sources] == ["minilm", "timm:test_resnet"]
    assert "co-trained with images" in labels.manifest.estimate.method
