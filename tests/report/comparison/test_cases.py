"""The page and the figure of several comparisons."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from gpt4image.compare.records import CaseRecord, CasesRecord, Comparison
from gpt4image.core.errors import StoreError
from gpt4image.core.workdir import WorkDir
from gpt4image.report import write_cases
from support.page_checks import HOSTILE, UNBROKEN, Page, assert_well_structured, measured
from support.report_sample import make_comparison

ARMS = {"self-training": "with self-training", "image-labels": "with labels from image features"}


def few(**changes) -> Comparison:
    """Descriptions gain 17 points, the two arms of images alone 1 and 6."""
    plain = make_comparison(per_seed=(0.16, 0.17, 0.18))
    changed = {"reference": "baseline", "per_seed": [0.06] * 3, "mean": 0.06, "low": 0.03, "high": 0.09}
    others = [
        plain.difference.model_copy(update={**changed, "arm": "self-training", "mean": 0.01, "low": -0.01}),
        plain.difference.model_copy(update={**changed, "arm": "image-labels"}),
    ]
    rivals = [
        plain.difference.model_copy(update={"reference": "self-training", "mean": 0.16, "low": 0.1, "high": 0.22}),
        plain.difference.model_copy(update={"reference": "image-labels", "mean": 0.11, "low": 0.04, "high": 0.18}),
    ]
    arms = [
        plain.arms[0].model_copy(
            update={
                "name": name,
                "title": title,
                "runs": [run.model_copy(update={"arm": name, "test_accuracy": 0.4}) for run in plain.arms[0].runs],
            }
        )
        for name, title in ARMS.items()
    ]
    more = {"arms": [*plain.arms, *arms], "others": tuple(others), "rivals": tuple(rivals)}
    return plain.model_copy(update=more | changes)


def save_cases(work, **cases) -> None:
    for name, comparison in cases.items():
        folder = WorkDir(work).experiment(name)
        folder.mkdir(parents=True)
        comparison.save(folder / "comparison.json")
    records = (CaseRecord(experiment=name, title=f"{name} labels", about=f"labels are {name}") for name in cases)
    CasesRecord(cases=tuple(records)).save(WorkDir(work).cases)


@pytest.fixture
def work(tmp_path):
    save_cases(tmp_path, few=few(), clean=make_comparison(per_seed=(-0.02, 0.0, 0.02)))
    return tmp_path


def test_cases_show_the_best_of_the_images_alone_and_what_is_true_of_each(work):
    first, second = write_cases(work)
    assert [bar.title for bar in first.bars][1] == "images alone, with labels from image features"
    assert [bar.uses_descriptions for bar in first.bars] == [False, False, True]
    assert first.rival.reference == "image-labels"
    assert "Against the best of the images alone: +11.0 (+4.0 to +18.0) points." in list(first.lines())
    assert len(second.bars) == 2 and second.rival is None
    assert "do not show that the descriptions help or hurt" in " ".join(second.lines())


def test_page_holds_the_figure_and_leads_to_the_report_of_each_case(work):
    write_cases(work)
    html = (work / "cases.html").read_text()
    page = Page(html)
    assert_well_structured(page)
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    links = [attrs["href"] for attrs in page.all("a")]
    assert links == ["experiments/few/report.html", "experiments/clean/report.html"]
    assert "few labels: training with descriptions made the model better." in page.words
    assert "+11.0 (+4.0 to +18.0)" in page.words
    (figure,) = [attrs for attrs in page.all("svg") if attrs.get("role") == "img"]
    assert "with labels from image features 40.0%" in figure["aria-label"]


def test_figure_stands_alone_in_both_colour_schemes(work):
    write_cases(work)
    root = ElementTree.fromstring((work / "cases.svg").read_bytes())
    drawn = ElementTree.tostring(root, encoding="unicode")
    style = next(element.text for element in root.iter() if element.tag.endswith("style"))
    assert "prefers-color-scheme: dark" in style
    used = {name for part in drawn.split("var(--")[1:] for name in [part.split(")")[0]]}
    assert used and all(f"--{name}:" in style for name in used)
    assert "few labels" in drawn and "+11.0" not in drawn
    assert not [element for element in root.iter() if "href" in element.attrib and element.attrib["href"][0] != "#"]


def test_same_records_give_the_same_bytes(work):
    write_cases(work)
    first = [(work / name).read_bytes() for name in ("cases.html", "cases.svg")]
    write_cases(work)
    assert [(work / name).read_bytes() for name in ("cases.html", "cases.svg")] == first


def test_hostile_titles_stay_text_and_fit_a_phone(tmp_path, dump_dom):
    comparison = few()
    arms = [arm.model_copy(update={"title": HOSTILE + UNBROKEN}) for arm in comparison.arms]
    save_cases(tmp_path / "work", few=comparison.model_copy(update={"arms": arms, "device": HOSTILE, "notes": []}))
    record = CaseRecord(experiment="few", title=HOSTILE, about=HOSTILE + UNBROKEN)
    CasesRecord(cases=(record,)).save(tmp_path / "work" / "cases.json")
    write_cases(tmp_path / "work")
    ElementTree.parse(tmp_path / "work" / "cases.svg")
    page = Page((tmp_path / "work" / "cases.html").read_text())
    assert not {"script", "img", "meta http-equiv=refresh"} & {tag for tag, _ in page.tags}
    assert measured(dump_dom, tmp_path / "work" / "cases.html", tmp_path, 400) == "400 of 400"


def test_missing_report_of_a_case_is_named(work):
    (work / "experiments" / "few" / "comparison.json").unlink()
    with pytest.raises(StoreError, match="few"):
        write_cases(work)
