"""What an arm trains on with a seed: images, with simulated labels if wanted, and labels that stand in for theirs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.options import ArmOptions, GuidanceOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.simulate import simulate_labels
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import ARMS, REFERENCE, RunInputs
from gpt4image.workflows.inputs import make_text_labels

if TYPE_CHECKING:
    from gpt4image.embed import EmbeddingStore
    from gpt4image.images import ImageTable
    from gpt4image.soft_labels import SoftLabels


@dataclass(frozen=True)
class ArmInputs:
    """Images and labels by arm and seed.

    Attributes:
        images: the images with all their labels.
        stores: vectors of their texts, and of teachers.
        soft_labels: soft labels of arms without stand-ins.
        text: encoders of the texts.
        recipe: recipe of all arms; its backbone gives the image features.
        workdir: the work directory.
        options: how labels are made, taken away or made wrong.
        workers: processes that prepare images.
    """

    images: ImageTable
    stores: tuple[EmbeddingStore, ...]
    soft_labels: tuple[SoftLabels, ...]
    text: GuidanceOptions
    recipe: Recipe
    workdir: WorkDir
    options: ArmOptions = field(default_factory=ArmOptions)
    workers: int = 0

    def __call__(self, arm: str, seed: int) -> RunInputs:
        """Return what an arm learns from.

        Raises:
            ConfigError: soft labels beside simulated labels, which would give away the others.
        """
        images, stand_ins = self.images, ARMS.load(arm).labels
        if self.options.simulation.active:
            images = simulate_labels(images, self.options.simulation, seed)
            if self.soft_labels and not stand_ins:
                raise ConfigError(
                    "soft_labels come from all labels, which a simulation must not use: set soft_labels to 0 and "
                    "compare the arm text-labels."
                )
        labels: tuple[SoftLabels, ...]
        match stand_ins:
            case "text":
                labels = (self._text_labels(images, seed),)
            case "images":
                labels = (self._image_labels(images, seed),)
            case "baseline":
                labels = (self._labels_of_baseline(images, seed),)
            case _:
                labels = self.soft_labels
        return RunInputs(images, self.stores, labels)

    def _folder(self, name: str, seed: int) -> Path:
        if not self.options.simulation.active:
            return self.workdir.text_labels(name)
        return self.workdir.text_labels(f"{name}-{digest(repr(self.options.simulation))[:8]}-{seed}")

    def _text_labels(self, images: ImageTable, seed: int) -> SoftLabels:
        from gpt4image.train.guidance import is_text

        stores = tuple(filter(is_text, self.stores))
        folder = self._folder("+".join(self.text.encoder), seed)
        return make_text_labels(images, stores, self.text, self.options.labeller, folder)

    def _image_labels(self, images: ImageTable, seed: int) -> SoftLabels:
        """Label by frozen features of the recipe's backbone, with the same labeller as texts."""
        from gpt4image.soft_labels import label_by_texts
        from gpt4image.teachers import embed_images, load_teacher

        checkpoint = Path(self.recipe.checkpoint) if self.recipe.checkpoint else None
        name = f"timm:{self.recipe.backbone}"
        teacher = load_teacher(name, checkpoint=checkpoint, image_size=self.recipe.image_size)
        folder = self.workdir.image_embeddings(f"{name}-{self.recipe.image_size}")
        store = embed_images(self.images, teacher, folder, splits=("train", "validation"), workers=self.workers)
        options, folder = self.options.labeller, self._folder("images", seed)
        return label_by_texts(
            images,
            [store],
            folder,
            form=options.label_form,
            abstain=options.abstain,
            folds=options.folds,
            seed=options.label_seed,
            kind="images",
        )

    def _labels_of_baseline(self, images: ImageTable, seed: int) -> SoftLabels:
        """Label by the baseline run of the same seed: unlabelled images, or all if there are none."""
        from gpt4image.teachers import label_images, load_teacher

        train = np.isin(np.arange(len(images)), images.split("train"))
        labelled = train & (images.labels >= 0)
        if (train & ~labelled).any():
            images = replace(images, rows=images.rows.filter(~labelled).combine_chunks())
        teacher = load_teacher(f"run:{self.workdir.run(REFERENCE, seed)}")
        return label_images(images, teacher, self._folder("baseline", seed), workers=self.workers)
