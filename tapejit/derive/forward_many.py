"""Forward mode for many directions at once: elementwise code costs no more than for one.

A tangent of an elementwise expression is a sum of terms *base times factor*: the base has the
direction axis, the factor (a product of partial derivatives) does not.  Operations act on factors
alone; products of whole bases are formed where a structural operation, or the result, asks for
them.  So a diagonal Jacobian inside of a program is never multiplied by a block of directions.
(That is local preaccumulation, Griewank, Walther 2008, section 10.2, for diagonal blocks.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..builder import TapeBuilder
from ..interpreters.layout import WRITE
from ..ops.table import OPS
from ..tape import SCALAR, Call, Tape, View, size_of
from .forward import ForwardSweep
from .rules import jvp_rule, read_inputs
from .sweep import differentiable
from .templates import NAMES, F, G, X, push_template
from .views import compose, stretched

__all__ = ["push_forward_many"]

#: (base, of lead + shape; factor, of the shape).
Terms = list[tuple[View, View]]
#: Sums of more terms than this are formed.
MOST_TERMS = 4


def push_forward_many(
    tape: Tape, builder: TapeBuilder, tangents: Sequence[View], wrt: Sequence[int], n: int
) -> list[View | None]:
    """Append the pushforward of ``n`` tangents; as :func:`~tapejit.derive.forward.push_forward`.

    The tape does not write in place; tangents and results have an axis of ``n`` in front.
    """
    return _ForwardMany(tape, builder, wrt, (n,)).run(tangents)


class _ForwardMany(ForwardSweep):
    """Many tangents pushed forward."""

    def run(self, tangents: Sequence[View]) -> list[View | None]:
        """Walk the tape from its start."""
        self.scalars: dict[int, Terms] = {}
        self.arrays: dict[int, Terms] = {}
        one = self.builder.constant_view(1.0)
        for index, tangent in zip(self.wrt, tangents, strict=True):
            view = self.tape.inputs[index].view
            self._set(view, [(tangent, stretched(one, view.shape))])
        for first, last, call in self.segments:
            if call is None:
                for row in range(first, last):
                    self._row(row)
            elif self.is_needed(call) and size_of(call.result.shape):
                self._call(call, self.place(first))
        end = self.place(len(self.code) - 1) if len(self.code) else (None, 0)
        return [self._whole(self._of(leaf.view, end), leaf.view.shape, end)
                for leaf in self.tape.outputs]  # fmt: skip

    # --- terms ------------------------------------------------------------------------------------

    def _set(self, view: View, terms: Terms | None) -> None:
        if not terms:
            return
        if view.buffer == SCALAR:
            n = len(self.lead)
            terms = [(_first(base, n), _first(factor, 0)) for base, factor in terms]
            self.scalars[view.offset] = terms
        else:
            self.arrays[view.buffer] = terms

    def _of(self, view: View, place: Any) -> Terms | None:
        """The tangent of a view; None where it is zero."""
        if view.buffer == SCALAR:
            terms = self.scalars.get(view.offset)
            if terms is None:
                return None
            shape = view.shape
            return [(self._stretched(base, shape), stretched(f, shape)) for base, f in terms]
        terms = self.arrays.get(view.buffer)
        if terms is None:
            return None
        found = [(compose(base, view, len(self.lead)), compose(f, view)) for base, f in terms]
        if all(base is not None and factor is not None for base, factor in found):
            return found
        shape = terms[0][1].shape
        base = self.copied(self._whole(terms, shape, place), place)
        one = stretched(self.builder.constant_view(1.0), shape)
        self.arrays[view.buffer] = [(base, one)]
        return [(compose(base, view, len(self.lead)), stretched(_first(one, 0), view.shape))]

    def _stretched(self, base: View, shape: tuple[int, ...]) -> View:
        """A base of a scalar, seen with more axes behind the directions."""
        return View(base.buffer, base.offset, base.shape + shape, base.strides + (0,) * len(shape))

    def _whole(self, terms: Terms | None, shape: tuple[int, ...], place: Any) -> View | None:
        """The sum of terms, formed."""
        if terms is None:
            return None
        full, total = self.lead + shape, None
        for base, factor in terms:
            # Where a base is zero the term is, even if a partial derivative is not finite.
            part = base
            if not self.is_one(factor):
                part = self.apply("strong_mul", [base, stretched(factor, full)], full, place)
            total = part if total is None else self.apply("add", [total, part], full, place)
        return total

    def _merged(self, terms: Terms, shape: tuple[int, ...], place: Any) -> Terms | None:
        """Terms of one base added up; a long sum formed."""
        factors: dict[View, View] = {}
        for base, factor in terms:
            known = factors.get(base)
            if known is not None:
                factor = self.apply("add", [known, factor], shape, place)
            factors[base] = factor
        merged = list(factors.items())
        if len(merged) > MOST_TERMS:
            one = stretched(self.builder.constant_view(1.0), shape)
            merged = [(self._whole(merged, shape, place), one)]
        return merged or None

    # --- instructions -----------------------------------------------------------------------------

    def _elementwise(
        self, name: str, moving: list[Terms | None], values: dict[int, View], shape: tuple,
        place: Any,
    ) -> Terms | None:  # fmt: skip
        """The rule, applied to each term's factor in place of the tangent."""
        terms: Terms = []
        for i, tangent in enumerate(moving):
            if tangent is None:
                continue
            template = push_template(name, tuple(k == i for k in range(len(moving))))
            for base, factor in tangent:
                slots = {**values, G + i: factor}
                (result,) = self.instantiate(template, slots, shape, place)
                if result is not None:
                    terms.append((base, stretched(result, shape)))
        return self._merged(terms, shape, place)

    def _row(self, row: int) -> None:
        op, out, *operands = self.tape.code[row].tolist()
        if op >= WRITE or not self.bits[row] or not self.needed[out]:
            return
        place, name = self.place(row), NAMES[op]
        views = [self.tape.element(element) for element in operands[: OPS[name].arity]]
        moving = [
            self._of(view, place) if self.bits[row] >> i & 1 else None
            for i, view in enumerate(views)
        ]
        result = View(SCALAR, out, (), ())
        values = {F: result, **{X + i: view for i, view in enumerate(views)}}
        self._set(result, self._elementwise(name, moving, values, (), place))

    def _call(self, call: Call, place: Any) -> None:
        moving = [
            self._of(view, place) if on else None
            for on, view in zip(differentiable(call), call.operands, strict=True)
        ]
        if all(tangent is None for tangent in moving):
            return
        shape = call.result.shape
        if call.op in OPS:
            values = {F: call.result, **{X + i: view for i, view in enumerate(call.operands)}}
            self._set(call.result, self._elementwise(call.op, moving, values, shape, place))
        elif call.op == "copy":
            self._set(call.result, moving[0])
        else:
            tangent = self._structural(call, moving, place)
            if tangent is not None:
                one = stretched(self.builder.constant_view(1.0), shape)
                self._set(call.result, [(tangent, one)])

    def _structural(self, call: Call, moving: list[Terms | None], place: Any) -> View | None:
        active = tuple(tangent is not None for tangent in moving)
        rule = jvp_rule(call, active, self.lead)
        if rule is None:
            return None
        formed = [
            self._whole(terms, view.shape, place)
            for terms, view in zip(moving, call.operands, strict=True)
            if terms is not None
        ]
        read = read_inputs(rule)
        views = [call.result, *call.operands, *formed]
        bound = [view if i in read else None for i, view in enumerate(views)]
        (tangent,) = self.splice(rule, bound, place)
        return tangent


def _first(view: View, n: int) -> View:
    """A view of one element, with its first ``n`` axes alone."""
    return View(view.buffer, view.offset, view.shape[:n], view.strides[:n])
