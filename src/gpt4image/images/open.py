"""Load an image set as the options say, and report what was found in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt4image.core import console
from gpt4image.core.errors import DataError
from gpt4image.core.format import counted
from gpt4image.core.options import (
    DataOptions,
)
from gpt4image.core.workdir import WorkDir

if TYPE_CHECKING:
    from gpt4image.images import ImageTable


def open_images(options: DataOptions, workdir: WorkDir, *, names_follow: bool = False) -> ImageTable:
    """Load the images, say what was found, and treat images that lie in two splits as the options say.

    Args:
        options: the images.
        workdir: the work directory.
        names_follow: the caller says which files were left out and which images lie twice.

    Raises:
        DataError: the source is unknown or broken, or images lie in two splits and must not.
    """
    from gpt4image.images import drop_leaks, find_duplicates, load_images

    images = load_images(
        options.data,
        work=workdir.folder,
        on_bad_image=options.on_bad_image,
        image_column=options.image_column,
        label_column=options.label_column,
        max_pixels=options.max_pixels,
        validation_share=options.validation_share,
        test_share=options.test_share,
        split_seed=options.split_seed,
    )
    leaked = find_duplicates(images).leaked
    if leaked and options.leaks == "fail":
        places = next(iter(leaked.values()))
        raise DataError(
            f"{len(leaked):,} images lie in more than one split, such as {dict(places)}. Take them out of "
            "one, or: --leaks drop."
        )
    if leaked and options.leaks == "drop":
        images = drop_leaks(images)
    say_images(images, names_follow=names_follow)
    return images


def say_images(images: ImageTable, *, names_follow: bool = False) -> None:
    """The image set in a few lines."""
    from gpt4image.images import SPLITS, find_duplicates

    splits = ", ".join(f"{name} {len(images.split(name)):,}" for name in SPLITS)
    console.say(f"images: {len(images):,} in {len(images.classes)} classes ({splits})")
    duplicates = find_duplicates(images)
    if duplicates.surplus:
        console.say(f"duplicates: {counted(duplicates.surplus, 'copy')} of {counted(duplicates.groups, 'image')}")
    if duplicates.leaked:
        console.say(
            f"leakage: {counted(len(duplicates.leaked), 'image')} in more than one split, so test results flatter. "
            "To drop copies from the training side: --leaks drop",
            style="yellow",
        )
    if duplicates.conflicting:
        console.say(f"labels: {counted(len(duplicates.conflicting), 'image')} in more than one class", style="yellow")
    if images.rejected:
        first = images.rejected[0]
        console.say(
            f"left out: {counted(len(images.rejected), 'file')}, such as {first.path} ({first.reason})", style="yellow"
        )
    if not names_follow and (duplicates.surplus or images.rejected):
        console.say(f"Which they are: gpt4image images {images.source}")
