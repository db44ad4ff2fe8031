"""Descriptions shared: `datasets` loads them, nothing breaks out of the card, and they come back as they were."""

import json
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt

from gpt4image import load_images
from gpt4image.core.errors import BusyError, ConfigError, DescriptionError, ImageError
from gpt4image.core.files import digest, exclusive
from gpt4image.describe.tasks import plan_tasks
from gpt4image.descriptions.description_set import ImageLookup
from gpt4image.descriptions.exchange import export_descriptions, import_descriptions
from gpt4image.descriptions.exchange.card import SetStatistics
from gpt4image.descriptions.prompts import Prompt
from gpt4image.descriptions.store import DescriptionRecord, DescriptionStore
from gpt4image.descriptions.store.conversations import Turn
from support.stored import CREATED, ask, fill, shared_rows

HOSTILE = "---\nlicense: evil\n---\n# Big | <script>alert(1)</script> ```` [x](http://e.vil) `|` *b* \u202e\x1b[31m"


@pytest.fixture(scope="module")
def work(images, tmp_path_factory):
    """A store with two prompts of one model and two samples of another."""
    return fill(tmp_path_factory.mktemp("work"), images, ask("m/1"), ask("m2", ["plain"], samples=2))


@pytest.fixture(scope="module")
def shared(work, images, tmp_path_factory):
    out = tmp_path_factory.mktemp("shared") / "set"
    export_descriptions(work, images, out)
    return out


def empty(tmp_path: Path) -> DescriptionStore:
    return DescriptionStore(tmp_path / "new" / "descriptions")


def free(records) -> list[DescriptionRecord]:
    """Records without their cost."""
    return [replace(record, cost=None) for record in records]


def load(folder: Path, tmp_path: Path, **options):
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), **options)


def write_rows(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestExport:
    def test_datasets_loads_every_row_and_column(self, work, shared, images, tmp_path):
        loaded = load(shared, tmp_path)
        assert set(loaded) == {"train", "validation", "test"}
        found = {row["key"]: (name, row) for name, part in loaded.items() for row in part}
        records = work.current()
        assert len(found) == len(records) == 4 * len(images)
        place = {images.ids[i].decode(): i for i in range(len(images))}
        for record in records:
            split, row = found[record.key]
            index = place[record.image_id]
            assert split == row.pop("split") == images.rows["split"][index].as_py()
            assert row.pop("path") == images.path(index)
            assert row.pop("label") == images.classes[images.labels[index]]
            assert DescriptionRecord(**row) == replace(record, cost=None)

    def test_card_states_the_features_and_sizes_that_datasets_infers(self, shared, tmp_path):
        import datasets

        told = load(shared, tmp_path)
        files = {split: str(shared / "data" / f"{split}-*") for split in told}
        inferred = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "other"))
        assert told["train"].features == inferred["train"].features
        card = yaml.safe_load((shared / "README.md").read_text().split("---\n")[1])
        splits = card["dataset_info"]["splits"]
        assert {split["name"]: split["num_examples"] for split in splits} == {k: len(v) for k, v in inferred.items()}
        assert [feature["name"] for feature in card["dataset_info"]["features"]] == inferred["train"].column_names

    def test_images_inside_includes_the_image_files(self, work, images, tmp_path):
        out = tmp_path / "set"
        export_descriptions(work, images, out, images_inside=True, with_cost=True)
        loaded = load(out, tmp_path)
        assert type(loaded["train"].features["image"]).__name__ == "Image"
        assert loaded["train"][0]["image"].size == (48, 48)
        assert loaded["train"][0]["cost"] == 0.25
        again = load_images(out)
        assert set(again.ids.tolist()) == set(images.ids.tolist())
        assert set(again.classes) == set(images.classes)
        assert "text" in again.reader.text_columns

    def test_metadata_file_turns_an_image_folder_into_a_dataset(self, image_set, work, shared, tmp_path):
        folder = tmp_path / "images"
        shutil.copytree(image_set, folder)
        shutil.copy(shared / "metadata.jsonl", folder)
        loaded = load(folder, tmp_path)["train"]
        assert len(loaded) == len(work.current())
        assert loaded[0]["image"].size == (48, 48)
        assert set(loaded["text"]) == {record.text for record in work.current()}

    def test_files_are_split_by_size(self, work, images, tmp_path, monkeypatch):
        monkeypatch.setattr("gpt4image.descriptions.exchange.export.GROUP_ROWS", 10)
        export_descriptions(work, images, tmp_path / "set", shard_bytes=1)
        names = sorted(path.name for path in (tmp_path / "set" / "data").glob("train-*"))
        rows = [pq.read_metadata(tmp_path / "set" / "data" / name).num_rows for name in names]
        assert len(names) > 1 and sum(rows) == 80 and min(rows) > 0
        assert names == [f"train-{i:05}-of-{len(names):05}.parquet" for i in range(len(names))]
        assert len(load(tmp_path / "set", tmp_path)["train"]) == 80

    def test_failures_dropped_and_orphan_texts_are_left_out(self, images, tmp_path):
        store = fill(tmp_path, images, ask("m", ["plain"]))
        records = store.current()
        store.mark([records[0].key], "drop", "refusal")
        with store.writer() as writer:
            writer.write(replace(records[1], key=digest("a"), text="", error="server error 500", prompt="questions"))
            writer.write(replace(records[1], key=digest("b"), image_id=digest("elsewhere")))
            writer.write(replace(records[2], text="newer", created="2026-03-01T00:00:00.000000+00:00"))
        summary = export_descriptions(store, images, tmp_path / "set")
        rows = shared_rows(tmp_path / "set")
        assert {row["key"] for row in rows} == {record.key for record in records[1:]}
        assert {row["text"] for row in rows if row["key"] == records[2].key} == {"newer"}
        assert (summary.texts, summary.images, summary.orphan_texts, summary.failures) == (35, 35, 1, 1)
        left_out = "1 text of images that are not in the image set, 1 failed request, 1 text dropped by describe check"
        assert left_out in summary.line()
        card = (tmp_path / "set" / "README.md").read_text()
        assert "Excluded: 1 text that a quality check dropped" in card
        assert "| server error 500 | 1 |" in card
        assert "35 descriptions of 35 images" in card

    def test_trials_are_left_out_until_they_count(self, images, tmp_path):
        store = fill(tmp_path, images, ask("m", ["plain"]))
        keys = [record.key for record in store.current()[:3]]
        store.mark(keys, "trial", "trial")
        store.mark(keys[:1], "drop", "refusal")
        summary = export_descriptions(store, images, tmp_path / "set")
        assert (summary.texts, summary.dropped, summary.trials) == (33, 1, 2)
        assert "1 text dropped by describe check, 2 trial texts" in summary.line()
        store.mark(keys[1:], "keep", "run in full")
        assert export_descriptions(store, images, tmp_path / "all").texts == 35

    def test_empty_export_is_an_error(self, images, tmp_path):
        with pytest.raises(DescriptionError, match="holds no text of any image in"):
            export_descriptions(DescriptionStore(tmp_path / "none"), images, tmp_path / "set")
        assert not list(tmp_path.iterdir())

    def test_non_empty_folder_is_rejected_and_kept(self, work, images, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(ConfigError, match="Name a new folder"):
            export_descriptions(work, images, tmp_path)
        (tmp_path / "empty").mkdir()
        export_descriptions(work, images, tmp_path / "empty")
        assert (tmp_path / "empty" / "README.md").exists()
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_changed_image_stops_the_export(self, image_set, tmp_path):
        shutil.copytree(image_set, tmp_path / "images")
        images = load_images(tmp_path / "images")
        store = fill(tmp_path / "work", images, ask("m", ["plain"]))
        shutil.copy(image_set / "red" / "002.png", tmp_path / "images" / "red" / "001.png")
        with pytest.raises(ImageError, match=r"red/001\.png: the file changed"):
            export_descriptions(store, images, tmp_path / "set", images_inside=True)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "work"]

    def test_copies_count_once_and_missing_labels_stay_empty(self, images, work, tmp_path):
        labels = pa.array([-1, *images.labels[1:]], pa.int32())
        rows = images.rows.set_column(images.rows.schema.get_field_index("label"), "label", labels)
        twice = replace(images, rows=pa.concat_tables([rows, rows.slice(5, 2)]))
        summary = export_descriptions(work, twice, tmp_path / "set")
        assert (summary.texts, summary.images) == (4 * len(images), len(images))
        assert {row["label"] for row in shared_rows(tmp_path / "set")} == {None, *images.classes}


class TestCard:
    def test_card_lists_counts_prompts_models_and_findings(self, shared, work, images, tmp_path):
        export_descriptions(work, images, tmp_path / "set", findings={"Cut off": 1234}, with_cost=True)
        card = (tmp_path / "set" / "README.md").read_text()
        assert "| train | 20 | 20 | 80 |" in card
        assert "| red | 12 | 12 | 48 |" in card
        assert "| Cut off | 1,234 |" in card
        assert "| m/1 | m/1-2026 | openai | 72 |" in card
        assert "```text\nDescribe the image in detail.\n```" in card
        assert "You look closely at pictures" in card
        assert "| max side 768, max tokens 100, temperature 0.5 | 72 |" in card
        assert "Written from 2026-02-03 to 2026-02-03" in card
        written = sum(record.tokens_out or 0 for record in work.current())
        assert f"115,200 prompt tokens and {written:,} completion tokens" in card
        assert "36.00 US dollars" in card
        assert "US dollars" not in (shared / "README.md").read_text().split("## Columns")[0]

    def test_card_summarises_many_classes(self, images, tmp_path):
        many = replace(images, classes=(*images.classes, *(f"class {n}" for n in range(100))))
        store = fill(tmp_path, images, ask("m", ["plain"]))
        export_descriptions(store, many, tmp_path / "set")
        card = (tmp_path / "set" / "README.md").read_text()
        assert "103 classes, with 0 to 12 texts each (median 0)" in card
        assert "class 7" not in card

    def test_class_coverage_matches_plain_counting(self, images, work):
        lookup = ImageLookup(images)
        account = SetStatistics(lookup)
        for batch in work.current_batches():
            table = pa.Table.from_batches([batch])
            account.add(table, lookup.find(table["image_id"]))
        for label, covered in enumerate(account.by_class()):
            assert (covered.name, covered.images) == (images.classes[label], (images.labels == label).sum())
            assert covered.texts == 4 * covered.images

    def test_card_escapes_untrusted_text(self, images, tmp_path):
        prompt = Prompt("evil", (HOSTILE + "\n`````\n# not a title\n~~~",), system="</details>\n---\nx: y")
        store = DescriptionStore(tmp_path / "descriptions")
        with store.writer() as writer:
            for index, image_id in enumerate(images.ids.tolist()):
                record = DescriptionRecord(
                    digest(image_id),
                    image_id.decode(),
                    HOSTILE,
                    HOSTILE if index == 0 else None,
                    model=HOSTILE,
                    served_model=HOSTILE,
                    describer=HOSTILE,
                    prompt=HOSTILE,
                    prompt_hash=prompt.hash,
                    settings=json.dumps({HOSTILE: HOSTILE}),
                    created=CREATED,
                )
                writer.write(record)
        evil = replace(images, classes=(HOSTILE, "www.evil.com", "a|b"), source=HOSTILE.replace("/", "|"))
        export_descriptions(store, evil, tmp_path / "set", prompts=[prompt], findings={HOSTILE: 1})
        card = (tmp_path / "set" / "README.md").read_text()
        front, body = card[4:].split("\n---\n", 1)
        assert set(yaml.safe_load(front)) == {"task_categories", "pretty_name", "tags", "configs", "dataset_info"}
        assert load(tmp_path / "set", tmp_path)["train"][0]["text"] == HOSTILE
        assert not re.search(r"[\x1b\u202e]|www\.", body)
        outline = parsed(body)
        shown = (
            "--- license: evil --- # Big | <script>alert(1)</script> ```` [x](http://e.vil) `|` *b* \\u202e\\x1b[31m"
        )
        assert outline.titles == [
            f"Descriptions of {shown.replace('/', '|')}",
            *("Contents", "Provenance", "Prompts", shown),
            *("Findings of the quality check", "Known limits", "Licence", "Columns", "How to load it"),
        ]
        assert outline.links == ["https://arxiv.org/abs/2306.00693"]
        assert not {"html_block", "html_inline", "hr", "em_open"} & outline.kinds
        assert [shown, "12", "11", "11"] in outline.table_rows
        assert [shown, shown, shown, "35"] in outline.table_rows
        assert [shown, "1"] in outline.table_rows
        assert any("# not a title" in block and "`````" in block for block in outline.blocks)


@dataclass
class Outline:
    """What a Markdown parser makes of a card."""

    kinds: set[str]
    titles: list[str]
    links: list[str]
    table_rows: list[list[str]]
    blocks: list[str]


def parsed(body: str) -> Outline:
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inner = [child for token in tokens for child in token.children or []]
    titles, rows = [], []
    for token, following in pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            rows[-1].append(plain(following))
        if token.type == "heading_open":
            titles.append(plain(following))
    links = [child.attrs["href"] for child in inner if child.type == "link_open"]
    blocks = [token.content for token in tokens if token.type == "fence"]
    return Outline({token.type for token in [*tokens, *inner]}, titles, links, rows, blocks)


def plain(token) -> str:
    return "".join(child.content for child in token.children)


class TestImport:
    def test_round_trip_keeps_every_record(self, work, shared, images, tmp_path):
        store = empty(tmp_path)
        summary = import_descriptions(shared, images, store)
        assert store.current() == free(work.current())
        assert (summary.added, summary.known, summary.orphans, summary.ignored) == (144, 0, 0, ())
        for question in (ask("m/1"), ask("m2", ["plain"], samples=2)):
            assert len(plan_tasks(images, np.arange(len(images)), question, store)) == 0

    @pytest.mark.parametrize("form", ["metadata", "one Parquet file", "own JSON Lines", "saved by pandas"])
    def test_every_file_format_round_trips(self, work, shared, images, tmp_path, form):
        rows = shared_rows(shared)
        source = {
            "metadata": lambda: shared / "metadata.jsonl",
            "one Parquet file": lambda: write_rows(tmp_path / "a.parquet", rows),
            "own JSON Lines": lambda: write_rows(tmp_path / "a.jsonl", rows),
            "saved by pandas": lambda: through_pandas(rows, tmp_path / "a.parquet"),
        }[form]()
        store = empty(tmp_path)
        import_descriptions(source, images, store)
        assert store.current() == free(work.current())

    def test_cost_round_trips_if_exported(self, work, images, tmp_path):
        export_descriptions(work, images, tmp_path / "set", with_cost=True, images_inside=True)
        store = empty(tmp_path)
        import_descriptions(tmp_path / "set", images, store)
        assert store.current() == work.current()

    def test_importing_again_adds_nothing(self, shared, images, tmp_path):
        store = empty(tmp_path)
        import_descriptions(shared, images, store)
        summary = import_descriptions(shared, images, store)
        assert (summary.added, summary.known) == (0, 144)
        assert "0 texts imported; 144 already known" in summary.line()
        assert len(list(store.records())) == 144

    def test_cost_of_an_ended_conversation_stays_counted(self, work, shared, images, tmp_path):
        """Of two answers the second is later than the text that is imported, and stays for itself."""
        store, theirs = empty(tmp_path), [record for record in work.current() if record.prompt == "questions"][:2]
        early, late = "2026-02-03T00:00:00.000000+00:00", "2026-02-04T00:00:00.000000+00:00"
        with store.conversations() as kept:
            for record, created in zip(theirs, (early, late), strict=True):
                kept.keep(Turn(record.key, 0, "yes", record.model, "m", "stop", 5, 1, 0.25, created))
        assert store.spent().cost == 0.5
        summary = import_descriptions(shared, images, store)
        assert summary.added == len(list(work.current())) == len(store.current())
        assert store.spent("m/1").cost == store.spent().cost == 0.5
        (payment,) = store.payments()
        assert (payment.cost, payment.tokens_in, payment.text) == (0.25, 5, "")
        store.compact()
        assert store.spent().cost == 0.5
        assert import_descriptions(shared, images, store).added == 0
        assert store.spent().cost == 0.5

    def test_conversation_of_a_running_process_is_left_alone(self, work, shared, images, tmp_path):
        """It records what it has paid for itself."""
        store, theirs = empty(tmp_path), next(record for record in work.current() if record.prompt == "questions")
        with store.conversations() as kept:
            kept.keep(Turn(theirs.key, 0, "yes", theirs.model, "m", "stop", 5, 1, 0.25, "2026-02-03"))
            import_descriptions(shared, images, store)
        assert not list(store.payments())

    def test_existing_records_are_kept(self, shared, images, tmp_path):
        rows = shared_rows(shared)
        store = empty(tmp_path)
        with store.writer() as writer:
            for row, error in zip(rows[:3], (None, None, "server error 500"), strict=True):
                writer.write(DescriptionRecord(row["key"], row["image_id"], "own", error, created=CREATED))
        store.mark([rows[1]["key"]], "drop", "refusal")
        assert import_descriptions(shared, images, store).added == 142
        texts = {record.key: record.text for record in store.current(dropped=True)}
        assert [texts[row["key"]] for row in rows[:3]] == ["own", "own", rows[2]["text"]]
        assert rows[1]["key"] not in {record.key for record in store.current()}

    def test_texts_marked_for_retry_are_not_imported(self, shared, images, tmp_path):
        rows = shared_rows(shared)
        store = empty(tmp_path)
        import_descriptions(shared, images, store)
        store.mark([rows[0]["key"]], "retry", "cut off")
        assert import_descriptions(shared, images, store).added == 0
        newer = {**rows[0], "text": "mended", "created": "2999-01-01T00:00:00+00:00"}
        assert import_descriptions(write_rows(tmp_path / "new.jsonl", [newer]), images, store).added == 1
        assert "mended" in {record.text for record in store.current()}

    def test_path_is_used_only_without_an_id(self, shared, images, image_set, tmp_path):
        rows = shared_rows(shared)[:3]
        paths = [row["file_name"] for row in rows]
        del rows[0]["image_id"]
        rows[1] |= {"image_id": None, "file_name": str(image_set / paths[1])}
        rows[2]["file_name"] = "moved/elsewhere.png"
        store = empty(tmp_path)
        import_descriptions(write_rows(tmp_path / "a.jsonl", rows), images, store)
        found = {record.key: record.image_id for record in store.current()}
        assert [found[row["key"]] for row in rows] == [row["image_id"] for row in shared_rows(shared)[:3]]

    def test_orphan_texts_fail_or_are_skipped(self, shared, images, tmp_path):
        rows = shared_rows(shared)
        rows[7]["image_id"] = digest("elsewhere")  # its path would fit, but an id was given
        path = write_rows(tmp_path / "a.jsonl", rows)
        store = empty(tmp_path)
        with pytest.raises(DescriptionError, match=rf"1 of 144 texts match no image.*{digest('elsewhere')}.*skip"):
            import_descriptions(path, images, store)
        assert list(store.records()) == []
        summary = import_descriptions(path, images, store, orphan_texts="skip")
        assert (summary.added, summary.orphans) == (143, 1)
        assert "1 that match no image left out" in summary.line()

    def test_unused_columns_are_named(self, shared, images, tmp_path):
        rows = [{**row, "rating": 5, "notes": {"a": [1]}} for row in shared_rows(shared)]
        for name in ("a.jsonl", "a.parquet"):
            store = empty(tmp_path / name[2:])
            summary = import_descriptions(write_rows(tmp_path / name, rows), images, store)
            assert (summary.added, summary.ignored) == (144, ("rating", "notes"))
            assert "unused columns: rating, notes" in summary.line()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"key": "XYZ"}, r"key: must be 32 hex digits\. It is 'XYZ'"),
            ({"key": "A" * 32}, "key: must be 32 hex digits"),
            ({"key": None}, "key: Field required"),
            ({"text": None}, "text: Field required"),
            ({"text": 5}, "text: Input should be a valid string"),
            ({"text": "\ud800"}, "text: contains an unpaired surrogate"),
            ({"finish_reason": "\udfff"}, "finish_reason: contains an unpaired surrogate"),
            ({"model": ["m"]}, "model: Input should be a valid string"),
            ({"image_id": "cat.png"}, "image_id: must be 32 hex digits"),
            ({"image_id": None, "file_name": None}, "neither image_id nor path"),
            ({"prompt_hash": "abc"}, "prompt_hash: must be 32 hex digits"),
            ({"sample": -1}, "sample: Input should be greater"),
            ({"sample": 2**40}, "sample: Input should be less"),
            ({"sample": "1"}, "sample: Input should be a valid integer"),
            ({"tokens_in": 1.5}, "tokens_in: Input should be a valid integer"),
            ({"tokens_in": True}, "tokens_in: Input should be a valid integer"),
            ({"cost": -1.0}, "cost: Input should be greater"),
            ({"cost": float("inf")}, "cost: Input should be a finite"),
            ({"seconds": "fast"}, "seconds: Input should be a valid number"),
            ({"settings": "[1]"}, "settings: must be a JSON object"),
            ({"settings": "[" * 100_000}, "settings: is nested too deep"),
            ({"settings": "{"}, "settings: "),
            ({"created": "yesterday"}, "created: Invalid isoformat"),
            ({"created": "2026-01-01"}, "created: must have a time zone"),
            ({"created": "0001-01-01T00:00:00+20:00"}, "created: "),
            ({"error": "server error 500"}, "error: Input should be None"),
            ({"text": "other"}, "occurs twice, with different texts"),
        ],
    )
    def test_invalid_row_is_named_and_nothing_is_imported(self, shared, images, tmp_path, change, message):
        rows = shared_rows(shared)
        path = write_rows(tmp_path / "a.jsonl", [*rows, {**rows[5], **change}])
        store = empty(tmp_path)
        with pytest.raises(DescriptionError, match=message) as caught:
            import_descriptions(path, images, store)
        assert f"{path}, line 145: " in str(caught.value)
        assert len(str(caught.value)) < 500
        assert list(store.records()) == []
        assert not list(store.folder.glob("parts/*"))

    def test_invalid_parquet_row_is_named(self, shared, images, tmp_path):
        rows = shared_rows(shared)
        rows[100]["key"] = "short"
        path = write_rows(tmp_path / "a.parquet", rows)
        with pytest.raises(DescriptionError, match=r"a\.parquet, row 101: key"):
            import_descriptions(path, images, empty(tmp_path))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(DescriptionError, match=r"a\.parquet cannot be read as Parquet"):
            import_descriptions(path, images, empty(tmp_path))
        damaged = bytearray((shared / "data" / "train-00000-of-00001.parquet").read_bytes())
        damaged[200:4000] = bytes(3800)
        path.write_bytes(damaged)
        with pytest.raises(DescriptionError, match=r"a\.parquet, after row \d+: cannot be read"):
            import_descriptions(path, images, empty(tmp_path))

    @pytest.mark.parametrize(
        ("name", "message"),
        [("nothing", "does not exist"), ("empty", "neither Parquet files nor"), ("work", "is a work directory")],
    )
    def test_source_without_descriptions_is_rejected(self, images, tmp_path, name, message):
        (tmp_path / "empty").mkdir()
        fill(tmp_path / "work", images, ask("m", ["plain"]))
        with pytest.raises(DescriptionError, match=message):
            import_descriptions(tmp_path / name, images, empty(tmp_path))

    def test_hidden_files_are_ignored(self, shared, images, tmp_path):
        shutil.copytree(shared, tmp_path / "set")
        (tmp_path / "set" / ".cache").mkdir()
        (tmp_path / "set" / ".cache" / "x.parquet").write_text("not parquet")
        assert import_descriptions(tmp_path / "set", images, empty(tmp_path)).added == 144

    def test_concurrent_import_is_rejected(self, shared, images, tmp_path):
        store = empty(tmp_path)
        with exclusive(store.folder / "add.lock", "it"), pytest.raises(BusyError):
            import_descriptions(shared, images, store)


def through_pandas(rows: list[dict], path: Path) -> Path:
    """Rows as pandas writes them: whole numbers with gaps become floats."""
    import pandas as pd

    pd.DataFrame(rows).to_parquet(path)
    assert pq.read_schema(path).field("tokens_out").type == pa.float64()
    return path


class TestPlainTables:
    @pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
    @pytest.mark.parametrize("by", ["image_id", "path"])
    def test_plain_table_gets_imported_as_model_and_prompt(self, images, tmp_path, suffix, by):
        import pandas as pd

        owners = [image_id.decode() for image_id in images.ids] if by == "image_id" else images.rows["path"].to_pylist()
        table = pd.DataFrame({by: owners, "caption": [f"text of {owner}" for owner in owners]})
        path = tmp_path / f"a{suffix}"
        match suffix:
            case ".parquet":
                table.to_parquet(path)
            case ".jsonl":
                table.to_json(path, orient="records", lines=True)
            case _:
                table.to_csv(path, index=False, sep="," if suffix == ".csv" else "\t")
        store = empty(tmp_path)
        assert import_descriptions(path, images, store).added == 36
        assert import_descriptions(path, images, store).added == 0
        by_id = {record.image_id: record for record in store.current()}
        for index, image_id in enumerate(images.ids.tolist()):
            record = by_id[image_id.decode()]
            assert record.text == f"text of {owners[index]}"
            assert (record.model, record.prompt, record.describer) == ("imported", "imported", "imported")
            assert record.key == digest(record.image_id, record.text, "imported")
        export_descriptions(store, images, tmp_path / "set")
        again = DescriptionStore(tmp_path / "again")
        import_descriptions(tmp_path / "set", images, again)
        assert again.current() == store.current()

    def test_plain_table_options_empty_texts_and_copies(self, images, tmp_path):
        rows = [{"path": images.path(0), "words": "a"}, {"path": images.path(0), "words": "b"}]
        rows += [{"path": images.path(0), "words": "a"}, {"path": images.path(1), "words": " "}]
        rows += [{"path": "elsewhere.png", "words": "c"}, {"path": images.path(2), "words": "\ud800"}]
        path = write_rows(tmp_path / "a.jsonl", rows)
        store = empty(tmp_path)
        with pytest.raises(DescriptionError, match=r"1 of 4 texts match no image.*'elsewhere\.png'"):
            import_descriptions(path, images, store, text_column="words")
        with pytest.raises(DescriptionError, match="text_column"):
            import_descriptions(path, images, store)
        summary = import_descriptions(path, images, store, text_column="words", model="blip", orphan_texts="skip")
        assert (summary.added, summary.known, summary.empty, summary.orphans) == (3, 1, 1, 1)
        assert "1 row without a text" in summary.line()
        assert sorted(record.text for record in store.current()) == ["?", "a", "b"]
        assert {record.model for record in store.current()} == {"blip"}
        other = import_descriptions(path, images, store, text_column="words", model="git", orphan_texts="skip")
        assert other.added == 3


KILLED = """
import sys
from gpt4image import load_images
from gpt4image.descriptions.exchange import import_descriptions
from gpt4image.descriptions.store import DescriptionStore
images = load_images(sys.argv[1])
print("ready", flush=True)
import_descriptions(sys.argv[2], images, DescriptionStore(sys.argv[3]))
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_import_leaves_all_or_nothing(image_set, images, tmp_path):
    rows = [
        {"image_id": images.ids[n % 36].decode(), "key": digest(str(n)), "text": f"text {n} " * 40, "model": "m"}
        | {"prompt": "plain", "prompt_hash": digest("p"), "created": CREATED}
        for n in range(20_000)
    ]
    source = write_rows(tmp_path / "a.jsonl", rows)
    store = empty(tmp_path)
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(image_set), str(source), str(store.folder)]
        seconds = random.uniform(0, 1.5)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(seconds)
            process.kill()
        assert len(list(store.records())) in (0, 20_000), f"killed after {seconds} s"
    import_descriptions(source, images, store)
    assert sorted(record.key for record in store.records()) == sorted(row["key"] for row in rows)
    assert [path.suffix for path in (store.folder / "parts").iterdir()] == [".parquet"]
