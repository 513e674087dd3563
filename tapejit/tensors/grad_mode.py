"""Whether operations on tensors are recorded, thread by thread."""

from __future__ import annotations

import contextlib
import copy
import threading
import weakref
from typing import Any

from ..recording.recorder import Home

__all__ = ["State", "enable_grad", "is_grad_enabled", "local", "no_grad", "set_grad_enabled"]


class State(Home):
    """What a thread knows of its tensors; the home of its pieces.

    Attributes
    ----------
    ident
        The thread, 0 while nothing is recorded.
    root
        Weak reference to the piece that takes operations on leaves.
    continuing
        Pieces by the pieces that they read from (weakly held).
    inside
        The piece into which a NumPy function is being recorded, if one is.
    scripts
        Scripts by the place of the program where they begin; None where there is to be none.
    """

    __slots__ = ("continuing", "inside", "root", "scripts")

    def __init__(self) -> None:
        super().__init__(threading.get_ident())
        self.root: Any = _nothing
        self.continuing: Any = weakref.WeakValueDictionary()
        self.inside: Any = None
        self.scripts: dict[Any, Any] = {}

    @property
    def enabled(self) -> bool:
        """Whether operations on tensors that require a gradient are recorded."""
        return self.ident != 0

    def enable(self, enabled: bool) -> None:
        """Record from now on, or not."""
        self.ident = self.thread if enabled else 0


def _nothing() -> None:
    """A dead weak reference."""


class _Local(threading.local):
    def __init__(self) -> None:
        self.state = State()


#: ``local.state`` is the thread's.
local = _Local()


class set_grad_enabled(contextlib.ContextDecorator):
    """Context manager and decorator: operations on tensors are recorded, or not.

    Parameters
    ----------
    mode
        Whether to record.

    Examples
    --------
    >>> import tapejit as tj
    >>> x = tj.tensor([1.0], requires_grad=True)
    >>> with tj.set_grad_enabled(False):
    ...     (x * 2).requires_grad
    False
    """

    def __init__(self, mode: bool) -> None:
        self.mode = bool(mode)
        self._before: list[bool] = []

    def _recreate_cm(self) -> set_grad_enabled:
        """A decorator's own memory for each call: calls nest, and run in several threads."""
        fresh = copy.copy(self)
        fresh._before = []
        return fresh

    def __enter__(self) -> None:
        self._before.append(local.state.enabled)
        local.state.enable(self.mode)

    def __exit__(self, *error: object) -> None:
        local.state.enable(self._before.pop())


class no_grad(set_grad_enabled):
    """Context manager and decorator: nothing is recorded, results do not require a gradient.

    So parameters are updated, and values computed that no derivative is wanted of.  It holds for
    the thread that enters it.

    Examples
    --------
    >>> import tapejit as tj
    >>> w = tj.tensor([1.0, 2.0], requires_grad=True)
    >>> (w * w).sum().backward()
    >>> with tj.no_grad():
    ...     w -= 0.5 * w.grad
    >>> w
    tensor([0., 0.], requires_grad=True)
    """

    def __init__(self) -> None:
        super().__init__(False)


class enable_grad(set_grad_enabled):
    """Context manager and decorator: record, also inside of :class:`no_grad`.

    Examples
    --------
    >>> import tapejit as tj
    >>> x = tj.tensor([1.0, 2.0], requires_grad=True)
    >>> with tj.no_grad(), tj.enable_grad():
    ...     (x * x).sum().requires_grad
    True
    """

    def __init__(self) -> None:
        super().__init__(True)


def is_grad_enabled() -> bool:
    """Whether operations on tensors are recorded in this thread.

    Examples
    --------
    >>> import tapejit as tj
    >>> with tj.no_grad():
    ...     tj.is_grad_enabled()
    False
    """
    return local.state.enabled
