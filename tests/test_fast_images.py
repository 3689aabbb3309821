"""The fast preprocessings against the exact one: pixels, verdicts, errors; and the command that measures them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import benchmark
from yivl import fast_images, images
from yivl.fast_images import PIXELS, fast_pixels, scaled_pixels
from yivl.images import BadImage, to_pixels

SIZES = [(1, 1), (1, 2), (1, 37), (500, 1), (7, 3), (224, 224), (225, 223), (300, 448), (500, 375), (375, 500),
         (640, 333), (641, 480), (427, 640), (900, 120), (97, 901), (899, 899)]  # fmt: skip


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return benchmark.make_photo(np.random.default_rng(1), 900, 901)


@pytest.fixture(scope="module")
def large_photo() -> Image.Image:
    return benchmark.make_photo(np.random.default_rng(2), 2000, 1500)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **({"quality": 90} if form == "JPEG" else {}) | options)
    return file.getvalue()


def difference(image: Any, side: int, name: str = "fast") -> np.ndarray[Any, Any]:
    pixels, exact = PIXELS[name](image, side), to_pixels(image, side)
    assert pixels.dtype == np.uint8 and pixels.shape == (3, side, side) and pixels.flags.c_contiguous
    return np.abs(pixels.astype(int) - exact.astype(int))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_fast_is_within_two_grey_levels_of_exact_for_any_size(photo: Image.Image, size: tuple[int, int]) -> None:
    corner = photo.crop((0, 0, *size))
    white_on_black = Image.fromarray(np.where(np.asarray(corner) > 128, np.uint8(255), np.uint8(0)))
    for picture in (corner, corner.convert("L"), white_on_black):
        for form in ("JPEG", "BMP"):
            for side in (14, 224, 448):
                assert difference(encoded(picture, form), side).max() <= 2


JPEGS = {
    "progressive": {"progressive": True},
    "4:4:4": {"subsampling": "4:4:4"},
    "4:2:2": {"subsampling": "4:2:2"},
    "of quality 20": {"quality": 20},
    "with restart markers": {"restart_marker_rows": 1},
    "in RGB": {"keep_rgb": True},
    "with a comment": {"comment": b"x" * 60_000},
}


@pytest.mark.parametrize("options", JPEGS.values(), ids=JPEGS.keys())
def test_torchvision_decodes_every_kind_of_rgb_jpeg(
    photo: Image.Image, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = encoded(photo.crop((0, 0, 613, 401)), **options)
    assert difference(file, 224).max() <= 2
    monkeypatch.setattr(fast_images, "decode", lambda picture: pytest.fail("Pillow was asked"))
    fast_pixels(file, 224)


def other_images(photo: Image.Image) -> dict[str, Any]:
    small, second = photo.crop((0, 0, 301, 203)), photo.crop((9, 9, 99, 99))
    alpha = small.copy()
    alpha.putalpha(small.convert("L"))
    deep = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    return {
        "a CMYK JPEG": encoded(small.convert("CMYK")),
        "an MPO": encoded(small, "MPO", save_all=True, append_images=[second], quality=90),
        "a PNG with alpha": encoded(alpha, "PNG"),
        "a grey PNG with alpha": encoded(alpha.convert("LA"), "PNG"),
        "a palette PNG": encoded(small.quantize(50), "PNG"),
        "a transparent palette PNG": encoded(small.quantize(50), "PNG", transparency=3),
        "a 16-bit PNG": encoded(deep, "PNG"),
        "a 1-bit PNG": encoded(small.convert("1"), "PNG"),
        "a GIF": encoded(small, "GIF", save_all=True, append_images=[second]),
        "a WEBP": encoded(alpha, "WEBP"),
        "a BMP": encoded(small, "BMP"),
        "a TIFF": encoded(small, "TIFF"),
        "a PIL image": alpha,
        "an RGB array": np.asarray(small),
        "a grey array": np.asarray(small.convert("L")),
        "a bytearray": bytearray(encoded(small)),
    }


def test_fast_is_within_two_grey_levels_of_exact_for_any_format(photo: Image.Image) -> None:
    for name, image in other_images(photo).items():
        assert difference(image, 224).max() <= 2, name
        assert np.array_equal(scaled_pixels(image, 224), fast_pixels(image, 224)), name


def test_a_path_gives_the_pixels_of_its_bytes(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(photo))
    for to in PIXELS.values():
        for source in (path, str(path)):
            assert np.array_equal(to(source, 56), to(path.read_bytes(), 56))


@pytest.mark.parametrize("orientation", range(10))
def test_every_exif_orientation_is_applied(photo: Image.Image, large_photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(encoded(photo.crop((0, 0, 501, 322)), exif=exif), 224).max() <= 2
    for size in ((1600, 1200), (1601, 1203)):  # a size that no factor divides is not shrunk when it is turned
        assert difference(encoded(large_photo.crop((0, 0, *size)), exif=exif), 224, "scaled").mean() < 0.5


@pytest.mark.parametrize("size", [(2000, 1500), (1500, 1999), (1793, 1201), (1201, 1799), (1500, 1500), (1999, 201)])
def test_scaled_is_within_half_a_grey_level_of_exact_in_the_mean(
    large_photo: Image.Image, size: tuple[int, int]
) -> None:
    turned = large_photo if size[0] > size[1] else large_photo.transpose(Image.Transpose.ROTATE_90)
    for mode in ("RGB", "L", "CMYK"):
        for side in (224, 337):
            changed = difference(encoded(turned.crop((0, 0, *size)).convert(mode)), side, "scaled")
            assert changed.mean() < 0.5 and changed.max() < 32


def test_scaled_keeps_twice_the_side_and_touches_nothing_smaller(
    large_photo: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    def spy(picture: Image.Image) -> Image.Image:
        sizes.append(picture.size)
        return images.decode(picture)

    monkeypatch.setattr(fast_images, "decode", spy)
    file = encoded(large_photo)
    for side in (500, 499, 250, 249, 125, 124, 31):
        scaled_pixels(file, side)
    assert sizes == [(1000, 750), (1000, 750), (500, 375), (500, 375), (250, 188), (250, 188), (250, 188)]
    assert np.array_equal(scaled_pixels(file, 501), fast_pixels(file, 501))
    assert len(sizes) == 7
    scaled_pixels(encoded(large_photo.crop((0, 0, 2000, 5))), 56)  # 5 pixels have no eighth
    assert sizes[7:] == [(500, 2)]


def verdict(name: str, file: bytes) -> np.ndarray[Any, Any] | str:
    try:
        return PIXELS[name](file, 56)
    except BadImage as error:
        return str(error)


def broken(file: bytes, rng: np.random.Generator) -> bytes:
    """One damage of a random kind."""
    damaged = bytearray(file)
    place, scan = int(rng.integers(2, len(file) - 1)), file.index(b"\xff\xda")
    match rng.integers(7):
        case 0:
            del damaged[place:]
        case 1:
            del damaged[len(file) - int(rng.integers(1, 20)) :]
        case 2:
            del damaged[place : place + int(rng.integers(1, 600))]
        case 3:
            damaged[place] ^= 1 << int(rng.integers(8))
        case 4:
            damaged[int(rng.integers(2, scan + 14))] ^= 1 << int(rng.integers(8))
        case 5:
            damaged[place : place + 2] = bytes([0xFF, int(rng.integers(0xC0, 0x100))])
        case 6:
            damaged[place : place + 100] = bytes(len(damaged[place : place + 100]))
    return bytes(damaged)


def test_a_damaged_jpeg_is_accepted_or_refused_as_by_the_exact_path(photo: Image.Image) -> None:
    small = photo.crop((0, 0, 160, 120))
    whole = [
        encoded(small), encoded(small, progressive=True), encoded(small.convert("L")),
        encoded(small, restart_marker_blocks=4), encoded(small) + b"trailing",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    accepted = refused = 0
    for number in range(500):
        file = broken(whole[number % len(whole)], rng)
        exact, fast = verdict("exact", file), verdict("fast", file)
        if isinstance(exact, str):
            assert fast == exact and verdict("scaled", file) == exact
            refused += 1
        else:
            assert not isinstance(fast, str)
            assert np.abs(fast.astype(int) - exact.astype(int)).max() <= 2
            accepted += 1
    assert accepted > 100 and refused > 100


def test_pillow_has_the_last_word_on_what_torchvision_refuses(photo: Image.Image) -> None:
    file = encoded(photo)[:-2] + b"\xff\xe1"  # after the last row another marker, and the end of the file
    with pytest.raises(RuntimeError):
        fast_images.decode_jpeg(fast_images.torch.frombuffer(bytearray(file), dtype=fast_images.torch.uint8))
    assert difference(file, 224).max() <= 2
    with pytest.raises(BadImage, match="truncated"):
        fast_pixels(file[:-2000], 224)


@pytest.mark.parametrize("name", PIXELS)
def test_errors_are_those_of_the_exact_path(name: str, tmp_path: Path) -> None:
    to = PIXELS[name]
    with pytest.raises(FileNotFoundError, match=r"no image file .*missing\.jpg"):
        to(tmp_path / "missing.jpg", 56)
    with pytest.raises(TypeError, match="not int"):
        to(7, 56)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be uint8"):
        to(np.zeros((4, 4, 3)), 56)
    for junk in (b"", b"GIF89a", b"\xff\xd8\xff", b"not an image"):
        with pytest.raises(BadImage, match="not a readable image"):
            to(junk, 56)
    with pytest.raises(BadImage, match="not a readable image"):
        to(encoded(Image.new("RGB", (4, 4)), "PPM"), 56)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", PIXELS)
def test_a_size_that_is_too_large_is_refused_from_the_header(name: str) -> None:
    start = encoded(Image.new("RGB", (8, 8)))
    at = start.index(b"\xff\xc0") + 5
    huge = start[:at] + (9_460).to_bytes(2, "big") * 2 + start[at + 4 :]  # and no data for it
    with pytest.raises(BadImage, match="9460 x 9460 pixels, more than the limit"):
        PIXELS[name](huge, 56)
    for thin in (encoded(Image.new("RGB", (60_000, 1))), Image.new("RGB", (1, 60_000))):
        with pytest.raises(BadImage, match="as a square it would have more than the limit"):
            PIXELS[name](thin, 56)


@pytest.mark.parametrize("name", PIXELS)
def test_a_square_picture_in_memory_may_be_of_any_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 80)
    assert PIXELS[name](Image.new("RGB", (9, 9), "white"), 56).min() == 255
    with pytest.raises(BadImage, match="as a square"):
        PIXELS[name](Image.new("RGB", (9, 8)), 56)


@pytest.mark.slow
def test_the_benchmark_measures_every_method_on_a_folder(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "LONG_SIDES", (96, 128, 4096))
    monkeypatch.setattr(benchmark, "_LEAST_SECONDS", 1e-9)
    monkeypatch.setattr(benchmark.torch, "set_num_threads", lambda count: None)
    folder = tmp_path / "photos" / "below"
    folder.mkdir(parents=True)
    for number, size in enumerate([(200, 150), (100, 140), (120, 100)]):
        photo.crop((0, 0, *size)).save(folder / f"{number}.JPG", "JPEG")
    out = tmp_path / "rates.json"
    assert benchmark.main([str(tmp_path / "photos"), "--sides", "28", "56", "--rounds", "1", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [(line["long_side"], line["side"], line["photos"]) for line in report["images"]] == [
        (96, 28, 3), (96, 56, 3), (128, 28, 2), (128, 56, 2),
    ]  # fmt: skip
    for line in report["images"]:
        assert set(line["rates"]) == {*PIXELS, "CLIP, PIL", "CLIP, torchvision", "open_clip"}
        assert min(line["rates"].values()) > 0
    assert {"cpu", "torch", "transformers"} <= report["machine"].keys()
    assert "(1.00x)" in capsys.readouterr().out


def test_the_benchmark_refuses_a_folder_it_cannot_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "small").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "small" / "small.jpg")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "broken.jpg").write_bytes(b"junk")
    for name, reason in {
        "missing": "is not a folder",
        "empty": "holds no .jpg or .jpeg file",
        "small": "every photo is smaller than 500 pixels",
        "broken": "not a readable image",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            benchmark.main([str(tmp_path / name)])
        assert reason in capsys.readouterr().err


def test_made_photos_weigh_what_photographs_do() -> None:
    photo = benchmark.make_photo(np.random.default_rng(0), 2048, 1536)
    for long_side, kilobytes in {500: 43, 1024: 142, 2048: 331}.items():
        (file,) = benchmark.jpegs([photo], long_side)
        assert 0.75 < len(file) / 1000 / kilobytes < 1.33
        assert max(Image.open(io.BytesIO(file)).size) == long_side
    again = benchmark.make_photo(np.random.default_rng(0), 64, 48)
    assert again == benchmark.make_photo(np.random.default_rng(0), 64, 48)
