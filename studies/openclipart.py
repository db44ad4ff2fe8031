"""A second image set, from Debian's packages of the Open Clip Art Library 0.18: folders of drawings with a long tail.

    apt-get download openclipart-png openclipart-svg
    python studies/openclipart.py OUT openclipart-png_*.deb openclipart-svg_*.deb
    python studies/openclipart.py OUT /usr/share/openclipart/png /usr/share/openclipart/svg    # if they are installed

The folders are the classes. Titles, descriptions and keywords, which people wrote into the SVG files, are the texts;
the words of the folder's own name are taken out of them, in singular and plural. Images are fitted on white, 160 x 160.
Drawings of a folder whose file names begin with the same word, and near-duplicates, lie in the same split. Images of
clipart12's test split, which come from the same library, stay out. OUT gets `images/SPLIT/CLASS/`, `captions.jsonl`,
which `gpt4image describe import` and `--text` read, and `counts.json`, which says what was left out and why. The same
packages give the same set; what a killed call has read or written is not read or written again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gpt4image import load_images
from gpt4image.core import console
from gpt4image.core.errors import DataError, ImageError
from gpt4image.core.files import atomic_write, digest, fill_array, write_json
from gpt4image.images.decode import decode
from gpt4image.quality.checks.leakage import other_number
from gpt4image.workflows.demo import example_images

SIZE, SIDE = 160, 16  # pixels of an image, and of its difference hash
NEAR = 20  # of 256 bits in which the hashes of near-duplicates differ, as in clipart12
SHARES = {"train": 0.65, "validation": 0.1, "test": 0.25}
NO_CLASS = ("unsorted",)
INSTALLED = "usr/share/openclipart"
WORK, DC, RDF = "{http://web.resource.org/cc/}Work", "{http://purl.org/dc/elements/1.1/}", "{*}"
LEFT_BY_SCRIPTS = re.compile(r"hash(\(0x[0-9a-f]+\))?|unsorted|", re.IGNORECASE)  # keywords that nobody wrote
Splits = dict[str, str]


@dataclass(frozen=True)
class Drawing:
    """A drawing: path in the library without suffix, such as `animals/birds/dove_symbol`, and its image."""

    name: str
    image: Path

    @property
    def label(self) -> str:
        """The class: the topmost folder."""
        return self.name.split("/")[0]

    @property
    def series(self) -> str:
        """What the drawings of a series share: the folder, and the first word of the file's name."""
        *_, file = self.name.split("/")
        return f"{self.label}/{re.split(r'[^a-z]', file.casefold())[0] or file}"

    @property
    def target(self) -> str:
        """Path of the image in its split."""
        return f"{self.label}/{self.name.removeprefix(self.label + '/').replace('/', '--')}.png"


def open_package(source: Path, kind: str, out: Path) -> Path:
    """Return the folder of a package's drawings.

    Args:
        source: a .deb file, which is unpacked into `out` once, or a folder.
        kind: png or svg.
        out: the folder to write.

    Raises:
        DataError: there are no drawings.
    """
    folder = source
    if source.is_file():
        folder = out / "packages" / kind
        if not folder.exists():
            unpack(source, folder)
    root = folder / INSTALLED / kind
    root = root if root.is_dir() else folder
    if not any(root.glob(f"*/**/*.{kind}")):
        raise DataError(f"{source} holds no .{kind} files in folders. Name the file or folder of openclipart-{kind}.")
    return root


def unpack(package: Path, folder: Path) -> None:
    """Unpack the files of a Debian package, an `ar` archive with a tar inside."""
    data, at = package.read_bytes(), 8
    while at < len(data):
        name, size = data[at : at + 16].decode().strip(), int(data[at + 48 : at + 58])
        if name.startswith("data.tar"):
            part = folder.with_name(f"{folder.name}.part")
            with tarfile.open(fileobj=io.BytesIO(data[at + 60 : at + 60 + size])) as archive:
                archive.extractall(part, filter="data")
            part.rename(folder)
            return
        at += 60 + size + size % 2
    raise DataError(f"{package} is no Debian package. Get it: apt-get download openclipart-png openclipart-svg.")


def list_drawings(png: Path, svg: Path, left_out: Counter[str]) -> list[Drawing]:
    """Return the drawings that are files of their own; links put one drawing into two folders."""
    drawings = []
    for image in sorted(png.rglob("*.png")):
        name = image.relative_to(png).as_posix().removesuffix(".png")
        text = svg / f"{name}.svg"
        if name.split("/")[0] in NO_CLASS:
            left_out["in the folder unsorted, which is no class"] += 1
        elif image.is_symlink() or text.is_symlink():
            left_out["links to drawings of this or another folder"] += 1
        else:
            drawings.append(Drawing(name, image))
    return drawings


def render(drawing: Drawing) -> Image.Image:
    """Return the image fitted on white. ImageError if it cannot be read."""
    picture = decode(drawing.image.read_bytes(), drawing.name)
    return ImageOps.pad(picture, (SIZE, SIZE), Image.Resampling.LANCZOS, color="white")


def difference_hash(picture: Image.Image) -> np.ndarray:
    """Return which of 16 x 16 pixels are darker than their right neighbours, uint8 [32]."""
    pixels = np.asarray(picture.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.LANCZOS), dtype=np.int16)
    return np.packbits(pixels[:, :-1] < pixels[:, 1:])


def read_hashes(drawings: Sequence[Drawing], path: Path) -> np.ndarray:
    """Return whether each image can be used, a hash of its pixels [32] and its difference hash [32], uint8 [N, 65]."""

    def compute(rows: slice) -> np.ndarray:
        found = np.zeros((rows.stop - rows.start, 65), np.uint8)
        for row, drawing in zip(found, drawings[rows], strict=True):
            try:
                picture = render(drawing)
            except ImageError:
                continue
            row[0] = picture.getcolors(1) is None  # else of one colour
            row[1:33] = np.frombuffer(hashlib.sha256(picture.tobytes()).digest(), np.uint8)
            row[33:] = difference_hash(picture)
        return found

    plan = digest(*(f"{each.name} {each.image.stat().st_size}" for each in drawings))
    steps = fill_array(path, (len(drawings), 65), "uint8", 200, plan, compute)
    console.follow("Read the drawings", len(drawings), steps)
    return np.asarray(np.load(path))


def near(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return which difference hashes [A, 32] and [B, 32] are those of near-duplicates, bool [A, B]."""
    signs = (np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1 for hashes in (first, second))
    one, other = signs
    return np.asarray(one @ other.T >= one.shape[1] - 2 * NEAR)  # a product of signs is 256 - 2 x different bits


def read_text(path: Path, label: str) -> str | None:
    """Return title, description and keywords of an SVG file without the words of its folder, None for nothing."""
    try:
        work = next(ElementTree.parse(path).iter(WORK))  # expat limits the growth of entities
    except (ElementTree.ParseError, OSError, StopIteration):
        return None
    items = ((each.text or "").strip().replace("_", " ") for each in work.iterfind(f"{DC}subject/{RDF}Bag/{RDF}li"))
    keywords = [word for word in items if not LEFT_BY_SCRIPTS.fullmatch(word)]
    sentences = [without_class(work.findtext(f"{DC}{part}") or "", label) for part in ("title", "description")]
    words = dict.fromkeys(filter(None, (without_class(word, label) for word in keywords)))
    return ". ".join(part.rstrip(".") for part in (*sentences, ", ".join(words)) if part) or None


def without_class(text: str, label: str) -> str:
    """Take the words of a class's name, and addresses of people, out of a text.

    >>> without_class("Two dead animals, an animal_icon", "animals"), without_class("Road sign", "signs_and_symbols")
    ('Two dead, an icon', 'Road')
    """
    words = [word for word in label.split("_") if word != "and"]
    forms = [label.replace("_", " "), *words, *(form for word in words for form in other_number(word))]
    name = "|".join(re.escape(form) for form in forms)
    rest = re.sub(rf"\S+@\S+|(?<![a-z])(?:{name})(?![a-z])[_-]?", " ", text, flags=re.IGNORECASE)
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(rest.split())).strip(" ,;:-")


def choose(drawings: Sequence[Drawing], hashes: np.ndarray, most: int | None, left_out: Counter[str]) -> np.ndarray:
    """Return the positions of the drawings to keep, int [K]."""
    examples = load_images(example_images())
    test = examples.split("test")
    paths = {examples.path(row).removesuffix(".png") for row in test.tolist()}
    known = np.stack([difference_hash(examples.image(row)) for row in test.tolist()])
    of_test = np.concatenate(
        [near(part, known).any(axis=1) for part in np.array_split(hashes[:, 33:], 20) if len(part)]
    )
    labels_of = defaultdict(set)
    for drawing, row in zip(drawings, hashes, strict=True):
        labels_of[row[1:33].tobytes()].add(drawing.label)
    seen: set[bytes] = set()
    by_class: dict[str, list[int]] = defaultdict(list)
    for at, (drawing, row) in enumerate(zip(drawings, hashes, strict=True)):
        pixels = row[1:33].tobytes()
        if not row[0]:
            left_out["blank, or not readable"] += 1
        elif drawing.name in paths:
            left_out["in clipart12's test split"] += 1
        elif of_test[at]:
            left_out["near-duplicates of images of clipart12's test split"] += 1
        elif len(labels_of[pixels]) > 1:
            left_out["the same pixels in several classes"] += 1
        elif pixels in seen:
            left_out["the same pixels as another one of the class"] += 1
        else:
            seen.add(pixels)
            by_class[drawing.label].append(at)
    kept = []
    for members in by_class.values():
        members.sort(key=lambda at: digest(drawings[at].name))
        kept += members[:most]
        if members[most or len(members) :]:
            left_out[f"beyond the first {most} of a class in random order"] += len(members) - (most or 0)
    return np.array(sorted(kept))


def split(drawings: Sequence[Drawing], hashes: np.ndarray) -> Splits:
    """Return the split of each drawing by name; whole groups of series and near-duplicates go where most is missing."""
    numbers = np.unique([each.series for each in drawings], return_inverse=True)[1]
    places = np.arange(len(drawings))
    # one edge from each drawing to the first of its series, and to all near-duplicates
    firsts = np.full(numbers.max() + 1, len(drawings))
    np.minimum.at(firsts, numbers, places)
    edges = [np.stack([places, firsts[numbers]])]
    for rows in np.array_split(places, max(1, len(places) // 200)):
        one, other = np.nonzero(near(hashes[rows, 33:], hashes[:, 33:]))
        edges.append(np.stack([rows[one], other]))
    joined = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(joined.shape[1]), (joined[0], joined[1])), shape=(len(drawings), len(drawings)))
    groups = connected_components(graph, directed=False)[1]
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    members.sort(key=lambda rows: (-len(rows), digest(drawings[rows[0]].name)))
    sizes = Counter(each.label for each in drawings)
    wanted = {label: {name: share * size for name, share in SHARES.items()} for label, size in sizes.items()}
    found: Splits = {}
    for rows in members:
        labels = Counter(drawings[row].label for row in rows.tolist())
        missing = {name: sum(count * wanted[label][name] for label, count in labels.items()) for name in SHARES}
        chosen = max(SHARES, key=lambda name: missing[name])
        for row in rows.tolist():
            found[drawings[row].name] = chosen
            wanted[drawings[row].label][chosen] -= 1
    return found


def write_set(drawings: Sequence[Drawing], splits: Splits, svg: Path, out: Path) -> int:
    """Write missing images and all texts, delete images of an earlier set, and return the number of texts."""
    targets = {f"{splits[each.name]}/{each.target}": each for each in drawings}
    for path in (out / "images").rglob("*.png"):
        if path.relative_to(out / "images").as_posix() not in targets:
            path.unlink()
    captions = []
    for target, drawing in targets.items():
        path = out / "images" / target
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                render(drawing).save(file, "PNG")
        text = read_text(svg / f"{drawing.name}.svg", drawing.label)
        if text is not None:
            captions.append(json.dumps({"path": target, "text": text}, ensure_ascii=False))
    with atomic_write(out / "captions.jsonl") as file:
        file.write("".join(f"{line}\n" for line in captions).encode())
    return len(captions)


def build(out: Path, png: Path, svg: Path, most: int | None) -> Mapping[str, Any]:
    """Build the set and return its counts."""
    out.mkdir(parents=True, exist_ok=True)
    png, svg = open_package(png, "png", out), open_package(svg, "svg", out)
    left_out: Counter[str] = Counter()
    found = list_drawings(png, svg, left_out)
    hashes = read_hashes(found, out / "hashes.npy")
    rows = choose(found, hashes, most, left_out)
    drawings = [found[row] for row in rows.tolist()]
    splits = split(drawings, hashes[rows])
    texts = write_set(drawings, splits, svg, out)
    written = Counter((each.label, splits[each.name]) for each in drawings)
    labels = sorted({each.label for each in drawings})
    counts = {
        "drawings": len(drawings) + sum(left_out.values()),
        "left out": dict(left_out.most_common()),
        "kept": len(drawings),
        "with a text": texts,
        "without a text": len(drawings) - texts,
        "classes": {label: {name: written[label, name] for name in SHARES} for label in labels},
    }
    write_json(out / "counts.json", counts)
    return counts


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("png", type=Path, help="the package openclipart-png: its .deb file, or the installed folder")
    parser.add_argument("svg", type=Path, help="the package openclipart-svg, likewise")
    parser.add_argument("--most", type=int, help="images of a class at most, drawn at random; default all")
    chosen = parser.parse_args()
    print(json.dumps(build(chosen.out, chosen.png, chosen.svg, chosen.most), indent=1))


if __name__ == "__main__":
    main()
