"""Open the inputs of training: descriptions, text vectors, teachers' vectors, and soft labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from gpt4image.core import console
from gpt4image.core.errors import ConfigError, DescriptionError, WeightsError
from gpt4image.core.format import counted
from gpt4image.core.options import DataOptions, GuidanceOptions, LabelOptions, TextOptions
from gpt4image.core.tables import TABLE_SUFFIXES
from gpt4image.core.workdir import WorkDir
from gpt4image.train.identity import require_teachers
from gpt4image.train.libraries import require_libraries

if TYPE_CHECKING:
    from gpt4image.descriptions import DescriptionSet, DescriptionStore
    from gpt4image.descriptions.picks import PickedClasses
    from gpt4image.embed import EmbeddingStore
    from gpt4image.images import ImageTable
    from gpt4image.soft_labels import SoftLabels
    from gpt4image.soft_labels.set_labels import SetLabels
    from gpt4image.train.recipe import Recipe

NO_TEXT = "none"  # the --text of training that only teachers guide
TEXT_SUFFIXES = (*TABLE_SUFFIXES, ".json", ".pt", ".pth")  # suffixes of files that --text may name
MOST_READ = 20_000  # texts that are searched for refusals, in about two seconds
DEFAULT_COLUMNS = ("description", "caption", "text", "txt")  # WebDataset keeps captions in files NAME.txt


def check_names(
    text: TextOptions, *files: Path | None, crop_text: str | None = None, recipe: Recipe | None = None
) -> None:
    """Check the named files and models before the images are read, which may take long.

    Args:
        text: descriptions, encoders and, if they are `GuidanceOptions`, teachers.
        files: further files.
        crop_text: descriptions of crops.
        recipe: its backbone, its weights file, and the libraries that it needs.

    Raises:
        ConfigError: a name is unknown, or there is no such file or model.
        DescriptionError: the descriptions are a file that does not exist.
        MissingExtraError: the library of an encoder, a teacher or a setting is not installed.
        StoreError: a run named as a teacher does not exist.
    """
    from gpt4image.images.sources.detect import near

    weights = [Path(recipe.checkpoint)] if recipe is not None and recipe.checkpoint else []
    for file in (*filter(None, files), *weights):
        if not file.exists():
            raise ConfigError(f"{file} does not exist. {near(file)}".rstrip())
    for name in filter(None, (text.text, crop_text)):
        source = Path(name)
        is_path = len(source.parts) > 1 or source.suffix.casefold() in TEXT_SUFFIXES  # otherwise it may be a column
        if is_path and not source.exists() and not re.search(r"[*?\[{]|^[\w-]+:/", name):
            raise DescriptionError(f"Descriptions {name}: the file does not exist. {near(source)}".rstrip())
    teachers = text.teachers if isinstance(text, GuidanceOptions) else ()
    require_teachers(teachers)
    if recipe is not None:
        require_libraries(recipe)
    from gpt4image.embed.encoders import check_encoder  # loads torch: what needs none is checked before

    for name in text.encoder if text.text != NO_TEXT else ():
        check_encoder(name)
    if teachers:
        from gpt4image.teachers.models import check_teacher

        for name in teachers:
            check_teacher(name)
    # the meaning of other kinds of names depends on the images' labels
    if recipe is not None and re.match("[^:]*$|hf|local-dir:|http", recipe.backbone):
        from gpt4image.train.backbone import require_backbone

        require_backbone(recipe.backbone)


def open_descriptions(images: ImageTable, options: TextOptions, workdir: WorkDir) -> DescriptionSet:
    """Read the descriptions, print their coverage of the images, and keep them in the work directory."""
    with console.doing("Reading the descriptions"):
        descriptions = find_descriptions(images, options, workdir)
    if options.text != NO_TEXT or descriptions.picks is not None:
        console.say("\n".join(descriptions.lines()))
    if options.text != NO_TEXT:
        _warn_of_refusals(descriptions)
        descriptions.save(workdir.descriptions)
    return descriptions


def _warn_of_refusals(descriptions: DescriptionSet) -> None:
    """Warn if some of the first texts are refusals, which would be used like descriptions."""
    from gpt4image.quality.checks.refusals import find_refusal

    texts = [text for _, text in islice(descriptions.pairs(), MOST_READ)]
    if refusals := sum(find_refusal(text) is not None for text in texts):
        among = "" if len(texts) == descriptions.texts else f" among the first {len(texts):,}"
        console.say(
            f"{counted(refusals, 'text')}{among} refuse{'s' if refusals == 1 else ''} to describe the image and would "
            "be used in training: gpt4image describe check --retry refusal, or --drop refusal",
            "yellow",
        )


def find_descriptions(images: ImageTable, options: TextOptions, workdir: WorkDir) -> DescriptionSet:
    """Read the descriptions from the source that the options name, and the classes that a model picked.

    Raises:
        ConfigError: the options select prompts or models that the source does not have.
        DescriptionError: the source is unknown or damaged.
    """
    from gpt4image.descriptions import DescriptionStore
    from gpt4image.descriptions.exchange.rows import store_folder
    from gpt4image.descriptions.picks import read_picks

    named = options.text not in (None, NO_TEXT) and store_folder(Path(options.text or ""))
    store = DescriptionStore(named or workdir.description_store)
    picks = read_picks(store, images.classes, prompts=options.use_prompts, models=options.use_models)
    picking = {prompt for prompt, _ in picks.origins} if picks else set()
    wanted = tuple(name for name in options.use_prompts if name not in picking)
    if options.use_prompts and not wanted and options.text is None:
        raise ConfigError(
            "use_prompts names no prompt for descriptions, only one that picks classes: name one (--use-prompts), or "
            "set text to none (--text none)."
        )
    options = replace(options, use_prompts=wanted)
    return replace(find_texts(images, options, workdir, store, is_named=bool(named)), picks=picks)


def find_texts(
    images: ImageTable, options: TextOptions, workdir: WorkDir, store: DescriptionStore, *, is_named: bool
) -> DescriptionSet:
    """Read the descriptions from the source that the options name; `is_named` says whether it is the given store."""
    from gpt4image.descriptions import described_set, load_descriptions
    from gpt4image.descriptions.description_set import has_texts, join_texts

    if options.text == NO_TEXT:
        return join_texts(images, (), 0, "none")
    selects = bool(options.use_prompts or options.use_models)
    if options.text and not selects and (not is_named or store.is_empty):
        joined = WorkDir(Path(options.text)).descriptions  # texts that another work directory has read
        if joined.is_file():
            return load_descriptions(images, str(joined), orphan_texts="skip")
    columns = images.reader.text_columns
    found = next((column for column in DEFAULT_COLUMNS if column in columns), None)
    # a sample of descriptions does not replace the texts that the images come with
    is_described = has_texts(store) if found else not store.is_empty
    if is_named or (options.text is None and (selects or is_described)):
        return described_set(store, images, prompts=options.use_prompts, models=options.use_models)
    if selects:
        raise ConfigError(
            "use_prompts (--use-prompts) and use_models (--use-models) select descriptions by gpt4image describe: "
            "leave text (--text) unset, or set it to a work directory."
        )
    if options.text is None and found is None:
        known = f"; its text columns: {', '.join(columns)}" if columns else ""
        raise DescriptionError(
            f"{workdir.folder} holds no descriptions, and {images.source} has no column {DEFAULT_COLUMNS[0]!r}{known}. "
            "Write some: gpt4image describe; or set text (--text) to a file or another work directory that holds some."
        )
    source = options.text or found or ""
    return load_descriptions(images, source, text_column=options.text_column, orphan_texts=options.orphan_texts)


def open_regions(
    images: ImageTable, data: DataOptions, text: TextOptions, workdir: WorkDir
) -> tuple[tuple[EmbeddingStore, ...], float]:
    """Embed the descriptions of crops, if the options name any; return their vectors and the margin of the crops.

    Raises:
        ConfigError: the images have no boxes.
        DescriptionError: there are no descriptions of these crops.
    """
    if data.crops is None:
        return (), 0.0
    from gpt4image.images.crops import crop_images

    crops = crop_images(images, data.crops)
    descriptions = find_descriptions(crops, replace(text, text=data.crop_text), workdir)
    console.say("\n".join(["boxes:", *(f"  {line}" for line in descriptions.lines())]))
    return open_embeddings(descriptions, text, workdir, of="-crops"), data.crops


def open_embeddings(
    descriptions: DescriptionSet, options: TextOptions, workdir: WorkDir, *, of: str = ""
) -> tuple[EmbeddingStore, ...]:
    """Embed the descriptions with each text encoder, unless the work directory already has their vectors.

    Args:
        descriptions: the descriptions.
        options: the encoders.
        workdir: the work directory.
        of: suffix of the names of the folders of vectors, for descriptions of something other than images.

    Raises:
        ConfigError: no encoder, or an encoder named twice.
    """
    from gpt4image.embed import embed_descriptions, load_encoder

    if options.text == NO_TEXT:
        return ()
    if not options.encoder or len(set(options.encoder)) < len(options.encoder):
        raise ConfigError(f"Name each text encoder once, and at least one, not: {' '.join(options.encoder) or 'none'}.")
    return tuple(
        embed_descriptions(
            descriptions,
            load_encoder(name, precision=options.embed_precision),
            workdir.embeddings(f"{name}{of}"),
            long_text=options.long_text,
            batch_size=options.embed_batch,
        )
        for name in options.encoder
    )


def open_guidance(
    images: ImageTable,
    descriptions: DescriptionSet,
    options: GuidanceOptions,
    recipe: Recipe,
    workdir: WorkDir,
    workers: int = 0,
) -> tuple[tuple[EmbeddingStore, ...], tuple[SoftLabels, ...]]:
    """Open the guidance of training besides the labels.

    Returns:
        The vectors of the texts, then those of the teachers; and, if the recipe mixes in soft labels, those of teachers
        that are runs, else those made from the texts.

    Raises:
        ConfigError: a run is a teacher, but the recipe mixes in no soft labels; the recipe mixes in soft labels, but
            nothing provides them; there is neither a text nor a teacher; or the loss ignores the targets.
    """
    from gpt4image.align.losses import check_targets
    from gpt4image.descriptions.picks import CLASSIFY
    from gpt4image.teachers.opening import gives_labels, open_teachers

    if options.text == NO_TEXT and not options.teachers and descriptions.picks is None:
        raise ConfigError(
            "Without texts (--text none), nothing guides the training: set teachers (--teachers), to timm:MODEL for "
            "vectors or to a run as a teacher, run:FOLDER, for soft labels; or have an LLM pick classes for the arm "
            f"llm-labels: {CLASSIFY}."
        )
    check_targets(recipe.loss, recipe.targets)
    labellers = [name for name in options.teachers if gives_labels(name)]
    if labellers and not recipe.soft_labels:
        raise ConfigError(
            f"{labellers[0]} provides soft labels, but the recipe mixes in none: set soft_labels (--soft-labels SHARE)."
        )
    outputs = open_teachers(images, options.teachers, workdir, workers=workers)
    stores = open_embeddings(descriptions, options, workdir)
    soft_labels = outputs.soft_labels
    if recipe.soft_labels and not soft_labels:
        soft_labels = (open_soft_labels(images, stores, workdir),)
    return (*stores, *outputs.stores), soft_labels


def open_image_features(images: ImageTable, recipe: Recipe, workdir: WorkDir, workers: int = 0) -> EmbeddingStore:
    """Return frozen features of the recipe's backbone for training and validation images, computed once.

    Raises:
        WeightsError: its pretrained weights are not available.
    """
    from gpt4image.teachers import embed_images, load_teacher
    from gpt4image.teachers.models import REMEDY
    from gpt4image.train.backbone import VIDEO

    if recipe.backbone.startswith(VIDEO):
        raise ConfigError(
            f"Image features need a timm backbone, applied frame by frame, and {recipe.backbone} is a video model: "
            "leave out the arms that use them (--arms), or choose a timm backbone."
        )
    checkpoint = Path(recipe.checkpoint) if recipe.checkpoint else None
    name = f"timm:{recipe.backbone}"
    try:
        teacher = load_teacher(name, checkpoint=checkpoint, image_size=recipe.image_size)
    except WeightsError as error:  # here the backbone has a different option
        raise WeightsError(
            error.args[0].replace(REMEDY, "name a weights file as checkpoint (--checkpoint FILE)")
        ) from None
    folder = workdir.image_embeddings(f"{name}-{recipe.image_size}")
    return embed_images(images, teacher, folder, splits=("train", "validation"), workers=workers)


def open_soft_labels(images: ImageTable, stores: Sequence[EmbeddingStore], workdir: WorkDir) -> SoftLabels:
    """Compute soft labels from text vectors, or open those of `gpt4image label`, made with any settings.

    Raises:
        ConfigError: there are no text vectors.
    """
    from gpt4image.soft_labels import existing_labels, label_by_vectors

    if not stores:
        raise ConfigError(
            "Soft labels come from descriptions, or from a run as a teacher: set teachers (--teachers run:FOLDER)."
        )
    folder = workdir.labels("+".join(store.manifest.encoder for store in stores))
    return existing_labels(images, stores, folder) or label_by_vectors(images, stores, folder)


def make_text_labels(
    images: ImageTable,
    stores: Sequence[EmbeddingStore],
    text: TextOptions,
    options: LabelOptions,
    folder: Path,
    *,
    features: EmbeddingStore | None = None,
    picks: PickedClasses | None = None,
    partner: EmbeddingStore | None = None,
) -> SoftLabels:
    """Compute text labels, or open those that exist with the same settings.

    Args:
        images: the images.
        stores: vectors of their texts.
        text: the encoders that made them.
        options: settings of the labeller.
        folder: folder of the labels.
        features: features of the images, to label by texts and images together.
        picks: classes that an LLM picked, as further evidence.
        partner: features of the images, to co-train with the texts.

    Raises:
        ConfigError: there are no text vectors, or the file of classes does not fit the images.
    """
    from gpt4image.embed import load_encoder
    from gpt4image.soft_labels import ClassTexts, label_by_texts
    from gpt4image.soft_labels.report import write_transition
    from gpt4image.soft_labels.text_labels import NeutralEncoder

    encoders = [load_encoder(name, precision=text.embed_precision) for name in text.encoder] if stores else []
    others = [features] if features is not None else []
    labels = label_by_texts(
        images,
        [*stores, *others],
        folder,
        classes=ClassTexts.read(options.classes) if options.classes else None,
        encoders=[*encoders, *map(NeutralEncoder.of, others)],
        form=options.label_form,
        abstain=options.abstain,
        adjustment=options.label_adjustment,
        strength=options.strength,
        folds=options.folds,
        seed=options.label_seed,
        picks=picks,
        partner=partner,
    )
    write_transition(labels)
    return labels


def make_set_labels(
    images: ImageTable, stores: Sequence[EmbeddingStore], text: TextOptions, options: LabelOptions, folder: Path
) -> SetLabels:
    """Compute text labels of images with several labels each, or open those that exist with the same settings.

    Raises:
        ConfigError: there are no text vectors, or the file of classes does not fit the images.
        DataError: no class has both present and absent labels.
    """
    from gpt4image.embed import load_encoder
    from gpt4image.soft_labels import ClassTexts
    from gpt4image.soft_labels.set_labels import label_sets_by_texts

    if not stores:
        raise ConfigError("Text labels come from descriptions, and there are none: gpt4image describe.")
    if options.label_form != "hard" or options.label_adjustment:
        raise ConfigError(
            "With several labels per image, leave label_form (--label-form) at hard and label_adjustment "
            "(--label-adjustment) at 0."
        )
    return label_sets_by_texts(
        images,
        stores,
        folder,
        classes=ClassTexts.read(options.classes) if options.classes else None,
        encoders=[load_encoder(name, precision=text.embed_precision) for name in text.encoder],
        abstain=options.abstain,
        strength=options.strength,
        folds=options.folds,
        seed=options.label_seed,
    )
