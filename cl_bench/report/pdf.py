"""The charts of a page as PDF files: the same SVG with the same page.css, in its light colors, drawn by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

CHART = re.compile(r'<figure class="chart" data-file="([^"]+)">.*?(<svg.*?</svg>)', re.DOTALL)
INHERITED = ("color", "fill", "stroke", "stroke-width", "stroke-dasharray", "font-style", "font-size")
Kind = tuple[str, frozenset[str]]
"""The tag of an element, or '' for any, and its classes."""


def charts(page: str) -> Iterator[tuple[str, bytes]]:
    """The name and the PDF of each chart of a page."""
    for name, svg in CHART.findall(page):
        yield name, pdf_of(svg)


def pdf_of(svg: str) -> bytes:
    """A chart as a PDF of a page, its letters as fonts, a unit of the SVG a point."""
    import matplotlib
    from matplotlib.figure import Figure

    root = ElementTree.fromstring(svg)
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    figure = Figure(figsize=(width / 72, height / 72))
    axes: Any = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    start = {"color": "#000", "fill": "#000", "stroke": "none", "stroke-width": "1", "font-size": "11.5px"}
    into = BytesIO()
    with matplotlib.rc_context({"pdf.fonttype": 42, "path.simplify": False}):
        draw(axes, root, start, [("figure", frozenset(["chart"]))], (0.0, 0.0))
        figure.savefig(into, format="pdf", metadata={"CreationDate": None})
    return into.getvalue()


def draw(
    axes: Any, element: Element, outer: Mapping[str, str], above: Sequence[Kind], origin: tuple[float, float]
) -> None:
    """An element and those in it. outer: the styles it inherits. above: what it is in. origin: of its coordinates."""
    from matplotlib.patches import Circle, PathPatch, Rectangle

    kind = (element.tag, frozenset(element.get("class", "").split()))
    style = {**outer, "opacity": "1", **styled((*above, kind))}
    style |= {name: value for name, value in element.attrib.items() if name.startswith("stroke-")}
    style = {name: value.replace("currentColor", style["color"]) for name, value in style.items()}
    moved = [float(number) for number in re.findall(r"-?[\d.]+", element.get("transform", "").partition(")")[0])]
    x, y = (at + by for at, by in zip(origin, moved or (0.0, 0.0), strict=True))
    given = {name: float(element.get(name, 0)) for name in ("x", "y", "width", "height", "r")}
    if element.tag == "text":
        place = {None: "left", "start": "left", "middle": "center", "end": "right"}[element.get("text-anchor")]
        axes.text(
            x + given["x"],
            y + given["y"],
            (element.text or "").replace("$", r"\$"),
            ha=place,
            va="baseline",
            size=float(style["font-size"].removesuffix("px")),
            color=style["fill"],
            style=style.get("font-style", "normal"),
            rotation=90 if "rotate" in element.get("transform", "") else 0,
            rotation_mode="anchor",
        )
    dashes = [float(number) for number in style.get("stroke-dasharray", "").split()]
    look = {
        "facecolor": style["fill"],
        "edgecolor": style["stroke"],
        "linewidth": float(style["stroke-width"].removesuffix("px")),
        "linestyle": (0, [length / float(style["stroke-width"].removesuffix("px")) for length in dashes] or None),
        "alpha": float(style["opacity"]),
    }
    if element.tag == "path":
        axes.add_patch(PathPatch(path(element.attrib["d"], x, y), **look))
    elif element.tag == "circle":
        axes.add_patch(Circle((x, y), given["r"], **look))
    elif element.tag == "rect":
        axes.add_patch(Rectangle((x + given["x"], y + given["y"]), given["width"], given["height"], **look))
    inherited = {name: style[name] for name in INHERITED if name in style}
    for part in element:
        if part.tag != "title":
            draw(axes, part, inherited, [*above, kind], (x, y))


def path(d: str, x: float, y: float) -> Any:
    """A path of straight lines, moved by x and y."""
    from matplotlib.path import Path as Outline

    points, codes, at = [], [], [x, y]
    for command, text in re.findall(r"([MLHVZmlhv])([^MLHVZmlhv]*)", d):
        numbers = [float(number) for number in re.findall(r"-?\d*\.?\d+", text)]
        if command == "Z":
            points.append((at[0], at[1]))
            codes.append(Outline.CLOSEPOLY)
            continue
        size = 1 if command in "HVhv" else 2
        for place in range(0, len(numbers), size):
            steps = dict(
                zip({"h": (0,), "v": (1,)}.get(command.lower(), (0, 1)), numbers[place : place + size], strict=True)
            )
            for axis, number in steps.items():
                at[axis] = at[axis] + number if command.islower() else number + (x, y)[axis]
            points.append((at[0], at[1]))
            codes.append(Outline.MOVETO if command in "Mm" and not place else Outline.LINETO)
    return Outline(points, codes)


@cache
def styled(chain: tuple[Kind, ...]) -> dict[str, str]:
    """What page.css says of the last of these elements, each in the one before it."""
    found: dict[str, str] = {}
    for selector, values in rules():
        *outer, last = selector
        above = iter(reversed(chain[:-1]))
        if fits(last, chain[-1]) and all(any(fits(wanted, kind) for kind in above) for wanted in reversed(outer)):
            found |= values
    return found


def fits(wanted: Kind, kind: Kind) -> bool:
    return wanted[0] in ("", kind[0]) and wanted[1] <= kind[1]


@cache
def rules() -> list[tuple[list[Kind], dict[str, str]]]:
    """The rules of page.css whose selectors are made of tags, classes and nesting, those that are told apart later
    last. Variables are written out."""
    text = (Path(__file__).parent / "page.css").read_text()
    root = text.partition("}")[0]
    variables = dict(re.findall(r"--(\w+): ([^;]+);", root))
    found = []
    for selectors, body in re.findall(r"([^@{};\n]+) \{([^{}]*)\}", text.partition("@media (max-width")[0]):
        values = {
            name: re.sub(r"var\(--(\w+)\)", lambda match: variables.get(match[1], ""), value.strip())
            for name, value in re.findall(r"([\w-]+):([^;]+)", body)
        }
        for selector in selectors.split(","):
            parts = [re.fullmatch(r"(\w*)((?:\.\w+)*)", part) for part in selector.split()]
            if all(parts):
                kinds = [(part[1], frozenset(part[2].split(".")[1:])) for part in parts if part]
                weight = sum(len(classes) for _, classes in kinds), sum(bool(tag) for tag, _ in kinds)
                found.append((weight, kinds, values))
    return [(kinds, values) for _, kinds, values in sorted(found, key=lambda rule: rule[0])]
