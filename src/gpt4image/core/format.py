"""Formatting of numbers, times, money, counts and untrusted text, the same in the terminal and on pages."""

from __future__ import annotations

import math
import re
import shlex
import textwrap
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime

from markupsafe import Markup, escape

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"  # stands for a missing number
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"

_JOINERS = "\u200c\u200d"  # invisible, but needed in Persian and emoji, and they do not reorder text
_PLAIN = re.compile(r"[\x20-\x7e]*")


# Numbers.


def decimal(value: float | None, digits: int = 1, signed: bool = False) -> str:
    """Write a number with a fixed count of decimals and a true minus sign; a dash for None, infinity and NaN.

    >>> decimal(1.25, 1, signed=True), decimal(-0.01), decimal(None) == NOTHING
    ('+1.2', '0.0', True)
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if not text.strip("+-0."):  # no sign for zero
        return text.lstrip("+-")
    return text.replace("-", MINUS)


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share of 1 as a percentage.

    >>> percent(0.5289), percent(0.5289, 0)
    ('52.9%', '53%')
    """
    text = decimal(None if share is None else 100 * share, digits)
    return text if text == NOTHING else f"{text}%"


def points(shares: Iterable[float]) -> list[str]:
    """Write differences of shares as signed percentage points, with the 1 to 3 decimals that keep all nonzero.

    >>> points([0.014, 0.003, 0.025])
    ['+1.4', '+0.3', '+2.5']
    >>> points([0.0101, 0.0004, 0.02])
    ['+1.01', '+0.04', '+2.00']
    """
    values = [100 * share for share in shares]
    digits = next((count for count in (1, 2) if all(not value or round(value, count) for value in values)), 3)
    return [decimal(value, digits, signed=True) for value in values]


def signed_points(share: float | None) -> str:
    """Write one difference of shares as signed percentage points with one decimal; a dash for None.

    >>> signed_points(0.0312), signed_points(-0.0312) == f"{MINUS}3.1", signed_points(None) == NOTHING
    ('+3.1', True, True)
    """
    return decimal(None if share is None else 100 * share, signed=True)


def compact(number: float) -> str:
    """Write a large number in few characters.

    >>> compact(950), compact(12_345), compact(2_500_000)
    ('950', '12.3k', '2.5M')
    """
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"


def as_end(text: str) -> str:
    """Return a text that ends with a full stop.

    >>> as_end("no seed."), as_end("no seed")
    ('no seed.', 'no seed.')
    """
    return text if text.endswith((".", "!", "?")) else f"{text}."


def counted(number: int, noun: str) -> str:
    """Write a number with its noun.

    >>> counted(1, "image"), counted(1200, "copy"), counted(0, "batch"), counted(2, "day")
    ('1 image', '1,200 copies', '0 batches', '2 days')
    """
    if number == 1:
        return f"1 {noun}"
    if re.search("[^aeiou]y$", noun):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith(('ch', 'sh', 's', 'x')) else 's'}"


def money(dollars: float | None) -> str:
    """Write US dollars with at least two decimals and two significant digits; a dash for an unknown sum.

    >>> money(1234.5), money(0.000378), money(0), money(None) == NOTHING
    ('$1,234.50', '$0.00038', '$0.00', True)
    """
    if dollars is None or not math.isfinite(dollars):
        return NOTHING
    digits = 1 - math.floor(math.log10(abs(dollars))) if dollars else 2
    return f"${dollars:,.{min(max(digits, 2), 9)}f}"


# Times.


def duration(seconds: float) -> str:
    """Write a time span in its two largest units.

    >>> duration(3725), duration(61.2), duration(4.25), duration(200_000), duration(7200)
    ('1 h 2 min', '1 min 1 s', '4.2 s', '2 d 7 h', '2 h')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours >= 48:
        large, small = f"{hours // 24} d", f" {hours % 24} h"
    elif hours:
        large, small = f"{hours} h", f" {minutes_left} min"
    else:
        large, small = f"{minutes} min", f" {rest} s"
    return large if small.startswith(" 0 ") else large + small


def moment(text: str) -> str:
    """Write an ISO 8601 time to the minute; return anything else as it is.

    >>> moment("2025-06-03T14:05:09.123456+00:00"), moment("yesterday")
    ('2025-06-03 14:05 UTC', 'yesterday')
    """
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{when.astimezone(UTC) if when.tzinfo else when:%Y-%m-%d %H:%M}{' UTC' if when.tzinfo else ''}"


# Lines of a terminal.


def wrap(line: str, width: int) -> list[str]:
    """Wrap a line that is too long between words, with the indentation of its start.

    >>> wrap("  one two three", 10)
    ['  one two', '  three']
    """
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def wrap_command(command: str, width: int) -> str:
    """Return a command, indented and wrapped with the shell's line continuations.

    >>> print(wrap_command("gpt4image images 'my photos' --splits", 32))
      gpt4image images 'my photos' \\
        --splits
    """
    if len(command) + 2 <= width:
        return f"  {command}"
    lines = [" "]
    for word in map(shlex.quote, shlex.split(command)):
        if len(lines[-1]) + len(word) + 1 > width - 2 and lines[-1].strip():
            lines.append("   ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


# Untrusted text.


def printable(text: str) -> str:
    r"""Escape control, direction and other invisible characters, which would steer a terminal or reorder a page.

    Visible characters of every script stay.

    >>> printable("a\x1b[31m\u202eb\n")
    'a\\x1b[31m\\u202eb\\n'
    """
    return text if _PLAIN.fullmatch(text) else "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    code = ord(character)
    not_a_character = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    invisible = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS
    return character.encode("unicode_escape").decode() if not_a_character or invisible else character


def single_line(text: str) -> str:
    r"""Return printable text in which line breaks and tabs are spaces.

    >>> single_line("a\x1b[31m\u202eb\n")
    'a\\x1b[31m\\u202eb '
    """
    return printable(re.sub(r"[\n\r\t]", " ", text))


def shorten(text: str, limit: int) -> str:
    """Cut text, on one line, to `limit` columns with an ellipsis at the end.

    >>> shorten("transportation", 8)
    'transpo…'
    """
    text = single_line(text)
    width = 0
    for position, character in enumerate(text):
        width += columns(character)
        if width > limit:
            return text[: max(position - 1, 0)] + ELLIPSIS
    return text


def columns(text: str) -> int:
    """Return the width of a text in columns: two for East Asian wide characters, one for others."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def breakable(text: str) -> Markup:
    """Return a path as HTML that may wrap after its separators rather than in the middle of a word.

    >>> breakable("a/<b>_c")
    Markup('a/<wbr>&lt;b&gt;_<wbr>c')
    """
    return Markup(re.sub(r"([/_\\]+)", r"\1<wbr>", str(escape(single_line(text)))))


def lines(text: str) -> Markup:
    r"""Return text as HTML that keeps its line breaks; several empty lines become one.

    >>> lines("a\n\n\n\n<b>")
    Markup('a<br><br>&lt;b&gt;')
    """
    kept = re.sub(r"\n{3,}", "\n\n", text.strip().replace("\r\n", "\n"))
    return Markup("<br>").join(map(single_line, kept.split("\n")))
