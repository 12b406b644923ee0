"""The demo's page: one HTML file that contains its pictures and films, and loads nothing. Its words and its style are
in page.html.jinja."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image


def write_page(file: Path, **content: object) -> None:
    """Fill the template.

    Args:
        file: the page to write.
        content: what the template uses: minutes, cores, date, and chapters, the results of each by its name.
    """
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = data_uri
    file.write_text(environment.get_template("page.html.jinja").render(content) + "\n", encoding="utf-8")


def pixels(picture: Path | np.ndarray) -> np.ndarray:
    """A picture as [height, width, 3] of bytes; where it is transparent, white shows through."""
    if isinstance(picture, np.ndarray):
        return picture
    image = Image.open(picture)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image.convert("RGB"))


def panels(file: Path, count: int) -> list[np.ndarray]:
    """A picture of several panels side by side, cut into them."""
    return np.split(pixels(file), count, axis=1)


def data_uri(shown: Path | np.ndarray) -> str:
    """A film (mp4) or a picture as the address of an HTML element. Small pictures become PNG, others JPEG."""
    if isinstance(shown, Path) and shown.suffix == ".mp4":
        kind, data = "video/mp4", shown.read_bytes()
    else:
        image, buffer = Image.fromarray(pixels(shown)), io.BytesIO()
        if image.width * image.height <= 256 * 256:
            kind = "image/png"
            image.save(buffer, "png", optimize=True)
        else:
            kind = "image/jpeg"
            image.save(buffer, "jpeg", quality=90, subsampling=0)
        data = buffer.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
