"""Numbers that options of a model may have: a table of ranges in place of many ifs.

A wrong number would else end in a traceback of whatever meets it first, or in NaN, or in nothing at all: a negative
weight of a loss is one that is switched off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from common_ns.errors import InputError


class Range(NamedTuple):
    """Numbers that mean something."""

    words: str
    """Which they are, after "Give"."""
    holds: Callable[[float], bool]
    """Whether a finite number is one of them."""


ANY = Range("a number", lambda value: True)
ABOVE_0 = Range("a number above 0", lambda value: value > 0)
FROM_0 = Range("0 or more", lambda value: value >= 0)
FROM_1 = Range("1 or more", lambda value: value >= 1)
BELOW_1 = Range("0 or more, and less than 1", lambda value: 0 <= value < 1)


def check_ranges(config: Any, ranges: Mapping[str, Range]) -> None:
    """Whether options are in their ranges. NaN and infinity are in none.

    Args:
        config: of a model. Options whose value is None are left out, of sequences and of dicts each value counts.
        ranges: by the names of options; those that the config has not are left out.
    Raises: InputError for the first that is not.
    """
    for name, allowed in ranges.items():
        for value in _numbers(getattr(config, name, None)):
            if not (math.isfinite(value) and allowed.holds(value)):
                option = name.replace("_", "-")
                raise InputError(f"{option} is {value:g}", f"Give {allowed.words} to --pipeline.model.{option}")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Mapping):
        value = tuple(value.values())
    yield from () if value is None else value if isinstance(value, (tuple, list)) else (value,)
