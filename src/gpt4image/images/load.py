"""Load an image set: from any source to the table of its usable images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpt4image.core.console import doing, say
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.format import counted
from gpt4image.core.invocation import in_users_words
from gpt4image.images.boxes import read_boxes
from gpt4image.images.clips import FRAME_SIDE, FRAMES, FrameChoice, FrameRule
from gpt4image.images.decode import MAX_PIXELS
from gpt4image.images.label_forms import check_label_forms
from gpt4image.images.scan import scan
from gpt4image.images.sources.detect import list_source
from gpt4image.images.sources.hugging_face import Dataset, is_loaded_dataset, list_loaded_dataset
from gpt4image.images.sources.joined import join_listings
from gpt4image.images.sources.label_sets import join_labels, rarest_present
from gpt4image.images.sources.listing import ColumnNames, Listing, to_label_column
from gpt4image.images.sources.remote import fetch_source, is_address
from gpt4image.images.splits import check_shares, complete_splits
from gpt4image.images.table import SPLITS, ImageTable, RejectedImage

OnBadImage = Literal["skip", "fail"]
"""What to do about an unreadable image: skip it with a warning, or stop."""
UnusualLabels = Literal["fail", "keep"]
LabelKind = Literal["classification", "multi-label", "detection", "segmentation"]
OBJECTS: dict[str | None, Literal["boxes", "masks"]] = {"detection": "boxes", "segmentation": "masks"}
"""The annotations of objects that a task needs."""


def load_images(
    source: str | Path | Dataset,
    *,
    unlabelled: Sequence[str | Path] = (),
    work: str | Path | None = None,
    on_bad_image: OnBadImage = "skip",
    image_column: str | None = None,
    label_column: str | None = None,
    unusual_labels: UnusualLabels = "fail",
    task: LabelKind | None = None,
    label_separator: str | None = None,
    label_columns: Sequence[str] = (),
    frames: int | None = None,
    frame_rule: FrameRule = "even",
    frame_side: int = FRAME_SIDE,
    max_pixels: int = MAX_PIXELS,
    validation_share: float = 0.1,
    test_share: float = 0.2,
    split_seed: int = 0,
    workers: int | None = None,
) -> ImageTable:
    """Load an image set: list it, read, hash and decode every image once, and complete its splits.

    Args:
        source: a folder of class folders, with or without train/, val/ and test/ above them; a folder with
            metadata.csv, metadata.jsonl or metadata.parquet; a table (CSV, TSV, JSON Lines, Parquet or Arrow) that
            names image files by paths or addresses; Parquet or Arrow files that hold images, or a folder of them;
            WebDataset tars, a folder or a pattern of them; a folder written by `save_to_disk`; an export of Label
            Studio (JSON) or a FiftyOneImageClassificationDataset; annotations of COCO (JSON);
            the name of a dataset on the Hugging Face hub; or an address (`s3://bucket/photos`, `gs://`, `https://`) of
            any of these, whose files are fetched into `work`; or a `Dataset`, `IterableDataset`, or several by split,
            of `datasets`.
        unlabelled: sources of further training images, whose labels and splits, if any, are not used. Copies of
            images that have a label are left out.
        work: the work directory. It remembers outcomes: an unchanged image is not read again, and a scan that was
            killed resumes. It keeps the splits that are made: added images move no other.
        on_bad_image: "skip" lists images that cannot be used in `rejected`, "fail" makes them an error.
        image_column: the column that holds the images, if it has none of the usual names.
        label_column: the column that holds the labels, if it has none of the usual names.
        unusual_labels: "fail" refuses labels that look like numbers to predict, like several labels of an image in
            one, like one class in two spellings, or like parts of the set; "keep" takes them for classes.
        task: "classification" for one class an image, "multi-label" for any number. By default what the source says:
            several labels if the label column holds lists, or with one of the next two arguments, or in COCO's format.
            "multi-label" joins copies of an image in several class folders or rows to one image with all their labels.
            "detection" for boxes of objects: a file of COCO's annotations or a folder with some, a YOLO folder, or one
            of Pascal VOC; an image without boxes is a background. "segmentation" for masks: a folder with folders of
            images and masks, or COCO's annotations with the outlines of objects.
        label_separator: what separates the labels in a cell of the label column, if it holds several.
        label_columns: columns of 0 and 1, one a class, that say which labels an image has; empty where it is unknown.
        frames: number of frames that stand for a clip: the source is then a folder of class folders with video files,
            or with folders of frames. By default 8 where it holds video files and no images, which it then is as well.
        frame_rule: "even" for evenly spaced frames, "scene" for one between each two cuts (`FrameChoice`).
        frame_side: longest side of a frame in pixels, larger ones are scaled down; 0 for any size.
        max_pixels: the largest width x height that is decoded.
        validation_share: share of the training images that become validation if there is no such split; 0 for none.
        test_share: share of the training images that become test if there is no such split; 0 for none.
        split_seed: seed of that choice.
        workers: number of threads that read; None for one a processor.

    Returns:
        The usable images.

    Raises:
        ConfigError: an argument is invalid.
        DataError: the source as a whole cannot be used; the message names the fix.
    """
    for name, value, kind in (
        ("on_bad_image", on_bad_image, OnBadImage),
        ("unusual_labels", unusual_labels, UnusualLabels),
        ("task", task, LabelKind),
    ):
        if value is not None and value not in get_args(kind):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}.")
    if max_pixels < 1 or (workers is not None and workers < 1):
        raise ConfigError(f"max_pixels (--max-pixels) and workers must be at least 1, not {max_pixels} and {workers}.")
    if label_separator is not None and label_columns:
        raise ConfigError(
            "label_separator (--label-separator) and label_columns (--label-columns) exclude each other: the labels "
            "are in one or the other."
        )
    check_shares(validation_share, test_share)
    kept = Path(work) / "images" if work is not None else None
    asked = (frames, frame_rule, frame_side) != (None, "even", FRAME_SIDE)
    choice = FrameChoice(frames or FRAMES, frame_rule, frame_side) if asked else None
    columns = ColumnNames(
        image_column,
        label_column,
        separator=label_separator,
        flags=tuple(label_columns),
        objects=OBJECTS.get(task, ""),
        frames=choice,
        max_pixels=max_pixels,
    )
    if columns.objects and (is_loaded_dataset(source) or columns.separator is not None or columns.flags):
        known = {"boxes": "COCO's annotations, YOLO folders and Pascal VOC", "masks": "folders and COCO's annotations"}
        raise ConfigError(
            f"task {task} reads {columns.objects} from {known[columns.objects]}: name one of these, and leave out "
            "label_separator (--label-separator) and label_columns (--label-columns)."
        )
    if choice is not None and (is_loaded_dataset(source) or columns.objects):
        raise ConfigError(
            "frames (--frames), frame_rule (--frame-rule) and frame_side (--frame-side) are for a folder of clips, "
            "which have no boxes: leave out either these or task detection."
        )
    if is_loaded_dataset(source):
        listing = list_loaded_dataset(source, columns, Path(work) if work is not None else None)
        source = str(getattr(source, "builder_name", None) or "datasets")
    else:
        place = _place(source, work)
        with doing(f"Listing {source}"):
            listing = list_source(place, columns, kept)
    _check_task(task, listing, columns, str(source))
    listing = _without_unlabelled_splits(listing)
    _require_labels_outside_train(listing)
    if unusual_labels == "fail":
        check_label_forms(listing, str(source))
    without = ColumnNames(image_column, labelled=False, frames=listing.frames, max_pixels=max_pixels)
    further = {str(each): _place(each, work) for each in unlabelled}
    listing = join_listings(listing, {name: list_source(each, without, kept) for name, each in further.items()})
    found = _read_images(listing, source, Path(work) if work is not None else None, max_pixels, workers, on_bad_image)
    table = _without_labelled_copies(join_copies(found) if task == "multi-label" else found)
    labels = rarest_present(table.label_matrix) if table.has_label_sets else table.labels
    if not _has_two_classes(table):  # a test would be meaningless; text labels can judge validation images
        labels, test_share = np.zeros_like(labels), 0.0
    splits = complete_splits(
        np.asarray(table.rows["split"].to_numpy(), dtype=str),
        table.ids,
        labels,
        validation_share=validation_share,
        test_share=test_share,
        seed=split_seed,
        work=Path(work) if work is not None else None,
        source=str(source),
    )
    _report_untrained_classes(table, splits)
    column = table.rows.schema.get_field_index("split")
    return replace(table, rows=table.rows.set_column(column, "split", pa.array(splits, pa.string())))


def _place(source: str | Path, work: str | Path | None) -> str | Path:
    """Return where a source is on this machine; the files of an address are fetched."""
    if not is_address(source):
        return source
    if work is None:
        raise ConfigError(f"{source} is downloaded into the work directory: name one with work.")
    return fetch_source(str(source), Path(work) / "images" / "fetched")


def load_pictures(
    source: str | Path,
    *,
    work: Path | None = None,
    image_column: str | None = None,
    frames: FrameChoice | None = None,
    max_pixels: int = MAX_PIXELS,
) -> ImageTable:
    """Load images to look at, not to train on: of any source, with labels where there are any, all in one split.

    Args:
        source: as for `load_images`, or a folder of images without class folders.
        work: the work directory that remembers outcomes.
        image_column: the column that holds the images, if it has none of the usual names.
        frames: take the source for clips, with these frames.
        max_pixels: the largest width x height that is decoded.

    Returns:
        The distinct images, in the split `train`; unreadable ones and further copies are in `rejected`.

    Raises:
        DataError: the source cannot be used.
    """
    kept = work / "images" if work is not None else None
    place = _place(source, work)
    with doing(f"Listing {source}"):
        columns = ColumnNames(image_column, frames=frames, max_pixels=max_pixels)
        listing = list_source(place, replace(columns, labelled=False), kept)
        with suppress(DataError):  # there are no labels, or no usable ones
            listing = _with_labels(listing, list_source(place, columns, kept))
    table = _read_images(listing, source, work, max_pixels, None, "skip")
    _, first = np.unique(table.ids, return_index=True)
    copies = np.setdiff1d(np.arange(len(table)), first)
    rows = table.rows.take(pa.array(np.sort(first))).combine_chunks()
    rows = rows.set_column(rows.schema.get_field_index("split"), "split", pa.repeat(pa.scalar("train"), len(rows)))
    others = tuple(RejectedImage(table.path(row), "the same image as another") for row in copies.tolist())
    return replace(table, rows=rows, rejected=(*table.rejected, *others))


def _with_labels(listing: Listing, labelled: Listing) -> Listing:
    """Return a listing of unlabelled images with the labels that another listing has for some of them."""
    if len(labelled.classes) < 2 or labelled.has_label_sets:  # a subfolder is not a class
        return listing
    # paths identify files in folders and tars; tables may name an image twice, but their row numbers agree
    by = "path" if pc.count_distinct(labelled.rows["path"]).as_py() == len(labelled.rows) else "row"
    places = pc.index_in(listing.rows[by], value_set=labelled.rows[by].combine_chunks())
    labels = pc.fill_null(labelled.rows["label"].take(places), -1)
    column = listing.rows.schema.get_field_index("label")
    return replace(listing, rows=listing.rows.set_column(column, "label", labels), classes=labelled.classes)


def _read_images(
    listing: Listing, source: str | Path, work: Path | None, max_pixels: int, workers: int | None, on_bad: OnBadImage
) -> ImageTable:
    """Read, hash and decode the images of a listing once, and leave out those that cannot be used."""
    outcome = scan(listing, work, max_pixels, workers)
    # `row` still counts all rows of the source, so that the reader finds an image after bad ones were removed.
    good = outcome["id"].is_valid()
    faulty = pc.invert(good)
    faults = zip(
        listing.rows["path"].filter(faulty).to_pylist(), outcome["reason"].filter(faulty).to_pylist(), strict=True
    )
    bad = (*listing.bad, *(RejectedImage(path, in_users_words(reason)) for path, reason in faults))
    _check_bad_images(source, bad, len(listing.rows) + len(listing.bad), on_bad)
    rows = listing.rows.drop_columns(["key"]).add_column(0, "id", outcome["id"]).filter(good).combine_chunks()
    tasks = {"mask": "segmentation", "boxes": "detection"}
    task = next((task for column, task in tasks.items() if column in rows.schema.names), None)
    one_class = "classification" if listing.frames is None else "clip-classification"
    task = task or ("multi-label" if listing.has_label_sets else one_class)
    return ImageTable(
        str(source),
        listing.classes,
        rows,
        (*bad, *listing.others),
        listing.reader,
        max_pixels,
        task,
        listing.rejected_boxes,
        listing.clipped_boxes,
        frames=listing.frames,
    )


def _check_task(task: LabelKind | None, listing: Listing, columns: ColumnNames, source: str) -> None:
    """Raise an error if the source has no labels of the kind that was asked for."""
    if (columns.separator is not None or columns.flags) and not listing.has_label_sets:
        raise DataError(
            f"{source}: label_separator (--label-separator) and label_columns (--label-columns) are for tables that "
            "name image files (CSV, JSON Lines, Parquet), and this is not one."
        )
    if task not in (None, "classification") and listing.frames is not None:
        raise DataError(f"{source} contains clips, which have one class each: leave out task (--task).")
    if task == "classification" and listing.has_label_sets:
        raise DataError(
            f"{source} has several labels per image, so its task is multi-label: leave out task (--task), or name a "
            "column of single classes with label_column (--label-column)."
        )


def join_copies(table: ImageTable) -> ImageTable:
    """Return a table in which copies of an image within a split are one image that has all their labels.

    So an image that lies in several class folders, or has several rows in a table, has several labels; classes that
    none of its copies has are absent.
    """
    splits = pc.index_in(table.rows["split"], pa.array(SPLITS)).to_numpy()
    keys = np.char.add(table.ids, splits.astype("S1"))
    _, first, groups = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)  # in the order of the table
    joined = join_labels(table.label_matrix, groups.ravel())[order]
    rows = table.rows.take(pa.array(first[order])).combine_chunks()
    rows = rows.set_column(rows.schema.get_field_index("label"), "label", to_label_column(joined))
    if len(rows) < len(table):
        several = int(((joined > 0).sum(axis=1) > 1).sum())
        say(
            f"labels: {counted(len(table) - len(rows), 'copy')} joined to {counted(len(rows), 'image')}, of which "
            f"{several:,} {'has' if several == 1 else 'have'} several labels"
        )
    return replace(table, rows=rows, task="multi-label")


def _without_unlabelled_splits(listing: Listing) -> Listing:
    """Leave out validation and test splits in which no image has a label, as published test sets often are."""
    labelled, splits = listing.is_labelled, listing.rows["split"].to_numpy()
    hollow = [s for s in SPLITS[1:] if (splits == s).any() and not labelled[splits == s].any()]
    if not hollow:
        return listing
    say(f"The {' and '.join(hollow)} split has no labels and is left out.")
    left_out = pc.is_in(listing.rows["split"], value_set=pa.array(hollow))
    others = [
        RejectedImage(path, "its split has no labels") for path in listing.rows["path"].filter(left_out).to_pylist()
    ]
    return replace(listing, rows=listing.rows.filter(pc.invert(left_out)), others=(*listing.others, *others))


def _require_labels_outside_train(listing: Listing) -> None:
    held_out = pc.not_equal(listing.rows["split"], "train")
    if "boxes" in listing.rows.schema.names:
        found = read_boxes(listing.rows["boxes"])
        unknown = pa.array([boxes is not None and bool((boxes[:, 0] < 0).any()) for boxes in found])
        rows = listing.rows.filter(pc.and_(unknown, held_out))
        if len(rows):
            raise DataError(
                f"{rows['path'][0]} in the {rows['split'][0]} split has a box without a class. Only boxes of training "
                "images may lack one: add the missing classes, or remove the images."
            )
    rows = listing.rows.filter(pc.and_(pa.array(~listing.is_labelled), held_out))
    if len(rows):
        what, empty = "label", " (empty cells, nan, None, \\N and ? are no labels)"
        if "mask" in rows.schema.names:
            what, empty = "mask", ""
        more = f", as have {counted(len(rows) - 1, 'other')} outside train" if len(rows) > 1 else ""
        raise DataError(
            f"{rows['path'][0]} in the {rows['split'][0]} split has no {what}{more}{empty}. Only training images may "
            f"lack one: add the missing {what}, or remove the images."
        )


def _without_labelled_copies(table: ImageTable) -> ImageTable:
    """Leave out unlabelled copies of images that have a label, which may be test images."""
    labelled, ids = table.is_labelled, table.ids
    copies = ~labelled
    copies[copies] = np.isin(ids[copies], ids[labelled])
    if not copies.any():
        return table
    rejected = [
        RejectedImage(path, "the same image has a label") for path in table.rows["path"].filter(copies).to_pylist()
    ]
    return replace(table, rows=table.rows.filter(~copies).combine_chunks(), rejected=(*table.rejected, *rejected))


def _check_bad_images(source: str | Path, bad: tuple[RejectedImage, ...], total: int, on_bad_image: OnBadImage) -> None:
    first = "".join(f"\n  {image.path}: {image.reason}" for image in bad[:10])
    if len(bad) == total:
        raise DataError(f"None of the {total:,} images in {source} can be used.{first}")
    if bad and on_bad_image == "fail":
        raise DataError(f"{len(bad):,} of {total:,} images in {source} cannot be used.{first}")


def _has_two_classes(table: ImageTable) -> bool:
    """Return whether classes can be learned from the labels; say so if a file has to name them.

    Raises:
        DataError: they cannot, and every image has a label.
    """
    present = table.classes_among(np.ones(len(table), dtype=bool))
    without = int((~table.is_labelled).sum())
    if len(present) >= (1 if table.has_boxes and not table.has_masks else 2):
        return True
    names = ", ".join(table.classes[label] for label in present) or "no labels"
    found = f"{table.source} has usable images of {counted(len(present), 'class')} ({names})"
    if without and not table.has_label_sets:
        say(f"{found}. To label the others and to train, name all classes in a file (--classes FILE).", "yellow")
        return False
    raise DataError(
        f"{found}; at least 2 are needed. Left out: {counted(len(table.rejected), 'image')}; without a label: "
        f"{without:,}."
    )


def _report_untrained_classes(table: ImageTable, splits: np.ndarray) -> None:
    untrained = set(table.classes_among(splits != "train")) - set(table.classes_among(splits == "train"))
    if untrained:
        names = ", ".join(table.classes[label] for label in sorted(untrained))
        alone = " from labels alone" if (~table.is_labelled & (splits == "train")).any() else ""
        say(f"Classes without a labelled training image, which cannot be learned{alone}: {names}.", "yellow")
