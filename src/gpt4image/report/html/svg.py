"""Draw matplotlib panels as SVG elements of a page: scalable, with unique ids and the page's own colours."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from markupsafe import Markup

from gpt4image.core.format import decimal, single_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1f242a", "#5c656f", "#d5dadf"
# Okabe and Ito: distinct in every kind of colour vision; after the fourth come darker ones, with other markers
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#2f9fd0", "#6b4fa0", "#a5313f", "#767f88")
_NAMES = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"arm-{number}" for number, colour in enumerate(COLOURS)}
LEAST_RANGE = 0.02  # points on an axis of differences, which are written with three decimals at most
FONT_SIZE = 12.0
CHARACTER = 6.6  # mean width of a character at FONT_SIZE, rounded up
_SETTINGS = {
    "svg.fonttype": "none",  # keeps text selectable, searchable and in the page's own font
    "svg.hashsalt": "gpt4image",
    "text.parse_math": False,  # a class named "$x_1$" is not a formula
    "axes.formatter.useoffset": False,
    "font.size": FONT_SIZE,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": GRID,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": FONT_SIZE,
    "ytick.color": GRID,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": FONT_SIZE,
    "ytick.major.size": 0,
}


@dataclass(frozen=True)
class Panel:
    """Size of a panel and the margins around its axes, in units of its view box: CSS pixels at full size."""

    width: float
    height: float
    left: float = 46
    right: float = 14
    top: float = 10
    bottom: float = 40

    @property
    def axes(self) -> tuple[float, float, float, float]:
        """Left, bottom, width and height of the axes, as shares of the panel."""
        width, height = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left / self.width, self.bottom / self.height, width / self.width, height / self.height


def sign_ticks(axes: Axes) -> None:
    """Label the ticks of a difference with their sign and as many decimals as the range needs, up to three."""
    low, high = axes.get_xlim()
    short = LEAST_RANGE - (high - low)
    if short > 0:
        axes.set_xlim(low - short / 2, high + short / 2)

    def text(value: float, _: object) -> str:
        low, high = axes.get_xlim()
        digits = max(0, math.ceil(math.log10(7 / (high - low))))
        return decimal(value, digits, signed=True) if abs(value) > 1e-9 else "0"

    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))  # 2.5 would be shown as 2
    axes.xaxis.set_major_formatter(text)


def draw(name: str, label: str, panel: Panel, paint: Callable[[Axes], None]) -> Markup:
    """Draw one panel.

    Args:
        name: prefix of the ids inside, unique on the page.
        label: what the figure shows, for readers who cannot see it.
        panel: size and margins.
        paint: draws on the axes; every colour must be one of this module's.

    Returns:
        An `<svg>` element that scales to the available width.
    """
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with _settings():
        figure = Figure(figsize=(panel.width / 72, panel.height / 72), dpi=72)
        figure.patch.set_visible(False)
        axes = figure.add_axes(panel.axes)
        axes.patch.set_visible(False)
        paint(axes)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue(), name, label)


@contextmanager
def _settings() -> Iterator[None]:
    """Set our style of figures in place of the user's matplotlib settings, and restore those afterwards."""
    from matplotlib import style

    with style.context(["default", _SETTINGS]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has the fonts
        yield


def _inline(source: bytes, name: str, label: str) -> Markup:
    """Turn matplotlib's SVG document into an element of an HTML page."""
    root = ElementTree.fromstring(source)
    used = set(re.findall(rb'(?:url\(|xlink:href=")#([\w.-]+)', source))
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {
            _local(key): _attribute(_local(key), value, name)
            for key, value in element.attrib.items()
            if key != "id" or value.encode() in used
        }
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "role": "img", "aria-label": single_line(label)}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """Return a tag or attribute name without its namespace, which HTML implies."""
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, name: str) -> str:
    """Return an attribute with its ids prefixed and its colours replaced by the page's CSS variables."""
    match key:
        case "id":
            return f"{name}-{value}"
        case "href":
            return value.replace("#", f"#{name}-", 1)
        case "clip-path":
            return value.replace("url(#", f"url(#{name}-")
        case "style":
            value = re.sub(r"font-family:[^;]*(?:;|$)|(?<=font: )([\d.]+px) [^;]*", r"\1", value)
            return re.sub(r"#[0-9a-f]{6}", lambda found: f"var(--{_NAMES[found[0]]})", value)
        case _:
            return value
