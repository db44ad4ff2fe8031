"""Vision-language teachers, whose images and texts share a space, and their anchors of the classes in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from gpt4image.core import console
from gpt4image.core.errors import ConfigError
from gpt4image.core.files import digest
from gpt4image.core.format import counted
from gpt4image.descriptions.class_texts import ClassTexts
from gpt4image.embed.encoders import ENCODERS, TextEncoder, load_encoder
from gpt4image.embed.store import EmbeddingStore
from gpt4image.images.table import ImageTable
from gpt4image.teachers.base import ImageTeacher, Teacher, find_kind, load_teacher
from gpt4image.train.guidance import ClassAnchors


def reads_and_sees(name: str) -> bool:
    """Return whether the teacher of a name is a vision-language model: its kind is also a kind of text encoder.

    >>> reads_and_sees("open-clip:RN50/openai"), reads_and_sees("timm:resnet50")
    (True, False)
    """
    find_kind(name)
    return name.partition(":")[0] in ENCODERS


def find_vision_language(names: Sequence[str]) -> str:
    """Return the first vision-language model among teachers. ConfigError names the option if there is none."""
    found = next(filter(reads_and_sees, names), None)
    if found is None:
        raise ConfigError(
            "Class anchors need a vision-language teacher, whose images and texts share a space: set teachers "
            f"(--teachers) to open-clip:MODEL/PRETRAINED, not {' '.join(names) or 'none'}."
        )
    return found


def anchor_classes(
    images: ImageTable,
    teacher: str | Teacher,
    *,
    classes: ClassTexts | None = None,
    descriptions: EmbeddingStore | None = None,
    encoder: TextEncoder | None = None,
) -> ClassAnchors:
    """Make the anchors of class-anchored distillation (Jang et al., VL2Lite, CVPR 2025).

    The anchor of a class is the mean of the unit vectors of its texts, or of the descriptions of its training images,
    scaled to length 1. A class without descriptions has the anchor of its texts.

    Args:
        images: the images, with the labels that the run learns from.
        teacher: a vision-language model, such as `open-clip:MODEL/PRETRAINED`, or its image side.
        classes: texts of the classes; their names by default.
        descriptions: vectors of the descriptions by the teacher's text side, to use them as anchors.
        encoder: the teacher's text side, if it is loaded already.

    Raises:
        ConfigError: the teacher is not a vision-language model, its sides have different widths, or the texts are those
            of other classes.
    """
    name = find_vision_language([teacher if isinstance(teacher, str) else teacher.name])
    sees = load_teacher(name) if isinstance(teacher, str) else teacher
    if not isinstance(sees, ImageTeacher):
        raise ConfigError(f"The teacher {name} must be an ImageTeacher, which can be shown the crops of training.")
    reads = encoder or load_encoder(name)
    if sees.width != reads.width:
        raise ConfigError(
            f"The images of {name} have {sees.width} numbers and its texts {reads.width}: they share no space."
        )
    texts = classes.in_order(images.classes, images.source) if classes else ClassTexts.of_names(images.classes)
    vectors, owners = texts.embed([reads])
    anchors = np.stack([vectors[owners == number].mean(axis=0) for number in range(len(images.classes))])
    text_hash = digest(repr(texts.texts))
    if descriptions is not None:
        anchors, lacking = _means_of_images(images, descriptions, anchors)
        text_hash = digest(text_hash, descriptions.manifest.text_hash)
        if lacking:
            console.say(
                f"{counted(len(lacking), 'class')} without a description of a labelled training image "
                f"{'has' if len(lacking) == 1 else 'have'} the class text as anchor: {', '.join(lacking[:5])}.",
                "yellow",
            )
    unit = partial(np.linalg.norm, axis=1, keepdims=True)
    return ClassAnchors(sees, (anchors / unit(anchors)).astype(np.float32), reads.revision, text_hash)


def _means_of_images(images: ImageTable, store: EmbeddingStore, otherwise: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the mean vector of each class's training images [C, D], and the names of classes that have none."""
    rows = images.split("train")
    places = store.find(images.ids[rows])
    known = (places >= 0) & (images.labels[rows] >= 0)
    vectors, labels = store.take(places[known]), images.labels[rows][known]
    found, lacking = otherwise.copy(), []
    for number, name in enumerate(images.classes):
        if (own := labels == number).any():
            found[number] = vectors[own].mean(axis=0)
        else:
            lacking.append(name)
    return found, lacking
