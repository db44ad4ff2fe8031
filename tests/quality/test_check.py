"""A whole check, from texts to marks, on a small set whose store has every kind of problem."""

from dataclasses import replace

import numpy as np
import pytest

from gpt4image import load_descriptions, load_images
from gpt4image.core.errors import ConfigError, DescriptionError
from gpt4image.descriptions.exchange.import_ import IMPORTED
from gpt4image.descriptions.prompts.prompt import known_prompts
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.shards import now
from gpt4image.quality import CHECK_FILE, CheckSettings, check_descriptions
from gpt4image.quality.check_record import QualityReport
from gpt4image.quality.compare_features import mean_by
from gpt4image.quality.findings import advise_missing
from gpt4image.report.descriptions.check_page import report_lines
from gpt4image.train.frozen_features import FrozenBackbone
from support.drawings import COLOURS, SHAPES, draw

PER_CLASS = 24
PLACES = ("on a table", "under a lamp", "near a wall", "by the sea", "in the rain", "above a road", "before a house")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check") / "images"
    for name, colour in COLOURS.items():
        (folder / "train" / name).mkdir(parents=True)
        (folder / "test" / name).mkdir(parents=True)
        for number in range(PER_CLASS + 2):
            split = "train" if number < PER_CLASS else "test"
            draw(colour, SHAPES[number % 3], number).save(folder / split / name / f"{number:03}.png")
    return load_images(folder, validation_share=0.0)


def training_ids(images):
    return [images.ids[row].decode() for row in images.split("train")]


def record(image_id, text="", prompt="plain", **changes):
    known = known_prompts().get(prompt)
    return DescriptionRecord(
        key=f"{prompt}-{image_id}"[:32].ljust(32, "0"),
        image_id=image_id,
        text=text,
        model="model",
        prompt=prompt,
        prompt_hash=known.hash if known else "f" * 32,
        finish_reason=changes.pop("finish_reason", "stop"),
        created=now(),
        **changes,
    )


def plain_text(images, row, number):
    name = images.classes[images.labels[row]]
    shade = {"blue": "cold and dark as a deep lake", "green": "fresh as spring grass", "red": "hot as burning coal"}[
        name
    ]
    return f"A {SHAPES[number % 3]}, {shade}, {PLACES[number % 7]}, drawing {number} of many."


def fill(work, records):
    store = DescriptionStore(work / "descriptions")
    with store.writer() as writer:
        for one in records:
            writer.write(one)
    return store


def good_records(images):
    rows = images.split("train")
    return [record(images.ids[row].decode(), plain_text(images, row, n)) for n, row in enumerate(rows)]


def problem_records(images):
    records = good_records(images)
    texts = {
        0: "I'm sorry, but I can't help with that.",
        1: "",
        2: "Describe the image in detail. A disc.",
        3: "the disc the disc the disc the disc the disc",
    }
    for number, text in texts.items():
        records[number] = replace(records[number], text=text)
    records[4] = replace(records[4], finish_reason="length")
    records[5] = replace(records[5], text="", error="server error 500", finish_reason=None)
    del records[6]
    return records


QUICK = CheckSettings(encoder=None, language="en")


def test_every_problem_is_found_with_its_key_and_image(images, tmp_path):
    records = problem_records(images)
    fill(tmp_path, records)
    report = check_descriptions(images, tmp_path, settings=QUICK)
    found = {finding.kind: finding for finding in report.findings}
    for kind, number in {"refusal": 0, "empty": 1, "prompt-echo": 2, "loop": 3, "cut-off": 4}.items():
        assert found[kind].keys == [records[number].key], kind
        assert found[kind].image_ids == [records[number].image_id]
        (item,) = found[kind].items
        assert (item.text, item.prompt, item.model) == (records[number].text, "plain", "model")
        assert item.label in images.classes
        assert item.path.endswith(".png")
    assert report.findings[0].kind == "missing"
    assert found["missing"].count == 2
    assert sorted(item.detail for item in found["missing"].items) == ["never requested", "server error 500"]
    assert found["missing"].keys == [records[5].key]


def test_report_counts_and_is_saved(images, tmp_path):
    fill(tmp_path, problem_records(images))
    report = check_descriptions(images, tmp_path, settings=QUICK)
    assert (report.images, report.described, report.texts) == (72, 70, 70)
    assert report.failed == {"server error 500": 1}
    assert report.prompts == {"plain": 70}
    assert report.models == {"model": 70}
    assert report.words[0] == 0
    assert report.knowledge is None
    assert "pass an encoder" in report.no_knowledge
    assert QualityReport.load(tmp_path / "descriptions" / CHECK_FILE) == report


def test_commonest_message_and_other_models_are_in_the_report(images, tmp_path):
    ids, refused = training_ids(images), "refused by the server (400)"
    said = ["The prompt is too long", "other", "The prompt is too long"]
    failed = [record(ids[at], error=refused, detail=said[at]) for at in range(3)]
    fill(tmp_path, [*failed, *(replace(each, served_model="gpt-x-mini") for each in good_records(images)[3:])])
    report = check_descriptions(images, tmp_path, settings=QUICK)
    assert report.failed_with[refused].startswith(', mostly with "The prompt is too long": send smaller pictures')
    assert f"failed: 3 {refused}{report.failed_with[refused]}" in report_lines(report)
    assert report.served_models == {"gpt-x-mini": report.texts}
    assert any("'gpt-x-mini'" in note for note in report.notes)


def test_check_of_nothing_but_failures_quotes_the_server(images, tmp_path):
    refused = "refused by the server (422)"
    fill(tmp_path, [record(each, error=refused, detail="seed: not permitted") for each in training_ids(images)[:3]])
    with pytest.raises(DescriptionError, match=r"failed: 3 refused .*mostly with \"seed: not permitted\": omit seed"):
        check_descriptions(images, tmp_path, settings=QUICK)


def test_image_that_failed_twice_is_missing_once(images, tmp_path):
    ids = training_ids(images)
    failed = [record(ids[0], prompt=prompt, error="time limit") for prompt in ("plain", "attributes")]
    fill(tmp_path, [*failed, *good_records(images)[1:]])
    missing = check_descriptions(images, tmp_path, settings=QUICK).findings[0]
    assert (missing.kind, missing.count, len(missing.keys), missing.image_ids) == ("missing", 1, 2, [ids[0]])
    assert missing.share == pytest.approx(1 / 72)


def test_splits_decide_which_images_should_have_a_text(images, tmp_path):
    fill(tmp_path, good_records(images))
    both = replace(QUICK, splits=("train", "test"))
    assert check_descriptions(images, tmp_path, settings=QUICK).images == 72
    assert check_descriptions(images, tmp_path, settings=both).images == 78


def test_marked_texts_are_gone_from_the_next_check(images, tmp_path):
    records = problem_records(images)
    store = fill(tmp_path, records)
    check_descriptions(images, tmp_path, settings=QUICK, drop=["loop", "empty"], retry=["refusal", "missing"])
    marks = {key: (mark.verdict, mark.reason) for key, mark in store.marks().items()}
    assert marks == {
        records[3].key: ("drop", "loop"),
        records[1].key: ("drop", "empty"),
        records[0].key: ("retry", "refusal"),
        records[5].key: ("retry", "missing"),
    }
    again = check_descriptions(images, tmp_path, settings=QUICK)
    assert not {"loop", "empty", "refusal"} & {finding.kind for finding in again.findings}
    missing = again.findings[0]
    assert missing.count == 5
    assert sum("dropped" in item.detail for item in missing.items) == 3


def test_retry_wins_over_drop(images, tmp_path):
    records = good_records(images)
    records[0] = replace(records[0], text="I'm sorry, I'm sorry, I'm sorry, I'm sorry, I'm sorry, but no.")
    store = fill(tmp_path, records)
    check_descriptions(images, tmp_path, settings=QUICK, drop=["loop"], retry=["refusal"])
    assert store.marks()[records[0].key].verdict == "retry"


def test_retry_warns_of_imported_texts(images, tmp_path, capsys):
    """An imported text has no known prompt, so `describe` cannot write it again."""
    records = good_records(images)
    records[:3] = [replace(one, text="I'm sorry, I can't help with that.") for one in records[:3]]
    records[:2] = [replace(one, key=f"{n:032}", prompt="imported") for n, one in enumerate(records[:2])]
    store = fill(tmp_path, records)
    check_descriptions(images, tmp_path, settings=QUICK, retry=["refusal"])
    said = " ".join(capsys.readouterr().err.split())
    assert "marked: 3 texts (refusal)" in said
    assert "2 texts of them came from a table without prompts" in said
    assert len(store.current()) == len(records) - 3


@pytest.mark.parametrize(
    ("drop", "retry", "message"),
    [
        (["refusals"], [], "Did you mean 'refusal'"),
        (["loop"], ["loop"], "choose one"),
        (["missing"], [], "nothing to drop"),
    ],
)
def test_invalid_kinds_are_errors_before_any_work(images, tmp_path, drop, retry, message):
    with pytest.raises(ConfigError, match=message):
        check_descriptions(images, tmp_path, drop=drop, retry=retry)
    assert not (tmp_path / "descriptions" / CHECK_FILE).exists()


def given_descriptions(images, tmp_path, texts):
    file = tmp_path / "texts.csv"
    file.write_text("id,text\n" + "".join(f'{i},"{text}"\n' for i, text in texts.items()))
    return load_descriptions(images, str(file))


def test_texts_outside_the_store_have_no_keys_and_cannot_be_marked(images, tmp_path):
    ids = training_ids(images)
    texts = dict.fromkeys(ids, "A disc on noisy pale ground.") | {ids[0]: "I'm sorry, I can't view images."}
    descriptions = given_descriptions(images, tmp_path, texts)
    report = check_descriptions(images, tmp_path, descriptions, QUICK)
    found = {finding.kind: finding for finding in report.findings}
    assert found["refusal"].keys == []
    assert found["refusal"].image_ids == [ids[0]]
    assert found["refusal"].items[0].key is None
    assert found["repeated"].count == 71
    assert found["opening"].count == 71
    assert any("not known how the texts were written" in note for note in report.notes)
    with pytest.raises(ConfigError, match="gpt4image describe import"):
        check_descriptions(images, tmp_path, descriptions, QUICK, drop=["refusal"])


def test_empty_store_is_an_error_that_names_the_next_step(images, tmp_path):
    with pytest.raises(DescriptionError, match="gpt4image describe"):
        check_descriptions(images, tmp_path, settings=QUICK)


def test_unknown_language_and_backbone_are_errors_before_the_check(images, tmp_path):
    fill(tmp_path, good_records(images))
    with pytest.raises(ConfigError, match="language"):
        check_descriptions(images, tmp_path, settings=replace(QUICK, language="xx"))
    with pytest.raises(ConfigError, match="Unknown timm model"):
        check_descriptions(images, tmp_path, settings=replace(QUICK, backbone=FrozenBackbone("resnet5000")))


def test_missing_weights_do_not_keep_the_findings_back(images, tmp_path):
    texts = good_records(images)
    fill(tmp_path, [replace(texts[0], text=""), *texts[1:]])
    settings = replace(QUICK, backbone=FrozenBackbone("test_resnet"))  # HF_HUB_OFFLINE: its weights are out of reach
    report = check_descriptions(images, tmp_path, settings=settings)
    assert "weights of test_resnet are not available" in report.no_knowledge
    assert "name a weights file as checkpoint" in report.no_knowledge
    assert "empty" in {finding.kind for finding in report.findings}


def test_images_in_two_classes_are_not_compared_with_a_label(images, tmp_path):
    labels = images.labels.copy()
    twice = np.flatnonzero(labels == 0)[:1]
    import pyarrow as pa

    rows = images.rows.take(pa.array(np.concatenate([np.arange(len(images)), twice])))
    labels = np.concatenate([labels, [1]]).astype(np.int32)
    torn = replace(images, rows=rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(labels)))
    name = images.classes[0]
    descriptions = given_descriptions(torn, tmp_path, dict.fromkeys(training_ids(images)[:4], f"A {name} thing here."))
    report = check_descriptions(torn, tmp_path, descriptions, QUICK)
    leakage = next(finding for finding in report.findings if finding.kind == "leakage")
    assert leakage.count == 3
    assert any("1 image in more than one class" in note for note in report.notes)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    import timm
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), file)
    return FrozenBackbone("test_resnet", file, 32)


@pytest.mark.slow
def test_knowledge_is_measured_on_training_images(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    testing = [record(images.ids[row].decode(), plain_text(images, row, 5)) for row in images.split("test")]
    fill(tmp_path, good_records(images) + testing)
    report = check_descriptions(images, tmp_path, settings=CheckSettings(backbone=backbone))
    knowledge = report.knowledge
    assert knowledge.images == 72
    assert knowledge.text.accuracy > 0.9
    assert knowledge.backbone == "test_resnet (test_resnet.safetensors, 32 pixels)"
    assert knowledge.encoder == report.encoder == "minilm"
    assert knowledge.masked is None
    assert report.no_knowledge is None


@pytest.mark.slow
def test_texts_with_the_class_in_the_prompt_are_left_out(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    plain = good_records(images)
    prompted = [record(r.image_id, f"{r.text} It is the class.", "class-conditioned") for r in plain]
    fill(tmp_path, prompted)
    settings = CheckSettings(backbone=backbone)
    report = check_descriptions(images, tmp_path, settings=settings)
    assert report.knowledge is None
    assert "72 texts whose prompt named the class" in report.no_knowledge
    assert "without {class}" in report.no_knowledge
    fill(tmp_path, plain)
    both = check_descriptions(images, tmp_path, settings=settings)
    assert both.knowledge.images == 72
    assert any("Left out of the comparison with the image features: 72 texts" in note for note in both.notes)


@pytest.mark.slow
def test_texts_of_unknown_prompts_are_left_out(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    fill(tmp_path, [record(r.image_id, r.text, "my-own") for r in good_records(images)])
    report = check_descriptions(images, tmp_path, settings=CheckSettings(backbone=backbone))
    assert "my-own" in report.no_knowledge
    assert "prompt_file" in report.no_knowledge
    fill(tmp_path / "imported", [record(r.image_id, r.text, IMPORTED) for r in good_records(images)])
    report = check_descriptions(images, tmp_path / "imported", settings=CheckSettings(backbone=backbone))
    assert "class_in_prompt to false" in report.no_knowledge and "prompt_file" not in report.no_knowledge
    settings = CheckSettings(backbone=backbone, class_in_prompt=False)
    assert check_descriptions(images, tmp_path, settings=settings).knowledge is not None


@pytest.mark.slow
def test_prompt_file_says_whether_the_class_was_in_the_prompt(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    file = tmp_path / "prompts.toml"
    file.write_text('[my-own]\nturns = ["What is in this picture?"]\n[telling]\nturns = ["Where is the {class}?"]\n')
    own = known_prompts(file)
    for name, class_in_prompt in (("my-own", False), ("telling", True)):
        work = tmp_path / name
        texts = [replace(record(r.image_id, r.text, name), prompt_hash=own[name].hash) for r in good_records(images)]
        fill(work, texts)
        settings = CheckSettings(backbone=backbone, prompt_file=file)
        assert (check_descriptions(images, work, settings=settings).knowledge is None) == class_in_prompt


@pytest.mark.slow
def test_class_names_are_masked_in_a_second_measurement(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    rows = images.split("train")
    names = [images.classes[images.labels[row]] for row in rows]
    numbers = [n % PER_CLASS for n in range(len(rows))]  # equal in every class: only the name differs
    texts = [f"A {name} {SHAPES[n % 3]} {PLACES[n % 7]}, number {n}." for n, name in zip(numbers, names, strict=True)]
    fill(tmp_path, [record(images.ids[row].decode(), text) for row, text in zip(rows, texts, strict=True)])
    knowledge = check_descriptions(images, tmp_path, settings=CheckSettings(backbone=backbone)).knowledge
    assert knowledge.text.accuracy > 0.95
    assert knowledge.masked.accuracy < 0.6


@pytest.mark.slow
def test_several_texts_of_an_image_count_as_one(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    plain = good_records(images)
    more = [record(r.image_id, f"Seen closely: {r.text}", "attributes") for r in plain[:40]]
    fill(tmp_path, plain + more)
    report = check_descriptions(images, tmp_path, settings=CheckSettings(backbone=backbone))
    assert (report.texts, report.described, report.knowledge.images) == (112, 72, 72)


def test_second_check_encodes_new_texts_only(images, tmp_path, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    records = good_records(images)
    fill(tmp_path, records[:-1])
    first = check_descriptions(images, tmp_path)
    encoded = []
    encode = minilm.encode
    monkeypatch.setattr(minilm, "encode", lambda texts: encoded.extend(texts) or encode(texts))
    assert check_descriptions(images, tmp_path).findings == first.findings
    assert encoded == []
    fill(tmp_path, records[-1:])
    check_descriptions(images, tmp_path)
    assert encoded == [records[-1].text]


def test_vectors_of_an_image_are_averaged():
    vectors = np.array([[3, 0], [0, 2], [0, 4], [0, 2]], dtype=np.float32)
    half = 0.5**0.5
    np.testing.assert_allclose(mean_by(np.array([0, 1, 1, 0]), vectors), [[0.8321, 0.5547], [0, 1]], atol=1e-4)
    np.testing.assert_allclose(mean_by(np.array([0, 0]), np.eye(2, dtype=np.float32)), [[half, half]], rtol=1e-6)


@pytest.mark.slow
def test_series_lie_in_one_fold(images, tmp_path, backbone, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    fill(tmp_path, good_records(images))
    series = np.arange(len(images)) // 1000
    settings = CheckSettings(backbone=backbone, series=series)
    report = check_descriptions(images, tmp_path, settings=settings)
    assert report.knowledge is None
    assert "distinct images" in report.no_knowledge


def test_knowledge_needs_a_backbone(images, tmp_path, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    records = good_records(images)
    records[0] = replace(records[0], text="Invoice 4711 is due on Friday; please pay by bank transfer to our account.")
    fill(tmp_path, records)
    report = check_descriptions(images, tmp_path)
    assert "Name the one you will train" in report.no_knowledge
    outliers = next(finding for finding in report.findings if finding.kind == "outlier")
    assert outliers.keys == [records[0].key]


def test_unusable_texts_are_not_outliers(images, tmp_path, minilm, monkeypatch):
    monkeypatch.setattr("gpt4image.quality.check.load_encoder", lambda name, **_: minilm)
    fill(tmp_path, problem_records(images))
    report = check_descriptions(images, tmp_path)
    kinds = {finding.kind: finding.keys for finding in report.findings}
    assert not set(kinds.get("outlier", [])) & {*kinds["refusal"], *kinds["loop"], *kinds["empty"]}


def test_retry_is_not_advised_for_requests_that_would_fail_again():
    lasting, passing = "refused by the server (400)", "server error 500"
    assert "retry_failed" not in advise_missing([lasting, lasting])
    assert "2 requests would fail again" in advise_missing([lasting, passing, lasting])
    assert "would fail again" not in advise_missing([passing, "never requested"])
