"""Search, zero-shot answers and maps in the text space of a trained run."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from gpt4image import Recipe, answer_zero_shot, map_images, search_images, train_model
from gpt4image.cli.main import main
from gpt4image.core.errors import ConfigError
from gpt4image.images.load import load_pictures
from gpt4image.report.search_pages import MapPoint, Match, write_map_page, write_search_page
from gpt4image.workflows.search import index_pictures, project
from support.page_checks import (
    HOSTILE,
    Page,
    assert_hostile_text_is_text,
    assert_well_structured,
    evaluated,
    measured,
)
from support.report_sample import make_thumbnail

pytestmark = pytest.mark.slow  # a model is trained first

NAMES = ["red/001.png", "blue/001.png", "red/002.png"]


@pytest.fixture(scope="module")
def work(images, store, descriptions, tmp_path_factory):
    """A work directory with a model that knows colours."""
    folder = tmp_path_factory.mktemp("search")
    recipe = Recipe(backbone="resnet10t", pretrained=False, image_size=32, epochs=25, batch_size=8, lr=3e-3, weight=1.0)
    train_model(images, store, recipe, folder / "runs" / "described-0")
    (folder / "descriptions").mkdir()
    descriptions.save(folder / "descriptions" / "descriptions.parquet")
    return folder


@pytest.fixture
def pictures(image_set, tmp_path):
    """A flat folder of pictures: a copy, a broken file and one in a folder below."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for colour in ("red", "green", "blue"):
        for number in range(4):
            shutil.copy(image_set / colour / f"{number:03}.png", folder / f"{colour}-{number}.png")
    shutil.copy(image_set / "red" / "005.png", folder / "more" / "red-5.png")
    shutil.copy(folder / "red-0.png", folder / "red-0-copy.png")
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    return folder


def test_words_find_the_images_that_they_describe(work, pictures, capsys):
    found = search_images(str(pictures), "A red disc on a pale, noisy ground", top=99, work=work)
    of_red, others = ([match.score for match in found if ("red" in match.path) is red] for red in (True, False))
    assert np.mean(of_red) > np.mean(others) + 0.05 and "red" in found[0].path
    scores = [match.score for match in found]
    assert scores == sorted(scores, reverse=True) and max(scores) <= 1
    assert found[0].text and "red" in found[0].text and found[0].thumbnail is None
    assert "left out: 2 files, such as broken.png" in capsys.readouterr().err


def test_scores_are_cosines_of_the_projected_images(work, pictures):
    index = index_pictures(str(pictures), work=work)
    assert len(index.rows) == 13
    np.testing.assert_allclose(np.linalg.norm(index.vectors, axis=1), 1, atol=1e-3)
    query = index.space.encode(["a blue bar"])[0]
    found = {match.path: match.score for match in search_images(str(pictures), "a blue bar", top=99, work=work)}
    assert len(found) == 13
    for at, row in enumerate(index.rows):
        assert found[index.images.path(int(row))] == pytest.approx(float(index.vectors[at] @ query), abs=1e-6)


def test_only_new_images_are_computed(work, pictures, monkeypatch):
    from gpt4image.teachers.models import ProjectedTeacher

    counts = []
    real = ProjectedTeacher.predict
    search_images(str(pictures), "red", work=work)
    monkeypatch.setattr(
        ProjectedTeacher, "predict", lambda self, images: counts.append(len(images)) or real(self, images)
    )
    search_images(str(pictures), "blue", work=work)
    assert sum(counts) == 1  # the width is measured on an empty image
    Image.new("RGB", (40, 40), (200, 50, 40)).save(pictures / "new.png")
    search_images(str(pictures), "blue", work=work)
    assert sum(counts) == 3


def test_an_index_answers_several_questions(work, pictures, monkeypatch):
    index = index_pictures(str(pictures), work=work)
    expected = search_images(str(pictures), "red", work=work)
    monkeypatch.setattr("gpt4image.workflows.search.index_pictures", None)
    assert search_images(index, "red") == expected
    assert len(answer_zero_shot(index, ["red", "blue"]).answers) == len(index.rows)
    with pytest.raises(TypeError, match="workers: settings of index_pictures"):
        search_images(index, "red", workers=2)


def test_classes_are_told_by_their_names_without_training(work, image_set, tmp_path):
    found = answer_zero_shot(str(image_set), ["blue", "green", "red"], work=work)
    right = [each.answers[0][0] == each.label for each in found.answers]
    assert found.checked == 36 and found.accuracy.mean == pytest.approx(np.mean(right))
    assert found.accuracy.mean > 0.5 and found.accuracy.low < found.accuracy.mean  # a third by chance
    with pytest.raises(ConfigError, match="two classes"):
        answer_zero_shot(str(image_set), ["red"], work=work)


def test_an_image_is_of_the_class_whose_texts_are_nearest(work, image_set, tmp_path):
    (tmp_path / "classes.csv").write_text("class,text\nwarm,a red disc\nwarm,a red bar\ncold,a blue bar\n")
    index = index_pictures(str(image_set), work=work)
    found = answer_zero_shot(index, tmp_path / "classes.csv", top=1)
    first, second, cold = index.space.encode(["a red disc", "a red bar", "a blue bar"])
    warmer = index.vectors @ ((first + second) / np.linalg.norm(first + second) - cold)
    assert [each.answers[0][0] == "warm" for each in found.answers] == (warmer > 0).tolist()
    assert found.accuracy is None
    of_red, of_blue = (
        [warmth for each, warmth in zip(found.answers, warmer, strict=True) if each.path.startswith(colour)]
        for colour in ("red", "blue")
    )
    assert np.mean(of_red) > np.mean(of_blue) + 0.1


def test_commands_print_tables(work, pictures, tmp_path, capsys, monkeypatch):
    (tmp_path / "names.txt").write_text("red\nblue\n")
    space = ["--work", str(work)]
    page = tmp_path / "found.html"
    assert main(["search", str(pictures), "a red disc", "--top", "2", "--html", str(page), "--csv", *space]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 2 and "red" in rows[0]["path"] and -1 <= float(rows[0]["score"]) <= 1
    html = page.read_text("utf-8")
    assert html.count("data:image/jpeg") == 2 and "a red disc" in html
    assert main(["zero-shot", str(pictures), "--classes", str(tmp_path / "names.txt"), "--json", *space]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["images"]) == 13 and found["accuracy"] is None
    assert {answer["class"] for answer in found["images"][0]["answers"]} == {"red", "blue"}
    assert main(["map", str(pictures), "--out", str(tmp_path / "map.html"), *space]) == 0
    assert main(["search", str(pictures), " ", *space]) == 1
    assert "query is empty" in capsys.readouterr().err
    assert main(["search", str(pictures), "red", "--work", str(tmp_path / "none")]) == 1
    assert "contains no run that was aligned with texts" in " ".join(capsys.readouterr().err.split())


def test_map_keeps_neighbours_and_is_repeatable(work, image_set, tmp_path):
    first = map_images(str(image_set), tmp_path / "a.html", work=work)
    assert first.read_bytes() == map_images(str(image_set), tmp_path / "b.html", work=work).read_bytes()
    points = np.random.default_rng(0).normal(size=(3, 40)).repeat(20, axis=0)
    points += np.random.default_rng(1).normal(size=points.shape) * 0.05
    for method in ("tsne", "pca"):
        places = project(points, method)
        assert places.min() == 0 and places.max() == 1
        near = NearestNeighbors(n_neighbors=6).fit(places).kneighbors(return_distance=False)
        assert (near // 20 == np.arange(60)[:, None] // 20).mean() > 0.95
    few = map_images(str(image_set), tmp_path / "few.html", most=5, method="pca", work=work).read_text("utf-8")
    assert few.count("<circle") == 5 and "A random choice of 36 images" in few


def test_pictures_need_no_classes_and_keep_those_they_have(image_set, pictures):
    flat, classed = load_pictures(str(pictures)), load_pictures(str(image_set))
    assert len(flat) == 13 and (flat.labels == -1).all()
    assert len(classed) == 36 and classed.classes == ("blue", "green", "red") and (classed.labels >= 0).all()
    assert set(classed.rows["split"].to_pylist()) == {"train"}


def test_labels_of_a_table_are_kept(tmp_path, image_set):
    table = pa.table(
        {
            "image": [{"bytes": (image_set / name).read_bytes(), "path": "same.png"} for name in NAMES],
            "label": ["red", "blue", "red"],
        }
    )
    pq.write_table(table, tmp_path / "images.parquet")
    found = load_pictures(str(tmp_path / "images.parquet"))
    assert [found.classes[label] for label in found.labels] == ["red", "blue", "red"]


def hostile_point(**changes):
    fields = {"path": HOSTILE, "score": 0.5, "label": HOSTILE, "text": HOSTILE, "thumbnail": make_thumbnail()}
    return MapPoint(**fields | changes)


def test_hostile_text_is_text_on_the_search_page(tmp_path):
    matches = [Match(HOSTILE, 0.4, HOSTILE, HOSTILE, make_thumbnail()), Match("a", -0.1)]
    path = write_search_page(tmp_path / "page.html", HOSTILE, HOSTILE, 5, HOSTILE, matches)
    html = path.read_text("utf-8")
    assert_hostile_text_is_text(html)
    assert_well_structured(Page(html))
    with pytest.raises(ValueError, match="thumbnail"):
        write_search_page(path, "a", "b", 1, "c", [Match("a", 0.4, thumbnail="http://evil.example/x.png")])


def test_hostile_text_is_text_on_the_map(dump_dom, tmp_path):
    points = [hostile_point(x=0.1, y=0.2), hostile_point(x=0.9, y=0.7, label=None, text=None, thumbnail=None)]
    path = write_map_page(tmp_path / "map.html", HOSTILE, 2, HOSTILE, "tsne", points)
    html = path.read_text("utf-8")
    assert html.count("<script") == 2 and "</script><img" not in html
    assert re.search(r"script-src 'sha256-[\w+/=]{44}'", html)
    dom = dump_dom(path)
    assert dom[dom.index("<title>") + 7 :].startswith("gpt4image map")
    assert "<img src=x" not in dom
    with pytest.raises(ValueError, match="thumbnail"):
        write_map_page(path, "a", 1, "b", "pca", [hostile_point(thumbnail="http://evil.example/x.png")])


@pytest.mark.parametrize("width", [1200, 400])
def test_map_shows_an_image_in_a_browser(dump_dom, tmp_path, width):
    points = [MapPoint(f"tools/{at}.png", 0, "tools" if at % 2 else "food", f"text {at}", make_thumbnail(), at / 9, 0.5)
              for at in range(10)]  # fmt: skip
    path = write_map_page(tmp_path / "map.html", "photos", 10, "described-0", "tsne", points)
    key = "document.querySelector('.map svg').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))"
    choose = "choice.value = '1', choice.dispatchEvent(new Event('change'))"
    text = "document.querySelector('#shown').innerText + '|' + document.querySelector('#count').innerText"
    shown = evaluated(dump_dom, path, tmp_path, width, f"({key}, {choose}, {text})")
    assert "tools/0.png" in shown and "text 0" in shown and shown.endswith("5 images")
    wide, of = measured(dump_dom, path, tmp_path, width).split(" of ")
    assert int(wide) <= int(of)
