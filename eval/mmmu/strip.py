"""Several pictures as one, for a model that reads one: a strip of them, each with its number in a corner.

Source of the layout: lmms-eval, `tasks/mmmu/utils_group_img.py`, which its tasks `mmmu_*_group_img` show. Each picture
is scaled to one height and they are put side by side, or to one width and they are put below each other, whichever
strip is less elongated. The numbers stand on white squares; their font is Pillow's own, lmms-eval's is Arial.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIDE = 1008
"""Height of pictures that stand side by side, or width of pictures below each other, in pixels."""
_FONT = 40
_MARGIN = 10
"""Of a number's square, around the font's size."""


def joined(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures, of which there is at least one, as one."""
    beside = [(max(1, picture.width * SIDE // picture.height), SIDE) for picture in pictures]
    below = [(SIDE, max(1, picture.height * SIDE // picture.width)) for picture in pictures]
    width, height = sum(size[0] for size in beside), sum(size[1] for size in below)
    vertical = width > height
    strip = Image.new("RGB", (SIDE, height) if vertical else (width, SIDE))
    x = y = 0
    for number, (picture, size) in enumerate(zip(pictures, below if vertical else beside, strict=True), start=1):
        strip.paste(_numbered(picture.resize(size, Image.Resampling.LANCZOS), number), (x, y))
        x, y = (x, y + size[1]) if vertical else (x + size[0], y)
    return strip


def _numbered(picture: Image.Image, number: int) -> Image.Image:
    draw = ImageDraw.Draw(picture)
    side = _FONT + 2 * _MARGIN
    draw.rectangle((0, 0, side, side), fill="white")
    draw.text((_MARGIN, _MARGIN), f"[{number}]", font=ImageFont.load_default(_FONT), fill="black")
    return picture
