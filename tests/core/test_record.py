"""Records: what is saved is loaded, and a misfit names file and field."""

import math

import pytest

from gpt4image.core.errors import StoreError
from gpt4image.core.files import write_json
from gpt4image.core.record import Record


class Inner(Record):
    name: str
    scores: tuple[float, ...] = ()


class Outer(Record):
    inner: Inner
    share: float | None = None


def test_record_survives_saving_and_loading(tmp_path):
    record = Outer(inner=Inner(name="a", scores=(0.5, 1.0)), share=0.25)
    record.save(tmp_path / "deep" / "record.json")
    assert Outer.load(tmp_path / "deep" / "record.json") == record


def test_nan_is_saved_as_null(tmp_path):
    Outer(inner=Inner(name="a"), share=math.nan).save(tmp_path / "record.json")
    assert Outer.load(tmp_path / "record.json").share is None


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"inner": {"name": "a"}, "more": 1}, "'more'"),
        ({"inner": {"scores": []}}, r"'inner\.name'"),
        ({"inner": {"name": "a", "scores": [1, "x"]}}, r"'inner\.scores\.1'"),
    ],
)
def test_misfit_names_file_and_field(value, field, tmp_path):
    write_json(tmp_path / "record.json", value)
    with pytest.raises(StoreError, match=rf"record\.json: field {field} does not match this version"):
        Outer.load(tmp_path / "record.json")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"record\.json does not exist"):
        Outer.load(tmp_path / "record.json")
