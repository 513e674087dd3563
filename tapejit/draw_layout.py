"""Layout of a computational graph: where boxes and edges lie, in inches.

The usual one for directed graphs (Sugiyama, Tagawa and Toda 1981, IEEE Transactions on Systems, Man
and Cybernetics 11): nodes in layers by their longest path from an input; long edges through
invisible points, shared by all edges that leave one node; the order within a layer by barycentres
of neighbours; and positions by least squares under the distances that boxes need.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Node", "Placed", "place"]

# Inches.
CHARACTER, LINE, PADDING = 0.078, 0.15, 0.16
GAP, LAYER_GAP = 0.18, 0.42
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
    def is_leaf(self) -> bool:
        """Whether it is an argument or a constant."""
        return self.kind in ("input", "constant")

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


def place(nodes: Sequence[Node]) -> Placed:
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
        layer_of[node.id] = 1 + max(known) if known else int(not node.is_leaf)
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
