"""The mean ranks of methods on one line, joined where they are not told apart (Demsar, 2006)."""

from __future__ import annotations

import math

from markupsafe import Markup, escape

from cl_bench.report.answers import Ranks
from cl_bench.report.charts import cut

WIDTH, SIDE, TOP, ROW, BAR = 640, 170, 44, 20, 8  # SIDE: for the names, left and right; ROW, BAR: heights
LONGEST = 17  # letters of a name, beside its rank


def rank_chart(found: Ranks) -> Markup:
    """The better half of the methods is named on the left, the others on the right; a bar joins those of a group."""
    names = list(found.ranks)
    half = math.ceil(len(names) / 2)
    below = TOP + BAR * (len(found.groups) + 1)
    height = below + ROW * half + 8
    most = len(names)

    def x(rank: float) -> float:
        return SIDE + (rank - 1) / (most - 1) * (WIDTH - 2 * SIDE)

    parts = [f'<path class="axis" d="M{x(1):.1f} {TOP}H{x(most):.1f}"/>']
    for rank in range(1, most + 1, max(1, most // 12)):
        parts.append(f'<path class="axis" d="M{x(rank):.1f} {TOP}v-5"/>')
        parts.append(f'<text x="{x(rank):.1f}" y="{TOP - 9}" text-anchor="middle">{rank}</text>')
    end = min(1 + found.critical, float(most))
    close = "m0-4v8" * (end == 1 + found.critical)  # one that is longer than the axis stays open
    parts.append(f'<path class="bar" d="M{x(1):.1f} 12H{x(end):.1f}{close}M{x(1):.1f} 8v8"/>')
    parts.append(f'<text x="{x(end) + 8:.1f}" y="16">critical difference {found.critical:.2f}</text>')
    for place, (first, last) in enumerate(found.groups):
        y = TOP + BAR * (place + 1)
        parts.append(f'<path class="bar" d="M{x(found.ranks[first]) - 3:.1f} {y}H{x(found.ranks[last]) + 3:.1f}"/>')
    for place, name in enumerate(names):
        left = place < half
        y = below + ROW * (place if left else most - 1 - place) + 6
        side, anchor = (SIDE - 8, "end") if left else (WIDTH - SIDE + 8, "start")
        label = f"{escape(cut(name, LONGEST))} {found.ranks[name]:.2f}"
        line = f"M{x(found.ranks[name]):.1f} {TOP}V{y}H{side + (3 if left else -3)}"
        parts.append(f'<path class="leader" d="{line}"/>')
        parts.append(f'<text x="{side}" y="{y + 4}" text-anchor="{anchor}">{label}</text>')
    title = f"Mean ranks of {most} methods on {found.n} benchmarks"
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">{"".join(parts)}</svg>')
