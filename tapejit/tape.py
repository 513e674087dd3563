"""The Tape: an immutable flat record (a Wengert list) of one run of a function."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

if TYPE_CHECKING:
    from .explain import Explanation
    from .stats import TapeStats

__all__ = ["ALIGNMENT", "ARRAY", "SCALAR", "Call", "Region", "Tape", "View"]

#: Scalar codes address elements: below ``ARRAY`` scalars, from it on elements of array buffers.
ARRAY = 1 << 30
#: The buffer number that stands for the scalar region.
SCALAR = -1
#: Array buffers start at multiples of this many elements (64 bytes), and are padded to it.
ALIGNMENT = 8


class View(NamedTuple):
    """A strided window on a buffer (offset and strides in elements)."""

    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return size_of(self.shape)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """What ``x.view(...)`` of a traced array or tensor meets: the attribute is a view."""
        raise TypeError("x.view(...) has no meaning for traced arrays and tensors; use reshape")


class Buffer(NamedTuple):
    """A block of elements: a temporary, an argument (``argument >= 0``) or a constant."""

    base: int  # first element in the array region; -1 for a constant
    size: int
    argument: int = -1
    constant: int = -1


class Call(NamedTuple):
    """An array instruction."""

    op: str
    operands: tuple[View, ...]
    result: View
    params: tuple = ()


class Region(NamedTuple):
    """Rows ``first`` ... ``last`` - 1, whose values are not kept for a reverse sweep.

    ``save`` says what is kept all the same: results of calls by name, or ``"matmuls"``;
    ``schedule`` cuts the region into further ones.
    """

    first: int
    last: int
    save: tuple[str, ...] = ()
    schedule: Any = None
    inner: tuple[Region, ...] = ()


class Leaf(NamedTuple):
    """An input or output: where it lies, and its NumPy dtype."""

    view: View
    dtype: str


def size_of(shape: tuple[int, ...]) -> int:
    """Number of elements of an array of this shape."""
    size = 1
    for n in shape:
        size *= n
    return size


@functools.lru_cache(maxsize=4096)
def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a C-contiguous array."""
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


def is_contiguous(view: View) -> bool:
    """Whether the view's elements lie one after the other in C order."""
    step = 1
    for n, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
        if n != 1 and stride != step:
            return False
        step *= n
    return True


@dataclass(frozen=True, eq=False)
class Tape:
    """A recorded function.

    Attributes
    ----------
    code
        int32 array (n, 5): op code, result, three operands.  Elementwise scalar operations address
        elements; array instructions name an entry of ``calls`` as their result.
    calls
        The array instructions.
    buffers
        The array buffers: where each lies, which are arguments or constants.
    n_scalars, n_array_elements
        Sizes of the scalar region and of the array region.
    scalar_constants
        (ids, values) of the constants in the scalar region.
    array_constants
        Captured arrays, copied when they were recorded.
    inputs, outputs
        Leaves of the arguments and of the result.
    locations
        For each recorded instruction the code object and byte-code offset of the user's line.
    name, input_names
        What the recorded function and its arguments are called, for people.
    call
        What a call of the tape does; ``None`` for a tape that was not made by ``trace``.
    origins
        Of a transformed tape: the recorded instruction that each of its instructions comes from.
    regions
        Recorded instructions whose values a reverse sweep computes again.

    Examples
    --------
    >>> import numpy as np, tapejit as tj
    >>> tape = tj.trace(lambda x, y: x * np.sin(y), 2.0, 0.5)
    >>> isinstance(tape, tj.Tape), len(tape), tape.input_names
    (True, 2, ('x', 'y'))
    >>> tape.code  # op code, result, operands
    array([[..., 2, 1, 0, 0],
           [..., 3, 0, 2, 0]], dtype=int32)
    """

    code: np.ndarray
    calls: tuple[Call, ...]
    buffers: tuple[Buffer, ...]
    n_scalars: int
    n_array_elements: int
    scalar_constants: tuple[np.ndarray, np.ndarray]
    array_constants: tuple[np.ndarray, ...]
    inputs: tuple[Leaf, ...]
    outputs: tuple[Leaf, ...]
    locations: tuple[list, list] = field(default=((), ()), repr=False)
    name: str = "<tape>"
    input_names: tuple[str, ...] = ()
    call: Any = field(default=None, repr=False)
    origins: np.ndarray | None = field(default=None, repr=False)
    regions: tuple[Region, ...] = ()

    def __len__(self) -> int:
        return len(self.code)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Replay the tape at new arguments (same structure, shapes and branches)."""
        return self.call(*args, **kwargs)

    @functools.cached_property
    def fingerprint(self) -> bytes:
        """Hash of the structure and constants: equal tapes share one Program."""
        digest = hashlib.blake2b(digest_size=16)
        ids, values = self.scalar_constants
        for array in (self.code, ids, values, *self.array_constants):
            digest.update(str((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        layout = (self.calls, self.buffers, self.n_scalars, self.n_array_elements, self.regions)
        digest.update(repr((layout, self.inputs, self.outputs)).encode())
        return digest.digest()

    def line(self, index: int) -> tuple[str, int]:
        """File and line of the user's code that recorded instruction ``index``."""
        codes, offsets = self.locations
        if self.origins is not None:
            index = int(self.origins[index])
        if index >= len(codes):
            return ("<unknown>", 0)
        code, offset = codes[index], offsets[index]
        return (code.co_filename, line_of(code, offset))

    @functools.cached_property
    def addressed(self) -> frozenset[int]:
        """The buffers whose elements scalar instructions name."""
        if not self.buffers or not len(self.code):
            return frozenset()
        chosen = self.code[:, 1:] >= ARRAY
        if not chosen.any():
            return frozenset()
        elements = np.unique(self.code[:, 1:][chosen]).astype(np.int64) - ARRAY
        return frozenset(np.unique(self.buffer_of(elements)).tolist())

    @functools.cached_property
    def _bases(self) -> tuple[np.ndarray, np.ndarray]:
        """First elements of the buffers in the array region, ascending, and their numbers."""
        numbers = np.array([i for i, b in enumerate(self.buffers) if b.base >= 0], np.int64)
        bases = np.array([self.buffers[i].base for i in numbers.tolist()], np.int64)
        order = np.argsort(bases, kind="stable")
        return bases[order], numbers[order]

    def buffer_of(self, elements: np.ndarray) -> np.ndarray:
        """The buffers of array-region elements."""
        bases, numbers = self._bases
        return numbers[np.searchsorted(bases, elements, side="right") - 1]

    def element(self, element: int) -> View:
        """The 0-d view of an element address as scalar codes use it."""
        if element < ARRAY:
            return View(SCALAR, element, (), ())
        offset = element - ARRAY
        buffer = int(self.buffer_of(np.array([offset]))[0])
        return View(buffer, offset - self.buffers[buffer].base, (), ())

    def optimize(
        self, passes: Sequence[str] | None = None, *, unsafe: bool = False, **options: Any
    ) -> Tape:
        """The tape after passes that leave its values and derivatives unchanged.

        Programs are made of tapes after the default passes in any case; this shows what they do,
        chooses among them, or asks for more.

        Parameters
        ----------
        passes
            Names, in the order in which to run them: ``"fold"`` (constants), ``"simplify"``
            (algebraic identities), ``"common"`` (common subexpressions), ``"dead"`` (dead code),
            ``"fuse"`` (products with sums), ``"schedule"`` (equal op codes side by side),
            ``"renumber"`` (scalars without gaps).  By default all of them, in this order.
        unsafe
            Also identities that change some IEEE results, as ``x - x = 0``.
        **options
            ``window``: how many rows ``"schedule"`` sorts together.

        Returns
        -------
        Tape
            A new tape.  Values are the same bit for bit (but with ``unsafe``), derivatives up to
            rounding.  Rows up to the last guard are never changed.

        Raises
        ------
        ValueError
            For an unknown pass.

        Examples
        --------
        >>> import numpy as np, tapejit as tj
        >>> tape = tj.trace(lambda x: np.sin(x * 1.0) + np.sin(x), 0.5)
        >>> len(tape), len(tape.optimize()), len(tape.optimize(["simplify"]))
        (4, 2, 3)
        """
        from .passes import DEFAULT, optimize

        tape = optimize(self, DEFAULT if passes is None else passes, unsafe=unsafe, **options)
        if self.call is None:
            return tape
        return replace(tape, call=self.call.with_tape(tape))

    def stats(self, wrt: Sequence[int] | None = None) -> TapeStats:
        """Counts of instructions and buffers, and the bytes of the programs made of the tape.

        Parameters
        ----------
        wrt
            The inputs that the gradient program differentiates; by default all floating-point ones.

        Returns
        -------
        TapeStats

        Examples
        --------
        >>> import numpy as np, tapejit as tj
        >>> tape = tj.trace(lambda x: np.sum(x * x), np.ones(3))
        >>> tape.stats().operations
        {'mul': 1, 'sum': 1}
        """
        from .stats import tape_stats

        return tape_stats(self, wrt)

    def __str__(self) -> str:
        from .listing import listing

        return listing(self)

    def draw(self, path: str | None = None, **options: Any) -> Any:
        """Draw the computational graph to an SVG or PNG file (see :mod:`tapejit.draw`)."""
        from .draw import draw_nodes
        from .listing import graph_nodes

        return draw_nodes(graph_nodes(self), path, title=self.name, **options)

    def explain(
        self,
        *args: Any,
        mode: str = "reverse",
        tangents: Any = None,
        cotangents: Any = None,
        **kwargs: Any,
    ) -> Explanation:
        """Every node with its value and its adjoint (or tangent) at a point, in sweep order.

        See :func:`tapejit.explain`, which takes a function in the place of the tape.
        """
        from .explain import explain_tape

        return explain_tape(self, args, kwargs, mode, tangents, cotangents)


@functools.lru_cache(maxsize=4096)
def line_of(code: Any, offset: int) -> int:
    """Source line of a byte-code offset."""
    positions: Iterator = code.co_positions()
    for i, (line, *_) in enumerate(positions):
        if 2 * i >= offset:
            return line or code.co_firstlineno
    return code.co_firstlineno


def with_numbers(tape: Tape, code: np.ndarray, numbers: np.ndarray, n_scalars: int) -> Tape:
    """The tape with other numbers for its scalars: ``code`` has them, the rest is renamed here.

    Constants whose number is negative are left out.
    """

    def renamed(view: View) -> View:
        if view.buffer != SCALAR:
            return view
        return view._replace(offset=int(numbers[view.offset]))

    def leaves(found: tuple[Leaf, ...]) -> tuple[Leaf, ...]:
        return tuple([Leaf(renamed(view), dtype) for view, dtype in found])

    calls = [
        call._replace(
            operands=tuple([renamed(view) for view in call.operands]), result=renamed(call.result)
        )
        for call in tape.calls
    ]
    ids, values = tape.scalar_constants
    used = numbers[ids] >= 0
    ids, values = numbers[ids[used]].astype(np.int64), values[used]
    for array in (code, ids, values):
        array.flags.writeable = False
    return replace(
        tape,
        code=code,
        calls=tuple(calls),
        n_scalars=n_scalars,
        scalar_constants=(ids, values),
        inputs=leaves(tape.inputs),
        outputs=leaves(tape.outputs),
    )
