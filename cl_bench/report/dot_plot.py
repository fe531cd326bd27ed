"""Values as dots on rows, each with its interval and its name beside it: what many lines would be in a tangle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from cl_bench.report.charts import (
    BOTTOM,
    LETTER,
    WIDTH,
    Axis,
    Series,
    cut,
    drawing,
    interval,
    mark,
    marker,
    middle,
    opening,
    said,
    spread,
    tick_texts,
)

ROW, HEAD, RIGHT, FOOT = 17, 24, 14, BOTTOM + 14  # heights of a row, of what is above and below all; space at the right
LONGEST = 26  # letters of a name
DOT = '<circle class="earlier" r="1.9"/>'


def dot_plot(
    name: str, x: Axis, y: Axis, series: Sequence[Series], better: int = 1, lines: Mapping[str, float] | None = None
) -> Markup:
    """A row for each series, the best first: a marker with its interval for the last point, small dots for the others.

    x: of the points. y: of their values, which lies level here. better: 1 where more is better, else -1. lines: values
    to hold the others against, by their names.
    """
    rows = sorted(series, key=lambda curve: -better * curve.points[-1][1].mean)
    left = 16 + LETTER * max(len(cut(curve.label, LONGEST)) for curve in rows)
    base = HEAD + ROW * len(rows)

    def at(value: float) -> float:
        return left + min(1.0, max(0.0, y.place(value))) * (WIDTH - RIGHT - left)

    ticks = y.ticks()
    parts = [f'<path class="grid down" d="M{at(tick):.1f} {HEAD}V{base}"/>' for tick in ticks]
    references = lines or {}
    widths = LETTER * max(map(len, references), default=0)
    names_at = spread([at(value) for value in references.values()], widths + 6, left, WIDTH - widths / 2)
    for (text, value), place in zip(references.items(), names_at, strict=True):
        parts.append(f'<path class="reference down" d="M{at(value):.1f} {HEAD}V{base}"/>')
        parts.append(f'<path class="leader" d="M{place:.1f} {HEAD - 8}L{at(value):.1f} {HEAD}"/>')
        parts.append(
            f'<text class="reference" x="{place:.1f}" y="{HEAD - 11}" text-anchor="middle">{escape(text)}</text>'
        )
    for place, curve in enumerate(rows):
        *earlier, (last, value) = curve.points
        py = HEAD + ROW * (place + 0.5)
        parts += [
            opening(curve),
            f'<path class="grid" d="M{left:.1f} {py:.1f}H{WIDTH - RIGHT}"/>',
            f'<text x="{left - 7:.1f}" y="{py + 4:.1f}" text-anchor="end">{escape(cut(curve.label, LONGEST))}</text>',
        ]
        for before, of_then in earlier:
            where = f"{x.title} {x.write(middle(before))}"
            parts.append(mark(at(of_then.mean), py, said(curve, where, y, of_then), DOT))
        if value.half is not None:
            start, end = map(at, interval(value))
            parts.append(f'<path class="interval" d="M{start:.1f} {py:.1f}H{end:.1f}"/>')
        parts += [marker(curve, at(value.mean), py, f"{x.title} {x.write(middle(last))}", y, value), "</g>"]
    parts.append(f'<g class="foot" data-row="{ROW}" data-base="{base}" data-height="{base + FOOT}">')  # see page.js
    parts.append(f'<path class="axis" d="M{left:.1f} {base}H{WIDTH - RIGHT}"/>')
    parts += tick_texts([(at(tick), y.write(tick)) for tick in ticks], base + 16)
    center = (left + WIDTH - RIGHT) / 2
    parts.append(f'<text class="title" x="{center:.1f}" y="{base + 34}" text-anchor="middle">{escape(y.title)}</text>')
    if any(len(curve.points) > 1 for curve in rows):
        ends = {x.write(middle(curve.points[-1][0])) for curve in rows}
        last = f"{x.title} {ends.pop()}" if len(ends) == 1 else f"the last {x.title} of each"
        note = escape(f"marker: {last}; small dots: before it")
        parts.append(f'<text x="{WIDTH / 2}" y="{base + 52}" text-anchor="middle">{note}</text>')
    parts.append("</g>")
    return drawing(f"{name}: {y.title}, {len(rows)} series", base + FOOT, parts)
