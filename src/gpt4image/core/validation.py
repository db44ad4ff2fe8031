"""Validation of settings: annotations define the constraints, and all messages have the same form."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from annotated_types import Ge, Gt, Interval

from gpt4image.core.errors import ConfigError
from gpt4image.core.registry import Registry, unknown_name

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic import TypeAdapter

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
Whole = Annotated[int, Ge(0)]


def check_fields(settings: DataclassInstance) -> None:
    """Check every field of a dataclass against its annotation; lists become tuples.

    Raises:
        ConfigError: a value has the wrong type or violates a constraint.
    """
    kinds = field_types(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        checked = check_value(kinds[field.name], value, field.name)
        if isinstance(value, list):
            object.__setattr__(settings, field.name, checked)  # the dataclass is frozen


def check_value(kind: Any, value: Any, where: str, *, strict: bool = True) -> Any:  # noqa: ANN401 - any field's type and value
    """Return the value converted to a type: lists become tuples, and unless strict, text becomes paths and numbers.

    Args:
        kind: the type, with constraints of `annotated_types` or pydantic, or a `Registry` that contains the value.
        value: a plain value, such as one read from TOML.
        where: name of the setting, for the message.
        strict: whether to reject text that stands for a path or a number.

    Raises:
        ConfigError: the value is invalid.
    """
    from pydantic import ValidationError

    for part in getattr(kind, "__metadata__", ()):
        if isinstance(part, Registry):
            part.check(value)
    try:
        plain = tuple(value) if isinstance(value, list) else value
        return adapter(kind, repr(kind)).validate_python(plain, strict=strict)
    except ValidationError as error:
        first = error.errors()[0]
        option = f" (--{where.replace('_', '-')})" if where.isidentifier() else ""
        place = where + option + "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
        raise ConfigError(f"{place} {first['msg'].removeprefix('Input ')}, not {first['input']!r}.") from None


def take_fields(values: dict[str, Any], *kinds: type, **given: Any) -> list[Any]:  # noqa: ANN401 - any field's value
    """Build several dataclasses, each from the values named like its fields.

    Args:
        values: values by the name of a field; text may stand for paths and numbers.
        kinds: the dataclasses.
        given: values of fields that the caller may not set.

    Raises:
        ConfigError: a value is invalid, or no dataclass has such a field.
    """
    types = [field_types(kind) for kind in kinds]
    known = {name: kind for each in types for name, kind in each.items()}
    if unknown := values.keys() - known.keys():
        raise ConfigError(unknown_name("option", min(unknown), known))
    checked = {name: check_value(known[name], value, name, strict=False) for name, value in values.items()} | given
    return [
        kind(**{name: checked[name] for name in each if name in checked})
        for kind, each in zip(kinds, types, strict=True)
    ]


def changed_options(options: DataclassInstance, default: DataclassInstance | None = None) -> list[str]:
    """Return settings as words of a command line, leaving out those equal to `others` or, by default, to the defaults.

    Fields without a default, such as the images, are left out.

    >>> from gpt4image.core.options import DataOptions
    >>> changed_options(DataOptions("photos", unlabelled=("more", "rest"), leaks="drop"))
    ['--unlabelled', 'more', 'rest', '--leaks', 'drop']
    """
    words: list[str] = []
    for field in fields(options):
        usual = field.default if default is None else getattr(default, field.name)
        value = getattr(options, field.name)
        if usual is MISSING or value == usual:
            continue
        notes = getattr(field_types(type(options))[field.name], "__metadata__", ())
        name = next((note.name for note in notes if getattr(note, "name", None)), field.name).replace("_", "-")
        if isinstance(value, bool) and isinstance(usual, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


@cache
def field_types(kind: type) -> dict[str, Any]:
    """Return the annotations of a dataclass, those of its bases included."""
    return get_type_hints(kind, include_extras=True)


@cache
def adapter(kind: Any, _spelling: str) -> TypeAdapter[Any]:  # noqa: ANN401 - any field's type
    """Return the validator of a type; building one takes longer than using it.

    Choices in another order are an equal type but give another message, so the cache key includes the spelling.
    """
    from pydantic import ConfigDict, TypeAdapter

    finite = (
        None if is_dataclass(kind) else ConfigDict(allow_inf_nan=False)
    )  # dataclasses check their fields themselves
    return TypeAdapter(kind, config=finite)
