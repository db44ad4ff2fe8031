"""The inputs of an arm for a seed: images, given or simulated labels, and texts or their controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.options import ArmOptions, GuidanceOptions
from gpt4image.core.workdir import WorkDir
from gpt4image.images.simulate import simulate_labels
from gpt4image.train.recipe import Recipe
from gpt4image.train.spec import ARMS, REFERENCE, Arm, RunInputs, guided_by
from gpt4image.workflows.inputs import make_set_labels, make_text_labels, open_image_features

if TYPE_CHECKING:
    from gpt4image.descriptions import DescriptionSet
    from gpt4image.descriptions.picks import PickedClasses
    from gpt4image.embed import EmbeddingStore
    from gpt4image.embed.controls import ControlTexts
    from gpt4image.embed.encoders import TextEncoder
    from gpt4image.images import ImageTable
    from gpt4image.soft_labels import SoftLabels
    from gpt4image.soft_labels.set_labels import SetLabels
    from gpt4image.soft_labels.store import LabelKind
    from gpt4image.teachers import Teacher
    from gpt4image.train.guidance import ClassAnchors


@dataclass(frozen=True)
class ArmInputs:
    """Images and labels by arm and seed.

    Attributes:
        images: the images with all their labels.
        descriptions: their texts.
        stores: vectors of these texts, and of teachers.
        soft_labels: soft labels of arms that keep the given labels.
        text: encoders of the texts.
        recipe: recipe of all arms; its backbone gives the image features.
        workdir: the work directory.
        options: how labels are made, removed or corrupted.
        workers: processes that prepare images.
        regions: vectors of the descriptions of boxes.
        margin: margin of the crops that were described.
    """

    images: ImageTable
    descriptions: DescriptionSet
    stores: tuple[EmbeddingStore, ...]
    soft_labels: tuple[SoftLabels, ...]
    text: GuidanceOptions
    recipe: Recipe
    workdir: WorkDir
    options: ArmOptions = field(default_factory=ArmOptions)
    workers: int = 0
    regions: tuple[EmbeddingStore, ...] = ()
    margin: float = 0.0

    def __call__(self, arm: str, seed: int, baseline: Path | None = None) -> RunInputs:
        """Return the inputs of an arm.

        Args:
            arm: name of the arm.
            seed: seed of the run.
            baseline: folder of the finished baseline run of this seed, for arms that learn from its predictions.

        Raises:
            ConfigError: soft labels are combined with simulated labels, whose original values they would reveal; or the
                arm needs a teacher, and none is given.
        """
        chosen = ARMS.load(arm)
        images, stand_ins = self.images, chosen.labels
        if self.options.simulation.active:
            images = simulate_labels(images, self.options.simulation, seed)
            if self.soft_labels and not stand_ins:
                raise ConfigError(
                    "soft_labels (--soft-labels) use all labels, which a simulation must not do: set it to 0 and "
                    "compare the arm text-labels."
                )
        if chosen.guidance == "anchors":
            return RunInputs(images, anchors=self._anchors(images))
        stores = self._stores(chosen, images, seed)
        if images.is_multi_label and stand_ins:
            return RunInputs(self._set_labels(chosen, images, stores, seed).fill(images), stores, filled=True)
        if images.has_boxes and stand_ins:
            boxes = self._labelled_boxes(chosen, images, seed)
            return RunInputs(boxes, stores, regions=self.regions, margin=self.margin, filled=True)
        labels: tuple[SoftLabels, ...]
        match stand_ins:
            case "text":
                labels = (self._text_labels(chosen, images, stores, seed),)
            case "images":
                labels = (self._image_labels(images, seed),)
            case "text+images" | "co-training":
                labels = (self._joint_labels(images, stores, seed, co_trained=stand_ins == "co-training"),)
            case "llm":
                labels = (self._picked_labels(images, seed),)
            case "baseline":
                labels = (self._labels_of_baseline(images, seed, baseline or self.workdir.run(REFERENCE, seed)),)
            case _:
                labels = self._soft_labels(chosen, images, stores, seed)
        self._warn_of_wrong_labels(chosen, labels)
        return RunInputs(images, stores, labels, regions=self.regions, margin=self.margin)

    def _warn_of_wrong_labels(self, arm: Arm, labels: tuple[SoftLabels, ...]) -> None:
        """Warn if alignment targets use given labels that are known or estimated to be wrong."""
        recipe = replace(self.recipe, **arm.settings)
        estimates = [found.manifest.estimate for found in labels]
        wrong = self.options.simulation.label_noise > 0 or any(found and found.replaced for found in estimates)
        if arm.uses_text and recipe.weight and recipe.targets == "label" and wrong:
            console.say(
                f"{arm.name}: targets = label treats images with the same given label as positives, but some of these "
                "labels are wrong. Set targets to same (--targets same).",
                "yellow",
            )

    def _stores(self, arm: Arm, images: ImageTable, seed: int) -> tuple[EmbeddingStore, ...]:
        """Return the vectors that guide an arm; in a control, those of texts are replaced."""
        from gpt4image.train.guidance import is_text

        texts, teachers = guided_by(arm, self.options.arms)
        if arm.guidance != "given" and not self.text.teachers:
            raise ConfigError(f"The arm {arm.name} needs a vision teacher: set teachers (--teachers), to timm:MODEL.")
        chosen = tuple(store for store in self.stores if (texts if is_text(store) else teachers))
        if arm.texts is None:
            return chosen
        if self.regions:
            raise ConfigError(
                f"The control {arm.name} replaces descriptions of images, not of boxes: leave out either the control "
                "or crops."
            )
        if not any(map(is_text, chosen)):
            raise ConfigError(f"The control {arm.name} replaces descriptions, and there are none: leave it out.")
        return tuple(self._control(arm.texts, images, store, seed) if is_text(store) else store for store in chosen)

    def _anchors(self, images: ImageTable) -> ClassAnchors:
        """Return a vision-language teacher and its anchors of the classes, for the labels that the run learns from."""
        from gpt4image.soft_labels import ClassTexts
        from gpt4image.teachers import anchor_classes

        teacher, encoder = self._vision_language
        file = self.options.labeller.classes
        stores = self._described if self.text.anchors == "descriptions" else None
        return anchor_classes(
            images,
            teacher,
            classes=ClassTexts.read(file) if file else None,
            descriptions=stores,
            encoder=encoder,
        )

    @cached_property
    def _vision_language(self) -> tuple[Teacher, TextEncoder]:
        """Both sides of the first vision-language model among the teachers."""
        from gpt4image.embed import load_encoder
        from gpt4image.teachers import load_teacher
        from gpt4image.teachers.anchors import find_vision_language

        name = find_vision_language(self.text.teachers)
        return load_teacher(name), load_encoder(name, precision=self.text.embed_precision)

    @cached_property
    def _described(self) -> EmbeddingStore:
        """The vectors of the descriptions by the vision-language teacher's text side."""
        from gpt4image.embed import embed_descriptions

        encoder = self._vision_language[1]
        if not len(self.descriptions):
            raise ConfigError(
                "anchors = descriptions (--anchors) needs descriptions, and there are none: write some (gpt4image "
                "describe), or set anchors to class-texts."
            )
        folder = self.workdir.embeddings(encoder.name)
        return embed_descriptions(
            self.descriptions, encoder, folder, long_text=self.text.long_text, batch_size=self.text.embed_batch
        )

    def _control(self, kind: ControlTexts, images: ImageTable, store: EmbeddingStore, seed: int) -> EmbeddingStore:
        from gpt4image.embed import load_encoder
        from gpt4image.embed.controls import embed_control
        from gpt4image.soft_labels import ClassTexts

        name, simulated = store.manifest.encoder, self.options.simulation
        drawn = f"{seed}-{digest(repr(simulated))[:8]}" if simulated.active else f"{seed}"  # a control may use labels
        return embed_control(
            kind,
            store,
            self.descriptions,
            images,
            [texts[0] for texts in ClassTexts.of_names(images.classes).texts],
            partial(load_encoder, name, precision=self.text.embed_precision),
            self.workdir.embeddings(f"{name}-{kind}-{drawn}"),
            seed=seed,
            batch_size=self.text.embed_batch,
        )

    def _soft_labels(
        self, arm: Arm, images: ImageTable, stores: tuple[EmbeddingStore, ...], seed: int
    ) -> tuple[SoftLabels, ...]:
        """Return the soft labels of an arm that keeps the given labels: of its teachers, else of its texts."""
        from gpt4image.soft_labels import label_by_vectors
        from gpt4image.train.guidance import is_text

        _, teachers = guided_by(arm, self.options.arms)
        of_teachers = any(labels.manifest.origin.kind != "text" for labels in self.soft_labels)
        if not self.soft_labels or (of_teachers and teachers):
            return self.soft_labels
        if arm.guidance == "teachers":
            raise ConfigError(
                f"The arm {arm.name} has no soft labels: name a run as a teacher (--teachers run:FOLDER), or set "
                "soft_labels (--soft-labels) to 0."
            )
        if arm.texts is None and not of_teachers:
            return self.soft_labels
        texts = tuple(filter(is_text, stores))
        folder = self.workdir.labels(self._name(arm, seed))
        return (label_by_vectors(images, texts, folder),)

    def _name(self, arm: Arm, seed: int) -> str:
        """Return the name of the labels from an arm's texts in the work directory."""
        encoders = "+".join(self.text.encoder)
        return f"{encoders}-{arm.texts}-{seed}" if arm.texts else encoders

    def _folder(self, name: str, seed: int) -> Path:
        if not self.options.simulation.active:
            return self.workdir.text_labels(name)
        return self.workdir.text_labels(f"{name}-{digest(repr(self.options.simulation))[:8]}-{seed}")

    def _text_labels(self, arm: Arm, images: ImageTable, stores: tuple[EmbeddingStore, ...], seed: int) -> SoftLabels:
        from gpt4image.train.guidance import is_text

        folder = self._folder(self._name(arm, seed), seed)
        texts, options = tuple(filter(is_text, stores)), self.options.labeller
        return make_text_labels(images, texts, self.text, options, folder, picks=self.descriptions.picks)

    def _labelled_boxes(self, arm: Arm, images: ImageTable, seed: int) -> ImageTable:
        """Return images in which missing and wrong classes of boxes are replaced by those predicted from texts.

        The labeller treats each box as an image of one class, its crop.
        """
        from gpt4image.images.crops import crop_images, with_box_classes

        if not self.regions:
            raise ConfigError(
                f"The arm {arm.name} labels boxes by their own descriptions, and there are none: describe their crops "
                "(gpt4image describe --crops 0.1), and name the same margin here (--crops 0.1)."
            )
        crops = crop_images(images, self.margin)
        folder = self._folder(f"{'+'.join(self.text.encoder)}-boxes", seed)
        labels = make_text_labels(crops, self.regions, self.text, self.options.labeller, folder)
        places = labels.find(crops.ids)
        return with_box_classes(images, np.where(places >= 0, labels.take(places).argmax(axis=1), crops.labels))

    def _set_labels(self, arm: Arm, images: ImageTable, stores: tuple[EmbeddingStore, ...], seed: int) -> SetLabels:
        from gpt4image.train.guidance import is_text

        texts, folder = tuple(filter(is_text, stores)), self._folder(self._name(arm, seed), seed)
        return make_set_labels(images, texts, self.text, self.options.labeller, folder)

    def _image_labels(self, images: ImageTable, seed: int) -> SoftLabels:
        """Label by frozen features of the recipe's backbone, with the labeller that is also used for texts."""
        return self._label(images, [self._image_features()], self._folder("images", seed), "images")

    def _picked_labels(self, images: ImageTable, seed: int) -> SoftLabels:
        """Label only by the classes that an LLM picked."""
        from gpt4image.descriptions.picks import CLASSIFY

        picks = self.descriptions.picks
        if picks is None:
            raise ConfigError(f"The arm llm-labels needs classes that an LLM picked, and there are none: {CLASSIFY}.")
        return self._label(images, (), self._folder("picks", seed), "picks", picks)

    def _label(
        self,
        images: ImageTable,
        stores: Sequence[EmbeddingStore],
        folder: Path,
        kind: LabelKind,
        picks: PickedClasses | None = None,
    ) -> SoftLabels:
        from gpt4image.soft_labels import label_by_texts

        options = self.options.labeller
        return label_by_texts(
            images,
            stores,
            folder,
            form=options.label_form,
            abstain=options.abstain,
            adjustment=options.label_adjustment,
            folds=options.folds,
            seed=options.label_seed,
            kind=kind,
            picks=picks,
        )

    def _joint_labels(
        self, images: ImageTable, stores: tuple[EmbeddingStore, ...], seed: int, *, co_trained: bool
    ) -> SoftLabels:
        """Label by the vectors of texts and frozen features of images, side by side or co-trained."""
        from gpt4image.train.guidance import is_text

        encoders = "+".join(self.text.encoder)
        folder = self._folder(f"{encoders}-co-training" if co_trained else f"{encoders}+images", seed)
        texts, options, features = tuple(filter(is_text, stores)), self.options.labeller, self._image_features()
        if co_trained:
            return make_text_labels(images, texts, self.text, options, folder, partner=features)
        return make_text_labels(images, texts, self.text, options, folder, features=features)

    def _image_features(self) -> EmbeddingStore:
        return open_image_features(self.images, self.recipe, self.workdir, self.workers)

    def _labels_of_baseline(self, images: ImageTable, seed: int, baseline: Path) -> SoftLabels:
        """Label unlabelled images, or all if there are none, by the baseline run of the same seed."""
        from gpt4image.teachers import label_images, load_teacher

        train = np.isin(np.arange(len(images)), images.split("train"))
        labelled = train & (images.labels >= 0)
        if (train & ~labelled).any():
            images = replace(images, rows=images.rows.filter(~labelled).combine_chunks())
        teacher = load_teacher(f"run:{baseline}")
        return label_images(images, teacher, self._folder(baseline.name, seed), workers=self.workers)

    def frozen_accuracy(self) -> float | None:
        """Return the validation accuracy of a logistic regression on frozen features of the recipe's backbone.

        It learns from the training images with the labels of the first seed. None if the backbone starts from random
        weights, or if images have several labels.
        """
        if self.images.has_label_sets or (not self.recipe.pretrained and self.recipe.checkpoint is None):
            return None
        from gpt4image.probing.logistic_regression import fit_softmax_regression, standardise

        images, store = self.images, self._image_features()
        if self.options.simulation.active:
            images = simulate_labels(images, self.options.simulation, 0)
        places = store.find(images.ids)
        known = (places >= 0) & (images.labels >= 0)
        vectors = standardise(store.take(places[known]))
        labels, positions = images.labels[known], np.flatnonzero(known)
        train, held_out = (np.isin(positions, images.split(split)) for split in ("train", "validation"))
        fitted = fit_softmax_regression(vectors[train], labels[train], len(images.classes))
        answers = fitted.log_probabilities(vectors[held_out]).argmax(axis=1)
        return float((answers == self.images.labels[positions[held_out]]).mean())
