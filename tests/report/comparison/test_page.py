"""The whole page: complete, self-contained and reproducible, whatever the records contain."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from gpt4image.compare.records import (
    CommandRecord,
    Gallery,
    GroupRecord,
    MeasureRecord,
    ModelRecord,
    TextOriginRecord,
    UsedModelRecord,
)
from gpt4image.core.errors import StoreError
from gpt4image.core.format import NOTHING
from gpt4image.probing.calibration import ReliabilityBin
from gpt4image.report import write_report
from gpt4image.report.comparison.figures import style_number
from gpt4image.report.html.svg import COLOURS, GRID, INK, MUTED
from support.page_checks import Page, assert_self_contained, assert_well_structured, cut_off_tables
from support.report_sample import (
    make_comparison,
    make_confusion,
    make_data,
    make_history,
    make_item,
    make_per_class,
    save,
)


def write(work, comparison, gallery=None):
    html = write_report(save(work, comparison, gallery)).read_text("utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    gallery = Gallery(items=[make_item(group) for group in ("both right", "both wrong", "broken", "mended")])
    return write(tmp_path_factory.mktemp("plain"), make_comparison(), gallery)


def test_sections_are_in_order(plain):
    html, page = plain
    assert_self_contained(html, page)
    marks = ["made the model better", 'id="seeds"', 'id="curves"', 'id="classes"', 'id="confusion"', 'id="gallery"',
             "Fixed:", "Broken:", "Wrong with and without", "Right with and without", 'id="method"',
             "Recipe"]  # fmt: skip
    places = [html.index(mark) for mark in marks]
    assert places == sorted(places)
    assert [split in page.words for split in ("1,204", "176", "450")] == [True] * 3


def test_figures_are_labelled_scalable_and_coloured_by_the_page(plain):
    html, page = plain
    figures = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    assert len(figures) == 8
    assert all(attrs["aria-label"] and "width" not in attrs and "height" not in attrs for attrs in figures)
    drawn = " ".join(re.findall(r"<svg viewbox.*?</svg>", html, re.DOTALL | re.IGNORECASE))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn)
    for name in ("ink", "muted", "grid", "arm-0", "arm-1"):
        assert f"var(--{name})" in drawn


def test_page_is_well_structured(plain):
    assert_well_structured(plain[1])


def test_same_records_give_the_same_bytes(tmp_path):
    first, _ = write(tmp_path / "a", make_comparison())
    second, _ = write(tmp_path / "b", make_comparison())
    assert first == second


def test_matplotlib_settings_neither_matter_nor_change(tmp_path, plain):
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True, "font.size": 40, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        html, _ = write(tmp_path, make_comparison())
        assert dict(matplotlib.rcParams) == before
    figure = r'<svg viewBox="[^>]*aria-label="Test accuracy of every run.*?</svg>'
    assert re.search(figure, html, re.DOTALL)[0] == re.search(figure, plain[0], re.DOTALL)[0]


@pytest.mark.slow
def test_neither_pyplot_nor_torch_is_imported(tmp_path):
    save(tmp_path, make_comparison())
    code = (
        "import sys, pathlib, gpt4image.report as report\n"
        "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules\n"
        "report.write_report(pathlib.Path(sys.argv[1]))\n"
        "assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", code, str(tmp_path)], check=True
    )


@pytest.mark.parametrize("size", [1, 2, 30])
def test_few_classes_have_confusion_matrices(tmp_path, size):
    html, page = write(tmp_path, make_comparison(classes=[f"class {number}" for number in range(size)]))
    assert len([attrs for attrs in page.all("table") if "confusion" in attrs.get("class", "")]) == 3
    assert_self_contained(html, page)


def test_matrix_shades_are_shares_of_the_row(tmp_path):
    comparison = make_comparison(classes=["cat", "dog"])
    arm = comparison.arms[0].model_copy(update={"confusion": [[30, 10], [0, 0]]})
    html, _ = write(tmp_path, comparison.model_copy(update={"arms": [arm, comparison.arms[1]]}))
    table = html[html.index('class="confusion arm-0"') :]
    assert re.findall(r"--share:([\d.]+)\"[^>]*>(\d+)<", table)[:4] == [
        ("0.750", "30"), ("0.250", "10"), ("0.000", "0"), ("0.000", "0")]  # fmt: skip


@pytest.mark.slow
def test_thousand_classes_list_confusions(tmp_path):
    html, page = write(tmp_path, make_comparison(classes=[f"class {number:04}" for number in range(1000)]))
    assert 'class="confusion' not in html
    assert "Most frequent confusions" in html
    assert "Largest gains, in points (20 classes)" in page.words and "Largest losses" in page.words
    assert html.count('<th scope="row" class="name"><bdi>class ') == 1000 + 25
    assert "All 1,000 classes in numbers" in page.words and len(html) < 2_000_000


def test_most_frequent_confusion_comes_first(tmp_path):
    classes = [f"class {number:02}" for number in range(40)]
    comparison = make_comparison(classes=classes)
    confusion = np.array(comparison.arms[0].confusion)
    confusion[17, 4] = 10_000
    arm = comparison.arms[0].model_copy(update={"confusion": confusion.tolist()})
    html, _ = write(tmp_path, comparison.model_copy(update={"arms": [arm, comparison.arms[1]]}))
    row = html[html.index("Images of one class that were taken") :]
    assert re.findall(r"<bdi>(class \d\d)</bdi>", row)[:2] == ["class 17", "class 04"]
    assert "10,000" in row[: row.index("</tr>", row.index("<tbody>"))]


@pytest.mark.slow
def test_classes_without_test_images_have_no_difference(tmp_path):
    rng = np.random.default_rng(0)
    classes = ["a", "b", "c"]
    some = [*make_per_class(rng, classes[:2]), *make_per_class(rng, classes[2:], measured=False)]
    _, page = write(tmp_path / "some", make_comparison(classes=classes, per_class=some))
    assert NOTHING in page.words
    none = make_comparison(classes=classes, per_class=make_per_class(rng, classes, measured=False))
    arms = [arm.model_copy(update={"confusion": [[0] * 3] * 3}) for arm in none.arms]
    _, page = write(tmp_path / "none", none.model_copy(update={"arms": arms}))
    assert "No class has test images to compare on." in page.words
    _, page = write(tmp_path / "empty", make_comparison(classes=classes, per_class=[]))
    assert "No class has test images to compare on." in page.words


def test_histories_may_differ_in_length_or_be_missing(tmp_path):
    comparison = make_comparison()
    rng = np.random.default_rng(0)
    lengths = {"baseline": [1, 30, 12, 30, 30], "described": [8, 8, 40, 8, 0]}
    arms = [
        arm.model_copy(
            update={
                "runs": [
                    run.model_copy(update={"history": make_history(rng, length, 0.5, arm.name == "described")})
                    for run, length in zip(arm.runs, lengths[arm.name], strict=True)
                ]
            }
        )
        for arm in comparison.arms
    ]
    _, page = write(tmp_path / "unequal", comparison.model_copy(update={"arms": arms}))
    assert "Alignment loss, training" in page.words
    bare = [
        arm.model_copy(update={"runs": [run.model_copy(update={"history": []}) for run in arm.runs]}) for arm in arms
    ]
    html, _ = write(tmp_path / "none", comparison.model_copy(update={"arms": bare}))
    assert "#curves" not in html


def test_page_without_encoder_gallery_and_alignment_of_one_seed(tmp_path):
    comparison = make_comparison(encoders=[], per_seed=(0.02,), notes=[])
    arms = [arm.model_copy(update={"runs": [run.model_copy(update={"history": make_history(
        np.random.default_rng(0), 3, 0.5, False)}) for run in arm.runs]}) for arm in comparison.arms]  # fmt: skip
    html, page = write(tmp_path, comparison.model_copy(update={"arms": arms}), Gallery(items=[]))
    assert "none used" in page.words and "No images were kept" in page.words
    assert "Alignment loss" not in page.words
    assert "One seed cannot tell an effect from chance" in page.words
    assert "train both arms with 5 seeds" in page.words and "<code><span>gpt4image" not in html
    assert_self_contained(html, page)


@pytest.mark.slow
def test_more_arms_than_colours_render(tmp_path):
    comparison = make_comparison()
    arms = [
        comparison.arms[0].model_copy(update={"name": f"control {number}", "title": f"Control {number}"})
        for number in range(4)
    ]
    html, page = write(tmp_path, comparison.model_copy(update={"arms": [*comparison.arms, *arms]}))
    assert "Control 3" in page.words
    assert_self_contained(html, page)


def test_page_says_who_wrote_the_texts_what_was_typed_and_what_the_model_costs(tmp_path, plain):
    facts = {
        "command": CommandRecord(program="./run gpt4image", arguments=["compare", "my photos"], work="work"),
        "text_origins": (
            TextOriginRecord(model="gpt-4o-mini", prompt="plain", texts=1190, cost=0.534),
            TextOriginRecord(model="qwen", prompt="attributes", texts=1, cost=None),
        ),
        "model": ModelRecord(parameters=25_557_032, multiply_adds=4_089_184_256, batch=8, images_per_second=12.34),
    }
    _, page = write(tmp_path, make_comparison(**facts))
    assert "./run gpt4image compare 'my photos'" in page.words
    assert "gpt-4o-mini , prompt plain : 1,190 texts, $0.53" in page.words.replace(" ,", " ,")
    assert "1 text, cost unknown" in page.words
    assert "25.6M" in page.words and "4.1G" in page.words and "12 images a second" in page.words
    assert "unknown: the source does not say" in plain[1].words and "Multiply-adds" not in plain[1].words


def test_difference_matrix_is_the_candidate_minus_the_reference(tmp_path):
    comparison = make_comparison(classes=["cat", "dog"])
    matrices = [[[30, 10], [20, 20]], [[36, 4], [25, 15]]]
    arms = [arm.model_copy(update={"confusion": matrix}) for arm, matrix in zip(comparison.arms, matrices, strict=True)]
    html, _ = write(tmp_path, comparison.model_copy(update={"arms": arms}))
    cells = re.findall(r'--share:([\d.]+)" class="(arm-\d)[^"]*">([^<]+)<', html[html.index("confusion change") :])
    less = "\N{MINUS SIGN}"
    assert cells == [
        ("1.000", "arm-1", "+6"), ("1.000", "arm-0", f"{less}6"), ("0.833", "arm-1", "+5"),
        ("0.833", "arm-0", f"{less}5")]  # fmt: skip


def test_images_without_a_description_have_no_place_for_one(tmp_path):
    _, page = write(tmp_path, make_comparison(), Gallery(items=[make_item(description=None)] * 18))
    assert "these have no description" in page.words and "No description." not in page.words


def test_best_epoch_counts_from_one(tmp_path):
    comparison = make_comparison()
    run = comparison.arms[0].runs[0].model_copy(update={"best_epoch": 0})
    arms = [comparison.arms[0].model_copy(update={"runs": [run, *comparison.arms[0].runs[1:]]}), comparison.arms[1]]
    html, _ = write(tmp_path, comparison.model_copy(update={"arms": arms}))
    assert re.findall(r'data-label="Best epoch">(\d+)</td>', html)[0] == "1"


def test_no_table_is_cut_off_on_a_phone(tmp_path, dump_dom):
    """With 12 classes; larger confusion matrices scroll in their box."""
    write(tmp_path, make_comparison(), Gallery(items=[make_item()]))
    assert cut_off_tables(dump_dom, tmp_path / "report.html", tmp_path, 400) == []


def test_leaked_images_are_a_warning(tmp_path, plain):
    _, page = write(tmp_path, make_comparison(data=make_data(leaked=12)))
    warnings = [attrs for attrs in page.all("p") if attrs.get("class") == "warning"]
    assert len(warnings) == 2 and "12 images leaked" in page.words
    assert 'class="warning"' not in plain[0]


@pytest.mark.parametrize(
    "thumbnail",
    [
        "https://example.org/x.jpg",
        "javascript:alert(1)",
        "data:image/svg+xml;base64,PHN2Zz4=",
        "data:text/html;base64,AAAA",
        "data:image/png;base64,",
        'data:image/png;base64,AA"A',
        "data:image/png;base64,AAAA\n",
        "data:image/png;base64,AAA",
        "data:image/png;base64,A=AA",
        'data:image/jpeg;base64,AAAA" onerror="x',
        "",
    ],
)
def test_thumbnails_other_than_embedded_pictures_are_errors(tmp_path, thumbnail):
    save(tmp_path, make_comparison(), Gallery(items=[make_item(thumbnail=thumbnail)]))
    with pytest.raises(StoreError, match=r"gallery\.json.*thumbnail"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_contradicting_records_are_errors(tmp_path):
    comparison = make_comparison()
    first = comparison.arms[0]
    arms = {
        "confusion matrix": [first.model_copy(update={"confusion": [[1]]}), comparison.arms[1]],
        "same name": [first, first, comparison.arms[1]],
        "same seed": [first.model_copy(update={"runs": [first.runs[0], *first.runs]}), comparison.arms[1]],
    }
    for fault, changed in arms.items():
        save(tmp_path, comparison.model_copy(update={"arms": changed}))
        with pytest.raises(StoreError, match=rf"comparison\.json.*{fault}"):
            write_report(tmp_path)
    short = comparison.difference.model_copy(update={"per_seed": [0.1]})
    save(tmp_path, comparison.model_copy(update={"difference": short}))
    with pytest.raises(StoreError, match="1 differences for 5 seeds"):
        write_report(tmp_path)


def test_missing_record_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(StoreError, match=r"comparison\.json does not exist"):
        write_report(tmp_path)


def test_palette_is_distinct():
    assert len({INK, MUTED, GRID, *COLOURS}) == 3 + len(COLOURS)
    assert make_confusion(np.random.default_rng(0), ["a"], 5, 1.0) == [[5]]


def with_arms(comparison, names):
    """A comparison with further arms and their differences; names that begin with shuffled are controls."""
    first = comparison.arms[1]
    arms = [
        first.model_copy(
            update={"name": name, "title": f"title of {name}", "controls": "described" if "shuffled" in name else None}
        )
        for name in names
    ]
    others = tuple(comparison.difference.model_copy(update={"arm": name, "mean": 0.01}) for name in names)
    return comparison.model_copy(update={"arms": [*comparison.arms, *arms], "others": others})


def with_metrics(comparison):
    bins = (ReliabilityBin(predictions=60, confidence=0.4, accuracy=0.3),
            ReliabilityBin(predictions=40, confidence=0.9, accuracy=0.8))  # fmt: skip
    metrics = {"top5_accuracy": 0.87, "macro_f1": 0.456, "brier_score": 0.678, "calibration_error": 0.123}
    arms = [
        arm.model_copy(update={"reliability": bins, "runs": [run.model_copy(update=metrics) for run in arm.runs]})
        for arm in comparison.arms
    ]
    group = GroupRecord(
        name="few", classes=3, train_images=40, test_images=90, accuracy={"baseline": 0.25, "described": 0.5},
        intervals={"baseline": (0.17, 0.35)}, difference=0.25, low=0.1, high=0.4, p_value=0.01,
    )  # fmt: skip
    return comparison.model_copy(update={"arms": arms, "groups": (group, group.model_copy(update={"name": "many"}))})


@pytest.mark.slow
def test_arms_are_a_forest_with_controls_set_apart(tmp_path, dump_dom):
    comparison = with_arms(make_comparison(), ["text-labels", "shuffled"])
    html, page = write(tmp_path, comparison)
    assert_self_contained(html, page)
    assert_well_structured(page)
    forest = re.search(
        r'<svg viewBox[^>]*aria-label="Difference of test accuracy in points: With desc.*?</svg>', html, re.S
    )[0]
    assert "title of text-labels" in forest and "title of shuffled" not in forest
    assert "var(--arm-1)" in forest and "var(--arm-2)" in forest  # those of these arms everywhere
    assert html.index('id="arms"') < html.index('id="seeds"')
    assert "Controls, in points of accuracy against" in page.words
    assert cut_off_tables(dump_dom, tmp_path / "report.html", tmp_path, 400) == []


def test_arm_looks_the_same_whatever_it_is_compared_with():
    arms = {
        arm.name: style_number(arm) for arm in with_arms(make_comparison(), ["text-labels", "mine", "shuffled"]).arms
    }
    assert (arms["baseline"], arms["described"], arms["text-labels"]) == (0, 1, 2)
    other = {arm.name: style_number(arm) for arm in with_arms(make_comparison(), ["teacher", "mine"]).arms}
    assert other["mine"] == arms["mine"] and other["teacher"] != arms["shuffled"] == len(COLOURS) - 1


@pytest.mark.slow
def test_metrics_calibration_and_groups_are_shown(tmp_path, dump_dom):
    html, page = write(tmp_path, with_metrics(make_comparison()))
    assert_well_structured(page)
    for shown in ("87.0%", "45.6%", "0.678", "12.3%", "Few, under 20", "(17% to 35%)", "+25.0", "+10.0 to +40.0"):
        assert shown in page.words, shown
    assert "40% confident 30% right" in html
    assert cut_off_tables(dump_dom, tmp_path / "report.html", tmp_path, 400) == []
    old, _ = write(tmp_path / "old", make_comparison())
    assert "More than accuracy" not in old


def test_axis_of_a_single_epoch_has_one_tick(tmp_path):
    rng = np.random.default_rng(0)
    comparison = make_comparison()
    arms = [
        arm.model_copy(
            update={"runs": [run.model_copy(update={"history": make_history(rng, 1, 0.5, True)}) for run in arm.runs]}
        )
        for arm in comparison.arms
    ]
    html, _ = write(tmp_path, comparison.model_copy(update={"arms": arms}))
    curve = re.search(r'<svg viewBox[^>]*aria-label="Validation accuracy by epoch.*?</svg>', html, re.S)[0]
    ticks = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", curve) if "%" not in text]
    assert ticks == ["1", "epoch"]


def test_ticks_of_differences_are_not_rounded(tmp_path):
    html, _ = write(tmp_path, make_comparison(per_seed=(0.05, -0.03, 0.02), half=0.07))
    ticks = re.findall(r"[>]([+\N{MINUS SIGN}][\d.]+)</text>", html)
    assert ticks and not [tick for tick in ticks if tick[1:] in ("3", "8")]


@pytest.mark.parametrize("width", [0, 1e-5, 0.003, 0.05])
def test_ticks_of_small_differences_differ(tmp_path, width):
    html, _ = write(tmp_path, make_comparison(per_seed=(width / 100, -width / 200), half=width / 100))
    figure = re.search(r'<svg viewBox[^>]*aria-label="Paired difference.*?</svg>', html, re.S)[0]
    ticks = re.findall(r"<text[^>]*>([+\N{MINUS SIGN}]?[\d.]+)</text>", figure.partition(">seed 0<")[0])
    assert len(ticks) > 2 and len(set(ticks)) == len(ticks), ticks


def test_rejected_annotations_are_counted(tmp_path):
    html, _ = write(tmp_path, make_comparison(data=make_data(rejected_boxes=4)))
    assert "1 image, 4 annotations of objects" in html


def test_measures_models_and_versions_are_shown(tmp_path, dump_dom):
    comparison = make_comparison()
    measure = MeasureRecord(
        name="corruptions", title="the 15 corruptions of ImageNet-C", images=450, differences=(comparison.difference,),
        accuracy={"baseline": 0.312, "described": 0.334}, parts={"fog": {"baseline": 0.2, "described": 0.217}},
    )  # fmt: skip
    models = (UsedModelRecord(role="text encoder", name="minilm", licence="apache-2.0", source="https://huggingface.co/x"),
              UsedModelRecord(role="initial weights", name="own.pt", licence="unknown", source=None))  # fmt: skip
    changes = {"measures": (measure,), "models": models, "versions": {"torch": "2.6.0"}}
    html, page = write(tmp_path, comparison.model_copy(update=changes))
    assert_self_contained(html, page)
    assert_well_structured(page)
    for shown in ("Beyond the test images", "33.4%", "21.7%", "fog", "apache-2.0", "own.pt", "torch 2.6.0"):
        assert shown in page.words, shown
    assert cut_off_tables(dump_dom, tmp_path / "report.html", tmp_path, 400) == []


def test_warnings_about_other_arms_are_folded(tmp_path):
    comparison = with_arms(make_comparison(), ["text-labels"])
    lines = ("described: the last epoch was the best.", "text-labels: has not converged.", "Something else.")
    html, page = write(tmp_path, comparison.model_copy(update={"warnings": lines}))
    assert_well_structured(page)
    folded = html[html.index("1 warning about the other arms") :]
    assert lines[1] in folded and html.count(lines[1]) == 1
    assert html.index(lines[0]) < html.index(lines[2]) < html.index("1 warning about the other arms")


def test_classes_that_differ_are_named_after_correction(tmp_path):
    comparison = make_comparison()
    values = [0.0001, 0.02, *[0.5] * 10]
    classes = [
        record.model_copy(update={"p_value": value}) for record, value in zip(comparison.per_class, values, strict=True)
    ]
    _, page = write(tmp_path, comparison.model_copy(update={"per_class": classes}))
    assert f"corrected for all classes (Holm), {classes[0].name} differs." in page.words
    assert "Exact p" in page.words and "0.020" in page.words
