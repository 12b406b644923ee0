"""HTML pages that are one file: they contain their pictures and films, and load nothing."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image


def fill(template: Path, **content: object) -> str:
    """The page that a template makes of `content`. Everything is escaped; the filter `data_uri` embeds pictures.

    Args:
        template: jinja2 file; it may import others beside it.
        content: what it uses; to use anything else is an error.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment.get_template(template.name).render(content) + "\n"


def pixels(picture: Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture as [height, width, 3] of bytes; where it is transparent, white shows through."""
    if isinstance(picture, np.ndarray):
        return picture
    image = Image.open(picture)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image.convert("RGB"))


def panels(picture: Path | NDArray[np.uint8], count: int) -> list[NDArray[np.uint8]]:
    """A picture of several panels side by side, cut into them."""
    return np.split(pixels(picture), count, axis=1)


def data_uri(shown: Path | NDArray[np.uint8], max_bytes: int | None = None) -> str:
    """A film (mp4) or a picture as the address of an HTML element. Small pictures become PNG, others JPEG.

    Args:
        shown: the file, or pixels [height, width, 3].
        max_bytes: pictures are made smaller until they take no more than this (before base64, which adds a third).
    """
    if isinstance(shown, Path) and shown.suffix == ".mp4":
        return f"data:video/mp4;base64,{base64.b64encode(shown.read_bytes()).decode()}"
    image = Image.fromarray(pixels(shown))
    while True:
        buffer = io.BytesIO()
        kind = "png" if image.width * image.height <= 256 * 256 else "jpeg"
        image.save(buffer, kind, **({"optimize": True} if kind == "png" else {"quality": 90, "subsampling": 0}))
        if max_bytes is None or buffer.tell() <= max_bytes or max(image.size) <= 8:
            return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
        # Bytes go with the area; a little less, so that this mostly takes one more round.
        scale = min(0.95 * (max_bytes / buffer.tell()) ** 0.5, 0.9)
        image = image.resize([max(1, round(scale * side)) for side in image.size], Image.Resampling.LANCZOS)
