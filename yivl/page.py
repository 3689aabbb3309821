"""HTML pages that load nothing: one file with styles and pictures inside it, in light and dark, on a phone or a desk.

Functions return HTML. What they take as text they escape; a parameter that takes HTML says so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from PIL import Image

PICTURE: Final = 448
"""Largest side of a picture, in pixels."""

_STYLE: Final = """
:root { color-scheme: light dark; --ground: light-dark(#f6f7f9, #12151a); --card: light-dark(#fff, #1b1f27);
  --ink: light-dark(#1b1f27, #e8ebf0); --soft: light-dark(#596273, #a3adbd); --line: light-dark(#dde1e8, #343b47);
  --accent: light-dark(#1f5fbf, #86b6ff); }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "PingFang SC", "Microsoft YaHei",
  "Noto Sans CJK SC", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 40px 16px 64px; }
h1, h2, h3 { overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.25; letter-spacing: -.01em; text-wrap: balance; }
h2 { margin: 44px 0 4px; font-size: 1.2rem; }
h3 { margin: 0; font-size: 1rem; }
p { max-width: 46rem; margin: 0 0 14px; color: var(--soft); text-wrap: pretty; }
h1 + p { margin: 8px 0 24px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead > tr > * { border-top: 0; }
thead th { color: var(--soft); font-size: .875rem; font-weight: 500; }
tbody th { font-weight: 500; }
th:first-child { position: sticky; left: 0; background: var(--card); text-align: left; }
.figures tbody tr:last-child > * { font-weight: 650; }
.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.words th { text-align: left; }
.words td:nth-child(n + 3) { min-width: 15rem; }
.box, figure, article, .tiles > div { margin: 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
.box { overflow-x: auto; }
.tiles, .cards { display: grid; gap: 14px; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); margin: 0; }
.tiles > div { display: flex; flex-direction: column-reverse; justify-content: flex-end; padding: 12px; }
.tiles dd { margin: 0; font-size: clamp(1.2rem, 4vw, 1.35rem); font-weight: 650; line-height: 1.3;
  white-space: nowrap; }
.tiles dt, dt, figcaption span { color: var(--soft); font-size: .875rem; }
.cards { grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); }
article { padding: 16px; overflow-wrap: anywhere; }
.cards article { display: flex; flex-direction: column; }
.cards img { width: 200px; height: 200px; margin: 0 auto 12px; border-radius: 6px; object-fit: contain; }
.cards p { flex: 1; color: var(--ink); white-space: pre-line; }
.cards dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0; padding-top: 10px;
  border-top: 1px solid var(--line); align-items: baseline; }
.cards dd { margin: 0; font-weight: 600; white-space: pre-line; }
.cards header { display: flex; justify-content: space-between; gap: 12px; margin-bottom: 6px; color: var(--soft);
  font-size: .875rem; }
summary { margin: 20px 0 14px; color: var(--accent); cursor: pointer; }
@media (max-width: 600px) { th, td { padding: 6px 8px; } th:first-child { min-width: 6rem; max-width: 8rem;
  white-space: normal; overflow-wrap: anywhere; } }
"""


def write_page(path: Path, title: str, parts: Iterable[str], *, style: str = "", script: str = "") -> None:
    """Writes a page.

    Args:
        path: the file.
        title: of the window.
        parts: HTML, in order.
        style: CSS after the common one.
        script: JavaScript that runs at the end; empty for a page without.
    """
    code = f"<script>{script}</script>\n" if script else ""
    path.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(parts) + f"\n</main>\n{code}</body>\n</html>\n",
        encoding="utf-8",
    )


def section(title: str, about: str, *parts: str) -> str:
    """A heading, a paragraph where `about` says anything, and HTML."""
    said = f"<p>{escape(about)}</p>\n" if about else ""
    return f"<h2>{escape(title)}</h2>\n{said}" + "\n".join(parts)


def tiles(figures: Mapping[str, str]) -> str:
    """Large figures, each over its name."""
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
    return f'<dl class="tiles">{shown}</dl>'


def table(label: str, head: Sequence[str], rows: Iterable[str], kind: str) -> str:
    """A table in a box that scrolls sideways.

    Args:
        label: says what it is, to those who don't see it.
        head: names of the columns; an empty one is none.
        rows: HTML, as `row` writes it.
        kind: CSS classes: `figures` stresses the last row, which is all together; `words` is for text.
    """
    names = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in head)
    return (
        f'<div class="box" role="region" aria-label="{escape(label)}" tabindex="0"><table class="{kind}">\n'
        f"<thead><tr>{names}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>"
    )


def row(name: str, cells: str) -> str:
    """A row of a table: its name, and the HTML of its other cells."""
    return f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>\n'


def text_row(name: str, *cells: str) -> str:
    """A row of text."""
    return row(name, "".join(f"<td>{escape(cell)}</td>" for cell in cells))


def picture(data: bytes, alt: str, width: int, height: int | None = None) -> str:
    """A JPEG file as an image of so many CSS pixels; a square where no height is given."""
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img src="{source}" width="{width}" height="{height or width}" alt="{escape(alt)}">'


def jpeg(image: Image.Image, side: int = PICTURE) -> bytes:
    """A JPEG file for `picture`, of at most `side` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    with io.BytesIO() as file:
        small.save(file, "JPEG", quality=88)
        return file.getvalue()


def card(image: str, header: str, text: str, facts: Iterable[tuple[str, str]], lang: str = "") -> str:
    """A picture with text and named facts below it, one of those in a `cards` grid.

    Args:
        image: HTML, as `picture` writes it; may be empty.
        header: HTML above the text.
        text: the text.
        facts: names and values.
        lang: code of the language of the text and of the values; empty if unknown.
    """
    mark = f' lang="{escape(lang)}"' if lang else ""
    told = "".join(f"<dt>{escape(name)}</dt><dd{mark}>{escape(value) or '–'}</dd>" for name, value in facts)
    return f"<article>{image}<header>{header}</header><p{mark}>{escape(text)}</p><dl>{told}</dl></article>\n"


def percent(share: float) -> str:
    """0.5 is 50.0%."""
    return f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as hours and minutes, minutes and seconds, or seconds alone."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
