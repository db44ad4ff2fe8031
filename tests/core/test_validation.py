"""Validation of settings by the constraints in their annotations."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Interval

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import Registry
from gpt4image.core.validation import check_fields, check_value


@dataclass(frozen=True)
class Base:
    epochs: Annotated[int, Ge(1)] = 20


@dataclass(frozen=True)
class Options(Base):
    share: Annotated[float, Interval(ge=0, le=1)] | None = None
    scale: tuple[Annotated[float, Ge(0)], float] = (0.5, 1.0)
    mode: Literal["skip", "fail"] = "skip"
    names: tuple[str, ...] = ()


@pytest.mark.parametrize("settings", [{}, {"share": 1}, {"share": 0.0}, {"names": ["a", "b"]}, {"scale": (0, 2)}])
def test_valid_settings_pass(settings):
    check_fields(Options(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs should be greater than or equal to 1, not 0."),
        ({"epochs": 2.0}, "epochs should be a valid integer, not 2.0."),
        ({"epochs": True}, "epochs should be a valid integer, not True."),
        ({"share": float("nan")}, "share should be a finite number, not nan."),
        ({"scale": (-1.0, 0.0)}, "scale[0] should be greater than or equal to 0, not -1.0."),
        ({"mode": "stop"}, "mode should be 'skip' or 'fail', not 'stop'."),
        ({"names": "ab"}, "names should be a valid tuple, not 'ab'."),
    ],
)
def test_message_names_setting_constraint_and_value(settings, message):
    with pytest.raises(ConfigError) as raised:
        check_fields(Options(**settings))
    assert str(raised.value) == message


def test_lists_become_tuples_and_nothing_else_is_converted_unless_lax():
    assert check_value(tuple[str, ...], ["a"], "names") == ("a",)
    assert check_value(Path | None, "a", "file", strict=False) == Path("a")
    with pytest.raises(ConfigError, match="file should be an instance of Path"):
        check_value(Path | None, "a", "file")
    with pytest.raises(ConfigError, match=r"file: names\[0\] should be a valid string, not 1"):
        check_value(tuple[str, ...], [1], "file: names")


def test_message_lists_choices_in_the_order_of_the_annotation():
    for kind, choices in ((Literal["b", "a"], "'b' or 'a'"), (Literal["a", "b"], "'a' or 'b'")):
        with pytest.raises(ConfigError, match=f"mode should be {choices}"):
            check_value(kind, "c", "mode")


def test_checked_list_is_kept_as_a_tuple():
    options = Options(names=["a", "b"])
    check_fields(options)
    assert options.names == ("a", "b")


def test_registry_in_the_annotation_knows_the_value():
    kind = Annotated[str, Registry("shape", {"square": "math:sqrt"}, group="gpt4image.shapes")]
    assert check_value(kind, "square", "shape") == "square"
    with pytest.raises(ConfigError, match=r"Unknown shape 'sqare'\. Did you mean 'square'\?"):
        check_value(kind, "sqare", "shape")
