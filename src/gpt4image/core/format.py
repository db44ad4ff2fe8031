"""How pages write numbers and show text that they do not trust."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup, escape

MINUS = "\N{MINUS SIGN}"


NOTHING = "\N{EN DASH}"


ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


_JOINERS = "\u200c\u200d"  # Persian and emoji need them; they move no text


_PLAIN = re.compile(r"[\x20-\x7e]*")


def visible(text: str) -> str:
    r"""Show what would act instead of being read: control, direction and other unseen characters become escapes.

    Line breaks and tabs become spaces. What is printable stays as it is, in every script.

    >>> visible("a\x1b[31m\u202eb\n")
    'a\\x1b[31m\\u202eb '
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in "\n\r\t":
        return " "
    code = ord(character)
    no_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    unseen = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS
    if not (no_character or unseen):
        return character
    return character.encode("ascii", "backslashreplace").decode() if code > 0x7F else f"\\x{code:02x}"


def shorten(text: str, limit: int) -> str:
    """Cut visible text to `limit` columns, ending in an ellipsis; East Asian wide characters take two columns.

    >>> shorten("transportation", 8)
    'transpo…'
    """
    text = visible(text)
    width = 0
    for position, character in enumerate(text):
        width += columns(character)
        if width > limit:
            return text[: max(position - 1, 0)] + ELLIPSIS
    return text


def columns(text: str) -> int:
    """Columns that a text takes in a figure: two for East Asian wide characters, one for others."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def breakable(text: str) -> Markup:
    """A path that may wrap after its separators rather than in the middle of a word.

    >>> breakable("a/<b>_c")
    Markup('a/<wbr>&lt;b&gt;_<wbr>c')
    """
    return Markup(re.sub(r"([/_\\]+)", r"\1<wbr>", str(escape(visible(text)))))


def lines(text: str) -> Markup:
    r"""Text that keeps its line breaks; empty lines in a row become one.

    >>> lines("a\n\n\n\n<b>")
    Markup('a<br><br>&lt;b&gt;')
    """
    kept = re.sub(r"\n{3,}", "\n\n", text.strip().replace("\r\n", "\n"))
    return Markup("<br>").join(map(visible, kept.split("\n")))


def decimal(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """A number with a fixed count of decimals and a true minus sign; a dash for what is no number.

    >>> decimal(1.25, 1, signed=True), decimal(-0.01), decimal(None) == NOTHING
    ('+1.2', '0.0', True)
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if not text.strip("+-0."):
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share of 1 as per cent.

    >>> percent(0.5289)
    '52.9 %'
    """
    text = decimal(None if share is None else 100 * share)
    return text if text == NOTHING else f"{text} %"


def points(shares: Iterable[float]) -> list[str]:
    """Differences of shares as signed percentage points, with as many decimals as tell them all from zero (1 to 3).

    >>> points([0.014, 0.003, 0.025])
    ['+1.4', '+0.3', '+2.5']
    >>> points([0.0101, 0.0004, 0.02])
    ['+1.01', '+0.04', '+2.00']
    """
    values = [100 * share for share in shares]
    digits = next((count for count in (1, 2) if all(not value or round(value, count) for value in values)), 3)
    return [decimal(value, digits, signed=True) for value in values]


def signed_points(share: float | None) -> str:
    """One difference of shares as signed percentage points with one decimal; a dash for none.

    >>> signed_points(0.0312), signed_points(-0.0312) == f"{MINUS}3.1", signed_points(None) == NOTHING
    ('+3.1', True, True)
    """
    return decimal(None if share is None else 100 * share, signed=True)


def money(dollars: float | None) -> str:
    """US dollars, with at least two decimals and two digits that count; a dash for what is not known.

    >>> money(1234.5), money(0.000378), money(0), money(None) == NOTHING
    ('$1,234.50', '$0.00038', '$0.00', True)
    """
    if dollars is None or not math.isfinite(dollars):
        return NOTHING
    digits = 1 - math.floor(math.log10(abs(dollars))) if dollars else 2
    return f"${dollars:,.{min(max(digits, 2), 9)}f}"


def duration(seconds: float) -> str:
    """A span of time in its two largest units.

    >>> duration(3725), duration(61.2), duration(4.25)
    ('1 h 2 min', '1 min 1 s', '4.2 s')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def moment(text: str) -> str:
    """A time in ISO 8601 to the minute; what is none stays as it is.

    >>> moment("2025-06-03T14:05:09.123456+00:00"), moment("yesterday")
    ('2025-06-03 14:05 UTC', 'yesterday')
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.astimezone(UTC) if when.tzinfo else when:%Y-%m-%d %H:%M}{' UTC' if when.tzinfo else ''}"


def count(number: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun.

    >>> count(1, "image"), count(1204, "image"), count(2, "class", "classes")
    ('1 image', '1,204 images', '2 classes')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def dollars(amount: float) -> str:
    """Money in cents, or in four digits where it is less than a dollar.

    >>> dollars(1234.567), dollars(0.012345)
    ('$1,234.57', '$0.01235')
    """
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4g}"


def short(number: float) -> str:
    """A large number in few characters.

    >>> short(950), short(12_345), short(2_500_000)
    ('950', '12.3k', '2.5M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def rough_duration(seconds: float) -> str:
    """A time span in words.

    >>> rough_duration(3.2), rough_duration(200), rough_duration(9000), rough_duration(200_000)
    ('3.2 s', '3 min', '2.5 h', '2.3 days')
    """
    for limit, unit, size in ((172_800, "days", 86_400), (7_200, "h", 3_600), (120, "min", 60)):
        if seconds >= limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if unit == "min" else f"{value:.1f} {unit}"
    return f"{seconds:.1f} s"
