"""Advice: one case after another, the rule for the gain, and how its interval does on recorded gains."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from scipy import stats

from gpt4image.core.record import ShareEstimate
from gpt4image.quality.advice import RULE, GainRule, LabelFacts, give_advice
from gpt4image.quality.check_record import PairedGap
from gpt4image.quality.rehearsal import Rehearsal
from gpt4image.soft_labels import LabelEstimate

RECORDED = "studies/label_advice.json"


def share(mean, reach=0.03):
    return ShareEstimate(mean=mean, low=mean - reach, high=mean + reach)


def gap(mean, reach=0.03):
    return PairedGap(mean=mean, low=mean - reach, high=mean + reach)


def estimate(wrong=None):
    return LabelEstimate(
        method="plain fit", labelled=100, unlabelled=0, abstained=0, accuracy=None, per_class=(), wrong=wrong,
        transition=None, replaced=False, changed=0,
    )  # fmt: skip


def rehearsal(text=0.8, text_gain=0.2, image_gain=0.0, **more):
    gains = {"text-labels": gap(text_gain), "image-labels": gap(image_gain)}
    settings = {
        "image": share(0.3),
        "text_over_image": gap(text - 0.3),
        "gains": gains,
        "more_labels": gap(0.1),
        **more,
    }
    return Rehearsal(images=100, chance=0.1, text=share(text), corrected=False, **settings)


def advise(found, *, labelled=100, training=1000, wrong=None, skew=1, undescribed=0, validation=200):
    counts = (*(labelled // 10,) * 9, labelled // 10 // skew)
    facts = LabelFacts(10, training if skew == 1 else sum(counts), undescribed, counts, validation)
    return give_advice(facts, estimate(wrong), found, texts="minilm", images="resnet50", no_images="none asked for")


CLEAN = {"labelled": 1000, "wrong": ShareEstimate(mean=0.01, low=0.0, high=0.03)}
WRONG = {"labelled": 1000, "wrong": ShareEstimate(mean=0.4, low=0.35, high=0.45)}


@pytest.mark.parametrize(
    ("found", "facts", "case", "arm", "compared"),
    [
        (rehearsal(), {}, "few labels", "text-labels", True),
        (rehearsal(text_gain=0.1, image_gain=0.2), {}, "few labels", "image-labels", True),
        (rehearsal(text=0.1, text_gain=0.0, image_gain=0.1), {}, "few labels", "image-labels", True),
        (rehearsal(), WRONG, "wrong labels", "text-labels", True),
        (rehearsal(text_gain=0.01), {}, "uninformative texts", "baseline", False),
        (rehearsal(text=0.1, text_gain=0.0), {}, "uninformative texts", "baseline", False),
        (rehearsal(text_gain=0.0), CLEAN, "clean labels", "baseline", False),
        (rehearsal(text=0.1, text_gain=0.0), CLEAN, "uninformative texts", "baseline", False),
        (rehearsal(text_gain=0.0), {**CLEAN, "skew": 20}, "skewed classes", "baseline", False),
        (None, {"labelled": 0}, "no labels", "text-labels", False),
        (None, {"labelled": 10}, "few labels", "text-labels", False),
        (Rehearsal(images=100, chance=0.1, text=share(0.8), corrected=False), {}, "few labels", "text-labels", True),
    ],
)
def test_case_decides_arm_and_command(found, facts, case, arm, compared):
    advice = advise(found, **facts)
    assert (advice.case, advice.arm, advice.compared) == (case, arm, compared)
    assert arm == "baseline" or f"arm {arm}" in advice.title
    assert advice.settings.get("logit-adjustment") == ("loss" if case == "skewed classes" else None)


def test_labeller_that_would_give_no_label_is_not_advised():
    silent = estimate().model_copy(update={"unlabelled": 900, "abstained": 900})
    facts = LabelFacts(10, 1000, 0, (10,) * 10, 200)
    found = Rehearsal(images=100, chance=0.1, text=share(0.14), corrected=False)
    advice = give_advice(facts, silent, found, texts="minilm", images=None, no_images="none asked for")
    assert (advice.case, advice.arm) == ("uninformative texts", "baseline")


def test_gain_is_that_of_the_arm_and_absent_where_nothing_measures_it():
    assert vars(advise(rehearsal()).gain) == pytest.approx(vars(RULE.expect(0.2, 0.17, 0.23)))
    by_images = advise(rehearsal(text_gain=0.1, image_gain=0.3))
    assert vars(by_images.gain) == pytest.approx(vars(RULE.expect(0.3, 0.27, 0.33)))
    assert advise(rehearsal(text_gain=0.0), **CLEAN).gain.mean == 0
    assert advise(None, labelled=0).gain is None
    unmeasured = advise(Rehearsal(images=100, chance=0.1, text=share(0.8), corrected=False))
    assert unmeasured.gain is None
    assert "none asked for" in "\n".join(unmeasured.basis)


def test_last_epoch_is_kept_where_few_validation_labels_can_choose_another():
    assert advise(rehearsal(), validation=20).settings == {"keep": "last"}
    assert advise(rehearsal(), validation=200).settings == {}


def test_what_would_help_more_fits_the_case():
    few, nothing = advise(rehearsal()), advise(rehearsal(text=0.1, text_gain=0.0))
    assert any("20 more labels a class" in line for line in few.helps)
    assert any("another prompt" in line for line in nothing.helps)
    wrong = advise(rehearsal(), **WRONG).helps
    assert any("gpt4image audit" in line for line in wrong) and any("text+image-labels" in line for line in wrong)
    assert any("10 images of each class" in line for line in advise(None, labelled=0).helps)
    assert any("not described yet: 7 training images" in line for line in advise(rehearsal(), undescribed=7).helps)


def test_gain_rule_adds_up_what_is_uncertain():
    rule = GainRule(slope=0.9, spread=0.02, share=0.1, kinds=11)
    found = rule.expect(0.2, 0.1, 0.3)
    error = 0.1 / 1.959963985
    deviation = ((0.9 * error) ** 2 + 0.02**2 + (0.1 * 0.9 * 0.2) ** 2) ** 0.5
    assert found.mean == pytest.approx(0.18)
    assert found.high - found.mean == pytest.approx(2.228138852 * deviation)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)


@pytest.fixture(scope="module")
def study():
    from support import ROOT

    sys.path.insert(0, str(ROOT / "studies"))
    try:
        spec = importlib.util.spec_from_file_location("label_advice", ROOT / "studies/label_advice.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    module.found = json.loads((ROOT / RECORDED).read_text())
    return module


@pytest.mark.slow
def test_rule_is_the_fit_to_recorded_gains_and_holds_for_kinds_left_out(study):
    gains = study.found["gains"]
    kinds = np.array([f"{each['set']}, {each['case']}" for each in gains])
    rehearsed, recorded = np.array([each["rehearsed"] for each in gains]), np.array([each["gain"] for each in gains])
    fitted = study.fit_rule(rehearsed, recorded, kinds)
    assert vars(fitted) == pytest.approx(vars(RULE), rel=0.02)
    assert study.leave_out(rehearsed, recorded, kinds).mean() >= 0.9


@pytest.mark.slow
def test_fit_finds_the_rule_that_made_simulated_gains(study):
    generator = np.random.default_rng(0)
    kinds = np.repeat(np.arange(60), 4)
    means = np.repeat(generator.uniform(0, 0.3, 60), 4)
    error = 0.02
    rehearsed = means + error * generator.normal(size=240)
    of_kind = np.repeat(generator.normal(size=60), 4)
    gains = 0.9 * means + np.sqrt(0.02**2 + (0.15 * 0.9 * means) ** 2) * of_kind
    reach = stats.norm.ppf(0.975) * error
    intervals = np.stack([rehearsed, rehearsed - reach, rehearsed + reach], axis=1)
    fitted = study.fit_rule(intervals, gains, kinds)
    assert fitted.slope == pytest.approx(0.9, abs=0.05)
    assert (fitted.spread, fitted.share) == pytest.approx((0.02, 0.15), abs=0.06)
    assert study.leave_out(intervals, gains, kinds).mean() >= 0.9
