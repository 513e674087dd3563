"""Pictures of graphs: what is drawn, and that it can be read."""

from __future__ import annotations

import itertools
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tapejit.draw import Node, _constants_beside_uses, draw_nodes
from tapejit.draw_layout import place

MODEL = [
    Node(0, "w", "input", (30,)),
    Node(1, "X", "constant", (569, 30)),
    Node(2, "matmul", "op", (569,), [1, 0], "model.py:12"),
    Node(3, "2.0", "constant"),
    Node(4, "multiply", "op", (569,), [3, 2], "model.py:13"),
    Node(5, "square", "op", (569,), [4, 4], "model.py:14"),
    Node(6, "sum", "op", (), [5], "model.py:14", value="27.31"),
    Node(7, "multiply", "output", (), [3, 6], "model.py:15"),
]


def chain(length: int) -> list[Node]:
    """Return an input and operations that each use the one before and the input."""
    operations = [Node(i, "add", "op", (), [i - 1, 0]) for i in range(1, length + 1)]
    return [Node(0, "x", "input"), *operations]


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_svg_names_everything() -> None:
    shown = texts(draw_nodes(MODEL, title="logistic regression"))
    for text in ("logistic regression", "w", "matmul", "(569, 30)", "model.py:12", "27.31"):
        assert text in shown


def test_equal_graphs_give_equal_files() -> None:
    assert draw_nodes(MODEL) == draw_nodes(MODEL)


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")]
)
def test_formats(tmp_path: Path, suffix: str, magic: bytes) -> None:
    path = tmp_path / f"graph{suffix}"
    assert draw_nodes(MODEL, path) is None
    assert path.read_bytes().startswith(magic)


def test_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.svg, \.png or \.pdf"):
        draw_nodes(MODEL, tmp_path / "graph.gif")


def test_missing_matplotlib_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"tapejit\[examples\]"):
        draw_nodes(MODEL)


def test_long_graph_shows_its_head() -> None:
    shown = texts(draw_nodes(chain(5000), limit=20))
    assert shown.count("add") == 20
    assert "… and 4,980 more operations" in shown


def test_leaves_used_only_later_are_left_out() -> None:
    late = [*chain(30), Node(90, "unused here", "input"), Node(91, "add", "op", (), [30, 90])]
    assert "unused here" not in texts(draw_nodes(late, limit=10))
    assert "unused here" in texts(draw_nodes(late))


@pytest.mark.parametrize("nodes", [[], [Node(0, "x", "input")], [Node(0, "1.0", "constant")]])
def test_tiny_graphs(nodes: list[Node]) -> None:
    assert draw_nodes(nodes).startswith("<?xml")


def test_operands_lie_above_their_use() -> None:
    placed = place(_constants_beside_uses(MODEL))
    for node in placed.nodes.values():
        for operand in node.inputs:
            assert placed.layer_of[operand] < placed.layer_of[node.id]


def test_constants_stand_beside_every_use() -> None:
    placed = place(_constants_beside_uses(MODEL))
    copies = [node.id for node in placed.nodes.values() if node.label == "2.0"]
    uses = [n for n in placed.nodes.values() if n.label == "multiply"]
    assert len(copies) == len(uses) == 2
    for use in uses:
        assert placed.layer_of[use.inputs[0]] == placed.layer_of[use.id] - 1


def test_boxes_do_not_overlap() -> None:
    # A graph with wide layers and long edges.
    leaves = [Node(i, f"argument {i}", "input") for i in range(8)]
    pairs = itertools.combinations(range(8), 2)
    sums = [Node(8 + k, "add", "op", (), list(pair)) for k, pair in enumerate(pairs)]
    last = Node(100, "stack", "output", (28,), [node.id for node in sums] + [0])
    placed = place([*leaves, *sums, last])
    for layer in placed.layers:
        for left, right in itertools.pairwise(layer):
            apart = placed.x[right] - placed.x[left]
            assert apart > (placed.width(left) + placed.width(right)) / 2


def test_first_operand_arrives_on_the_left() -> None:
    # Without regard to the order of operands this graph's two edges would cross.
    nodes = [
        Node(0, "b", "input"),
        Node(1, "a", "input"),
        Node(2, "subtract", "output", (), [1, 0]),
    ]
    placed = place(nodes)
    assert placed.x[1, 0] < placed.x[0, 0]
