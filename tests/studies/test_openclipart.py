"""The builder of the second image set, on a small library of made-up drawings."""

import io
import json
import tarfile

import numpy as np
import openclipart
import pytest
from PIL import Image

from gpt4image import load_descriptions, load_images
from gpt4image.core.errors import DataError
from gpt4image.workflows.demo import example_images
from support.image_files import encode, write

SVG = """<svg xmlns="http://www.w3.org/2000/svg"><metadata><rdf:RDF xmlns:cc="http://web.resource.org/cc/"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><cc:Work>
<dc:title>{title}</dc:title><dc:description></dc:description><dc:subject><rdf:Bag>{words}</rdf:Bag></dc:subject>
<dc:publisher><cc:Agent><dc:title>Nobody</dc:title></cc:Agent></dc:publisher></cc:Work></rdf:RDF></metadata></svg>"""


def picture(seed):
    """Return a picture that is no near-duplicate of another: large random squares."""
    pixels = np.random.default_rng(seed).integers(0, 256, (17, 17, 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels).resize((170, 170), Image.Resampling.NEAREST))


def draw(root, name, data, title="", words=()):
    write(root / "png" / f"{name}.png", data)
    items = "".join(f"<rdf:li>{word}</rdf:li>" for word in words)
    write(root / "svg" / f"{name}.svg", SVG.format(title=title, words=items).encode())


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Twelve animals in four series, four tools, and one drawing for each reason to leave one out."""
    root = tmp_path_factory.mktemp("library")
    for number in range(12):
        words = ["animal", "Animals", "hash", "", "red_animal", "wild"]
        draw(root, f"animals/{'cdfh'[number % 4]}at_{number}", picture(number), "A wild animal", words)
    for number in range(4):
        draw(root, f"tools/hand/{'abcd'[number]}_tool", picture(20 + number))
    draw(root, "unsorted/x", picture(30))
    draw(root, "tools/blank", encode(Image.new("RGB", (50, 80), "white")))
    draw(root, "tools/copy", picture(20))
    draw(root, "tools/shared", picture(31))
    draw(root, "animals/shared", picture(31))
    (root / "png/tools/linked.png").symlink_to("../animals/cat_0.png")
    write(root / "png/tools/broken.png", b"no picture")
    examples = load_images(example_images())
    one, other = examples.split("test")[:2].tolist()
    draw(root, examples.path(one).removesuffix(".png"), picture(32))
    draw(root, "animals/near", encode(examples.image(other).rotate(1, fillcolor="white")))
    return root


@pytest.fixture(scope="module")
def built(library, tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "openclipart"
    return out, openclipart.build(out, library / "png", library / "svg", None)


@pytest.mark.slow
def test_each_drawing_is_kept_or_left_out_for_a_reason(built):
    counts = built[1]
    assert counts["left out"] == {
        "in the folder unsorted, which is no class": 1,
        "links to drawings of this or another folder": 1,
        "blank, or not readable": 2,
        "the same pixels as another one of the class": 1,
        "the same pixels in several classes": 2,
        "in clipart12's test split": 1,
        "near-duplicates of images of clipart12's test split": 1,
    }
    assert counts["kept"] == 16 and counts["drawings"] == 25
    assert {label: sum(splits.values()) for label, splits in counts["classes"].items()} == {"animals": 12, "tools": 4}


def test_set_is_read_as_images_with_texts_without_the_names_of_classes(built):
    images = load_images(built[0] / "images")
    assert images.classes == ("animals", "tools") and len(images) == 16 and not images.rejected
    assert images.image(0).size == (160, 160)
    texts = load_descriptions(images, str(built[0] / "captions.jsonl"))
    assert len(texts) == 12 == built[1]["with a text"]
    assert {json.loads(line)["text"] for line in (built[0] / "captions.jsonl").open()} == {"A wild. red, wild"}


def test_series_stay_within_a_split(built):
    splits = {path.name[:3]: path.parts[-3] for path in (built[0] / "images").rglob("animals/*.png")}
    for path in (built[0] / "images").rglob("animals/*.png"):
        assert splits[path.name[:3]] == path.parts[-3]
    assert len(set(splits.values())) > 1


def test_second_call_writes_what_is_missing_and_nothing_else(library, built):
    out, counts = built
    gone, *others = sorted((out / "images").rglob("*.png"))
    before, data = {path: path.stat().st_mtime_ns for path in others}, gone.read_bytes()
    gone.unlink()
    assert openclipart.build(out, library / "png", library / "svg", None) == counts
    assert gone.read_bytes() == data
    assert {path: path.stat().st_mtime_ns for path in others} == before


def test_fewer_of_a_class_are_a_part_of_the_same_drawings(library, built, tmp_path):
    counts = openclipart.build(tmp_path / "out", library / "png", library / "svg", 5)
    assert counts["left out"]["beyond the first 5 of a class in random order"] == 7
    names = [{path.name for path in (out / "images").rglob("*.png")} for out in (tmp_path / "out", built[0])]
    assert len(names[0]) == 9 and names[0] < names[1]


def test_package_is_unpacked_and_gives_the_same_set(library, built, tmp_path):
    for kind in ("png", "svg"):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:xz") as archive:
            archive.add(library / kind, f"./usr/share/openclipart/{kind}")
        parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": stream.getvalue()}
        package = b"!<arch>\n"
        for name, data in parts.items():
            package += (
                f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
            )
        (tmp_path / f"{kind}.deb").write_bytes(package)
    assert openclipart.build(tmp_path / "out", tmp_path / "png.deb", tmp_path / "svg.deb", None) == built[1]


def test_folder_without_drawings_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"holds no \.png files"):
        openclipart.build(tmp_path / "out", tmp_path, tmp_path, None)


def test_near_duplicates_differ_in_few_bits():
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 256, (n, 32), dtype=np.uint8) for n in (5, 7))
    second[3] = first[2]
    second[3, :20] ^= 1
    second[4] = first[2]
    second[4, :21] ^= 1
    found = [[bin(int.from_bytes((a ^ b).tobytes())).count("1") <= 20 for b in second] for a in first]
    assert openclipart.near(first, second).tolist() == found
    assert found[2][3] and not found[2][4]
