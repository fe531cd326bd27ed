"""Charts as inline SVG, drawn with the page's own colours: they follow its dark mode and need no script.

Every series has a colour and a marker, and lines a dash, so that none depends on its colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cl_bench.evaluation.statistics import Estimate

WIDTH, HEIGHT = 440, 300
LEFT, TOP, BOTTOM = 64, 14, 48
LETTER, LONGEST = 7.2, 19  # width of a letter of a label, about, and how many of them there are at most
COLOURS, MARKERS, DASHES = 8, 7, ("", "6 3", "2 3", "9 3 2 3")

SHAPES = (
    '<circle r="4"/>',
    '<rect x="-3.6" y="-3.6" width="7.2" height="7.2"/>',
    '<path d="M0-4.8 4.6 3.4H-4.6Z"/>',
    '<path d="M0-5.2 5.2 0 0 5.2-5.2 0Z"/>',
    '<path d="M0 4.8 4.6-3.4H-4.6Z"/>',
    '<path class="open" d="M0-5V5M-5 0H5"/>',
    '<path class="open" d="M-4-4 4 4M-4 4 4-4"/>',
)


@dataclass(frozen=True)
class Style:
    """How a series looks everywhere: numbers of its colour, marker and dash."""

    colour: int
    marker: int
    dash: int

    @staticmethod
    def of(method: int, configuration: int = 0) -> Style:
        """Methods differ in colour and marker, the configurations of one in marker and dash."""
        return Style(method % COLOURS, (method + configuration) % MARKERS, (method // MARKERS + configuration) % 4)

    @property
    def shape(self) -> str:
        return SHAPES[self.marker]


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
        """Round values, about five of them.

        >>> Axis("accuracy", [0, 100]).ticks()
        [0, 20, 40, 60, 80, 100]
        """
        low, high = self.low, self.high
        if self.log and high - low > 0.7:
            powers = range(math.floor(low), math.ceil(high) + 1)
            factors = (1,) if high - low > 2.5 else (1, 3) if high - low > 1 else (1, 2, 5)
            found = [factor * 10.0**power for power in powers for factor in factors]
            return [value for value in found if low <= math.log10(value) <= high]
        if self.log:  # less than a power of ten
            low, high = 10**low, 10**high
        step = 10 ** math.floor(math.log10((high - low) / 4))
        step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 6)
        start, end = math.ceil(low / step), math.floor(high / step)
        return [round(i * step, 10) for i in range(start, end + 1)]


def line_chart(
    name: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    ticks: Sequence[tuple[float, str]],
    joined: bool = True,
    lines: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Markup:
    """Lines with markers and intervals, each named where it ends.

    ticks: of the x axis, (value, text). joined: whether there is anything between two ticks. lines: to hold the others
    against, by their names, which stand where they begin.
    """
    right = WIDTH - 12 - LETTER * max(len(cut(curve.label)) for curve in series)
    frame = Frame(x, y, right)
    parts = frame.axes(ticks)
    for name_of_line, points_of_line in (lines or {}).items():
        places = [(frame.x(at), frame.y(value)) for at, value in points_of_line]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places)
        px, py = places[0]
        parts.append(f'<path class="reference" d="{path}"/>')
        parts.append(f'<text class="reference" x="{px + 4:.1f}" y="{py - 4:.1f}">{escape(name_of_line)}</text>')
    for place, curve in enumerate(series):
        shift = 2.5 * (place - (len(series) - 1) / 2) / max(1, len(series) / 4)  # intervals side by side
        points = [(frame.x(middle(at)) + shift, frame.y(value.mean), value) for at, value in curve.points]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py, _ in points)
        dash = f' stroke-dasharray="{DASHES[curve.style.dash]}"' if curve.style.dash else ""
        parts += [opening(curve), f'<path class="line" d="{path}"{dash}/>' if joined else ""]
        for (px, py, value), (at, _) in zip(points, curve.points, strict=True):
            parts += [frame.upright(px, value), marker(curve, px, py, f"{x.title} {x.write(middle(at))}", y, value)]
        parts.append("</g>")
    ends = [frame.y(curve.points[-1][1].mean) for curve in series]
    for curve, end, label in zip(series, ends, spread(ends, 13, TOP + 4, HEIGHT - BOTTOM), strict=True):
        start = frame.x(middle(curve.points[-1][0])) + 6
        parts += [
            opening(curve),
            f'<path class="leader" d="M{start:.1f} {end:.1f}L{right + 1:.1f} {label:.1f}h3"/>',
            f'<text x="{right + 7:.1f}" y="{label + 4:.1f}">{escape(cut(curve.label))}</text></g>',
        ]
    return frame.drawing(name, parts, len(series))


def scatter(name: str, x: Axis, y: Axis, series: Sequence[Series], front: Sequence[tuple[float, float]] = ()) -> Markup:
    """Points with intervals both ways, each named beside it where there is room (the legend names all).

    front: the points that no other beats both ways, from the left; a line of steps joins them.
    """
    frame = Frame(x, y, WIDTH - 12)
    parts = frame.axes([(value, x.write(value)) for value in x.ticks()])
    if len(front) > 1:
        steps = [f"M{frame.x(front[0][0]):.1f} {frame.y(front[0][1]):.1f}"]
        steps += [f"H{frame.x(across):.1f}V{frame.y(up):.1f}" for across, up in front[1:]]
        parts.append(f'<path class="front" d="{"".join(steps)}"/>')
    places = [(frame.x(middle(at)), frame.y(value.mean)) for curve in series for at, value in curve.points]
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in places]
    for curve in series:
        parts.append(opening(curve))
        for at, value in curve.points:
            px, py = frame.x(middle(at)), frame.y(value.mean)
            parts += [frame.upright(px, value), frame.level(at, py)]
            parts.append(marker(curve, px, py, f"{x.title} {x.write(middle(at))}", y, value))
            if place := free_place(px, py, LETTER * len(cut(curve.label)), taken, frame):
                box, anchor = place
                taken.append(box)
                at_x = {"start": box[0], "middle": (box[0] + box[2]) / 2, "end": box[2]}[anchor]
                label = escape(cut(curve.label))
                parts.append(f'<text x="{at_x:.1f}" y="{box[3] - 3:.1f}" text-anchor="{anchor}">{label}</text>')
        parts.append("</g>")
    return frame.drawing(name, parts, len(series))


Box = tuple[float, float, float, float]


def free_place(px: float, py: float, width: float, taken: Sequence[Box], frame: Frame) -> tuple[Box, str] | None:
    """The first place around a point where a label of this width covers nothing, and which of its ends is at the
    point; None if there is none."""
    left, centre = -8 - width, -width / 2
    for dx, dy, anchor in (
        (8, -7, "start"),
        (left, -7, "end"),
        (centre, -21, "middle"),
        (centre, 7, "middle"),
        (7, -19, "start"),
        (7, 5, "start"),
        (left, -19, "end"),
        (left, 5, "end"),
    ):
        box = (px + dx, py + dy, px + dx + width, py + dy + 14)
        inside = box[0] > LEFT and box[2] < frame.right + 10 and box[1] > 0 and box[3] < HEIGHT - BOTTOM
        if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
            return box, anchor
    return None


class Frame:
    """The area of a chart between its axes."""

    def __init__(self, x: Axis, y: Axis, right: float) -> None:
        self.x_axis, self.y_axis, self.right = x, y, right

    def x(self, value: float) -> float:
        return LEFT + self.x_axis.place(value) * (self.right - LEFT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - self.y_axis.place(value) * (HEIGHT - BOTTOM - TOP)

    def axes(self, ticks: Sequence[tuple[float, str]]) -> list[str]:
        base = HEIGHT - BOTTOM
        parts = [f'<path class="axis" d="M{LEFT} {base}H{self.right:.1f}"/>']
        for value in self.y_axis.ticks():
            at = self.y(value)
            parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{self.right:.1f}"/>')
            parts.append(f'<text x="{LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{self.y_axis.write(value)}</text>')
        for value, text in ticks:
            at = self.x(value)
            parts.append(f'<path class="axis" d="M{at:.1f} {base}v4"/>')
            parts.append(f'<text x="{at:.1f}" y="{base + 18}" text-anchor="middle">{escape(text)}</text>')
        centre = (LEFT + self.right) / 2
        middle_y = (TOP + base) / 2
        titles = (
            f'<text class="title" x="{centre:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x_axis.title)}'
            f'</text><text class="title" transform="translate(14 {middle_y:.1f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y_axis.title)}</text>"
        )
        return [*parts, titles]

    def upright(self, px: float, value: Estimate) -> str:
        """The interval of a y value."""
        if value.half is None:
            return ""
        low, high = (self.y(min(max(end, self.ends[0]), self.ends[1])) for end in interval(value))
        return f'<path class="interval" d="M{px:.1f} {low:.1f}V{high:.1f}m-3 0h6M{px - 3:.1f} {low:.1f}h6"/>'

    @property
    def ends(self) -> tuple[float, float]:
        return self.y_axis.low, self.y_axis.high

    def level(self, value: float | Estimate, py: float) -> str:
        """The interval of an x value, as far as the axis goes."""
        if not isinstance(value, Estimate) or value.half is None:
            return ""
        low, high = interval(value)
        start = 0.0 if self.x_axis.log and low <= 0 else max(0.0, self.x_axis.place(low))
        end = min(1.0, self.x_axis.place(high))
        start, end = (LEFT + share * (self.right - LEFT) for share in (start, end))
        return f'<path class="interval" d="M{start:.1f} {py:.1f}H{end:.1f}"/>'

    def drawing(self, name: str, parts: Sequence[str], count: int) -> Markup:
        label = f"{name}: {self.y_axis.title} against {self.x_axis.title}, {count} series"
        inner = "".join(parts)
        return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{inner}</svg>')


def opening(series: Series) -> str:
    return f'<g class="series c{series.style.colour}" data-id="{series.id}">'


def marker(series: Series, px: float, py: float, where: str, y: Axis, value: Estimate) -> str:
    interval = "" if value.half is None else f" ± {y.write(value.half)}"
    title = escape(f"{series.label}: {y.title} {y.write(value.mean)}{interval}, {where}, n = {value.n}")
    return f'<g transform="translate({px:.1f} {py:.1f})"><title>{title}</title>{series.style.shape}</g>'


def swatch(style: Style) -> Markup:
    """A short piece of a series for a legend."""
    dash = f' stroke-dasharray="{DASHES[style.dash]}"' if style.dash else ""
    return Markup(
        f'<svg class="swatch series c{style.colour}" viewBox="0 0 30 12" aria-hidden="true">'
        f'<path class="line" d="M1 6H29"{dash}/><g transform="translate(15 6)">{style.shape}</g></svg>'
    )


def interval(value: Estimate) -> tuple[float, float]:
    return value.mean - (value.half or 0), value.mean + (value.half or 0)


def middle(value: float | Estimate) -> float:
    return value.mean if isinstance(value, Estimate) else value


def cut(label: str) -> str:
    return label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"


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
