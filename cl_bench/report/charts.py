"""Charts as inline SVG, drawn with the page's own colors: they follow its dark mode and need no script.

Every mark says its name and value in a <title>, which a pointer shows, and charts.js on a tap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.looks import DASHES, Style

WIDTH, HEIGHT = 440, 300
LEFT, TOP, BOTTOM = 64, 14, 48
LETTER, LONGEST = 7.2, 19  # width of a letter of a label, about, and how many of them there are at most


@dataclass(frozen=True)
class Series:
    """What a chart draws under one label: points (x, y), each with its interval where there is one.

    id: the number of its configuration on the page, by which it is found and hidden.
    """

    label: str
    id: str
    style: Style
    points: Sequence[tuple[float | Estimate, Estimate]]


class Axis:
    """A linear or logarithmic scale that covers some values, and where its ticks are."""

    def __init__(self, title: str, values: Sequence[float], log: bool = False, write: Callable[[float], str] = str):
        self.title, self.log, self.write = title, log, write
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        if high - low < 1e-9:
            low, high = low - 0.5, high + 0.5
        space = 0.06 * (high - low)
        self.low, self.high = low - space, high + space

    def place(self, value: float) -> float:
        """Where a value is, 0 at the start of the axis and 1 at its end."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values, four to ten of them.

        >>> Axis("accuracy", [0, 100]).ticks()
        [0, 20, 40, 60, 80, 100]
        """
        low, high = self.low, self.high
        if self.log:
            powers = range(math.floor(low), math.ceil(high) + 1)
            for factors in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
                found = [factor * 10.0**power for power in powers for factor in factors]
                found = [value for value in found if low <= math.log10(value) <= high]
                if len(found) >= 4:
                    return found[:: -(-len(found) // 8)]
            low, high = 10**low, 10**high
        unit = 10 ** math.floor(math.log10((high - low) / 4))
        for factor in (10, 5, 2, 1):
            start, end = math.ceil(low / (factor * unit)), math.floor(high / (factor * unit))
            if end - start >= 3:
                break
        return [round(i * factor * unit, 10) for i in range(start, end + 1)]


def line_chart(
    name: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    ticks: Sequence[tuple[float, str]],
    joined: bool = True,
    lines: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Markup:
    """Lines with markers and intervals, each named beside the area, with a leader to its end.

    ticks: of the x axis, (value, text). joined: whether there is anything between two ticks. lines: to hold the others
    against, by their names.
    """
    references = lines or {}
    names = [*(curve.label for curve in series), *references]
    right = WIDTH - 12 - LETTER * max(len(cut(label)) for label in names)
    frame = Frame(x, y, right)
    parts = frame.axes(ticks)
    ends = [(frame.x(middle(at)), frame.y(value.mean)) for at, value in (curve.points[-1] for curve in series)]
    for points_of_line in references.values():
        places = [(frame.x(at), frame.y(value)) for at, value in points_of_line]
        parts.append(f'<path class="reference" d="{path_of(places)}"/>')
        ends.append(places[-1])
    for place, curve in enumerate(series):
        shift = 2.5 * (place - (len(series) - 1) / 2) / max(1, len(series) / 4)  # intervals side by side
        points = [(frame.x(middle(at)) + shift, frame.y(value.mean), value) for at, value in curve.points]
        path = path_of([(px, py) for px, py, _ in points])
        dash = f' stroke-dasharray="{DASHES[curve.style.dash]}"' if curve.style.dash else ""
        parts += [opening(curve), f'<path class="line" d="{path}"{dash}/>' if joined else ""]
        for (px, py, value), (at, _) in zip(points, curve.points, strict=True):
            parts += [frame.upright(px, value), marker(curve, px, py, f"{x.title} {x.write(middle(at))}", y, value)]
        parts.append("</g>")
    openings = [*map(opening, series), *['<g class="held">'] * len(references)]
    heights = spread([end for _, end in ends], 13, TOP + 4, HEIGHT - BOTTOM)
    for head, name_of_line, (start, end), label in zip(openings, names, ends, heights, strict=True):
        parts += [
            head,
            f'<path class="leader" d="M{start + 6:.1f} {end:.1f}L{right + 1:.1f} {label:.1f}h3"/>',
            f'<text x="{right + 7:.1f}" y="{label + 4:.1f}">{escape(cut(name_of_line))}</text></g>',
        ]
    return frame.drawing(name, parts, len(series))


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """Straight lines through points."""
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in points)


class Frame:
    """The area of a chart between its axes."""

    def __init__(self, x: Axis, y: Axis, right: float, height: float = HEIGHT) -> None:
        self.x_axis, self.y_axis, self.right, self.height = x, y, right, height

    def x(self, value: float) -> float:
        return LEFT + self.x_axis.place(value) * (self.right - LEFT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - self.y_axis.place(value) * (self.height - BOTTOM - TOP)

    def axes(self, ticks: Sequence[tuple[float, str]]) -> list[str]:
        base = self.height - BOTTOM
        parts = [f'<path class="axis" d="M{LEFT} {base}H{self.right:.1f}"/>']
        for value in self.y_axis.ticks():
            at = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{self.right:.1f}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{self.y_axis.write(value)}</text>')
        parts += [f'<path class="axis" d="M{self.x(value):.1f} {base}v4"/>' for value, _ in ticks]
        parts += tick_texts([(self.x(value), text) for value, text in ticks], base + 18)
        center = (LEFT + self.right) / 2
        middle_y, below = (TOP + base) / 2, self.height - 8
        titles = (
            f'<text class="title" x="{center:.1f}" y="{below}" text-anchor="middle">{escape(self.x_axis.title)}'
            f'</text><text class="title" transform="translate(14 {middle_y:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_axis.title)}</text>"
        )
        return [*parts, titles]

    def upright(self, px: float, value: Estimate) -> str:
        """The interval of a y value."""
        if value.half is None:
            return ""
        low, high = self.up(value)
        return f'<path class="interval" d="M{px:.1f} {low:.1f}V{high:.1f}m-3 0h6M{px - 3:.1f} {low:.1f}h6"/>'

    def level(self, value: float | Estimate, py: float) -> str:
        """The interval of an x value, as far as the axis goes."""
        if not isinstance(value, Estimate) or value.half is None:
            return ""
        start, end = self.across(value)
        return f'<path class="interval" d="M{start:.1f} {py:.1f}H{end:.1f}"/>'

    def across(self, value: Estimate) -> tuple[float, float]:
        """From where to where the interval of an x value goes."""
        low, high = interval(value)
        start = 0.0 if self.x_axis.log and low <= 0 else max(0.0, self.x_axis.place(low))
        end = min(1.0, self.x_axis.place(high))
        return LEFT + start * (self.right - LEFT), LEFT + end * (self.right - LEFT)

    def up(self, value: Estimate) -> tuple[float, float]:
        """From where to where the interval of a y value goes, the lower end first."""
        ends = self.y_axis.low, self.y_axis.high
        low, high = (self.y(min(max(end, ends[0]), ends[1])) for end in interval(value))
        return low, high

    def drawing(self, name: str, parts: Sequence[str], count: int) -> Markup:
        label = f"{name}: {self.y_axis.title} against {self.x_axis.title}, {count} series"
        return drawing(label, self.height, parts)


def tick_texts(ticks: Sequence[tuple[float, str]], y: float) -> list[str]:
    """The texts of ticks at these places, from the left: within the picture, and each only where there is room."""
    parts, end = [], 0.0
    for at, text in ticks:
        text = cut(text)
        half = LETTER * len(text) / 2
        center = min(max(at, half), WIDTH - half)
        if center - half >= end:
            parts.append(f'<text x="{center:.1f}" y="{y:g}" text-anchor="middle">{escape(text)}</text>')
            end = center + half
    return parts


def drawing(label: str, height: float, parts: Sequence[str]) -> Markup:
    inner = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(label)}">{inner}</svg>')


def opening(series: Series) -> str:
    return f'<g class="series c{series.style.color}" data-id="{series.id}">'


def marker(series: Series, px: float, py: float, where: str, y: Axis, value: Estimate) -> str:
    return mark(px, py, said(series, where, y, value), series.style.shape)


def said(series: Series, where: str, axis: Axis, value: Estimate) -> str:
    """What a mark says when it is pointed at: its name and value."""
    interval = "" if value.half is None else f" ± {axis.write(value.half)}"
    return f"{series.label}: {axis.title} {axis.write(value.mean)}{interval}, {where}, n = {value.n}"


def mark(px: float, py: float, text: str, shape: str) -> str:
    return f'<g class="mark" transform="translate({px:.1f} {py:.1f})"><title>{escape(text)}</title>{shape}</g>'


def swatch(style: Style) -> Markup:
    """A short piece of a series for a legend."""
    dash = f' stroke-dasharray="{DASHES[style.dash]}"' if style.dash else ""
    return Markup(
        f'<svg class="swatch series c{style.color}" viewBox="0 0 30 12" aria-hidden="true">'
        f'<path class="line" d="M1 6H29"{dash}/><g transform="translate(15 6)">{style.shape}</g></svg>'
    )


def interval(value: Estimate) -> tuple[float, float]:
    return value.mean - (value.half or 0), value.mean + (value.half or 0)


def middle(value: float | Estimate) -> float:
    return value.mean if isinstance(value, Estimate) else value


def cut(label: str, longest: int = LONGEST) -> str:
    """A label without its middle where it is too long: it begins with the method and ends with what tells it apart."""
    half = longest // 2
    return label if len(label) <= longest else f"{label[: longest - half - 1]}…{label[-half:]}"


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the given ones, in the same order, at least a gap apart and between two ends if they fit.

    >>> spread([10, 11, 40], gap=10, low=0, high=45)
    [10, 20, 40]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    below = low - gap
    for i in order:
        below = moved[i] = max(places[i], below + gap)
    above = high + gap
    for i in reversed(order):
        above = moved[i] = min(moved[i], above - gap)
    return moved
