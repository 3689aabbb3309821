"""A drawn world: some equal shapes of one colour on one side of a picture, and a written label opposite them.

A fifth of the combinations of shape, colour, count and side is held out: no training scene, in pictures or in words,
has them, so answering about them takes more than remembering.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont

T = TypeVar("T")

SHAPES: Final = ("circle", "square", "triangle", "star", "cross")
COLOURS: Final = {
    "red": (225, 25, 25),
    "yellow": (245, 190, 0),
    "green": (10, 150, 40),
    "cyan": (0, 190, 215),
    "blue": (30, 50, 225),
    "purple": (175, 25, 205),
}
"""Name to RGB: the six corners of the hue circle, dark enough or saturated enough for a light ground."""
SIDES: Final = ("left", "right", "top", "bottom")
OPPOSITE: Final = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
COUNTS: Final = (1, 2, 3)
WORDS: Final = ("cat", "sun", "box", "key", "ice", "owl", "zip", "arm")
"""Any two differ in all three letters. Drawn in capitals."""
LABELS: Final = (*"0123456789", *WORDS)

_OVERSAMPLING = 3
_HELD_OUT_PART = 5
"""One combination in so many is held out."""
_MARGIN = 0.02
"""Kept free around the objects' half and the label's, as a part of the side."""
_INK = (30, 30, 35)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The facts of one picture."""

    shape: str
    colour: str
    count: int
    """How many objects, 1 to 3."""
    side: str
    """The half of the picture that the objects are in; the label is in the opposite one."""
    label: str
    """A digit or a word of `WORDS`."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("shape", self.shape, SHAPES),
            ("colour", self.colour, tuple(COLOURS)),
            ("count", self.count, COUNTS),
            ("side", self.side, SIDES),
            ("label", self.label, LABELS),
        ):
            if value not in allowed:
                raise ValueError(f"scene: {name} is {value!r}; it may be one of {', '.join(map(str, allowed))}")

    @property
    def held_out(self) -> bool:
        """Whether this combination of shape, colour, count and side is kept from training: one in five, by a hash
        (the number in it makes the held-out fifth an even one).

        Each pair of facts is trained on. Were pairs held out, a colour would speak against the shape it never came
        with, and a model trained on pictures would learn just that.
        """
        combination = f"93 {self.shape} {self.colour} {self.count} {self.side}"
        return zlib.crc32(combination.encode()) % _HELD_OUT_PART == 0


def sample_scene(rng: np.random.Generator, held_out: bool) -> Scene:
    """A scene with a combination from the held-out ones, or from all the others."""
    while True:
        scene = Scene(
            shape=pick(rng, SHAPES),
            colour=pick(rng, tuple(COLOURS)),
            count=pick(rng, COUNTS),
            side=pick(rng, SIDES),
            label=pick(rng, LABELS),
        )
        if scene.held_out == held_out:
            return scene


def draw(scene: Scene, side_px: int, rng: np.random.Generator) -> Image.Image:
    """The scene as an RGB picture of `side_px` squared; `rng` moves the tint, the positions and the sizes."""
    size = side_px * _OVERSAMPLING
    red, green, blue = (int(value) for value in rng.integers(226, 252, 3))
    picture = Image.new("RGB", (size, size), (red, green, blue))
    canvas = ImageDraw.Draw(picture)
    for x, y, extent in _places(scene, rng):
        _draw_shape(canvas, scene.shape, COLOURS[scene.colour], x * size, y * size, extent * size)
    _draw_label(picture, scene, rng)
    return picture.reduce(_OVERSAMPLING)


def pick(rng: np.random.Generator, values: Sequence[T]) -> T:
    """One of `values`, all equally likely."""
    return values[int(rng.integers(len(values)))]


def _oriented(side: str, along: float, across: float) -> tuple[float, float]:
    """(x, y) of a point given along the middle line and across from the edge on `side`, as parts of the side."""
    if side in ("right", "bottom"):
        across = 1 - across
    return (across, along) if side in ("left", "right") else (along, across)


def _places(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float, float]]:
    """Centre x, y and extent of each object: one cell each in a row along the half, anywhere in its cell."""
    length = (1 - 2 * _MARGIN) / scene.count
    width = 0.5 - 2 * _MARGIN
    extent = min(length, width) * rng.uniform(0.8, 0.92) * (rng.uniform(0.8, 1.05) if scene.count < 3 else 1.0)
    places = []
    for index in range(scene.count):
        along = _MARGIN + index * length + rng.uniform(extent / 2, length - extent / 2)
        across = _MARGIN + rng.uniform(extent / 2, width - extent / 2)
        places.append((*_oriented(scene.side, along, across), extent))
    return places


def _draw_shape(
    canvas: ImageDraw.ImageDraw, shape: str, colour: tuple[int, int, int], x: float, y: float, extent: float
) -> None:
    """One object in the square of `extent` pixels around (x, y)."""
    half = extent / 2
    if shape == "circle":
        canvas.ellipse((x - half, y - half, x + half, y + half), fill=colour)
    elif shape == "square":
        half *= 0.9
        canvas.rectangle((x - half, y - half, x + half, y + half), fill=colour)
    elif shape == "triangle":
        canvas.polygon([(x, y - half), (x + half, y + half * 0.85), (x - half, y + half * 0.85)], fill=colour)
    elif shape == "star":
        corners = []
        for index in range(10):
            radius = half * (1.08 if index % 2 == 0 else 0.42)
            angle = math.pi * index / 5
            corners.append((x + radius * math.sin(angle), y - radius * math.cos(angle)))
        canvas.polygon(corners, fill=colour)
    else:
        arm = half * 0.34
        canvas.rectangle((x - half, y - arm, x + half, y + arm), fill=colour)
        canvas.rectangle((x - arm, y - half, x + arm, y + half), fill=colour)


def _draw_label(picture: Image.Image, scene: Scene, rng: np.random.Generator) -> None:
    """The label in capitals, as large as the half opposite the objects allows, up to the jitter.

    A word beside the objects is stretched upwards, or its letters would be half as high as those of one above them.
    """
    size = picture.width
    glyphs = _glyphs(scene.label.upper(), size)
    side = OPPOSITE[scene.side]
    upright = side in ("left", "right")
    room = size * (0.5 - 2 * _MARGIN) * rng.uniform(0.88, 1.0)
    if not upright:
        height = min(room, 2 * room * glyphs.height / glyphs.width)
        width = height * glyphs.width / glyphs.height
    elif glyphs.width > glyphs.height:
        width, height = room, 1.6 * room * glyphs.height / glyphs.width
    else:
        width, height = room * glyphs.width / glyphs.height, room
    half_along, half_across = (
        (height / size / 2, width / size / 2) if upright else (width / size / 2, height / size / 2)
    )
    along = 0.5 + rng.uniform(-0.6, 0.6) * (0.5 - _MARGIN - half_along)
    across = rng.uniform(_MARGIN + half_across, 0.5 - _MARGIN - half_across)
    x, y = _oriented(side, along, across)
    mask = glyphs.resize((round(width), round(height)))
    picture.paste(_INK, (round(x * size - width / 2), round(y * size - height / 2)), mask)


def _glyphs(text: str, size: int) -> Image.Image:
    """A mask of `text`, written boldly with letters about `size` pixels high, cut to its ink."""
    font = ImageFont.load_default(size=size)
    stroke = round(size * 0.04)
    mask = Image.new("L", (size * (len(text) + 1), size * 2))
    ImageDraw.Draw(mask).text((size // 4, size // 4), text, fill=255, font=font, stroke_width=stroke)
    return mask.crop(mask.getbbox())
