"""What loading costs: images per second and core, ours beside what other projects use; samples per second from shard to
packed batch; and how a run over 100 million pairs begins.

    python -m data.benchmark [PHOTOS] [--json FILE] [--sides 224 448] [--rounds 10] [--workers 0 1 2]

PHOTOS is a folder with JPEGs, of which up to 12 are used; without it 8 pictures with the statistics of photographs are
made. All are brought to JPEGs (quality 90, 4:2:0) with long sides of 500, 1024 and 2048 pixels; a photo that is smaller
is left out there. One process, one thread; the methods take turns for several rounds, and the best round by process CPU
time counts. About three minutes.

Ours give uint8 pixels (the model normalises on its device), the others' processors normalised floats.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image, ImageDraw, ImageFilter
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from data.benchmark_loading import beginning, beginning_table, loading_rates, loading_table
from data.measured import aligned, machine
from yivl.fast_images import PIXELS
from yivl.images import ToPixels, open_image

LONG_SIDES = (500, 1024, 2048)
ASPECTS = ((4, 3), (3, 4), (4, 3), (3, 2), (2, 3), (16, 9), (1, 1), (4, 3))
"""Of the photos that are made: mostly 4:3, and as much landscape as the web has."""
BASELINE = "CLIP, PIL"
_PACKAGES = ("torch", "torchvision", "pillow", "transformers", "open_clip_torch")
"""Whose versions the rates depend on."""
_LEAST_SECONDS = 0.2
"""Of one method in one round, so that the caches are its own."""
_MOST_PHOTOS = 12

Method = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRates:
    """One line of the table."""

    long_side: int
    """Of the JPEGs, in pixels."""
    side: int
    """Of the square that comes out, in pixels."""
    photos: int
    kilobytes: float
    """Mean size of the JPEGs, in 1000 bytes."""
    rates: dict[str, float]
    """Images per second and core, by method."""


# Photos


def make_photo(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture with what makes photographs as costly as they are: edges at every scale, and a 1/f spectrum."""
    long = max(width, height)
    canvas = Image.new("RGB", (width, height), tuple(rng.integers(60, 200, 3).tolist()))
    draw = ImageDraw.Draw(canvas)
    for radius in long * (0.005 + 0.3 * np.linspace(1, 0, 160) ** 2 * rng.uniform(0.3, 1, 160)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 30)))
        colour = np.clip(rng.integers(20, 236) + rng.normal(0, 25, 3), 0, 255).astype(int)
        outline = np.stack([x + radius * np.cos(angles), y + 0.8 * radius * np.sin(angles)], axis=1)
        draw.polygon(outline.flatten().tolist(), fill=tuple(colour.tolist()))
    pixels = np.asarray(canvas.filter(ImageFilter.GaussianBlur(long / 1500)), dtype=np.float32)
    noise = partial(_noise, rng, width, height)
    where = np.clip(noise(2.2) + 0.6, 0, 2)
    pixels = pixels + 18 * noise(2.0) + 11 * where * noise(1.4) + 0.5 * noise(0.0)
    pixels += noise(1.8) * np.array([6, 0, -6], dtype=np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _noise(rng: np.random.Generator, width: int, height: int, falloff: float) -> np.ndarray[Any, Any]:
    """Noise float32 [height, width, 1] of deviation 1, with amplitudes 1 / frequency ** falloff."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((height, width), dtype=np.float32)) / frequency**falloff
    noise: np.ndarray[Any, Any] = np.fft.irfft2(spectrum, (height, width))[..., None]
    return np.asarray(noise / noise.std(), dtype=np.float32)


def made_photos(long_side: int = LONG_SIDES[-1]) -> list[Image.Image]:
    """The photos for a benchmark without a folder; the same on every machine."""
    sizes = [
        (long_side * width // max(width, height), long_side * height // max(width, height)) for width, height in ASPECTS
    ]
    return [make_photo(np.random.default_rng(seed), *size) for seed, size in enumerate(sizes)]


def read_photos(folder: Path) -> list[Image.Image]:
    """Up to 12 photos of a folder, taken evenly from its JPEGs in the order of their names.

    Raises:
        NotADirectoryError: there is no such folder.
        FileNotFoundError: no JPEG lies in it.
        BadImage: one that can't be decoded.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no .jpg or .jpeg file; without a folder, photos are made")
    chosen = np.linspace(0, len(files) - 1, min(len(files), _MOST_PHOTOS)).astype(int)
    return [open_image(files[number]) for number in chosen]


def jpegs(photos: Sequence[Image.Image], long_side: int) -> list[bytes]:
    """The photos as JPEGs of this long side, in pixels; without those that are smaller."""
    files = []
    for photo in photos:
        share = long_side / max(photo.size)
        if share > 1:
            continue
        size = (max(1, round(photo.width * share)), max(1, round(photo.height * share)))
        file = io.BytesIO()
        photo.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90, subsampling="4:2:0")
        files.append(file.getvalue())
    return files


# Images: from the bytes of a JPEG to what is fed to the model


def methods(side: int) -> dict[str, Method]:
    """Our preprocessings, and other projects' as their users call them, by name."""

    def ours(to_pixels: ToPixels, data: bytes) -> object:
        return to_pixels(data, side)

    def processed(processor: Any, data: bytes) -> object:
        return processor(images=Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]

    def transformed(transform: Any, data: bytes) -> object:
        return transform(Image.open(io.BytesIO(data)))

    size: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return {
        **{name: partial(ours, to_pixels) for name, to_pixels in PIXELS.items()},
        BASELINE: partial(processed, CLIPImageProcessorPil(**size)),
        "CLIP, torchvision": partial(processed, CLIPImageProcessor(**size)),
        "open_clip": partial(transformed, open_clip.image_transform(side, is_train=False)),
    }


def image_rates(photos: Sequence[Image.Image], sides: Sequence[int], rounds: int) -> list[ImageRates]:
    """All methods on all sizes. Torch must be set to one thread.

    Raises `ValueError` when every photo is smaller than the least long side.
    """
    lines = []
    for long_side in LONG_SIDES:
        files = jpegs(photos, long_side)
        if not files:
            continue
        for side in sides:
            rates = {name: len(files) / seconds for name, seconds in _best(methods(side), files, rounds).items()}
            kilobytes = sum(map(len, files)) / len(files) / 1000
            lines.append(
                ImageRates(long_side=long_side, side=side, photos=len(files), kilobytes=kilobytes, rates=rates)
            )
    if not lines:
        raise ValueError(f"every photo is smaller than {LONG_SIDES[0]} pixels")
    return lines


def _best(methods: dict[str, Method], files: Sequence[bytes], rounds: int) -> dict[str, float]:
    """CPU seconds of each method for all files, in its best round."""
    best = dict.fromkeys(methods, float("inf"))
    for _ in range(rounds):
        for name, method in methods.items():
            passes, start, spent = 0, time.process_time(), 0.0
            while spent < _LEAST_SECONDS:
                for file in files:
                    method(file)
                passes, spent = passes + 1, time.process_time() - start
            best[name] = min(best[name], spent / passes)
    return best


def image_table(lines: Sequence[ImageRates]) -> str:
    """The rates as text, each with its ratio to the PIL processor of transformers."""
    names = list(lines[0].rates)
    rows = [["JPEG", "KB", "to", *names]]
    for line in lines:
        cells = [f"{rate:.0f} ({rate / line.rates[BASELINE]:.2f}x)" for rate in line.rates.values()]
        rows.append([f"{line.long_side} px", f"{line.kilobytes:.0f}", str(line.side), *cells])
    return aligned(rows)


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, and writes the same numbers as JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m data.benchmark", description=__doc__.split("\n")[0])
    parser.add_argument("photos", nargs="?", type=Path, metavar="PHOTOS", help="a folder with JPEGs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the numbers as well")
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 448], help="of the square that comes out")
    parser.add_argument("--rounds", type=int, default=10, help="of which each method's best counts")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="processes that load samples")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    print(", ".join(f"{name} {value}" for name, value in machine(_PACKAGES).items()))
    try:
        photos = read_photos(options.photos) if options.photos else made_photos()
        begins = beginning()
        print("\nThe beginning of a run, from indexes alone:\n")
        print(beginning_table(begins))
        images = image_rates(photos, options.sides, options.rounds)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print("\nImages per second and core, and the ratio to transformers' PIL processor:\n")
    print(image_table(images))
    loading = loading_rates(jpegs(photos, LONG_SIDES[0]), options.sides, options.workers)
    print(f"\nSamples per second from shards to packed batches, photos of {LONG_SIDES[0]} pixels:\n")
    print(loading_table(loading))
    if options.json:
        report = {
            "machine": machine(_PACKAGES),
            "images": [asdict(line) for line in images],
            "loading": [asdict(line) for line in loading],
            "beginning": asdict(begins),
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
