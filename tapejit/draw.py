"""Pictures of a computational graph, with matplotlib alone.

The layout is the usual one for directed graphs (Sugiyama, Tagawa and Toda 1981, IEEE Transactions
on Systems, Man and Cybernetics 11): nodes in layers by their longest path from an input; long
edges through invisible points, shared by all edges that leave one node; the order within a layer
by barycentres of neighbours; and positions by least squares under the distances that boxes need.
"""

from __future__ import annotations

import io
import itertools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Node", "draw_nodes"]

FORMATS = (".svg", ".png", ".pdf")
COLOURS = {"input": "#cfe2f3", "constant": "#e8e8e8", "op": "#fdf3dc", "output": "#d3ecd1"}
EDGE_COLOURS = {"input": "#2d5f8b", "constant": "#8a8a8a", "op": "#b98a2e", "output": "#3c7f39"}
INK, WIRE = "#222222", "#8c8c8c"

# Inches.
CHARACTER, LINE, PADDING = 0.078, 0.15, 0.16
GAP, LAYER_GAP, MARGIN = 0.18, 0.42, 0.35
#: A point of a long edge needs less room than a box.
WIRE_WIDTH = 0.06


@dataclass(frozen=True)
class Node:
    """A node of the picture.

    Attributes
    ----------
    id
        Its number; unique, and what ``inputs`` of other nodes refer to.
    label
        What it is: the operation, or the name of an argument.
    kind
        "input", "constant", "op" or "output".
    shape
        Shape of its value; () for a scalar.
    inputs
        Numbers of its operands, in their order; nodes come after their operands.
    line
        Where in the user's code it was written, as "file.py:12".
    value
        Its value as text, if that is to be shown.
    """

    id: int
    label: str
    kind: str
    shape: tuple[int, ...] = ()
    inputs: list[int] = field(default_factory=list)
    line: str | None = None
    value: str | None = None

    @property
    def notes(self) -> list[str]:
        """The small lines of text under the label."""
        shape = f"{tuple(self.shape)}" if self.shape else ""
        first = " = ".join(part for part in (shape, self.value) if part)
        return [note for note in (first, self.line) if note]

    @property
    def width(self) -> float:
        """Width of its box in inches."""
        # Notes are set in a type three quarters as large.
        longest = max([len(self.label), *(0.78 * len(note) for note in self.notes)])
        return CHARACTER * max(longest, 3) + PADDING

    @property
    def height(self) -> float:
        """Height of its box in inches."""
        return LINE * (1 + 0.85 * len(self.notes)) + 0.11


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
    figure = _paint(_place(_constants_beside_uses(shown)), title, left_out)
    return save_figure(figure, path, suffix)


def picture_suffix(path: str | os.PathLike[str] | None) -> str:
    """The kind of picture that a path asks for; SVG without one."""
    suffix = ".svg" if path is None else Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"cannot draw to {str(path)!r}: use a name that ends in .svg, .png or .pdf"
        )
    return suffix


# Choosing what is drawn ---------------------------------------------------------------------------


def _is_leaf(node: Node) -> bool:
    return node.kind in ("input", "constant")


def _head(nodes: Sequence[Node], limit: int) -> tuple[list[Node], int]:
    """Return the first ``limit`` operations with the leaves that they use, and what is missing."""
    operations = [node for node in nodes if not _is_leaf(node)]
    if len(operations) <= limit:
        return list(nodes), 0
    chosen = {node.id for node in operations[:limit]}
    used = {operand for node in operations[:limit] for operand in node.inputs}
    shown = [node for node in nodes if node.id in chosen or (_is_leaf(node) and node.id in used)]
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


# Placing ------------------------------------------------------------------------------------------


@dataclass
class Placed:
    """A graph with positions; keys of points are (node id, layer)."""

    nodes: dict[int, Node]
    layers: list[list[tuple[int, int]]]
    layer_of: dict[int, int]
    x: dict[tuple[int, int], float]
    y: list[float]
    wires: list[tuple[tuple[int, int], tuple[int, int]]]

    def is_box(self, point: tuple[int, int]) -> bool:
        """Whether the point is its node itself, rather than a point of an edge that leaves it."""
        return self.layer_of[point[0]] == point[1]

    def width(self, point: tuple[int, int]) -> float:
        """Room that the point needs, in inches."""
        return self.nodes[point[0]].width if self.is_box(point) else WIRE_WIDTH


def _place(nodes: Sequence[Node]) -> Placed:
    by_id = {node.id: node for node in nodes}
    layer_of = _layers(nodes)
    wires = _wires(nodes, layer_of)
    placed = Placed(by_id, _fill(nodes, layer_of, wires), layer_of, {}, [], wires)
    _order(placed)
    _set_x(placed)
    _set_y(placed)
    return placed


def _layers(nodes: Sequence[Node]) -> dict[int, int]:
    """Return each node's layer: the longest path to it; constants right above their use."""
    kinds = {node.id: node.kind for node in nodes}
    layer_of: dict[int, int] = {}
    for node in nodes:
        known = [layer_of[operand] for operand in node.inputs if operand in layer_of]
        layer_of[node.id] = 1 + max(known) if known else int(not _is_leaf(node))
    for node in nodes:
        for operand in node.inputs:
            # Every use has its own copy of a constant, so that there is one consumer to be near.
            if kinds.get(operand) == "constant":
                layer_of[operand] = layer_of[node.id] - 1
    return layer_of


def _wires(
    nodes: Sequence[Node], layer_of: dict[int, int]
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return all edges cut into pieces between neighbouring layers, each piece once."""
    pieces = {}
    for node in nodes:
        end = layer_of[node.id]
        for operand in node.inputs:
            if operand not in layer_of:
                continue
            for layer in range(layer_of[operand], end - 1):
                pieces[(operand, layer), (operand, layer + 1)] = None
            pieces[(operand, end - 1), (node.id, end)] = None
    return list(pieces)


def _fill(nodes: Sequence[Node], layer_of: dict[int, int], wires: list) -> list[list]:
    points = {(node.id, layer_of[node.id]): None for node in nodes}
    points.update({point: None for wire in wires for point in wire})
    layers: list[list] = [[] for _ in range(1 + max(layer_of.values(), default=-1))]
    for point in points:
        layers[point[1]].append(point)
    return layers


def _order(placed: Placed, sweeps: int = 12) -> None:
    """Order each layer by the barycentres of its neighbours, and keep the best order seen."""
    above, below = _neighbours(placed)
    landings = _landings(placed)
    best, fewest = [list(layer) for layer in placed.layers], _crossings(placed, landings)
    for sweep in range(sweeps):
        downwards = sweep % 2 == 0
        indices = range(1, len(placed.layers)) if downwards else _reversed(placed.layers)
        for index in indices:
            fixed = placed.layers[index - 1 if downwards else index + 1]
            _sort_layer(placed.layers[index], fixed, above if downwards else below, landings)
        count = _crossings(placed, landings)
        if count < fewest:
            best, fewest = [list(layer) for layer in placed.layers], count
    placed.layers[:] = best


def _reversed(layers: list) -> range:
    return range(len(layers) - 2, -1, -1)


def _landings(placed: Placed) -> dict:
    """Return where each edge meets its user's box, as a part (-0.5 to 0.5) of the box's width.

    Counted with the order of boxes, this puts the first operand to the left of the second.
    """
    landings = {}
    for upper, lower in placed.wires:
        inputs = placed.nodes[lower[0]].inputs if placed.is_box(lower) else [upper[0]]
        places = [i for i, operand in enumerate(inputs) if operand == upper[0]]
        landings[upper, lower] = (float(np.mean(places)) + 1) / (len(inputs) + 1) - 0.5
    return landings


def _sort_layer(layer: list, fixed: list, neighbours: dict, landings: dict) -> None:
    position = {point: index for index, point in enumerate(fixed)}
    keys = {}
    for index, point in enumerate(layer):
        near = [position[other] + landings.get((point, other), 0.0) for other in neighbours[point]]
        # A point without neighbours on this side stays where it is, scaled to the other layer.
        keys[point] = float(np.mean(near)) if near else index * len(fixed) / len(layer)
    layer.sort(key=keys.__getitem__)


def _neighbours(placed: Placed) -> tuple[dict, dict]:
    above, below = defaultdict(list), defaultdict(list)
    for upper, lower in placed.wires:
        above[lower].append(upper)
        below[upper].append(lower)
    return above, below


def _crossings(placed: Placed, landings: dict) -> int:
    position = {point: i for layer in placed.layers for i, point in enumerate(layer)}
    by_layer = defaultdict(list)
    for upper, lower in placed.wires:
        end = position[lower] + landings[upper, lower]
        by_layer[upper[1]].append((position[upper], end))
    total = 0
    for ends in by_layer.values():
        upper, lower = np.array(ends).T
        crossed = (upper[:, None] < upper) & (lower[:, None] > lower)
        total += int(crossed.sum())
    return total


def _set_x(placed: Placed, sweeps: int = 30) -> None:
    """Move every layer towards its neighbours, keeping its order and the room between boxes."""
    above, below = _neighbours(placed)
    for layer in placed.layers:
        room = _room(placed, layer)
        placed.x.update(zip(layer, (room - room[-1] / 2).tolist(), strict=True))
    for sweep in range(sweeps):
        downwards = sweep % 2 == 0
        near = above if downwards else below
        for layer in placed.layers if downwards else placed.layers[::-1]:
            wish = {
                point: float(np.mean([placed.x[other] for other in near[point]]))
                if near[point]
                else placed.x[point]
                for point in layer
            }
            _spread(placed, layer, wish)


def _spread(placed: Placed, layer: list, wish: dict) -> None:
    """Set positions nearest to ``wish`` (least squares) that leave every box its room.

    With the room taken off, "at least so far apart" becomes "not decreasing": isotonic regression.
    """
    from scipy.optimize import isotonic_regression  # 0.1 s that only pictures need

    room = _room(placed, layer)
    wishes = np.array([wish[point] for point in layer])
    # Points of long edges weigh more: a straight wire is easier to follow.
    weights = np.array([1.0 if placed.is_box(point) else 4.0 for point in layer])
    x = isotonic_regression(wishes - room, weights=weights).x + room
    placed.x.update(zip(layer, x.tolist(), strict=True))


def _room(placed: Placed, layer: list) -> np.ndarray:
    """Return the positions of a layer packed tightly, its first point at 0."""
    widths = np.array([placed.width(point) for point in layer])
    return np.concatenate([[0.0], np.cumsum((widths[1:] + widths[:-1]) / 2 + GAP)])


def _set_y(placed: Placed) -> None:
    y = 0.0
    for layer in placed.layers:
        tallest = max((placed.nodes[p[0]].height for p in layer if placed.is_box(p)), default=0.2)
        placed.y.append(y - tallest / 2)
        y -= tallest + LAYER_GAP


# Painting -----------------------------------------------------------------------------------------


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
