"""One number per pixel, or a vector, out of an OpenEXR file, by the names of its channels.

Names are LAYER.CHANNEL, where the layer may have dots as well; files of several parts name those, too. Depth is `R`
(Record3D), `Z` or `ViewLayer.Depth.Z` (Blender), `V` (gray of other tools), `Y` (OpenCV), or called depth. A Z beside
an X and a Y is part of a vector, and a mist pass is not depth.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from common_ns.data.notes import note_once
from common_ns.errors import InputError

GRAY = ("d", "distance", "v", "y", "l", "r")
"""Channels that single maps are stored under, apart from Z and depth."""
VECTORS = ("rgb", "xyz")
"""Channels of vectors and colors."""
REMEDY = "Write the file again with one channel, Z"


def read_map(file: Path, what: str) -> Shaped[ndarray, "h w"]:
    """The depth, or another map of one number per pixel, in an EXR file on the pixels of its display window; 0 where
    its data window does not reach. Where the file has more than this, the run says which channel was taken.

    Raises: InputError if no channel, or more than one, can be meant.
        ValueError if the file is damaged.
    """
    with _opened(file) as parts:
        channels = {name: (part, pixels) for part, name, pixels in _channels(parts)}
        best = _best(list(channels))
        values = [channels[name][1] for name in best]
        if not all(np.array_equal(values[0], other, equal_nan=True) for other in values[1:]):
            problem = f"the {what} has the channels {', '.join(best)}, which differ"
            raise InputError(problem, REMEDY, file)
        others = [name for name in channels if name not in best]
        if others:
            note_once(f"EXR files: the channel {best[0]} is taken for the {what}, of {', '.join(channels)}.")
        return _on_display(channels[best[0]][0], values[0])


def read_vectors(file: Path, what: str) -> Shaped[ndarray, "h w 3"]:
    """The vectors in an EXR file: channels R, G, B or X, Y, Z, of the layer of normals where there are several.

    Raises: InputError if there are none, or several that can be meant.
        ValueError if the file is damaged.
    """
    with _opened(file) as parts:
        channels = {name: (part, pixels) for part, name, pixels in _channels(parts)}
        layers: dict[tuple[str, str], list[str]] = {}
        for name in channels:
            layer, channel = _split(name)
            for axes in VECTORS:
                if channel in axes:
                    layers.setdefault((layer, axes), []).append(name)
        whole = {key: sorted(names, key=lambda n: _split(n)[1]) for key, names in layers.items() if len(names) == 3}
        # Sorted by letter, X Y Z are in order and R G B are not.
        whole = {key: names[::-1] if key[1] == "rgb" else names for key, names in whole.items()}
        normals = {key: names for key, names in whole.items() if "normal" in key[0]}
        chosen = list((normals or whole).values())
        if len(chosen) != 1:
            problem = f"the {what} has the channels {', '.join(channels)}"
            raise InputError(problem, "Write it with the channels R, G, B or X, Y, Z, once", file)
        return np.stack([_on_display(*channels[name]) for name in chosen[0]], axis=-1)


def exr_size(file: Path) -> tuple[int, int]:
    """(height, width) of the display window, from the header.

    Raises: ValueError if the file is damaged.
    """
    with _opened(file, header_only=True) as parts:
        (left, top), (right, bottom) = _window(parts[0], "displayWindow")
        return bottom - top + 1, right - left + 1


def _best(names: list[str]) -> list[str]:
    """Names of the channels that are meant most likely: one, or some that have to be equal."""
    if len(names) == 1:
        return names
    split = {name: _split(name) for name in names}
    alone = {  # not the third coordinate of a vector, and no mist
        name: (layer, channel)
        for name, (layer, channel) in split.items()
        if (layer, "x") not in split.values() and "mist" not in layer
    }
    ranks = (
        [name for name, (layer, channel) in alone.items() if "depth" in (channel, layer.split(".")[-1])],
        [name for name, (layer, channel) in alone.items() if "depth" in channel or "depth" in layer.split(".")[-1]],
        [name for name, (_, channel) in alone.items() if channel == "z"],
        [name for name, (_, channel) in alone.items() if channel in GRAY and channel != "r"],
        [name for name, (_, channel) in alone.items() if channel in ("r", "g", "b")],
    )
    return next((found for found in ranks if found), names)


def _split(name: str) -> tuple[str, str]:
    """Layer and channel, in small letters."""
    layer, _, channel = name.lower().rpartition(".")
    return layer, channel


@contextmanager
def _opened(file: Path, header_only: bool = False) -> Iterator[list[Any]]:
    """The parts of a file."""
    import OpenEXR

    try:
        opened = OpenEXR.File(str(file), separate_channels=True, header_only=header_only)
        parts = list(opened.parts)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if not parts:
        raise ValueError("its pixels are cut off")
    yield parts


def _channels(parts: list[Any]) -> Iterator[tuple[Any, str, ndarray]]:
    """(part, name, pixels [h, w]) of each channel; names of several parts begin with their part's."""
    count = 0
    for part in parts:
        for name, channel in part.channels.items():
            if not isinstance(channel.pixels, ndarray) or channel.pixels.dtype.kind not in "uf":
                raise ValueError("it is a deep image")
            prefix = part.name()
            whole = len(parts) == 1 or not prefix or name.startswith(f"{prefix}.")
            yield part, name if whole else f"{prefix}.{name}", channel.pixels
            count += 1
    if not count:
        raise ValueError("its pixels are cut off")


def _window(part: Any, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
    low, high = part.header[name]
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def _on_display(part: Any, pixels: Shaped[ndarray, "h w"]) -> Shaped[ndarray, "height width"]:
    """Pixels of the data window on those of the display window, which is the picture."""
    (left, top), (right, bottom) = _window(part, "displayWindow")
    (x, y), (end_x, end_y) = _window(part, "dataWindow")
    if pixels.shape != (end_y - y + 1, end_x - x + 1):
        raise ValueError("its channels have fewer pixels than the picture")
    if (x, y, end_x, end_y) == (left, top, right, bottom):
        return pixels
    result = np.zeros((bottom - top + 1, right - left + 1), dtype=pixels.dtype)
    rows = slice(max(y, top), min(end_y, bottom) + 1)
    columns = slice(max(x, left), min(end_x, right) + 1)
    result[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = pixels[
        rows.start - y : rows.stop - y, columns.start - x : columns.stop - x
    ]
    return result
