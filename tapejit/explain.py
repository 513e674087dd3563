"""Forward and reverse accumulation, node by node: a table of values, tangents or adjoints.

The table shows what the compiled sweeps compute, in their order: the tape is swept with a
disturbance at each node (:mod:`tapejit.disturbed`), so no derivative is computed in another way.

The names are those of Griewank and Walther (2008), "Evaluating Derivatives", sections 3.1 and 3.2.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, overload

import numpy as np

from . import listing
from .api import trace
from .arguments import as_argument
from .disturbed import Disturbed, Node, disturb
from .draw import draw_nodes
from .errors import TraceError
from .interpreters import layout
from .interpreters.entry import BIND, DELIVER, OBJECT, RUN_FORWARD, RUN_REVERSE, RUN_TANGENT
from .lowering.build import Slot
from .ops.table import OPS
from .paths import Path
from .products import cotangent_leaves, tangent_leaves
from .program import Workspace, program_for
from .recording.record import Recording
from .replay import Replay, raise_stopped
from .results import bind_in_place
from .tape import Tape, size_of

__all__ = ["Explanation", "Row", "explain", "explain_tape"]

#: Arrays of at most this many elements are printed, longer ones summarised.
SHORT = 6


@dataclass(frozen=True)
class Row:
    """One line of an :class:`Explanation`.

    Attributes
    ----------
    index
        The tape's instruction; -1 for an argument.
    node
        Name of the result: ``v3`` is what instruction 3 computes, ``v2[0]`` an element of ``v2``
        that is written in place; an argument has its own name.  Empty for a guard.
    op
        The operation: ``"input"`` for an argument, ``"guard true"`` ... for a guard.
    operation
        The operation with its operands.
    operands
        Names of the operands.
    shape
        Shape of the value.
    file, line, source
        Where the user's code says so, and the text of that line.
    value
        The value: a number or array; for a guard the relation that has to hold.
    tangent, adjoint
        By the mode one of them, of the value's shape; the other is None.  Guards have neither.
    """

    index: int
    node: str
    op: str
    operation: str
    operands: tuple[str, ...]
    shape: tuple[int, ...]
    file: str
    line: int
    source: str
    value: Any
    tangent: Any = None
    adjoint: Any = None


class Explanation(Sequence):
    """Every node of a tape at one point, in sweep order; made by :func:`explain`.

    A sequence of :class:`Row`; ``table["v3"]`` finds a row by its node (the last one of that name
    in the order of the recording).  Prints as a table.

    Attributes
    ----------
    mode
        ``"forward"`` or ``"reverse"``.
    tape, name
        The tape, and the name of the recorded function.
    rows
        The rows.
    """

    def __init__(self, mode: str, tape: Tape, rows: Sequence[Row]) -> None:
        self.mode = mode
        self.tape = tape
        self.name = tape.name
        self.rows = tuple(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @overload
    def __getitem__(self, key: int | str) -> Row: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Row | tuple[Row, ...]:
        if not isinstance(key, str):
            return self.rows[key]
        found = [row for row in self.rows if row.node == key]
        if not found:
            raise KeyError(f"no node {key!r}; there are {', '.join(row.node for row in self.rows)}")
        return max(found, key=lambda row: row.index)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return self.text()

    def text(self, longest: int = listing.LONGEST) -> str:
        """The table as text; of long ones the head and the tail.

        Parameters
        ----------
        longest
            How many rows are shown at the most.
        """
        derivative = "tangent" if self.mode == "forward" else "adjoint"
        head = ("node", "operation", "value", derivative, "line")
        half = len(self) if len(self) <= longest else longest // 2
        first = [_cells(row, derivative) for row in self.rows[:half]]
        last = [_cells(row, derivative) for row in self.rows[max(half, len(self) - half) :]]
        widths = [max(map(len, column)) for column in zip(head, *first, *last, strict=True)]

        def line(cells: Sequence[str]) -> str:
            padded = [f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)]
            return "  ".join(padded).rstrip()

        title = f"{self.mode.capitalize()} accumulation of {self.name}"
        lines = [title, line(head), line(["-" * width for width in widths]), *map(line, first)]
        if len(self) > 2 * half:
            lines.append(f"... {len(self) - 2 * half} more ...")
        return "\n".join([*lines, *map(line, last)])

    def draw(self, path: str | None = None, **options: Any) -> Any:
        """Draw the graph with the values and derivatives of its nodes (see :mod:`tapejit.draw`)."""
        derivative = "tangent" if self.mode == "forward" else "adjoint"
        shown: dict[int | str, str] = {}
        for row in self.rows:
            change = getattr(row, derivative)
            text = _short(row.value) + (
                "" if change is None else f", {derivative} {_short(change)}"
            )
            shown[row.index if row.index >= 0 else row.node] = text
        nodes = listing.graph_nodes(self.tape, shown)
        return draw_nodes(nodes, path, title=self.name, **options)


def _cells(row: Row, derivative: str) -> tuple[str, ...]:
    place = f"{FilePath(row.file).name}:{row.line}  {row.source}" if row.file else ""
    change = getattr(row, derivative)
    shown = "" if change is None else _short(change)
    return row.node, row.operation, _short(row.value), shown, place


def _short(value: Any) -> str:
    """A value on one line: digits of a number or a short array, the range of a longer one."""
    array = np.asarray(value)
    if array.dtype == bool and array.ndim == 0:
        return str(bool(array))
    if array.ndim > 0 and array.size > SHORT:
        lowest, highest = array.min(), array.max()
        numbers = f"all {lowest:.6g}" if lowest == highest else f"{lowest:.4g} to {highest:.4g}"
        return f"{' x '.join(map(str, array.shape))} numbers, {numbers}"
    digits = np.array2string(
        array, separator=", ", formatter={"all": _digits}, max_line_width=10**6
    )
    return " ".join(digits.split())


def _digits(x: Any) -> str:
    return f"{float(x) + 0.0:.6g}"  # 0 for -0.0: its sign would only raise questions


def explain(
    f: Callable[..., Any],
    *args: Any,
    mode: str = "reverse",
    tangents: Any = None,
    cotangents: Any = None,
    **kwargs: Any,
) -> Explanation:
    """Show forward or reverse accumulation of a function, node by node.

    Records ``f`` at the arguments and sweeps over its tape; ``tape.explain(*args)`` does the same
    for a tape at new arguments.

    Parameters
    ----------
    f
        A function written in NumPy, or a tape of one.
    args, kwargs
        Its arguments: the point.
    mode
        ``"reverse"``: values and adjoints, in the order of the reverse sweep: the result first,
        the arguments last.  ``"forward"``: values and tangents, in the order of the forward sweep.
    tangents
        For forward accumulation a tuple of a tangent for each of ``args``, of the same structure;
        one by default where the only argument is a number.  Keyword arguments don't move.
    cotangents
        For reverse accumulation the cotangent of the result, of the same structure; one by default
        where the result is a number.

    Returns
    -------
    Explanation
        A sequence of rows (``node``, ``operation``, ``line``, ``value``, ``tangent`` or
        ``adjoint`` ...) that prints as a table.

    Raises
    ------
    ValueError
        For another mode, or where a seed is missing or has the wrong shape.
    TraceError
        Where ``f`` cannot be recorded, or a tape would take another branch at these arguments.

    Notes
    -----
    An adjoint is the derivative of the result (weighted by its cotangent) with respect to the
    node; a tangent the derivative of the node in the direction of the seed.  The adjoint of an
    in-place write is that of the elements written.

    Examples
    --------
    >>> import tapejit as tj
    >>> table = tj.explain(lambda x, y: x * (x + y), 3.0, 2.0)
    >>> [(row.node, float(row.value), float(row.adjoint)) for row in table]
    [('v1', 15.0, 1.0), ('v0', 5.0, 3.0), ('x', 3.0, 8.0), ('y', 2.0, 3.0)]
    >>> table["x"].adjoint
    np.float64(8.0)
    """
    tape = f if isinstance(f, Tape) else trace(f, *args, **kwargs)
    return explain_tape(tape, args, kwargs, mode, tangents, cotangents)


def explain_tape(
    tape: Tape, args: tuple, kwargs: dict, mode: str, tangents: Any, cotangents: Any
) -> Explanation:
    """Sweep over a tape at a point, and put its nodes in a table; see :func:`explain`."""
    if mode not in ("forward", "reverse"):
        raise ValueError(f"mode must be 'forward' or 'reverse', not {mode!r}")
    unused = "cotangents" if mode == "forward" else "tangents"
    if (cotangents if mode == "forward" else tangents) is not None:
        raise ValueError(f"{unused} have no meaning in {mode} accumulation")
    replay = tape.call
    if not isinstance(replay, Replay):
        raise TraceError(
            f"the tape of `{tape.name}` does not know its function's arguments; explain a tape "
            "that tapejit.trace made"
        )
    values = replay.values(args, kwargs)
    disturbed = disturb(tape)
    if mode == "forward":
        seeds = _tangent_seeds(replay, args, values, tangents)
        node_values, inputs, derivatives = _push(disturbed, values, seeds)
    else:
        seeds = _cotangent_seeds(replay, cotangents)
        node_values, inputs, derivatives = _pull(disturbed, values, seeds)
    field = "tangent" if mode == "forward" else "adjoint"
    rows = _input_rows(tape, values, inputs, field)
    nodes = _node_rows(tape, disturbed.nodes, node_values, derivatives, field)
    return Explanation(mode, tape, rows + nodes if mode == "forward" else nodes[::-1] + rows)


# --- seeds ----------------------------------------------------------------------------------------


def _tangent_seeds(replay: Replay, args: tuple, values: list, tangents: Any) -> list[Any]:
    """A tangent for each traced leaf."""
    if tangents is None:
        if len(values) != 1 or np.shape(values[0]):
            raise ValueError(
                f"`{replay.function.name}` has more than one number to move: forward accumulation "
                "follows one direction, so give tangents=(...), one for each argument, such as 1.0 "
                "for the one to differentiate with respect to, and zeros for the others"
            )
        return [1.0]
    if not isinstance(tangents, (tuple, list)):
        raise ValueError(
            f"tangents must be a tuple with one tangent for each argument, not "
            f"{type(tangents).__name__}"
        )
    n = len(replay.function.split(args, {})[0])
    positional = values[: sum(leaf is None for leaf in replay.statics[:n])]
    seeds = tangent_leaves(replay.function, args, positional, tuple(tangents))
    return [*seeds, *(np.zeros(np.shape(value))[()] for value in values[len(positional) :])]


def _cotangent_seeds(replay: Replay, cotangents: Any) -> list[Any]:
    """A cotangent for each output of the tape."""
    recording = replay.path.recording
    if cotangents is None:
        outputs = recording.tape.outputs
        if len(outputs) != 1 or outputs[0].view.shape:
            shapes = ", ".join(str(leaf.view.shape) for leaf in outputs)
            raise ValueError(
                f"`{replay.function.name}` returns more than one number (shapes {shapes}): reverse "
                "accumulation starts from one cotangent of the result's structure, so give "
                "cotangents=..., such as ones for the derivative of the sum"
            )
        return [1.0]
    return cotangent_leaves(recording, replay.function.name, cotangents)


# --- sweeps ---------------------------------------------------------------------------------------


class _Sweep:
    """One evaluation of a tape, by its own program and workspace."""

    def __init__(self, tape: Tape, wrt: tuple[int, ...] = (), mode: str = "value") -> None:
        self.tape = tape
        self.program = program_for(tape, wrt, mode)
        self.code = self.program.code
        self.workspace = Workspace(self.program)

    def run(self, what: int, arguments: Sequence[Any]) -> None:
        """Bind the arguments, and sweep."""
        workspace = self.workspace
        self.held = [as_argument(value) for value in arguments]
        for record, value in zip(workspace.parameters, self.held, strict=True):
            record[OBJECT] = id(value)
        status = workspace.run(BIND | what)
        if status != layout.DONE:
            raise_stopped(Path(Recording(self.tape, None, [], [])), workspace, status)

    def results(self, slots: list[Slot], what: int = 0) -> list[Any]:
        """Sweep on, and copy results out."""
        workspace = self.workspace
        workspace.deliver_to(slots, np.zeros(max(len(slots), 1)))
        arrays = [None if slot.shape == () else np.empty(slot.shape) for slot in slots]
        for record, array in zip(workspace.results, arrays, strict=True):
            if array is not None:
                record[OBJECT] = id(array)
        if what:
            bind_in_place(workspace, slots, arrays)
        workspace.run(what | DELIVER)
        return [workspace.scalars[k] if array is None else array for k, array in enumerate(arrays)]


def _push(disturbed: Disturbed, values: list, seeds: list) -> tuple[list, list, list]:
    """Values of the nodes, tangents of the inputs, tangents of the nodes."""
    sweep = _Sweep(disturbed.with_nodes_as_outputs(), tuple(range(len(values))), "tangent")
    sweep.run(RUN_TANGENT, [*values, *disturbed.disturbances, *seeds])
    n = len(disturbed.nodes)
    results = sweep.results([*sweep.code.values, *sweep.code.tangents_out])
    return results[:n], seeds, results[n:]


def _pull(disturbed: Disturbed, values: list, seeds: list) -> tuple[list, list, list]:
    """Values of the nodes, adjoints of the inputs, adjoints of the nodes."""
    arguments = [*values, *disturbed.disturbances]
    forward = _Sweep(disturbed.with_nodes_as_outputs())
    forward.run(RUN_FORWARD, arguments)
    reverse = _Sweep(disturbed.tape, tuple(range(len(arguments))), "gradient")
    reverse.run(RUN_FORWARD, arguments)
    for slot, seed in zip(reverse.code.seeds, seeds, strict=True):
        n = size_of(slot.shape)
        reverse.workspace.values[slot.offset : slot.offset + n] = np.ravel(seed)
    adjoints = reverse.results(reverse.code.gradients, RUN_REVERSE)
    at_nodes = [
        adjoints[node.argument] if node.offset is None else adjoints[node.argument][node.offset]
        for node in disturbed.nodes
    ]
    return forward.results(forward.code.values), adjoints[: len(values)], at_nodes


# --- rows -----------------------------------------------------------------------------------------


def _input_rows(tape: Tape, values: list, derivatives: list, field: str) -> list[Row]:
    namer = listing.Namer(tape)
    rows = []
    for leaf, value, derivative in zip(tape.inputs, values, derivatives, strict=True):
        name, found = namer.name(leaf.view), {field: derivative}
        rows.append(Row(-1, name, "input", "input", (), leaf.view.shape, "", 0, "", value, **found))
    return rows


def _node_rows(
    tape: Tape, nodes: list[Node], values: list, derivatives: list, field: str
) -> list[Row]:
    """A row for each instruction, in the tape's order."""
    namer = listing.Namer(tape)
    by_row = {node.row: i for i, node in enumerate(nodes)}
    rows = []
    for row in listing.rows(tape):
        operation = namer.operation(row)
        names = tuple(namer.name(view) for view in row.operands)
        if row.result is None:
            name, found = "", {"value": _relation(tape, row), "shape": ()}
        else:
            i = by_row[row.index]
            value = values[i]
            if row.op in OPS and OPS[row.op].kind == "b":
                value = value != 0.0
            shape = namer.shape(row.result) if "write" not in row.op else np.shape(value)
            found = {"value": np.reshape(value, shape)[()], "shape": shape,
                     field: np.reshape(derivatives[i], shape)[()]}  # fmt: skip
            name = _node_name(namer, row)
        file, line = tape.line(row.index)
        source = linecache.getline(file, line).strip()
        rows.append(
            Row(row.index, name, row.op, operation, names, file=file, line=line, source=source,
                **found)
        )  # fmt: skip
    return rows


def _node_name(namer: listing.Namer, row: listing.Row) -> str:
    """The result's name; for an in-place write that of what is written."""
    name = namer.result(row.result, row.index)
    if row.op == "write":
        return namer.name(row.operands[-1])
    if row.op == "scatter_write":
        _, index, target = row.operands
        return f"{namer.name(target)}[{namer.name(index)}]"
    return name


def _relation(tape: Tape, row: listing.Row) -> Any:
    """What a guard asks for."""
    op, _, _, wanted, _ = tape.code[row.index].tolist()
    if op != layout.GUARD_EQUAL:
        return bool(op == layout.GUARD_TRUE)
    ids, values = tape.scalar_constants
    return values[np.flatnonzero(ids == wanted)[0]]
