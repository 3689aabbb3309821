"""The preprocessing of `images.to_pixels`, several times as fast.

    PIXELS["exact"]     the released preprocessing: Pillow decodes, pads and resizes
    PIXELS["fast"]      at most 2 grey levels from it in any pixel: torchvision decodes, torch resizes
    PIXELS["scaled"]    large JPEGs are decoded at 1/2, 1/4 or 1/8: on photos at 224 pixels and more less than half a
                        grey level from it in the mean, on small print up to 3

All three accept and refuse the same images with the same errors. `python -m data.benchmark` compares their speed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg  # type: ignore[import-untyped]

from yivl.conversation import ImageSource
from yivl.images import PADDING, Pixels, ToPixels, check_square, decode, open_image, opened, to_pixels


def fast_pixels(image: ImageSource, side: int) -> Pixels:
    """As `images.to_pixels`, each pixel within 2 grey levels of it."""
    return _square(_decoded(image), side)


def scaled_pixels(image: ImageSource, side: int) -> Pixels:
    """As `fast_pixels`, but a JPEG whose long side is at least 4, 8 or 16 times `side` is decoded at 1/2, 1/4 or 1/8.

    At least twice `side` is left. On photos, at 224 and more, the mean difference from `images.to_pixels` is under 0.5
    grey levels; on black print it may reach 3.
    """
    return _square(_decoded(image, at_least=2 * side), side)


PIXELS: Final[dict[str, ToPixels]] = {"exact": to_pixels, "fast": fast_pixels, "scaled": scaled_pixels}
"""The preprocessings by name."""


class _Decoded(NamedTuple):
    """An upright image, perhaps decoded smaller than it is."""

    pixels: Tensor  # uint8 [height / factor, width / factor, 3], rounded up
    width: int
    height: int
    factor: int = 1
    transposed: bool = False
    """Rows are columns and columns are rows, in all of the above."""


def _decoded(image: ImageSource, at_least: int | None = None) -> _Decoded:
    """`image` decoded; `at_least`: the long side that a JPEG may be shrunk to."""
    if isinstance(image, (np.ndarray, Image.Image)):
        picture = open_image(image)
        check_square(*picture.size)
        return _Decoded(_tensor(picture), *picture.size)
    with opened(image) as picture:
        width, height = picture.size
        check_square(width, height)
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        upright = orientation not in range(2, 9)
        factor = 1
        if at_least and picture.format == "JPEG":
            # The last row and column of a shrunk image may stand for fewer pixels; turned, they could come first.
            factors = [f for f in (8, 4, 2) if upright or width % f == height % f == 0]
            factor = next((f for f in factors if max(width, height) >= f * at_least and min(width, height) >= f), 1)
        if factor > 1:
            picture.draft(None, (width // factor, height // factor))
        elif upright and picture.format in ("JPEG", "MPO") and picture.mode in ("RGB", "L"):
            pixels = _decoded_jpeg(picture)
            if pixels is not None:
                return _Decoded(pixels, width, height)
        rgb = decode(picture)
        if orientation in range(5, 9):
            width, height = height, width
        if factor > 1 and height > width:
            return _Decoded(_tensor(rgb.transpose(Image.Transpose.TRANSPOSE)), height, width, factor, True)
        return _Decoded(_tensor(rgb), width, height, factor)


def _decoded_jpeg(picture: Image.Image) -> Tensor | None:
    """uint8 [height, width, 3] by torchvision; None when it refuses the file, so that Pillow has the last word."""
    file = picture.fp  # type: ignore[attr-defined]
    file.seek(0)
    try:
        pixels: Tensor = decode_jpeg(torch.frombuffer(bytearray(file.read()), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        return None
    return pixels.permute(1, 2, 0) if pixels.shape == (3, picture.height, picture.width) else None


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture))  # uint8 [height, width, 3]


def _square(image: _Decoded, side: int) -> Pixels:
    """Padded to a square, then resized to `side`: uint8 [3, side, side].

    Pillow and torch resize horizontally first, round, then vertically. So a wide image can be padded in between, which
    is cheaper and gives the same. One that was decoded smaller has its rows repeated up to their full number there:
    the padding begins between any two pixels of the original.
    """
    pixels, width, height, factor, transposed = image
    if width >= height:
        pixels = _resized(pixels, len(pixels), side, columns=width / factor)
        if factor > 1:
            pixels = pixels.repeat_interleave(factor, 0)[:height]
        pixels = _padded(pixels, width, 0)
    else:
        pixels = _padded(pixels, height, 1)
    square = _resized(pixels, side, side).permute((2, 1, 0) if transposed else (2, 0, 1))
    return square.contiguous().numpy()


def _padded(pixels: Tensor, size: int, dim: int) -> Tensor:
    """`pixels` [height, width, 3] in the middle of a strip of the padding colour, `size` long in `dim`."""
    if pixels.shape[dim] == size:
        return pixels
    before, after = list(pixels.shape), list(pixels.shape)
    before[dim] = (size - pixels.shape[dim]) // 2
    after[dim] = size - pixels.shape[dim] - before[dim]
    line = torch.tensor(PADDING, dtype=torch.uint8).repeat(max(before[1], after[1]), 1)
    return torch.cat([line[: before[1]].expand(before), pixels, line[: after[1]].expand(after)], dim)


def _resized(pixels: Tensor, height: int, width: int, columns: float | None = None) -> Tensor:
    """uint8 [height, width, 3] of the same layout, which torch's vector code needs.

    `columns`: how many columns of `pixels` make the width, where the last is not a whole one.
    """
    nchw = pixels[None].permute(0, 3, 1, 2)
    if columns is None or columns == pixels.shape[1]:
        nchw = F.interpolate(nchw, (height, width), mode="bicubic", antialias=True)
    else:  # a size would stretch the last column; 1e-6: rounding must not lose the last pixel
        scale = (1.0, (width + 1e-6) / columns)
        nchw = F.interpolate(nchw, scale_factor=scale, mode="bicubic", antialias=True)
    return nchw[0].permute(1, 2, 0)
