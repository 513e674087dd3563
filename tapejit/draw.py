"""Pictures of a computational graph, with matplotlib alone; :mod:`.draw_layout` says where."""

from __future__ import annotations

import io
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .draw_layout import CHARACTER, LINE, Node, Placed, place

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Node", "draw_nodes"]

FORMATS = (".svg", ".png", ".pdf")
COLOURS = {"input": "#cfe2f3", "constant": "#e8e8e8", "op": "#fdf3dc", "output": "#d3ecd1"}
EDGE_COLOURS = {"input": "#2d5f8b", "constant": "#8a8a8a", "op": "#b98a2e", "output": "#3c7f39"}
INK, WIRE = "#222222", "#8c8c8c"
#: Inches around the graph.
MARGIN = 0.35


def draw_nodes(
    nodes: Sequence[Node],
    path: str | os.PathLike[str] | None = None,
    title: str | None = None,
    limit: int = 100,
) -> str | None:
    """Draw a graph to a file.

    Parameters
    ----------
    nodes : sequence of Node
        In an order in which operands come before what uses them.
    path : path-like, optional
        File to write, ending in .svg, .png or .pdf.
    title : str, optional
        Heading of the picture.
    limit : int
        Operations to draw at most: of a longer graph the head is drawn, and the picture says how
        many it leaves out.

    Returns
    -------
    str or None
        The SVG text if there is no ``path``.

    Raises
    ------
    ValueError
        If ``path`` has another ending.
    ImportError
        If matplotlib is not installed.
    """
    suffix = picture_suffix(path)
    shown, left_out = _head(nodes, limit)
    figure = _paint(place(_constants_beside_uses(shown)), title, left_out)
    return save_figure(figure, path, suffix)


def picture_suffix(path: str | os.PathLike[str] | None) -> str:
    """The kind of picture that a path asks for; SVG without one."""
    suffix = ".svg" if path is None else Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"cannot draw to {str(path)!r}: use a name that ends in .svg, .png or .pdf"
        )
    return suffix


def _head(nodes: Sequence[Node], limit: int) -> tuple[list[Node], int]:
    """Return the first ``limit`` operations with the leaves that they use, and what is missing."""
    operations = [node for node in nodes if not node.is_leaf]
    if len(operations) <= limit:
        return list(nodes), 0
    chosen = {node.id for node in operations[:limit]}
    used = {operand for node in operations[:limit] for operand in node.inputs}
    shown = [node for node in nodes if node.id in chosen or (node.is_leaf and node.id in used)]
    return shown, len(operations) - limit


def _constants_beside_uses(nodes: Iterable[Node]) -> list[Node]:
    """Return the nodes with a copy of each constant for every use.

    A constant says nothing by its position, while its edges would cross the whole picture.
    """
    nodes = list(nodes)
    constants = {node.id: node for node in nodes if node.kind == "constant"}
    fresh = itertools.count(1 + max((node.id for node in nodes), default=0))
    result = []
    for node in nodes:
        if node.id in constants:
            continue
        inputs = []
        for operand in node.inputs:
            if operand in constants:
                copy = replace(constants[operand], id=next(fresh))
                result.append(copy)
                operand = copy.id
            inputs.append(operand)
        result.append(replace(node, inputs=inputs))
    return result


def _paint(placed: Placed, title: str | None, left_out: int) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "drawing a tape needs matplotlib: pip install 'tapejit[examples]'"
        ) from error
    left, right, bottom, top = _extent(placed, title, left_out)
    figure = Figure(figsize=(right - left, top - bottom), facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.axis("off")
    _paint_wires(axes, placed)
    for node in placed.nodes.values():
        _paint_box(axes, placed, node)
    _paint_heading(axes, placed, title, (left, top))
    if left_out:
        note = f"… and {left_out:,} more operations"
        axes.text((left + right) / 2, bottom + 0.2, note, ha="center", fontsize=9, color=INK)
    return figure


def _extent(placed: Placed, title: str | None, left_out: int) -> tuple[float, float, float, float]:
    left = min((placed.x[p] - placed.width(p) / 2 for p in placed.x), default=0.0)
    right = max((placed.x[p] + placed.width(p) / 2 for p in placed.x), default=0.0)
    # Wide enough for the legend and the heading.
    centre, half = (left + right) / 2, max((right - left) / 2, 1.9, 0.05 * len(title or ""))
    boxes = placed.nodes.values()
    lowest = min(
        (placed.y[placed.layer_of[node.id]] - node.height / 2 for node in boxes), default=0.0
    )
    below = MARGIN * (2 if left_out else 1)  # room for a line about what is left out
    return centre - half - MARGIN, centre + half + MARGIN, lowest - below, 0.95


def _paint_wires(axes: Axes, placed: Placed) -> None:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import PathPatch, Polygon

    ports = _ports(placed)
    curves, heads = [], []
    for upper, lower in placed.wires:
        begin = (placed.x[upper], _end_of(placed, upper, -1))
        if not placed.is_box(lower):
            curves.append(_curve(begin, (placed.x[lower], placed.y[lower[1]])))
            continue
        for x in ports[upper[0], lower[0]]:
            tip = _end_of(placed, lower, 1)
            curves.append(_curve(begin, (x, tip + 0.06)))
            heads.append(Polygon([(x - 0.04, tip + 0.08), (x + 0.04, tip + 0.08), (x, tip)]))
    patches = [PathPatch(curve) for curve in curves]
    style: dict[str, Any] = {"edgecolor": WIRE, "zorder": 1}
    axes.add_collection(PatchCollection(patches, facecolor="none", linewidth=0.9, **style))
    axes.add_collection(PatchCollection(heads, facecolor=WIRE, linewidth=0.0, **style))


def _ports(placed: Placed) -> dict[tuple[int, int], list[float]]:
    """Return where on top of its user's box each operand arrives: in the order of operands."""
    ports = defaultdict(list)
    for node in placed.nodes.values():
        centre, count = placed.x[node.id, placed.layer_of[node.id]], len(node.inputs)
        for index, operand in enumerate(node.inputs):
            offset = ((index + 1) / (count + 1) - 0.5) * node.width
            ports[operand, node.id].append(centre + offset)
    return ports


def _end_of(placed: Placed, point: tuple[int, int], side: int) -> float:
    """Return the height of a point's upper (1) or lower (-1) end."""
    half = placed.nodes[point[0]].height / 2 if placed.is_box(point) else 0.0
    return placed.y[point[1]] + side * half


def _curve(begin: tuple[float, float], end: tuple[float, float]) -> Any:
    from matplotlib.path import Path as Curve

    middle = (begin[1] + end[1]) / 2
    vertices = [begin, (begin[0], middle), (end[0], middle), end]
    return Curve(vertices, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])


def _paint_box(axes: Axes, placed: Placed, node: Node) -> None:
    from matplotlib.patches import FancyBboxPatch

    layer = placed.layer_of[node.id]
    x, y = placed.x[node.id, layer], placed.y[layer]
    # The patch grows its box by the rounding.
    round_by = 0.04
    corner = (x - node.width / 2 + round_by, y - node.height / 2 + round_by)
    axes.add_patch(
        FancyBboxPatch(
            corner,
            node.width - 2 * round_by,
            node.height - 2 * round_by,
            boxstyle=f"round,pad={round_by}",
            facecolor=COLOURS.get(node.kind, "white"),
            edgecolor=EDGE_COLOURS.get(node.kind, INK),
            linewidth=1.0,
            zorder=2,
        )
    )
    text = {"ha": "center", "va": "center", "color": INK, "zorder": 3}
    top = y + 0.85 * LINE * len(node.notes) / 2
    axes.text(x, top, node.label, fontsize=9, fontweight="bold", **text)
    for index, note in enumerate(node.notes):
        below = top - LINE * (1.0 + 0.85 * index)
        axes.text(x, below, note, fontsize=6.8, **(text | {"color": "#555555"}))


def _paint_heading(
    axes: Axes, placed: Placed, title: str | None, corner: tuple[float, float]
) -> None:
    left, top = corner[0] + MARGIN, corner[1]
    if title:
        axes.text(left, top - 0.25, title, fontsize=11, fontweight="bold", color=INK, va="center")
    counts = Counter(node.kind for node in placed.nodes.values())
    x = left
    for kind in (kind for kind in COLOURS if counts[kind]):
        style = {"facecolor": COLOURS[kind], "edgecolor": EDGE_COLOURS[kind], "linewidth": 0.8}
        axes.fill([x, x + 0.16, x + 0.16, x], [top - 0.62] * 2 + [top - 0.5] * 2, **style)
        axes.text(x + 0.22, top - 0.56, kind, fontsize=8, color=INK, va="center")
        x += 0.42 + CHARACTER * len(kind)


def save_figure(figure: Figure, path: str | os.PathLike[str] | None, suffix: str) -> str | None:
    """Write a figure to a file, or return it as SVG text where there is no path."""
    import matplotlib

    width, height = figure.get_size_inches()
    # Raster pictures of matplotlib end below 2^16 pixels a side.
    dpi = min(130.0, 60_000.0 / max(width, height))
    # Equal graphs give equal files, with text that can be searched.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "tapejit"}
    options: dict[str, Any] = {"dpi": dpi, "format": suffix[1:]}
    if suffix == ".svg":
        options["metadata"] = {"Date": None}
    with matplotlib.rc_context(settings):
        if path is not None:
            figure.savefig(path, **options)
            return None
        buffer = io.StringIO()
        figure.savefig(buffer, **options)
        return buffer.getvalue()
