"""Advice before any training: the case of an image set, what to run, and the expected gain."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DataError, DescriptionError, WeightsError
from gpt4image.core.files import digest
from gpt4image.core.invocation import NAME, current_invocation
from gpt4image.core.options import WORK, CheckOptions, DataOptions, LabelOptions, TextOptions
from gpt4image.core.validation import changed_options, take_fields
from gpt4image.core.workdir import WorkDir
from gpt4image.descriptions.class_texts import with_named_classes
from gpt4image.images.open import open_images
from gpt4image.train.named_recipes import named_recipe
from gpt4image.train.recipe import Recipe, read_toml
from gpt4image.workflows.inputs import (
    check_names,
    make_text_labels,
    open_descriptions,
    open_embeddings,
    open_image_features,
)

if TYPE_CHECKING:
    from gpt4image.descriptions.picks import PickedClasses
    from gpt4image.embed import EmbeddingStore
    from gpt4image.images import ImageTable
    from gpt4image.quality.advice import Advice
    from gpt4image.quality.rehearsal import Rehearsal
    from gpt4image.soft_labels.labeller import TrainingVectors

SMALL_SET = 20_000  # most training images for which the recipe fine-tune is suggested


@dataclass(frozen=True)
class RecipeChoice:
    """A recipe, and how the user named it.

    Attributes:
        recipe: the settings.
        name: named recipe that the settings start from.
        config: TOML file that overrides it.
    """

    recipe: Recipe
    name: str | None = None
    config: Path | None = None

    def words(self, images: int) -> list[str]:
        """Return the options that select this recipe, or a better one for few images if the user named none."""
        base = Recipe() if self.name is None else named_recipe(self.name)
        if self.config is not None:
            base = base.override(read_toml(self.config), str(self.config))
        name, starts = self.name, self.recipe.pretrained or self.recipe.checkpoint is not None
        if name is None and self.config is None and starts and images <= SMALL_SET:
            name = "fine-tune"
        chosen = [*(["--recipe", name] if name else []), *(["--config", str(self.config)] if self.config else [])]
        return [*chosen, *changed_options(self.recipe, base)]


def advise(source: str | Path, work: str | Path, *, recipe: Recipe | None = None, **options: Any) -> Advice:  # noqa: ANN401 - see below
    """Determine the case of an image set, the arm to train, and its expected gain, before any training.

    This is what `gpt4image advise SOURCE --work WORK` does.

    Args:
        source: the images: a folder, a file or a hub name.
        work: the work directory.
        recipe: recipe of the training; its backbone gives the image features.
        options: fields of `DataOptions`, `TextOptions` and `LabelOptions`, such as `text`, `corrections`, `classes`;
            and `image_features`, False to use none.

    Raises:
        ConfigError: an unknown option or an invalid setting.
        DescriptionError: there are no descriptions.
    """
    image_features = bool(options.pop("image_features", True))
    data, text, labeller = take_fields(options, DataOptions, TextOptions, LabelOptions, data=str(source))
    choice = RecipeChoice(recipe or Recipe())
    return run_advice(data, text, labeller, choice, Path(work), image_features=image_features)


def run_advice(
    data: DataOptions,
    text: TextOptions,
    labeller: LabelOptions,
    choice: RecipeChoice,
    work: Path,
    *,
    image_features: bool = True,
    workers: int = 0,
    images: ImageTable | None = None,
) -> Advice:
    """Judge the labels, and rehearse with held-out ones. Vectors and rehearsal are kept in the work directory.

    Args:
        data: the images.
        text: their descriptions.
        labeller: settings of the labeller.
        choice: recipe of the training; its backbone gives the image features.
        work: the work directory.
        image_features: whether to compute image features; without them, no gain is estimated.
        workers: processes that load images.
        images: the images, if they are open already.

    Raises:
        DescriptionError: no training image has a description.
    """
    check_names(text)
    workdir = WorkDir(work)
    images = with_named_classes(open_images(data, workdir) if images is None else images, labeller.classes)
    images.check_one_class()
    descriptions = open_descriptions(images, text, workdir)
    stores = open_embeddings(descriptions, text, workdir)
    from gpt4image.quality.advice import LabelFacts, give_advice
    from gpt4image.soft_labels.labeller import find_training_vectors

    encoders = "+".join(text.encoder)
    labels = make_text_labels(images, stores, text, labeller, workdir.text_labels(encoders), picks=descriptions.picks)
    assert labels.manifest.estimate is not None
    known = find_training_vectors(images, stores, labelled=False)
    features, note = (None, "the expected gain is estimated from image features: gpt4image advise --backbone NAME")
    if image_features:
        features, note = _find_features(images, choice.recipe, workdir, workers)
    rehearsal = _rehearse(images, known, descriptions.picks, text, labeller, features, workdir)
    counts = np.bincount(known.labels[known.labels >= 0], minlength=len(images.classes))
    train, validation = images.split("train"), images.split("validation")
    facts = LabelFacts(
        classes=len(images.classes),
        training=len(known.labels),
        undescribed=len(np.unique(images.ids[train])) - len(np.unique(known.ids)),
        counts=tuple(counts.tolist()),
        validation=int((images.labels[validation] >= 0).sum()),
    )
    title = None if features is None else f"{choice.recipe.backbone}, {choice.recipe.image_size} pixels"
    advice = give_advice(facts, labels.manifest.estimate, rehearsal, texts=encoders, images=title, no_images=note)
    return advice.model_copy(update={"command": _command(advice, data, text, labeller, choice, work, len(train))})


def advise_after_check(
    images: ImageTable, data: DataOptions, text: TextOptions, options: CheckOptions, work: Path
) -> Advice | None:
    """Return advice on images whose texts were checked; None, with the reason shown, if something it needs is missing.

    Image features come from the check's backbone; without one, no gain is estimated.
    """
    checkpoint = None if options.checkpoint is None else str(options.checkpoint)
    recipe = Recipe(backbone=options.backbone or "resnet50", checkpoint=checkpoint, image_size=options.image_size)
    choice = RecipeChoice(recipe if options.backbone else Recipe())
    try:
        features = options.backbone is not None
        return run_advice(data, text, LabelOptions(), choice, work, image_features=features, images=images)
    except (ConfigError, DataError) as error:
        console.say(f"no advice on training: {error}")
        return None


def _find_features(
    images: ImageTable, recipe: Recipe, workdir: WorkDir, workers: int
) -> tuple[EmbeddingStore | None, str]:
    """Return frozen features of the recipe's backbone, or None and the reason."""
    if not recipe.pretrained and recipe.checkpoint is None:
        return (
            None,
            "the expected gain is estimated from features of a pretrained backbone, but this recipe has random weights",
        )
    try:
        return open_image_features(images, recipe, workdir, workers), ""
    except WeightsError as error:
        console.say(f"without image features: {error}", "yellow")
        return (
            None,
            f"the expected gain is estimated from image features, but the weights of {recipe.backbone} are not "
            "available",
        )


def _rehearse(
    images: ImageTable,
    known: TrainingVectors,
    picks: PickedClasses | None,
    text: TextOptions,
    labeller: LabelOptions,
    features: EmbeddingStore | None,
    workdir: WorkDir,
) -> Rehearsal | None:
    """Rehearse with held-out labels, or open an earlier rehearsal; None if there are too few labels."""
    from gpt4image.embed import load_encoder
    from gpt4image.quality.rehearsal import KeptRehearsal, rehearse
    from gpt4image.soft_labels import ClassTexts
    from gpt4image.soft_labels.methods import Examples

    names = ClassTexts.read(labeller.classes) if labeller.classes else ClassTexts.of_names(images.classes)
    names = names.in_order(images.classes, images.source)
    settings: dict[str, Any] = {
        "strength": labeller.strength,
        "adjustment": labeller.label_adjustment,
        "folds": labeller.folds,
        "seed": labeller.label_seed,
    }
    seen = [features.manifest.model_dump_json() if features else "", picks.digest if picks else ""]
    identity = digest(known.origin("text").model_dump_json(), repr((names.names, names.texts, settings)), *seen)
    if kept := KeptRehearsal.find(workdir.rehearsal, identity):
        return kept.found
    rows, vectors = np.arange(len(known.ids)), None
    if features is not None:
        positions = features.find(known.ids)
        rows = np.flatnonzero(positions >= 0)
        vectors = features.take(positions[rows])
    examples = Examples(*names.embed([load_encoder(name, precision=text.embed_precision) for name in text.encoder]))
    try:
        groups, classes = known.groups()[rows], len(images.classes)
        picked = None if picks is None else picks.take(known.ids[rows])
        found = rehearse(
            known.take(rows), vectors, known.labels[rows], groups, classes, examples, picks=picked, **settings
        )
    except DescriptionError as error:  # too few labels
        console.say(str(error))
        found = None
    KeptRehearsal(identity=identity, found=found).save(workdir.rehearsal)
    return found


def _command(
    advice: Advice,
    data: DataOptions,
    text: TextOptions,
    labeller: LabelOptions,
    choice: RecipeChoice,
    work: Path,
    images: int,
) -> str:
    """Return the command for the advice, with the user's own options."""
    typed = current_invocation()
    program = typed.program if typed else NAME
    words: Sequence[str] = [data.data, *changed_options(data), *changed_options(text), *changed_options(labeller)]
    words = [*words, "--arms" if advice.compared else "--arm", advice.arm]
    place = [] if work == WORK else ["--work", str(work)]
    recipe = choice.words(images)
    own = {word for word in recipe if word.startswith("--")}
    changes = [f"--{name}={value}" for name, value in advice.settings.items() if f"--{name}" not in own]
    name = "compare" if advice.compared else "train"
    return f"{program} {name} {shlex.join([*words, *place, *recipe, *changes])}"
