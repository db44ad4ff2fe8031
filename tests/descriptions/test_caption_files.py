"""Captions in the files of other tools, as their own documentation lays them out."""

import json

import pytest

from gpt4image import load_descriptions, load_images
from gpt4image.core.errors import DescriptionError
from gpt4image.descriptions.caption_files import read_captions
from gpt4image.descriptions.exchange import import_descriptions
from gpt4image.descriptions.store import DescriptionStore
from support.image_files import class_folders


@pytest.fixture
def images(tmp_path):
    class_folders(tmp_path / "photos" / "train2017", {"cat": 3, "dog": 3})
    return load_images(tmp_path / "photos" / "train2017", validation_share=0, test_share=0)


def texts(images, source, **settings):
    """Sorted pairs of path and text."""
    found = load_descriptions(images, str(source), **settings)
    path_of = dict(zip(images.rows["id"].to_pylist(), images.rows["path"].to_pylist(), strict=True))
    return sorted((path_of[image_id], text) for image_id, text in found.pairs())


def saved(path, value):
    path.write_text(json.dumps(value))
    return path


def test_coco_captions_are_joined_by_the_end_of_the_path(images, tmp_path, capsys):
    names = {7: "cat/000.png", 9: "dog/001.png"}
    file = saved(
        tmp_path / "captions_train2017.json",
        {
            "info": {"year": 2017},
            "images": [{"id": number, "file_name": f"train2017/{name}", "height": 8} for number, name in names.items()],
            "annotations": [
                {"id": 1, "image_id": 7, "caption": "A cat."},
                {"id": 2, "image_id": 9, "caption": "A dog."},
                {"id": 3, "image_id": 7, "caption": "A cat on a mat."},
            ],
        },
    )
    assert texts(images, file) == [
        ("cat/000.png", "A cat on a mat."),
        ("cat/000.png", "A cat."),
        ("dog/001.png", "A dog."),
    ]
    assert "3 texts matched by the end of the path, such as 'train2017/cat/000.png'" in " ".join(
        capsys.readouterr().err.split()
    )


LLAVA = [
    {
        "id": "000",
        "image": "coco/train2017/cat/000.png",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": "A cat."},
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "On a mat."},
        ],
    },
    {"id": "text only", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
]
MESSAGES = [
    {
        "images": ["dog/002.png"],
        "messages": [
            {"role": "user", "content": "<image>Describe."},
            {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]},
        ],
    }
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize(
    ("records", "expected"),
    [(LLAVA, [("cat/000.png", "A cat. On a mat.")]), (MESSAGES, [("dog/002.png", "A dog.")])],
    ids=["llava", "messages"],
)
def test_answers_of_a_conversation_are_one_text(images, tmp_path, suffix, records, expected):
    file = tmp_path / f"chat{suffix}"
    file.write_text(json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records)))
    assert texts(images, file) == expected


def test_mapping_from_path_to_one_caption_or_several(images, tmp_path):
    file = saved(tmp_path / "captions.json", {"cat/000.png": "A cat.", "dog/001.png": ["A dog.", "Brown."]})
    assert texts(images, file) == [("cat/000.png", "A cat."), ("dog/001.png", "A dog."), ("dog/001.png", "Brown.")]
    rows = saved(tmp_path / "rows.json", [{"filename": "cat/001.png", "title": "x", "description": "A cat."}])
    assert texts(images, rows) == [("cat/001.png", "A cat.")]
    assert texts(images, rows, text_column="title") == [("cat/001.png", "x")]


def test_shards_of_file_names_with_colon_and_tab(images, tmp_path):
    class_folders(tmp_path / "photos" / "train2017", {"fox": 0})
    for number, line in enumerate(["train2017/cat/002.png:\ta cat: sitting\n", "dog/000.png:\ta dog, running\n\n"]):
        (tmp_path / f"imagenet_CoCa_{number}_of_2.csv").write_text(line)
    expected = [("cat/002.png", "a cat: sitting"), ("dog/000.png", "a dog, running")]
    assert texts(images, tmp_path / "imagenet_CoCa_*_of_2.csv") == expected


def test_file_name_of_several_images_is_refused(images, tmp_path):
    file = tmp_path / "imagenet_CoCa_0_of_1.csv"
    file.write_text("000.png:\ta cat\n")
    with pytest.raises(DescriptionError, match=r"'000\.png' matches the ends of 2 image paths"):
        load_descriptions(images, str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ('"text"', "holds str, not captions"),
        ('{"a.png": 3}', "'a.png': a caption must be text, not int"),
        ('{"images": [], "annotations": [{"bbox": [], "image_id": 1}]}', "annotation 1 has no caption"),
        ('{"images": [], "annotations": [{"caption": "x", "image_id": 1}]}', "not a COCO caption file"),
        ('[{"image": "a.png", "url": "x"}]', r"record 1: needs the path of an image .* it has image, url"),
        ('["a.png"]', "record 1 is not an object"),
    ],
)
def test_broken_files_are_named_with_what_is_wrong(tmp_path, content, message):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(DescriptionError, match=message):
        list(read_captions(tmp_path / "captions.json", None))


def test_texts_without_an_image_are_counted(images, tmp_path):
    file = saved(tmp_path / "captions.json", {"cat/000.png": "A cat.", "gone.png": "?"})
    with pytest.raises(DescriptionError, match="1 of 2 texts match no image"):
        load_descriptions(images, str(file))
    assert load_descriptions(images, str(file), orphan_texts="skip").coverage.orphans == 1


def test_captions_of_other_tools_are_imported_once(images, tmp_path):
    captions = {
        "images": [{"id": 7, "file_name": "train2017/cat/000.png"}],
        "annotations": [{"image_id": 7, "caption": text} for text in ("A cat.", "A cat on a mat.", "")],
    }
    store = DescriptionStore(tmp_path / "store")
    for added, known in ((2, 0), (0, 2)):
        found = import_descriptions(saved(tmp_path / "captions.json", captions), images, store, model="people")
        assert (found.added, found.known, found.empty, found.by_end) == (added, known, 1, 3)
    captions["images"][0]["file_name"] = "zebra.png"
    with pytest.raises(DescriptionError, match=r"2 of 2 texts match no image in .*'zebra.png'"):
        import_descriptions(saved(tmp_path / "captions.json", captions), images, store)
    conversation = [{"image": "cat/001.png", "conversations": [{"from": "gpt", "value": "A tabby."}]}]
    assert import_descriptions(saved(tmp_path / "llava.json", conversation), images, store).added == 1
