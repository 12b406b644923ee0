"""Which files belong together: by their names where these are equal, else by number, else in the sorted order that the
object's masks agree with.

The number of a file is the one that tells it from the others of its folder: 1 in `img_0001_crop256.png`, wherever all
are of 256 pixels. Where the numbers of two folders contradict each other, as those of images 1 … 13 and masks 0 … 12
do, both readings are tried: that all belong together in sorted order, and that those of the same number do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

AGREES = 0.8
"""Share of the masks that a visual hull explains at least where files belong together."""
CLEARLY = 0.05
"""By how much that share is larger than with any other pairing, where masks tell which one is right."""

TRIED = 6
"""Pairings that are compared at most: each takes a second or so."""

Key = tuple[int, ...]
Score = Callable[[Sequence[int], Sequence[int]], float]
"""How well files agree (see `AGREES`) whose positions in two folders are these."""


class Undecided(Exception):
    """Names do not tell what belongs together, and nothing else does.

    Args:
        by_number: it is clear that files of the same number belong together, and that not all have a partner.
    """

    def __init__(self, by_number: bool = False) -> None:
        super().__init__()
        self.by_number = by_number


@dataclass(frozen=True)
class Pairing:
    """What belongs together."""

    positions: list[int]
    """For each file of the first folder, the position of its partner in the second."""
    rule: Literal["name", "number", "order", "offset"]
    """How that was found."""

    def words(self, what: str, others: str, first: str, second: str) -> str:
        """A line for the user.

        Args:
            what: are the files of the second folder, as "Masks".
            others: are those of the first, as "images".
            first: name of the first file of the first folder.
            second: name of its partner.
        """
        how = {"name": "name", "number": "number", "order": "sorted order", "offset": "number, shifted"}[self.rule]
        preposition = "in" if self.rule == "order" else "by"
        return f"{what} are paired with {others} {preposition} {how}: {first} with {second}."


def readings(names: Sequence[str]) -> Iterator[list[Key]]:
    """The numbers that tell names apart, in every way that they can be read, the likeliest first: all of those that
    vary together, or any of them that alone does, the last one first."""
    stems = [stem_of(name) for name in names]
    runs = [[int(digits) for digits in re.findall(r"\d+", stem)] for stem in stems]
    if not runs or not all(runs):
        return
    if len({len(row) for row in runs}) > 1:  # names of several kinds
        ways = [[-1]]
    else:
        width = len(runs[0])
        varying = [i for i in range(width) if len(runs) == 1 or len({row[i] for row in runs}) > 1]
        ways = [varying, *([i] for i in reversed(varying))] if len(varying) > 1 else [varying]
    for way in ways:
        keys = [tuple(row[i] for i in way) for row in runs]
        if way and len(set(keys)) == len(keys):
            yield keys


def stem_of(name: str) -> str:
    """A file's name without its suffix."""
    return PurePath(name).stem


def paired_by_names(firsts: Sequence[str], seconds: Sequence[str]) -> Pairing | None:
    """The partners of all files, if equal names or numbers tell them; some of the second folder may be left over."""
    by_name = {stem_of(name): index for index, name in enumerate(seconds)}
    for spelled in (stem_of, str):  # COLMAP adds .png to the whole name of the image
        found = [by_name.get(spelled(name)) for name in firsts]
        if None not in found and len(set(found)) == len(found):
            return Pairing([index for index in found if index is not None], "name")
    for keys in readings(firsts):
        for others in readings(seconds):
            by_key = {key: index for index, key in enumerate(others)}
            if all(key in by_key for key in keys):
                return Pairing([by_key[key] for key in keys], "number")
    return None


def common_numbers(firsts: Sequence[str], seconds: Sequence[str]) -> dict[int, int]:
    """Position in the second folder by position in the first, for files of equal number, in the reading that has most
    of them."""
    best: dict[int, int] = {}
    for keys in readings(firsts):
        for others in readings(seconds):
            by_key = {key: index for index, key in enumerate(others)}
            found = {index: by_key[key] for index, key in enumerate(keys) if key in by_key}
            best = found if len(found) > len(best) else best
    return best


def paired_by_agreement(firsts: Sequence[str], seconds: Sequence[str], score: Score | None) -> Pairing:
    """The partners of all files where names alone do not tell.

    Sorted order, and constant offsets of the numbers where there are more files in the second folder, compete with each
    other and with equal numbers where some are equal; where none are, sorted order with one that is off by one.

    Args:
        firsts, seconds: names of the files, in natural order.
        score: how well given pairs agree; None: nothing tells.
    Raises: Undecided.
    """
    count, same = len(firsts), common_numbers(firsts, seconds)
    complete = [Pairing(list(range(count)), "order")] if count == len(seconds) else _shifted(firsts, seconds)
    if not 0 < len(complete) <= TRIED:
        raise Undecided
    if score is None:
        if same or len(complete) > 1:
            raise Undecided
        return complete[0]
    scores = [score(range(count), pairing.positions) for pairing in complete]
    best = max(range(len(complete)), key=scores.__getitem__)
    contradicted = bool(same) or len(complete) > 1
    if not contradicted and scores[best] > 1.0 - CLEARLY:
        return complete[best]
    by_number = score(list(same), list(same.values())) if len(same) > 2 else 0.0
    rivals = [*scores[:best], *scores[best + 1 :], by_number]
    if not contradicted and count == len(seconds) > 3:
        rivals += [score(range(count - 1), range(1, count)), score(range(1, count), range(count - 1))]
    second = max(rivals)
    if contradicted and not scores[best] >= max(AGREES, second + CLEARLY):
        raise Undecided(by_number=by_number >= max(AGREES, scores[best] + CLEARLY))
    if not contradicted and second >= max(AGREES, scores[best] + CLEARLY):
        raise Undecided
    return complete[best]


def _shifted(firsts: Sequence[str], seconds: Sequence[str]) -> list[Pairing]:
    """Pairings by numbers that differ by the same amount everywhere."""
    for keys in readings(firsts):
        for others in readings(seconds):
            if len(keys[0]) != 1 or len(others[0]) != 1:
                continue
            by_key = {key[0]: index for index, key in enumerate(others)}
            shifts = [number - keys[0][0] for number in by_key]
            found = [s for s in shifts if all(key[0] + s in by_key for key in keys)]
            if found:
                return [Pairing([by_key[key[0] + s] for key in keys], "offset") for s in found]
    return []
