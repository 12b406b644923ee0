"""The demo's page: one HTML file that holds its pictures and films, and asks for nothing from anywhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

Picture = Path | np.ndarray
"""A picture file, or [height, width, 3] of bytes."""

STYLE = """
:root{color-scheme:light;--ink:#1c2430;--dim:#5b6675;--line:#dfe3e8;--soft:#f4f6f8;--mark:#0b6e6e}
*{box-sizing:border-box}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:#fff}
body{max-width:1080px;margin:0 auto;padding:2rem 1rem}
h1{font-size:2.1rem;margin:0 0 .3rem}
h2{font-size:1.5rem;margin:3.2rem 0 .4rem;padding-top:1rem;border-top:1px solid var(--line)}
p{max-width:46rem}
.dim,figcaption{color:var(--dim);font-size:.92rem}
a{color:var(--mark)}
code,pre{font:13px/1.5 ui-monospace,monospace}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(230px,1fr));gap:1rem;margin:1.5rem 0}
.cards a{text-decoration:none;color:inherit;border:1px solid var(--line);border-radius:10px;overflow:hidden}
.cards a:hover{border-color:var(--mark)}
.cards img{width:100%;height:150px;object-fit:cover;display:block;background:var(--soft)}
.cards div{padding:.6rem .8rem}
.cards b{display:block}
.cards span{color:var(--dim);font-size:.88rem}
figure{margin:1.2rem 0;overflow-x:auto}
.grid{display:grid;gap:6px;justify-content:start;align-items:center}
.grid img{width:100%;display:block;border-radius:4px;background:var(--soft)}
.grid .head,.grid .side{font-size:.85rem;color:var(--dim)}
.grid .head{text-align:center;align-self:end}
.sharp img{image-rendering:pixelated}
video{max-width:100%;border-radius:6px;background:var(--soft);display:block}
table{border-collapse:collapse;margin:1rem 0}
td,th{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line);text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}
details{margin:1rem 0;background:var(--soft);border-radius:8px;padding:.5rem .9rem}
summary{cursor:pointer;color:var(--mark)}
pre{overflow:auto;margin:.5rem 0;white-space:pre-wrap;overflow-wrap:anywhere}
pre i{color:var(--dim)}
"""


@dataclass
class Page:
    """Collects what is shown, chapter by chapter, in the order of calls."""

    results: dict[str, dict[str, float]] = field(default_factory=dict)
    """Figures by chapter, for demo.json."""
    parts: list[str] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)

    def section(self, anchor: str, title: str, *paragraphs: str) -> None:
        """Begin a section."""
        self.parts.append(f'<h2 id="{anchor}">{html.escape(title)}</h2>')
        for paragraph in paragraphs:
            self.text(paragraph)

    def card(self, anchor: str, title: str, line: str, picture: Picture) -> None:
        """A link to a section, with a picture, for the top of the page."""
        self.cards.append(
            f'<a href="#{anchor}"><img src="{embedded(picture)}" alt=""><div><b>{html.escape(title)}</b>'
            f"<span>{html.escape(line)}</span></div></a>"
        )

    def text(self, text: str, dim: bool = False) -> None:
        """A paragraph."""
        self.parts.append(f"<p{' class=dim' if dim else ''}>{html.escape(text)}</p>")

    def grid(
        self,
        rows: Sequence[Sequence[Picture]],
        columns: Sequence[str],
        caption: str,
        sides: Sequence[str] = (),
        width: int = 200,
        sharp: bool = False,
    ) -> None:
        """Pictures in rows and columns.

        Args:
            rows: pictures; equally many in each row.
            columns: a heading for each column.
            caption: text below.
            sides: a label for each row.
            width: of a picture, in CSS pixels.
            sharp: show pixels as squares.
        """
        shape = f"{'max-content ' if sides else ''}repeat({len(columns)},minmax(90px,{width}px))"
        cells = [f'<div class="head">{html.escape(name)}</div>' for name in ([""] if sides else []) + list(columns)]
        for index, row in enumerate(rows):
            if sides:
                cells.append(f'<div class="side">{html.escape(sides[index])}</div>')
            cells += [
                f'<img src="{embedded(picture)}" alt="{html.escape(columns[at])}">' for at, picture in enumerate(row)
            ]
        self.parts.append(
            f'<figure><div class="grid{" sharp" if sharp else ""}" style="grid-template-columns:{shape}">'
            f"{''.join(cells)}</div><figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def film(self, file: Path, caption: str, width: int = 640) -> None:
        """A film that plays by itself, again and again."""
        data = base64.b64encode(file.read_bytes()).decode()
        self.parts.append(
            f'<figure><video src="data:video/mp4;base64,{data}" width="{width}" controls loop autoplay muted '
            f"playsinline></video><figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        """A table; numbers are written as they are given, to the right."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
        body = "".join(
            "<tr>"
            + "".join(f"<td{'' if isinstance(cell, str) else ' class=n'}>{html.escape(str(cell))}</td>" for cell in row)
            + "</tr>"
            for row in rows
        )
        self.parts.append(f"<table><tr>{head}</tr>{body}</table>")

    def commands(self, timed: Sequence[tuple[str, float]]) -> None:
        """Commands as they were run, and the seconds that each took, folded away."""
        lines = "\n".join(f"$ {html.escape(line)}   <i>{seconds:.0f} s</i>" for line, seconds in timed)
        self.parts.append(f"<details><summary>The commands that made this</summary><pre>{lines}</pre></details>")

    def write(self, file: Path, introduction: Sequence[str]) -> None:
        """Write the page.

        Args:
            introduction: paragraphs below the title.
        """
        lead = "".join(f"<p>{html.escape(text)}</p>" for text in introduction)
        file.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1"><title>fieldsuite demo</title>'
            f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>fieldsuite</h1>{lead}'
            f'<div class="cards">{"".join(self.cards)}</div>{"".join(self.parts)}</body></html>\n',
            encoding="utf-8",
        )


def pixels(picture: Picture) -> np.ndarray:
    """The picture as [height, width, 3] of bytes, what is transparent over white."""
    if isinstance(picture, np.ndarray):
        return picture
    image = Image.open(picture)
    if image.mode in ("RGBA", "LA", "P"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image.convert("RGB"))


def embedded(picture: Picture) -> str:
    """The picture as a data URI: PNG while small, else JPEG."""
    image = Image.fromarray(pixels(picture))
    buffer = io.BytesIO()
    if image.width * image.height <= 256 * 256:
        image.save(buffer, "png", optimize=True)
        kind = "png"
    else:
        image.save(buffer, "jpeg", quality=90, subsampling=0)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def panels(file: Path, count: int) -> list[np.ndarray]:
    """A picture of several panels side by side, cut into them."""
    return np.split(pixels(file), count, axis=1)
