"""Images with masks: from folders and from COCO's outlines, with broken masks, palettes and colours."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from gpt4image import load_images
from gpt4image.core.errors import ConfigError, DataError
from gpt4image.core.options import SimulationOptions
from gpt4image.images.masks import VOID, decode_mask, is_background, read_mask_file, regions_of
from gpt4image.images.open import find_in_images
from gpt4image.images.simulate import simulate_labels
from gpt4image.images.sources.coco_masks import read_outline
from support.scenes import HEIGHT, NAMES, WIDTH, draw_scenes, mask_of, write_coco, write_masks

CLASSES = ("background", *NAMES)
SCENES = draw_scenes(16)
TOO_LONG = coco.encode(np.ones((400, 400), np.uint8, order="F"))["counts"].decode()
HALVES = {"validation_share": 0.2, "test_share": 0.2}


def load(source, **options):
    return load_images(source, task="segmentation", **options)


def masks_of(images):
    """The mask of each image, None where it is unknown, by the name of its file."""
    found = images.masks(np.arange(len(images)))
    paths = images.rows["path"].to_pylist()
    return {path.rpartition("/")[2]: mask and decode_mask(mask) for path, mask in zip(paths, found, strict=True)}


def write_pairs(folder, masks, size=(WIDTH, HEIGHT), **options):
    """Write noise as images, and masks (arrays or pictures) beside them by the same names."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number, mask in enumerate(masks):
        noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3))
        Image.fromarray(noise.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        picture.save(folder / "masks" / f"{number}.png", **options)
    return folder


@pytest.mark.parametrize("write", [write_masks, write_coco], ids=["folders", "coco"])
def test_masks_splits_and_regions_are_those_of_the_source(tmp_path, write):
    images = load(write(tmp_path / "set", SCENES))
    assert (images.classes, images.task, len(images)) == (CLASSES, "segmentation", 16)
    found = masks_of(images)
    splits = dict(zip(images.rows["path"].to_pylist(), images.rows["split"].to_pylist(), strict=True))
    for scene in SCENES:
        np.testing.assert_array_equal(found[f"{scene.name}.png"], mask_of(scene))
        assert {split for path, split in splits.items() if path.endswith(f"{scene.name}.png")} == {scene.split}
    counts = find_in_images(images)
    masks = np.stack([mask_of(scene) for scene in SCENES if scene.split == "train"])
    assert [counts["pixels"][name]["train"] for name in CLASSES] == np.bincount(masks.ravel(), minlength=4).tolist()
    assert counts["pixels"]["void"]["train"] == 0
    for row, path in enumerate(images.rows["path"].to_pylist()):
        (scene,) = (scene for scene in SCENES if path.endswith(f"{scene.name}.png"))
        boxes = {(CLASSES[int(label)], *corners) for label, *corners in images.boxes(np.array([row]))[0].tolist()}
        apart = write is write_coco  # patches of one colour that touch are one region of a mask
        assert boxes == set(scene.boxes) if apart else len(boxes) <= len(scene.boxes)


def test_broken_masks_are_left_out_by_name_and_images_without_one_have_no_label(tmp_path):
    folder = write_masks(tmp_path / "set", SCENES)
    names = [scene.name for scene in SCENES if scene.split == "train"]
    masks = folder / "masks" / "train"
    masks.joinpath(f"{names[0]}.png").write_bytes(b"no image")
    Image.new("L", (WIDTH, HEIGHT - 1)).save(masks / f"{names[1]}.png")
    whole = masks.joinpath(f"{names[2]}.png").read_bytes()
    masks.joinpath(f"{names[2]}.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(mask_of(SCENES[0]) + 9).save(masks / f"{names[3]}.png")
    Image.new("L", (WIDTH, HEIGHT), VOID).save(masks / f"{names[4]}.png")
    masks.joinpath(f"{names[5]}.png").unlink()
    masks.joinpath("nobody.png").write_bytes(whole)
    images = load(folder)
    said = {each.path.rpartition("/")[2]: each.reason for each in images.rejected}
    assert "not an image" in said[f"{names[0]}.png"] and f"masks/train/{names[0]}.png" in said[f"{names[0]}.png"]
    assert "was drawn on 96 x 63 pixels, and the file has 96 x 64" in said[f"{names[1]}.png"]
    assert "cut off" in said[f"{names[2]}.png"] or "cannot be" in said[f"{names[2]}.png"]
    assert "which are not among the classes" in said[f"{names[3]}.png"]
    assert "entirely void" in said[f"{names[4]}.png"]
    assert said["nobody.png"] == "no image has this name"
    assert len(images) == 11 and masks_of(images)[f"{names[5]}.png"] is None
    assert (~images.is_labelled).sum() == 1
    (folder / "masks" / "test" / f"{SCENES[3].name}.png").unlink()
    with pytest.raises(DataError, match=r"in the test split has no mask\. .* add the missing mask"):
        load(folder)


def test_photo_or_jpeg_in_place_of_a_mask_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    folder = write_pairs(tmp_path / "set", [noise, np.zeros((HEIGHT, WIDTH), np.uint8), np.eye(64, 96, dtype=np.uint8)])
    (folder / "masks" / "1.png").unlink()
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "masks" / "1.jpg")
    with pytest.raises(DataError, match="test"):  # a single image is left
        load(folder)
    Image.fromarray(np.eye(64, 96, dtype=np.uint8)).save(folder / "images" / "3.png")
    Image.fromarray(np.eye(64, 96, dtype=np.uint8)).save(folder / "masks" / "3.png")
    Image.fromarray(np.eye(64, 96, dtype=np.uint8) + 1).save(folder / "images" / "4.png")
    Image.fromarray(np.eye(64, 96, dtype=np.uint8)).save(folder / "masks" / "4.png")
    said = " ".join(each.reason for each in load(folder, **HALVES).rejected)
    assert "like a photo" in said and "alters classes" in said


def test_palette_indices_count_and_255_is_void(tmp_path):
    mask = mask_of(SCENES[0])
    mask[:2] = VOID
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette([value for index in range(256) for value in (index, 255 - index, 7)])
    images = load(write_pairs(tmp_path / "set", [picture] * 6), **HALVES)
    assert images.classes == tuple(str(value) for value in np.unique(mask) if value != VOID)
    kept = np.unique(mask[mask != VOID])
    numbers = np.full(256, VOID, np.uint8)
    numbers[kept] = np.arange(len(kept))
    np.testing.assert_array_equal(masks_of(images)["0.png"], numbers[mask])


def test_masks_of_0_and_255_are_background_and_foreground(tmp_path):
    mask = (mask_of(SCENES[0]) > 0).astype(np.uint8)
    images = load(write_pairs(tmp_path / "set", [255 * mask] * 6), **HALVES)
    assert images.classes == ("background", "foreground")
    np.testing.assert_array_equal(masks_of(images)["0.png"], mask)


@pytest.mark.parametrize("named", ["labelmap.txt", "class_dict.csv", None])
def test_colours_are_classes_by_the_file_that_names_them_or_by_themselves(tmp_path, named):
    colours = np.array([(0, 0, 0), (10, 20, 30), (0, 200, 0), (128, 0, 0)], np.uint8)
    folder = write_pairs(tmp_path / "set", [colours[mask_of(scene)] for scene in SCENES])
    lines = {
        "labelmap.txt": [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(CLASSES, colours, strict=True)],
        "class_dict.csv": [
            "name,r,g,b",
            *(f"{n},{r},{g},{b}" for n, (r, g, b) in zip(CLASSES, colours, strict=True)),
        ],
    }
    if named:
        (folder / named).write_text("\n".join(lines[named]))
    images = load(folder)
    expected = CLASSES if named else ("#000000", "#00c800", "#0a141e", "#800000")
    assert images.classes == expected
    order = np.array([0, 1, 2, 3] if named else [0, 2, 1, 3], np.uint8)
    np.testing.assert_array_equal(masks_of(images)["0.png"], order[mask_of(SCENES[0])])


def test_regions_are_parts_of_a_class_that_are_large_enough_the_largest_first():
    mask = np.zeros((600, 90), np.uint8)
    mask[:30, :40], mask[:4, 50:54], mask[10:13, 50:80], mask[20:28, 60:70], mask[40:, :] = 2, 1, 1, 1, VOID
    assert regions_of(mask, {0}) == [(2, (0, 0, 40, 30)), (1, (60, 20, 70, 28)), (1, (50, 0, 54, 4))]
    many = np.kron(np.eye(60, dtype=np.uint8), np.ones((5, 5), np.uint8))[:300] * (np.arange(300) % 5 < 4)
    assert len(regions_of(many, {0})) == 50 and [is_background(name) for name in ("Background", "0", "1")] == [1, 1, 0]


def test_grey_colours_are_indices_and_the_first_channel_of_two_counts(tmp_path):
    masks = [mask_of(scene) for scene in SCENES[:6]]
    pairs = [np.stack([mask, 255 - mask], axis=2) for mask in masks]
    for name, pictures in (
        ("rgb", [Image.fromarray(np.stack([mask] * 3, axis=2)) for mask in masks]),
        ("la", [Image.fromarray(pair, "LA") for pair in pairs]),
    ):
        images = load(write_pairs(tmp_path / name, pictures), **HALVES)
        assert images.classes == ("0", "1", "2", "3")
        np.testing.assert_array_equal(masks_of(images)["1.png"], masks[1])


@pytest.mark.parametrize(("named", "colours"), [("classes.txt", False), ("class_dict.csv", True), (None, True)])
def test_classes_called_void_and_the_edges_of_pascal_voc_take_no_part(tmp_path, named, colours):
    table = np.array([(0, 0, 0), (224, 224, 192), (0, 200, 0), (128, 0, 0)], np.uint8)
    masks = [mask_of(scene) for scene in SCENES]
    folder = write_pairs(tmp_path / "set", [table[mask] if colours else mask for mask in masks])
    names = ["background", "Void", "green", "red"]
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(names, table.tolist(), strict=True)]
    if named:
        (folder / named).write_text("\n".join(rows if colours else names))
    images = load(folder, **HALVES)
    assert images.classes == (("background", "green", "red") if named else ("#000000", "#00c800", "#800000"))
    for at, mask in enumerate(masks):
        np.testing.assert_array_equal(masks_of(images)[f"{at}.png"], np.array([0, VOID, 1, 2], np.uint8)[mask])


def test_masks_may_end_in_mask_and_those_of_unlabelled_images_are_not_read(tmp_path):
    folder = write_masks(tmp_path / "set", SCENES)
    train = folder / "masks" / "train"
    for file in list(train.iterdir()):
        file.rename(file.with_stem(f"{file.stem}_mask"))
    for part, content in (("images", None), ("masks", b"no image")):
        (folder / part / "unlabelled").mkdir()
        target = folder / part / "unlabelled" / "more.png"
        Image.new("RGB", (WIDTH, HEIGHT)).save(target) if content is None else target.write_bytes(content)
    images = load(folder)
    assert images.is_labelled.sum() == 16 and masks_of(images)["more.png"] is None and not images.rejected
    (train / f"{SCENES[0].name}_mask.bmp").write_bytes((train / f"{SCENES[0].name}_mask.png").read_bytes())
    with pytest.raises(DataError, match="have the same name"):
        load(folder)


def test_more_values_than_masks_can_hold_are_no_classes(tmp_path):
    masks = [(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 100 + 100 * at).astype(np.uint16) for at in range(3)]
    with pytest.raises(DataError, match="different values, but at most 255 classes"):
        load(write_pairs(tmp_path / "set", masks))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("classes.txt", b"background\n\nred", "line 2 is empty"),
        ("classes.txt", b"caf\xe9", "cannot be read as text in UTF-8"),
        ("classes.txt", b"red\nred\n", "names the class red twice"),
        ("class_dict.csv", b"name,r,g,b\na,0,0,0\nb,0,0,0", "line 3: b has the same colour as a"),
        ("class_dict.csv", b"a,0,0,256", "line 1: 'a,0,0,256' is not a name and a colour"),
        ("labelmap.txt", b"# label\na:0,0::", "line 2: 'a:0,0::' is not a name and a colour"),
    ],
)
def test_broken_file_of_class_names_is_named_with_its_line(tmp_path, name, content, said):
    folder = write_pairs(tmp_path / "set", [mask_of(SCENES[0])])
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        load(folder)


def test_palettes_that_differ_make_colours_the_classes(tmp_path):
    pictures = []
    for scene, order in ((SCENES[0], (0, 1, 2, 3)), (SCENES[1], (0, 2, 1, 3))):
        colours = [(0, 0, 0), (10, 20, 30), (0, 200, 0), (128, 0, 0)]
        picture = Image.fromarray(np.argsort(order).astype(np.uint8)[mask_of(scene)]).convert("P")
        picture.putpalette([value for index in order for value in colours[index]])
        pictures += [picture] * 3
    images = load(write_pairs(tmp_path / "set", pictures), **HALVES)
    for name, scene in (("0.png", SCENES[0]), ("3.png", SCENES[1])):
        names = np.array(images.classes)[masks_of(images)[name]]
        expected = np.array(["#000000", "#0a141e", "#00c800", "#800000"])
        np.testing.assert_array_equal(names, expected[mask_of(scene)])


@pytest.mark.parametrize("named", [True, False], ids=["classes.txt", "unnamed"])
@pytest.mark.parametrize("coloured", [1, 5])
def test_of_masks_with_colours_and_with_indices_the_fewer_are_left_out(tmp_path, coloured, named):
    mask = mask_of(SCENES[0])
    colours = np.array([(0, 0, 0), (10, 20, 30), (0, 200, 0), (128, 0, 0)], np.uint8)[mask]
    folder = write_pairs(tmp_path / "set", [colours] * coloured + [mask] * (6 - coloured))
    if named:
        (folder / "masks" / "classes.txt").write_text("\n".join(CLASSES))
    if named and coloured == 5:
        with pytest.raises(DataError, match=r"use class_dict\.csv instead"):
            load(folder, **HALVES)
        return
    images = load(folder, **HALVES)
    (out,) = images.rejected
    assert out.path == ("images/0.png" if coloured == 1 else "images/5.png") and "not among the classes" in out.reason
    assert len(images) == 5


def test_pascal_voc_folders_follow_their_lists(tmp_path):
    folder = tmp_path / "voc"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for scene in SCENES:
        scene.picture.save(folder / "JPEGImages" / f"{scene.name}.jpg")
        Image.fromarray(mask_of(scene)).save(folder / "SegmentationClass" / f"{scene.name}.png")
    for name, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        stems = [scene.name for scene in SCENES[:-1] if scene.split == split]
        (folder / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(stems))
    images = load(folder)
    assert len(images) == 15 and images.classes == ("0", "1", "2", "3")
    assert [len(images.split(name)) for name in ("train", "validation", "test")] == [8, 4, 3]
    assert (
        "is not listed in" in {each.path: each.reason for each in images.rejected}[f"JPEGImages/{SCENES[-1].name}.jpg"]
    )


def change(folder, split, edit):
    file = folder / "annotations" / f"instances_{split}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_run_lengths_crowds_and_overlaps_are_painted_as_pycocotools_decodes_them(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    large, small, crowd = (np.zeros((HEIGHT, WIDTH), np.uint8, order="F") for _ in range(3))
    large[10:50, 10:80], small[20:30, 20:30], crowd[0:16, 0:16] = 1, 1, 1  # the crowd reaches below the large one

    def edit(content):
        image, (first, second, *_) = content["images"][0]["id"], content["categories"]
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] != image]
        packed = coco.encode(small)
        edges = np.flatnonzero(np.diff(large.ravel(order="F").astype(int))) + 1
        flat = np.diff([0, *edges, large.size]).tolist()
        for region, category, extra in (
            ({"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}, second, {"bbox": [20, 20, 10, 10]}),
            ({"size": [HEIGHT, WIDTH], "counts": flat}, first, {}),
            ({"size": [HEIGHT, WIDTH], "counts": coco.encode(crowd)["counts"].decode()}, first, {"iscrowd": 1}),
        ):
            content["annotations"].append(
                {"id": 99, "image_id": image, "category_id": category["id"], "segmentation": region, **extra}
            )

    change(folder, "train", edit)
    images = load(folder)
    names = [
        each["name"] for each in json.loads((folder / "annotations/instances_train.json").read_text())["categories"]
    ]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[crowd > 0] = VOID
    expected[large > 0] = CLASSES.index(names[0])
    expected[small > 0] = CLASSES.index(names[1])
    np.testing.assert_array_equal(masks_of(images)["000.png"], expected)
    boxes = images.boxes(np.array([images.rows["path"].to_pylist().index("images/000.png")]))[0]
    assert {tuple(box[1:]) for box in boxes.tolist()} == {(20, 20, 30, 30), (10, 10, 80, 50)}
    assert "crowd" in images.rejected_boxes[0].reason


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ([[1, 2, 3, 4]], "is not a list of at least three points"),
        ([[1, 2, 3, 4, float("nan"), 6]], "extends far beyond"),
        ([[1, 2, 1e9, 4, 5, 6]], "extends far beyond"),
        ({"size": [1, 1], "counts": [1]}, "are for a picture of size"),
        ({"size": [HEIGHT, WIDTH], "counts": [5, 5]}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": TOO_LONG}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "8"}, "do not add up"),
        ({"size": [HEIGHT, WIDTH], "counts": "PPPPPPPP8"}, "cannot be read"),
        ({"size": [HEIGHT, WIDTH], "counts": "8\u00e9"}, "cannot be read"),
        (None, "has no outline"),
    ],
)
def test_object_with_a_broken_outline_makes_its_box_void_and_is_named(tmp_path, outline, said):
    folder = write_coco(tmp_path / "set", SCENES)
    change(folder, "train", lambda content: content["annotations"][0].update(segmentation=outline))
    images = load(folder)
    (left,) = images.rejected_boxes
    assert left.where == "instances_train.json, annotation 0" and said in left.reason
    _, x, y, right, bottom = SCENES[0].boxes[0]
    assert (masks_of(images)["000.png"][y:bottom, x:right] == VOID).all()
    for box, void in (([2.6, 3.5, 1.2, 1.1], (slice(3, 5), slice(2, 4))), ([200, 200, 9, 9], (slice(0), slice(0)))):
        change(folder, "train", lambda content, box=box: content["annotations"][0].update(bbox=box))
        mask = masks_of(load(folder))["000.png"] == VOID
        assert mask[void].all() and mask.sum() == mask[void].size
    change(folder, "train", lambda content: content["annotations"][0].pop("bbox"))
    images = load(folder)
    (rejected,) = images.rejected
    assert rejected.path == "images/000.png" and "the place of an object is unknown" in rejected.reason


def peak_bytes(function):
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_reading_a_large_mask_takes_few_times_its_pixels(tmp_path, mode):
    picture = Image.new(mode, (2000, 1000), 0)
    picture.paste(1 if mode != "RGB" else (9, 9, 9), (5, 5, 50, 60))
    picture.save(tmp_path / "mask.png")
    found, peak = peak_bytes(lambda: read_mask_file(tmp_path / "mask.png", 2_000_000))
    assert decode_mask(found.places).sum() == 45 * 55 and len(found.values) == 2
    assert peak < (16 if mode == "RGB" else 6) * 2_000_000


def test_masks_obey_the_limit_of_pixels(tmp_path):
    folder = write_pairs(tmp_path / "set", [np.eye(HEIGHT, WIDTH, dtype=np.uint8)] * 6)
    with pytest.raises(DataError, match=r"mask masks/0.png cannot be used: 96 x 64 pixels are more .*max_pixels"):
        load(folder, max_pixels=HEIGHT * WIDTH - 1, **HALVES)
    assert len(load(folder, max_pixels=HEIGHT * WIDTH, **HALVES)) == 6


def test_many_objects_take_the_memory_of_one_picture(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    side = 800
    Image.new("RGB", (side, side)).save(folder / "images" / "000.png")

    def edit(content):
        content["images"][0].update(width=side, height=side)
        (one,) = [each for each in content["annotations"] if each["image_id"] == content["images"][0]["id"]][:1]
        one["segmentation"] = [[10, 10, 20, 10, 20, 20]]
        content["annotations"] = [one | {"id": 900 + number} for number in range(60)] + content["annotations"]

    change(folder, "train", edit)
    images, peak = peak_bytes(lambda: load(folder))
    assert (masks_of(images)["000.png"] > 0).any() and peak < 30 * side * side


def test_a_picture_that_is_missing_gets_no_mask_of_the_size_that_is_written_down(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    (folder / "images" / "000.png").write_bytes(b"no picture")
    change(folder, "train", lambda content: content["images"][0].update(width=10**7, height=10**7))
    assert "not an image" in {each.path: each.reason for each in load(folder).rejected}["images/000.png"]


def test_labels_are_not_simulated_of_masks(tmp_path):
    images = load(write_masks(tmp_path / "set", SCENES))
    assert simulate_labels(images, SimulationOptions(), 0) is images
    with pytest.raises(ConfigError, match="these images have masks: leave out label_share"):
        simulate_labels(images, SimulationOptions(label_share=0.5), 0)


def test_compressed_run_lengths_are_those_of_pycocotools():
    generator = np.random.default_rng(0)
    for _ in range(20):
        region = np.zeros((37, 41), np.uint8, order="F")
        for x, y, right, bottom in generator.integers(0, 42, (6, 4)):
            region[y:bottom, x:right] ^= 1
        region[0, 0] = 1
        counts = coco.encode(region)["counts"].decode()
        found, _ = read_outline({"segmentation": {"size": [37, 41], "counts": counts}}, (41, 37))
        np.testing.assert_array_equal(found, region > 0)


def test_objects_without_a_category_are_void_and_an_image_of_them_alone_is_left_out(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    change(folder, "train", lambda content: content["annotations"][0].pop("category_id"))
    images = load(folder)
    _, x, y, right, bottom = SCENES[0].boxes[0]
    assert (masks_of(images)["000.png"][y:bottom, x:right] == VOID).all()
    assert images.rejected_boxes[0].reason == "has no category_id"
    whole = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]
    change(folder, "train", lambda content: content["annotations"][0].update(segmentation=whole))
    assert load(folder).rejected[0].reason == "its mask is entirely void"


def test_files_of_boxes_alone_and_folders_without_masks_are_refused(tmp_path):
    folder = write_coco(tmp_path / "set", SCENES)
    for split in ("train", "validation", "test"):
        change(folder, split, lambda content: [each.pop("segmentation") for each in content["annotations"]])
    with pytest.raises(DataError, match=r"no object has a usable outline.*annotation 0 .has no outline"):
        load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="contains no readable masks"):
        load(tmp_path / "empty")
    with pytest.raises(ConfigError, match="reads masks from folders"):
        load(folder, label_separator=",")
