"""The identity of a run: its settings, its folder, and its differences from other runs in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpt4image.core.errors import StoreError
from gpt4image.core.files import File, Layout, digest, read_json
from gpt4image.core.format import counted
from gpt4image.train.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa

    from gpt4image.images.table import ImageTable

FIRST_VERSIONS = {"augmentation": 1, "loss_version": 1, "images_per_epoch": None}  # values of missing settings
NAMES = {
    "lr": "the learning rate",
    "min_lr": "the last learning rate",
    "epochs": "the number of epochs",
    "weight": "the weight of the alignment",
    "loss": "the alignment loss",
    "unlabelled": "the use of images without a label",
    "start": "the file of the first weights",
    "loss_version": "the version of the alignment loss",
    "frames": "the choice of frames",
    "frame_pooling": "the pooling of frames",
    "augmentation": "the version of the augmentation",
    "images_per_epoch": "the number of images in an epoch",
}
SHARED = ("id", "label", "split")  # columns that identify a set of images
OBJECTS = ("boxes", "mask_id")  # columns that identify their objects, if there are any


class RunLayout(Layout):
    """Files of a training run."""

    settings = File("settings.json")  # identifies the run
    images = File("images.parquet")  # ids, labels and splits of the images, to report later what has changed
    checkpoint = File("checkpoint.pt")  # state of an unfinished run
    weights = File("best.safetensors")  # backbone and classifier of the best epoch, under timm's names
    heads = File("heads.safetensors")  # its alignment heads, for search in text space; not part of an export
    result = File("result.json")  # best epoch and history; written last, so a run with a result is finished
    lock = File("run.lock")  # held while a process trains the run
    predictions = File("test.safetensors")  # logits of the test images

    @property
    def begun(self) -> bool:
        """Whether the folder contains a run, finished or not."""
        return self.settings.exists() and (self.checkpoint.exists() or self.result.exists())

    @property
    def augmentation(self) -> int | None:
        """Version of the augmentation that the run began with, None if there is no run."""
        return int(read_json(self.settings).get("augmentation", 1)) if self.begun else None

    def read_images(self) -> pa.Table | None:
        """Return ids, labels and splits of the run's images; None if it has not kept them, as in version 0.1."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(self.images)
        except (OSError, pa.ArrowInvalid):  # only messages depend on it
            return None


def require_finished(folder: Path) -> RunLayout:
    """Return the files of a finished run. StoreError if there is none."""
    layout = RunLayout(folder)
    if not layout.result.exists():
        others = sorted(found.parent.name for found in folder.parent.glob(f"*/{layout.result.name}"))
        beside = f" {folder.parent} has {', '.join(others[:8])}." if others else ""
        raise StoreError(f"{folder} contains no finished run.{beside} Train it: gpt4image train, or gpt4image compare.")
    return layout


def require_teachers(names: Iterable[str]) -> None:
    """Raise StoreError if one of the vision teachers is a run, `run:FOLDER`, and neither it nor an export is there."""
    for name in names:
        folder = Path(name.removeprefix("run:"))
        if name.startswith("run:") and not (folder / "config.json").exists():
            require_finished(folder)


def trained_rows(images: ImageTable) -> pa.Table:
    """Return ids, labels and splits of the training and validation images: a run does not use test images."""
    import pyarrow.compute as pc

    rows = images.rows.select(_shared(images.rows))
    return rows.filter(pc.not_equal(rows["split"], "test"))


def images_digest(images: ImageTable, *, with_test: bool = False) -> str:
    """Return a hash of ids, labels and splits of the images that a run sees: equal sets have equal hashes.

    Args:
        images: the images.
        with_test: whether test images count too, as in version 0.1.
    """
    rows = images.rows if with_test else trained_rows(images)
    return digest(*(str(rows[name].to_pylist()) for name in _shared(rows)))


def identify_images(images: ImageTable) -> dict[str, Any]:
    """Return what identifies the images of a run: their hash and classes, and what is unusual about them."""
    return {
        "images": images_digest(images),
        "classes": list(images.classes),
        **({} if images.task == "classification" else {"task": images.task}),
        **({} if images.frames is None else {"frames": images.frames.name}),
    }


def _shared(rows: pa.Table) -> list[str]:
    return [*SHARED, *(name for name in OBJECTS if name in rows.schema.names)]


def is_trained_on(settings: Mapping[str, Any], images: ImageTable) -> bool:
    """Whether a run with these settings was trained on these images, labels and splits."""
    known = settings.get("images")
    return known == images_digest(images) or known == images_digest(images, with_test=True)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the hash of a run's settings."""
    flat = flatten_settings(settings)
    flat.pop("recipe.checkpoint", None)  # the path may change: "start" is the hash of the file
    return digest(repr(sorted(flat.items())))


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any], images: ImageTable) -> list[str]:
    """Return the names of the settings in which a recorded run differs from one to train; none if they are the same.

    Args:
        before: settings as recorded; what an earlier version did not know counts as its default.
        now: settings of the run to train, where those of no effect are missing.
        images: images of the run to train.
    """
    wanted = FIRST_VERSIONS | flatten_settings(now)
    known = FIRST_VERSIONS | flatten_settings({"recipe": Recipe().to_dict()}) | flatten_settings(before)
    wanted.pop("recipe.checkpoint", None)
    changed = [name for name, value in wanted.items() if known.get(name) != value]
    if "images" in changed and is_trained_on(before, images):
        changed.remove("images")
    return changed


def flatten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings under dotted names.

    >>> flatten_settings({"seed": 0, "recipe": {"lr": 0.1}})
    {'seed': 0, 'recipe.lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, Mapping) else {key: value}
    return flat


def siblings(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs of the same arm and seed: the one of that name, then those with a hash at the end."""
    yield folder
    yield from sorted(folder.parent.glob(f"{folder.name}-*"))


def describe_changes(
    changed: Sequence[str],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    earlier_images: pa.Table | None,
    images: ImageTable,
) -> list[str]:
    """Say what differs between a recorded run and one to train, one clause for each change.

    Args:
        changed: names of the settings, from `changed_settings`.
        before: settings as recorded.
        now: settings of the run to train.
        earlier_images: ids, labels and splits of the recorded run, None if it has not kept them.
        images: images of the run to train.
    """
    known, wanted = flatten_settings({"recipe": Recipe().to_dict()}) | flatten_settings(before), flatten_settings(now)
    clauses: list[str] = []
    for key in changed:
        old, new = known.get(key, FIRST_VERSIONS.get(key)), wanted.get(key, FIRST_VERSIONS.get(key))
        name = key.removeprefix("recipe.")
        match key:
            case "images":
                clauses += image_changes(earlier_images, images)
            case "classes":
                clauses += _describe_classes(old or [], new or [])
            case "text":
                clauses.append(_describe_texts(old or [], new or []))
            case "soft_labels":
                clauses.append("the soft labels were changed" if old and new else "soft labels were added or removed")
            case "start":
                clauses.append("the first weights were changed")
            case _:
                clauses.append(f"{NAMES.get(name, name)} was {in_words(old)}, is {in_words(new)}")
    return clauses


def image_changes(before: pa.Table | None, images: ImageTable) -> list[str]:
    """Say how training and validation images differ from earlier ones."""
    general = "images, labels or splits were changed"
    if before is None:
        return [general]
    old, new = (
        {row: rest for row, *rest in zip(*(rows[name].to_pylist() for name in _shared(rows)), strict=True)}
        for rows in (before, trained_rows(images))
    )
    both, objects = old.keys() & new.keys(), "masks" if images.has_masks else "boxes"
    relabelled = [(old[key][0], new[key][0]) for key in both if old[key][0] != new[key][0]]
    gained, lost = sum(label == -1 for label, _ in relabelled), sum(label == -1 for _, label in relabelled)
    counts = {
        "added": len(new.keys() - old.keys()),
        "removed": len(old.keys() - new.keys()),
        "given a label": gained,
        "left without a label": lost,
        "given another label": len(relabelled) - gained - lost,
        "moved to another split": sum(old[key][1] != new[key][1] for key in both),
        f"given other {objects}": sum(old[key][2:] != new[key][2:] and old[key][0] == new[key][0] for key in both),
    }
    clauses = [
        f"{counted(number, 'image')} {'was' if number == 1 else 'were'} {what}"
        for what, number in counts.items()
        if number
    ]
    return clauses or ["copies or the order of the images were changed"]


def _describe_classes(old: Sequence[str], new: Sequence[str]) -> list[str]:
    groups = (("added", set(new) - set(old)), ("removed", set(old) - set(new)))
    found = [f"{counted(len(names), 'class')} {what}" for what, names in groups if names]
    return [", ".join(found) if found else "the order of the classes was changed"]


def _describe_texts(old: Sequence[Mapping[str, str]], new: Sequence[Mapping[str, str]]) -> str:
    encoders = [" and ".join(source["encoder"] for source in sources) or "none" for sources in (old, new)]
    if encoders[0] != encoders[1]:
        return f"the text encoder was {encoders[0]}, is {encoders[1]}"
    if any(a["revision"] != b["revision"] for a, b in zip(old, new, strict=True)):
        return "the text encoder has another revision"
    if any(a["long_text"] != b["long_text"] for a, b in zip(old, new, strict=True)):
        return "long texts are handled differently"
    return "the descriptions were changed"


def in_words(value: object) -> str:
    """Format a setting for display.

    >>> [in_words(value) for value in (0.001, None, True, ["blocks.0", "blocks.1"], [], {"encoder": "minilm"})]
    ['0.001', 'none', 'on', 'blocks.0 blocks.1', 'empty', 'minilm']
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):  # hashes mean nothing to a person
        value = [each for name, each in value.items() if not name.endswith(("hash", "revision"))]
    if isinstance(value, list | tuple):
        return " ".join(map(in_words, value)) or "empty"
    return str(value)
