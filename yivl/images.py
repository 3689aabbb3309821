"""From an image in any form to the square uint8 pixels that the model takes.

The released preprocessing: RGB, padded to a square with the mean colour, the image centred, bicubic resize; nothing
is cropped away. Pixels stay uint8 until the model normalises them on its own device.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from yivl.conversation import ImageSource

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's channel means and deviations of RGB in 0..1 (open_clip `OPENAI_DATASET_MEAN`, `OPENAI_DATASET_STD`)."""

PADDING = (122, 116, 104)
"""The colour of the padding: int(255 * mean)."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded: Pillow's own warning limit (1 GiB as RGBA, / 3)."""

ZERO: Final = Image.new("RGB", (1, 1), PADDING)
"""Stands for an image whose normalised pixels are all zero, which no uint8 picture has: what the released MMMU script
feeds where it shows no image."""


Pixels = np.ndarray[Any, np.dtype[np.uint8]]
ToPixels = Callable[[ImageSource, int], Pixels]
"""From an image and the model's side to uint8 [3, side, side]. Raises as `open_image` does."""


class BadImage(ValueError):
    """An image that can't be opened or decoded; the message says why."""


def open_image(image: ImageSource) -> Image.Image:
    """`image` decoded as RGB, its EXIF rotation applied.

    Raises:
        FileNotFoundError: the path does not exist.
        BadImage: not an image, an unknown format, cut off, or larger than `MAX_PIXELS`.
        TypeError: neither a path, bytes, a PIL image nor a uint8 array.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise TypeError(
                f"an image array must be uint8 [height, width] or [height, width, 3], not {image.dtype} {image.shape}"
            )
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, Image.Image):
        return ImageOps.exif_transpose(image).convert("RGB")
    with opened(image) as picture:
        return decode(picture).copy()


def decode(picture: Image.Image) -> Image.Image:
    """What `opened` gives, decoded as RGB, its EXIF rotation applied; in place, as far as that goes."""
    ImageOps.exif_transpose(picture, in_place=True)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@contextmanager
def opened(image: str | Path | bytes | bytearray) -> Iterator[Image.Image]:
    """An image file of which only the header has been read, with a size that may be decoded.

    Whatever Pillow raises here or in the block is a `BadImage`. Other errors are as `open_image` has them.
    """
    file: Path | io.BytesIO
    if isinstance(image, (str, Path)):
        file = path = Path(image)
        name = str(path)
        if not path.is_file():
            raise FileNotFoundError(f"no image file {name}")
    elif isinstance(image, (bytes, bytearray)):
        file, name = io.BytesIO(image), f"{len(image)} bytes"
    else:
        raise TypeError(f"an image is a path, bytes, a PIL image or a uint8 array, not {type(image).__name__}")
    try:
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{name}: {width} x {height} pixels, more than the limit of {MAX_PIXELS}")
            yield picture
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(f"{name}: not a readable image (it is none of {', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError and others
        raise BadImage(f"{name}: not a readable image ({type(error).__name__}: {error})") from error


def check_square(width: int, height: int) -> None:
    """`BadImage` when an image of this size, padded to a square, would be larger than `MAX_PIXELS`."""
    if width != height and max(width, height) ** 2 > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels: as a square it would have more than the limit of {MAX_PIXELS}")


def pad_to_square(image: Image.Image) -> Image.Image:
    """`image` centred on a square of the padding colour; `BadImage` when that would be larger than `MAX_PIXELS`."""
    width, height = image.size
    side = max(width, height)
    check_square(width, height)
    if width == height:
        return image
    square = Image.new("RGB", (side, side), PADDING)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def to_pixels(image: ImageSource, side: int) -> Pixels:
    """Model input of one image: uint8 [3, side, side]. Raises as `open_image` does."""
    square = pad_to_square(open_image(image))
    if square.width != side:
        square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def normalise(pixels: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, 3, S, S] to CLIP's normalised floats of the same shape, computed in float32."""
    mean = torch.tensor(MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(STD, device=pixels.device).view(3, 1, 1)
    return ((pixels.float() / 255 - mean) / std).to(dtype)
