"""Training images per second and core: this library, torchvision's ImageFolder, timm's loader and `datasets`.

    python benchmarks/input_pipeline.py            # every kind, from memory and disk, with and without a worker
    python benchmarks/input_pipeline.py --kinds phone --sources disk --workers 0

All sides draw a crop with the same range of scales and a flip, resize to 224 pixels with the same filter, and return
normalised batches. The cost is processor time, including that of the worker. Images are synthetic: smooth shapes of
several sizes with noise, whose files are as large as those of photographs.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import torch
from paired import add_options, processor_time, ratio, save, take_turns
from PIL import Image
from timm.data import ImageDataset, create_loader, create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    ToTensor,
)

from gpt4image import Recipe, load_images
from gpt4image.images import ImageTable
from gpt4image.train.data import EpochBatches, ImageInputs, LabelledInputs, make_loader
from gpt4image.train.transforms import Normalization, augmented_view, preprocessing

SIZE, BATCH, CLASSES = 224, 32, 2
Side = Callable[[], float]


@dataclass(frozen=True)
class Kind:
    """Images of one size and format, and how many of them a round reads."""

    width: int
    height: int
    format: str
    options: dict[str, int]
    files: int
    repeats: int


KINDS = {
    "jpeg": Kind(500, 375, "JPEG", {"quality": 94}, 128, 3),
    "phone": Kind(2000, 1500, "JPEG", {"quality": 90}, 32, 2),
    "png": Kind(64, 64, "PNG", {}, 128, 4),
}


def draw(width: int, height: int, seed: int) -> Image.Image:
    """Draw an image with detail at every scale."""
    rng, picture = np.random.default_rng(seed), np.full((height, width, 3), 120.0)
    for cells, strength in ((4, 63), (12, 35), (40, 21), (120, 13), (300, 7)):
        coarse = rng.normal(size=(max(2, cells * height // width), cells, 3)).astype(np.float32)
        for colour in range(3):
            fine = Image.fromarray(coarse[..., colour]).resize((width, height), Image.Resampling.BICUBIC)
            picture[..., colour] += strength * np.asarray(fine)
    picture += rng.normal(size=(height, width, 1)) * 3
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def write(kind: Kind, folder: Path) -> None:
    """Write the images as class folders."""
    for number in range(kind.files):
        place = folder / "train" / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        draw(kind.width, kind.height, number).save(
            place / f"{number:03}.{kind.format.lower()}", kind.format, **kind.options
        )


class Memory(Dataset[tuple[Tensor, int]]):
    """Images in memory, opened as ImageFolder opens files."""

    def __init__(self, files: list[bytes], transform: Callable[[Image.Image], Tensor]) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.transform(Image.open(io.BytesIO(self.files[number])).convert("RGB")), number % CLASSES


@dataclass
class MemoryReader:
    """Reads an image set that is in memory."""

    files: list[bytes]
    text_columns: tuple[str, ...] = ()

    def read(self, _path: str, row: int) -> bytes:
        """Return the encoded bytes of one image."""
        return self.files[row]

    def texts(self, column: str, rows: object) -> list[str | None]:
        """There are no texts."""
        raise KeyError(column)


@dataclass(frozen=True)
class Setting:
    """The input of all sides."""

    folder: Path
    in_memory: bool
    workers: int
    interpolation: str
    repeats: int

    @property
    def recipe(self) -> Recipe:
        """The default augmentation."""
        return Recipe(image_size=SIZE)

    @property
    def files(self) -> list[bytes]:
        """The encoded images."""
        return [path.read_bytes() for path in sorted(self.folder.rglob("*.*"))]

    def timed(self, batches: Callable[[], Iterable[Tensor]]) -> Side:
        """Return a side that reads all images several times."""

        def go() -> None:
            for _ in range(self.repeats):
                for batch in batches():
                    assert batch.dtype == torch.float32 and batch.shape[1:] == (3, SIZE, SIZE)

        return partial(processor_time, go)


def ours(setting: Setting, images: ImageTable) -> Side:
    """This library's training inputs, normalised as the training step does."""
    rows, recipe = images.split("train"), setting.recipe
    config = {**preprocessing(nn.Identity(), SIZE), "interpolation": setting.interpolation}
    if setting.in_memory:
        files = [images.read(row) for row in range(len(images))]
        positions = images.rows.schema.get_field_index("row")
        own = images.rows.set_column(positions, "row", [list(range(len(files)))])
        images = ImageTable(images.source, images.classes, own, (), MemoryReader(files))
    dataset = LabelledInputs(ImageInputs(images, rows, augmented_view(recipe, config)), images, rows)
    batches, normalize = EpochBatches(len(rows), BATCH, seed=0), Normalization.of(config)

    loader = make_loader(dataset, batches, setting.workers)
    return setting.timed(lambda: (normalize(batch.inputs) for batch in loader))


def loader_of(setting: Setting, data: Dataset[tuple[Tensor, int]]) -> Side:
    """A dataset behind torch's loader."""

    loader = DataLoader(data, BATCH, shuffle=True, num_workers=setting.workers, persistent_workers=setting.workers > 0)
    return setting.timed(lambda: (pixels for pixels, _ in loader))


def torchvision_transform(setting: Setting) -> Callable[[Image.Image], Tensor]:
    """The transforms of torchvision's training reference."""
    config = preprocessing(nn.Identity(), SIZE)
    crop = RandomResizedCrop(SIZE, setting.recipe.crop_scale, interpolation=InterpolationMode(setting.interpolation))
    return Compose([crop, RandomHorizontalFlip(), ToTensor(), Normalize(config["mean"], config["std"])])


def image_folder(setting: Setting) -> Side:
    """torchvision's ImageFolder, or its way of opening images on files in memory."""
    transform = torchvision_transform(setting)
    data = Memory(setting.files, transform) if setting.in_memory else ImageFolder(setting.folder / "train", transform)
    return loader_of(setting, data)


def timm_loader(setting: Setting) -> Side:
    """timm's loader, which normalises whole batches, as its training script uses it."""
    config = preprocessing(nn.Identity(), SIZE)
    data = Memory(setting.files, Image.Image.copy) if setting.in_memory else ImageDataset(str(setting.folder / "train"))
    settings = {
        "scale": setting.recipe.crop_scale,
        "hflip": 0.5,
        "color_jitter": None,
        "interpolation": setting.interpolation,
    }
    loader = create_loader(
        data, (3, SIZE, SIZE), BATCH, is_training=True, num_workers=setting.workers, mean=config["mean"],
        std=config["std"], device=torch.device("cpu"), persistent_workers=setting.workers > 0,
        pin_memory=False, **settings,
    )  # fmt: skip
    if setting.in_memory:  # `create_loader` sets only the transform of its own datasets
        data.transform = create_transform((3, SIZE, SIZE), is_training=True, use_prefetcher=True, **settings)
    return setting.timed(lambda: (pixels for pixels, _ in loader))


def hugging_face(setting: Setting) -> Side:
    """`datasets` with torchvision's transforms: encoded images in an Arrow table, or paths of files."""
    transform = torchvision_transform(setting)
    pictures = setting.files if setting.in_memory else [str(path) for path in sorted(setting.folder.rglob("*.*"))]
    table = {"image": pictures, "label": [number % CLASSES for number in range(len(pictures))]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict(
        {**table, "image": [{"bytes": p, "path": None} if setting.in_memory else p for p in pictures]}, features
    )

    def prepare(rows: dict[str, list[Image.Image]]) -> dict[str, list[Tensor]]:
        return {**rows, "image": [transform(picture.convert("RGB")) for picture in rows["image"]]}

    data.set_transform(prepare)

    loader = DataLoader(data, BATCH, shuffle=True, num_workers=setting.workers, persistent_workers=setting.workers > 0)
    return setting.timed(lambda: (batch["image"] for batch in loader))


def main() -> None:
    """Print and save images per second and core for every side, and the ratio to the best of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--sources", nargs="+", choices=("memory", "disk"), default=("memory", "disk"))
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--interpolation", choices=("bilinear", "bicubic"), default="bilinear")
    add_options(parser, rounds=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in asked.kinds:
        kind = KINDS[name]
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write(kind, folder)
            images = load_images(folder, validation_share=0, test_share=0)
            for source in asked.sources:
                for workers in asked.workers:
                    setting = Setting(folder, source == "memory", workers, asked.interpolation, kind.repeats)
                    rows.append(
                        {"kind": name, "source": source, "workers": workers}
                        | measure(setting, images, kind, asked.rounds)
                    )
    save("input_pipeline", asked, rows)


def measure(setting: Setting, images: ImageTable, kind: Kind, rounds: int) -> dict[str, object]:
    """Time all sides on one kind of images from one source."""
    sides = {
        "gpt4image": ours(setting, images),
        "ImageFolder": image_folder(setting),
        "timm": timm_loader(setting),
        "datasets": hugging_face(setting),
    }
    costs = take_turns(sides, rounds)
    seen = kind.files * kind.repeats
    rates = {side: seen / sorted(seconds)[len(seconds) // 2] for side, seconds in costs.items()}
    best = max(list(rates)[1:], key=rates.__getitem__)
    gain = ratio(costs[best], costs["gpt4image"])
    where = "memory" if setting.in_memory else "disk"
    print(f"{kind.width} x {kind.height} {kind.format}, {where}, {setting.workers} workers: ", end="")
    print(", ".join(f"{side} {rate:.0f}/s" for side, rate in rates.items()), f"; ratio to {best} {gain}", flush=True)
    return {"images_per_second_and_core": rates, "best_other": best, "ratio": gain}


if __name__ == "__main__":
    main()
