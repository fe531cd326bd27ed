"""Points with intervals both ways, and where their names stand so that none covers anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from cl_bench.evaluation.statistics import Estimate
from cl_bench.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    WIDTH,
    Axis,
    Frame,
    Series,
    cut,
    marker,
    middle,
    opening,
)

RADII = (8, 15, 24, 34, 46, 60, 76, 94, 114)  # from a point to its name; from the second on a leader joins them
ANGLES = 24
LINE = 13  # height of a name
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def scatter(name: str, x: Axis, y: Axis, series: Sequence[Series], front: Sequence[tuple[float, float]] = ()) -> Markup:
    """Points, each named beside it or, with a leader, where there is room (the legend names all).

    front: the points that no other beats both ways, from the left; a line of steps joins them.
    """
    frame = Frame(x, y, WIDTH - 12, HEIGHT + 9 * min(30, max(0, len(series) - 8)))
    parts = frame.axes([(value, x.write(value)) for value in x.ticks()])
    names = Names(frame)
    steps = [(frame.x(across), frame.y(up)) for across, up in front]
    if len(steps) > 1:
        path = f"M{steps[0][0]:.1f} {steps[0][1]:.1f}" + "".join(f"H{px:.1f}V{py:.1f}" for px, py in steps[1:])
        parts.append(f'<path class="front" d="{path}"/>')
        for (px, py), (to_x, to_y) in pairwise(steps):
            names.lines += [(px, py - 2, to_x, py + 2), (to_x - 2, min(py, to_y), to_x + 2, max(py, to_y))]
    points = [(curve, at, value) for curve in series for at, value in curve.points]
    places = [(frame.x(middle(at)), frame.y(value.mean)) for _, at, value in points]
    for (_, at, value), (px, py) in zip(points, places, strict=True):
        names.taken.append((px - 6, py - 6, px + 6, py + 6))
        if value.half is not None:
            low, high = frame.up(value)
            names.lines.append((px - 4, high, px + 4, low))
        if isinstance(at, Estimate) and at.half is not None:
            start, end = frame.across(at)
            names.lines.append((start, py - 2, end, py + 2))
    for (curve, at, value), (px, py) in zip(points, places, strict=True):
        parts += [opening(curve), frame.upright(px, value), frame.level(at, py)]
        parts += [
            marker(curve, px, py, f"{x.title} {x.write(middle(at))}", y, value),
            names.of(px, py, cut(curve.label)),
        ]
        parts.append("</g>")
    return frame.drawing(name, parts, len(series))


@dataclass
class Names:
    """Finds the places of names in a frame. taken: marks and names, which no name and no leader may cover. lines: which
    no name may cover."""

    frame: Frame
    taken: list[Box] = field(default_factory=list)
    lines: list[Box] = field(default_factory=list)

    def of(self, px: float, py: float, text: str) -> str:
        """The name of a point at the nearest free place, '' where there is none."""
        width, taken, everything = LETTER * len(text), np.array(self.taken), np.array([*self.taken, *self.lines])
        for radius in RADII:
            for turn in range(ANGLES):
                angle = -math.pi / 4 + 2 * math.pi * turn / ANGLES
                to = (px + radius * math.cos(angle), py + radius * math.sin(angle))
                box, anchor = beside(to, angle, width)
                leader = line((px, py), to) if radius > RADII[0] else []
                away = [part for part in leader if math.dist(part[:2], (px, py)) > 9]
                if self.inside(box) and not overlaps([box], everything) and not overlaps(away, taken):
                    self.taken.append(box)
                    self.lines += leader
                    path = f'<path class="leader" d="M{px:.1f} {py:.1f}L{to[0]:.1f} {to[1]:.1f}"/>' if leader else ""
                    at = {"start": box[0] + 1, "middle": (box[0] + box[2]) / 2, "end": box[2] - 1}[anchor]
                    return f'{path}<text x="{at:.1f}" y="{box[3] - 3:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        return ""

    def inside(self, box: Box) -> bool:
        left, top, right, bottom = box
        return left > LEFT and right < self.frame.right + 8 and top > 0 and bottom < self.frame.height - BOTTOM


def beside(to: tuple[float, float], angle: float, width: float) -> tuple[Box, str]:
    """The box of a name that begins, or ends, where its leader does, and which of its ends is there."""
    (x, y), across = to, math.cos(angle)
    if across > 0.4:
        return (x, y - LINE / 2, x + width, y + LINE / 2), "start"
    if across < -0.4:
        return (x - width, y - LINE / 2, x, y + LINE / 2), "end"
    top = y - LINE if math.sin(angle) < 0 else y
    return (x - width / 2, top, x + width / 2, top + LINE), "middle"


def line(start: tuple[float, float], to: tuple[float, float]) -> list[Box]:
    """Small boxes along a leader."""
    n = math.ceil(math.dist(start, to) / 4)
    shares = [(start[0] + (to[0] - start[0]) * i / n, start[1] + (to[1] - start[1]) * i / n) for i in range(n)]
    return [(x - 1, y - 1, x + 1, y + 1) for x, y in shares]


def overlaps(some: Sequence[Box], others: npt.NDArray[np.float64]) -> bool:
    """Whether any box of the one covers a part of any of the other."""
    boxes = np.array(some).reshape(-1, 1, 4)
    apart = (boxes[..., :2] >= others[:, 2:]) | (others[:, :2] >= boxes[..., 2:])
    return bool((~apart.any(2)).any())
