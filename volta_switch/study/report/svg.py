"""What the report's pictures are made of: escaped elements, scales with round ticks, colours that differ in grey too.

Lengths are in units of the drawing, which are pixels where it is not shrunk. Text is measured by a table of widths:
no font is available when a picture is made.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Colour-blind safe (Okabe and Ito 2008), each with a marker of its own, so that they differ without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#3399CC", "#B8860B", "#333333")
MARKERS = ("circle", "square", "up", "diamond", "down", "plus", "cross")
INK, FAINT, GRID = "#222222", "#5f6368", "#dddddd"  # text, lesser text (5.9 : 1 on white), lines behind
FONT = "system-ui, sans-serif"
DASHES = (None, "8 4", "2 4", "10 3 2 3")
WIDTHS = {  # character widths in font sizes, from DejaVu Sans, one of the widest; all others 0.7
    **dict.fromkeys("'ijlIJ,. ·/:;\\|", 0.34),
    **dict.fromkeys("f-()[]t!r", 0.41),
    **dict.fromkeys('"*_`–s', 0.53),
    **dict.fromkeys("?zckvxyaoeLFPTYEbdghnpqu0123456789S$", 0.64),
    **dict.fromkeys("NUHDOQG&w#+<=>^~±−→×", 0.85),
    **dict.fromkeys("mWM%@…—", 1.0),
}


def escape(text: str) -> str:
    """Returns text as markup, without the control characters that XML forbids."""
    return html.escape(re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "", text), quote=True)


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Returns how wide a line of text is at most, in a common sans-serif font."""
    widths = (WIDTHS.get(letter, 0.7 if ord(letter) < 0x1100 else 1.05) for letter in text)
    return sum(widths) * size * (1.15 if bold else 1.0)


def shortened(text: str, width: float, size: float, bold: bool = False) -> str:
    """Returns the text where it fits into ``width``, else its beginning and end around an ellipsis."""
    kept = len(text)
    short = text
    while kept and text_width(short, size, bold) > width:
        kept -= 1
        short = text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()
    return short


def wrapped(text: str, width: float, size: float, bold: bool = False, most: int = 4) -> list[str]:
    """Returns lines of at most ``width``; what is too long for ``most`` of them, or a word for one, is shortened."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and (text_width(longer, size, bold) <= width or len(lines) == most):
            lines[-1] = longer
        else:
            lines.append(word)
    return [shortened(line, width, size, bold) for line in lines]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns places from ``low`` on that are ``gap`` apart and near the wanted ones, in the same order.

    They end at ``high`` where there is room for all. Places that are too close become one block around their mean.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    blocks: list[list[float]] = []  # of the wanted places, each less the gaps before it
    for rank, index in enumerate(order):
        blocks.append([wanted[index] - rank * gap])
        while len(blocks) > 1 and sum(blocks[-2]) / len(blocks[-2]) >= sum(blocks[-1]) / len(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    last = max(low, high - (len(wanted) - 1) * gap)
    placed = [min(max(sum(block) / len(block), low), last) for block in blocks for _ in block]
    found = [0.0] * len(wanted)
    for rank, index in enumerate(order):
        found[index] = placed[rank] + rank * gap
    return found


@dataclass(frozen=True)
class Style:
    """How one of several lines is told from the others, in grey too."""

    colour: str
    marker: str
    dash: str | None


def style(index: int) -> Style:
    """Returns the style of the ``index``-th line; the first 28 differ in marker or dashes."""
    turn = index // len(MARKERS)
    return Style(COLOURS[index % len(COLOURS)], MARKERS[(index + turn) % len(MARKERS)], DASHES[turn % len(DASHES)])


def element(name: str, *children: str, **attributes: object) -> str:
    """Returns an SVG element as text: ``element("text", escape(words), x=3, class_="tick", text_anchor="end")``.

    Children are markup and must be escaped already; attributes are escaped here. ``_`` stands for ``-``, a trailing one
    is dropped, and None leaves an attribute out. Numbers are rounded to hundredths of a unit.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{''.join(children)}</{name}>" if children else f"<{name}{written}/>"


def words(text: str, x: float, y: float, *, size: float = 12, fill: str = INK, **attributes: object) -> str:
    """Draws a line of text; ``attributes`` as in ``element``."""
    return element("text", escape(text), x=x, y=y, font_size=size, fill=fill, **attributes)


def picture(width: float, height: float, title: str, *children: str, description: str = "") -> str:
    """Draws a whole SVG that shrinks with its container and stands alone as a file; ``title`` is read aloud."""
    heads = [element("title", escape(title))] + ([element("desc", escape(description))] if description else [])
    return element(
        "svg", *heads, *children, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_number(width)} {_number(height)}",
        width=width, height=height, role="img", aria_label=title, font_family=FONT, style="background:#fff",
    )  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` on coordinates from ``start`` to ``end``; ``log``: in decades."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Returns where a value lies."""
        low, high, value = (math.log10(each) if self.log else each for each in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Returns at most so many round values inside the scale; of a logarithmic one 1, 2 and 5 of every decade."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for steps in ((1, 2, 5), (1, 3), (1,)):
                found = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
                inside = [value for value in found if self.low <= value <= self.high]
                if len(inside) <= most:
                    break
            if len(inside) > 1:
                return inside[:: math.ceil(len(inside) / most)]
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        rough = span / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def line(x1: float, y1: float, x2: float, y2: float, stroke: str, stroke_width: float = 1, **attributes: object) -> str:
    """Draws a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=stroke_width, **attributes)


def marker(kind: str, x: float, y: float, size: float, fill: str, hover: str = "", **attributes: object) -> str:
    """Draws one of ``MARKERS`` around (x, y), about ``size`` across; ``hover`` is shown under the pointer."""
    r = size / 2
    children = [element("title", escape(hover))] if hover else []
    if kind == "circle":
        return element("circle", *children, cx=x, cy=y, r=r, fill=fill, **attributes)
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "up": [(0, -1.1), (1.05, 0.8), (-1.05, 0.8)],
        "down": [(0, 1.1), (1.05, -0.8), (-1.05, -0.8)],
        "diamond": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        "plus": [(-0.35, -1.1), (0.35, -1.1), (0.35, -0.35), (1.1, -0.35), (1.1, 0.35), (0.35, 0.35),
                 (0.35, 1.1), (-0.35, 1.1), (-0.35, 0.35), (-1.1, 0.35), (-1.1, -0.35), (-0.35, -0.35)],
        "cross": [(-0.6, -1.1), (0, -0.5), (0.6, -1.1), (1.1, -0.6), (0.5, 0), (1.1, 0.6),
                  (0.6, 1.1), (0, 0.5), (-0.6, 1.1), (-1.1, 0.6), (-0.5, 0), (-1.1, -0.6)],
    }[kind]  # fmt: skip
    points = " ".join(f"{_number(x + r * dx)},{_number(y + r * dy)}" for dx, dy in corners)
    return element("polygon", *children, points=points, fill=fill, **attributes)


def _number(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) and abs(value) < 1e5 else str(value)
