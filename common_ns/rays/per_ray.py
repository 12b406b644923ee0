"""Values with a row for each ray: tensors, and named tuples of tensors and None. Cut, changed and joined alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

PerRay = TypeVar("PerRay", bound="Tensor | tuple")


def rows(values: dict[str, Any], count: int, part: slice = slice(None)) -> dict[str, Any]:
    """Those of the values that have a row for each of `count` rays, cut to a part of the rays: tensors, and named
    tuples of tensors and None."""

    def has_rows(value: Any) -> bool:
        if isinstance(value, tuple):
            return any(part is not None for part in value) and all(has_rows(p) for p in value if p is not None)
        return isinstance(value, Tensor) and value.shape[:1] == (count,)

    return {name: mapped(value, lambda rows: rows[part]) for name, value in values.items() if has_rows(value)}


def mapped(value: PerRay, change: Callable[[Tensor], Tensor]) -> PerRay:
    """A tensor changed, or each tensor of a named tuple."""
    if isinstance(value, Tensor):
        return change(value)
    kind: Any = type(value)  # a named tuple's, which takes its fields one by one
    return kind(*(None if part is None else change(part) for part in value))


def tensors(values: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors by name, those of named tuples as NAME.FIELD."""
    found = {}
    for name, value in values.items():
        parts = {name: value} if isinstance(value, Tensor) else {f"{name}.{k}": v for k, v in value._asdict().items()}
        found |= {key: part for key, part in parts.items() if part is not None}
    return found


def joined(values: list[PerRay]) -> PerRay:
    """What chunks gave, one after the other."""
    if isinstance(values[0], Tensor):
        return torch.cat(values)  # type: ignore[arg-type]
    kind: Any = type(values[0])
    columns = zip(*values)  # type: ignore[arg-type]
    return kind(*(None if parts[0] is None else torch.cat(parts) for parts in columns))
