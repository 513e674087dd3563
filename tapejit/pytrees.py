"""Containers of arguments and results (library: optree), dataclasses included."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import optree

__all__ = ["flatten", "paths", "unflatten"]

_NAMESPACE = "tapejit"
_registered: set[type] = set()
_lock = threading.Lock()


def flatten(
    tree: Any, none_is_leaf: bool = False, is_leaf: Callable[[Any], bool] | None = None
) -> tuple[list, Any]:
    """Leaves and structure; ``None`` is part of the structure, or a leaf."""
    leaves, structure = optree.tree_flatten(
        tree, is_leaf=is_leaf, none_is_leaf=none_is_leaf, namespace=_NAMESPACE
    )
    if any(_is_dataclass(leaf) for leaf in leaves):
        for leaf in leaves:
            if _is_dataclass(leaf):
                _register(type(leaf))
        return flatten(tree, none_is_leaf, is_leaf)
    return leaves, structure


def paths(structure: Any) -> list[str]:
    """For each leaf how it is reached, as ``['a'][0]``."""
    return ["".join(f"[{entry!r}]" for entry in path) for path in structure.paths()]


def unflatten(structure: Any, leaves: list) -> Any:
    """The tree with these leaves."""
    return optree.tree_unflatten(structure, leaves)


def _is_dataclass(leaf: Any) -> bool:
    return dataclasses.is_dataclass(leaf) and not isinstance(leaf, type)


def _register(cls: type) -> None:
    names = tuple(field.name for field in dataclasses.fields(cls))

    def take_apart(value: Any) -> tuple:
        return tuple(getattr(value, name) for name in names), None, names

    def put_together(_: Any, children: Any) -> Any:
        made = object.__new__(cls)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(made, name, child)
        return made

    with _lock:
        if cls not in _registered:
            optree.register_pytree_node(cls, take_apart, put_together, namespace=_NAMESPACE)
            _registered.add(cls)
