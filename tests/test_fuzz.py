"""Broken input: thousands of mutated samples and tars, with a fixed seed. No crash, no hang, bounded memory; each is
decoded as Pillow decodes it, or left out with a reason; and the counts add up."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps

from data import index
from data.formats import BadSample
from data.loader import Loader, Samples, Task
from data.mixture import Mixture, resolve
from data.order import Order, Place
from data.shards import caption_sample, write_shards
from data.store import Store
from data.tar import BadTar
from yivl import YiVL
from yivl.encoder import Encoder
from yivl.fast_images import PIXELS
from yivl.images import MAX_PIXELS, BadImage
from yivl.settings import read

Rng = np.random.Generator
SIDE = 28


def picture(rng: Rng, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    """A smooth picture with some noise, as photos are."""
    width, height = size or (int(rng.integers(8, 260)), int(rng.integers(8, 260)))
    channels = rng.integers(0, 255, (4, 4, 4), dtype=np.uint8)
    smooth = Image.fromarray(channels, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    return (
        smooth.convert(mode) if mode != "I;16" else Image.fromarray(np.asarray(smooth)[..., 0].astype(np.uint16) * 257)
    )


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    with io.BytesIO() as file:
        image.save(file, form, **options)
        return file.getvalue()


def cut(content: bytes, rng: Rng) -> bytes:
    return content[: int(rng.integers(0, len(content)))]


def flipped(content: bytes, rng: Rng) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def spliced(content: bytes, rng: Rng) -> bytes:
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 40))
    return content[:at] + rng.bytes(length) + content[at + int(rng.integers(0, 40)) :]


def huge_png(rng: Rng) -> bytes:
    header = struct.pack(">IIBBBBB", int(rng.integers(20_000, 2**31)), int(rng.integers(20_000, 2**31)), 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    whole = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + whole + saved(picture(rng), "PNG")[33:]


def huge_jpeg(rng: Rng) -> bytes:
    content = bytearray(saved(picture(rng), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", int(rng.integers(15_000, 65_535)), int(rng.integers(15_000, 65_535)))
    return bytes(content)


def rotated(rng: Rng) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = int(rng.integers(0, 12))  # 1 to 8 have a meaning
    return saved(picture(rng), str(rng.choice(["JPEG", "PNG", "WEBP"])), exif=exif)


def animated(rng: Rng) -> bytes:
    frames = [picture(rng, size=(30, 20)) for _ in range(3)]
    return saved(frames[0], str(rng.choice(["GIF", "WEBP"])), save_all=True, append_images=frames[1:])


def transparent(rng: Rng) -> bytes:
    return saved(picture(rng, "RGBA").convert("P"), "PNG", transparency=int(rng.integers(256)))


WHOLE: dict[str, Callable[[Rng], bytes]] = {
    "jpeg": lambda rng: saved(picture(rng), "JPEG", quality=int(rng.integers(20, 96))),
    "progressive": lambda rng: saved(picture(rng), "JPEG", progressive=True),
    "grey jpeg": lambda rng: saved(picture(rng, "L"), "JPEG"),
    "CMYK": lambda rng: saved(picture(rng, "CMYK"), "JPEG"),
    "png": lambda rng: saved(picture(rng, str(rng.choice(["RGB", "RGBA", "L", "LA", "1"]))), "PNG"),
    "16-bit": lambda rng: saved(picture(rng, "I;16"), "PNG"),
    "transparent palette": transparent,
    "webp": lambda rng: saved(picture(rng, str(rng.choice(["RGB", "RGBA"]))), "WEBP"),
    "gif, bmp, tiff": lambda rng: saved(picture(rng), str(rng.choice(["GIF", "BMP", "TIFF"]))),
    "rotated": rotated,
    "animated": animated,
    "one pixel thin": lambda rng: saved(picture(rng, size=(1, int(rng.integers(1, 400)))), "JPEG"),
}
NO_IMAGE: dict[str, Callable[[Rng], bytes]] = {
    "zero bytes": lambda rng: b"",
    "a text": lambda rng: "这不是图片".encode(),
    "noise": lambda rng: rng.bytes(300),
    "a page": lambda rng: b"<!DOCTYPE html><html><body>404</body></html>",
    "a program": lambda rng: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "huge png": huge_png,
    "huge jpeg": huge_jpeg,
}
MUTATIONS = (cut, flipped, spliced)


def images(rng: Rng, each: int) -> Iterator[tuple[str, bytes]]:
    for name, make in WHOLE.items():
        for _ in range(each):
            content = make(rng)
            yield name, content
            for mutate in MUTATIONS:
                yield f"{name}, {mutate.__name__}", mutate(content, rng)
    for name, make in NO_IMAGE.items():
        for _ in range(each):
            yield name, make(rng)


def by_pillow(content: bytes) -> np.ndarray[Any, Any] | None:
    """What Pillow and the released preprocessing make of an image; None when it can't be decoded, or is too large."""
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as opened:
            warnings.simplefilter("ignore")
            if max(opened.size) ** 2 > MAX_PIXELS or opened.format in ("EPS", "ICO", "PPM", "TGA"):
                return None
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception:
        return None
    side = max(image.size)
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def store_of(folder: Path, samples: list[dict[str, Any]], form: str = "caption") -> tuple[Store, Mixture]:
    write_shards(folder / "s", samples, per_shard=100)
    (folder / "c.yaml").write_text(yaml.safe_dump({"sources": {"s": {"shards": "s/*.tar", "format": form}}}))
    (folder / "m.yaml").write_text(yaml.safe_dump({"catalogue": "c.yaml", "sources": {"s": {}}}))
    return Store(folder), read(Mixture, folder / "m.yaml")


def peak() -> int:
    """Most bytes that this process had since it was asked last."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")  # begins the count anew
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


@pytest.mark.parametrize("path", ["exact", "fast", "scaled"])
def test_every_image_is_decoded_as_by_pillow_or_left_out_with_a_reason(tmp_path: Path, tiny: YiVL, path: str) -> None:
    made = list(images(np.random.default_rng(7), each=40))
    samples = [caption_sample(f"{n:05d}", content, "a thing") for n, (_, content) in enumerate(made)]
    store, mixture = store_of(tmp_path, samples)
    manifest = resolve(mixture, store, 0)
    encoder = Encoder(tiny.tokenizer, patches=4, image_side=SIDE, pixels=PIXELS[path])
    loading = Samples(Order(manifest, 0), store, encoder)
    peak()
    before = peak()
    fates: Counter[str] = Counter()
    for number, (name, content) in enumerate(made):
        item = loading[Task(number, Place(0, number // 100, number % 100))]
        expected = by_pillow(content)
        if item.broken:
            first = item.broken[0]
            assert (first.key, first.shard) == (f"{number:05d}", f"s/{number // 100:05d}.tar")
            assert first.reason and expected is None, (name, first.reason)
        else:
            assert item.example is not None and expected is not None, name
            difference = np.abs(item.example.pixels[0].astype(int) - expected)
            within = {
                "exact": difference.max() == 0,
                "fast": difference.max() <= 2,
                "scaled": difference.mean() < 3 or name not in WHOLE,  # noise of a damaged one goes when it shrinks
            }
            assert within[path], (name, difference.max())
        fates[("broken " if item.broken else "good ") + ("whole" if name in WHOLE else "mutated")] += 1
    assert sum(fates.values()) == len(made) == 2200
    assert fates["good whole"] == 480 and fates["broken whole"] == 0
    assert fates["broken mutated"] > 600 and fates["good mutated"] > 200
    assert peak() - before < 400 * 2**20


def test_every_text_is_read_or_left_out_with_a_reason(tmp_path: Path, tiny: YiVL) -> None:
    rng = np.random.default_rng(8)
    image = saved(picture(rng), "JPEG")
    record = json.dumps(
        {
            "conversations": [
                {"from": "human", "value": "<image>\n是什么?"},
                {"from": "gpt", "value": "A cat. 一只猫。" * 20},
            ]
        },
        ensure_ascii=False,
    ).encode()
    samples = []
    for number in range(400):
        mutate = (cut, flipped, spliced, lambda content, rng: rng.bytes(40))[number % 4]
        samples.append({"__key__": f"{number:04d}", "jpg": image, "json": mutate(record, rng)})
    store, mixture = store_of(tmp_path, samples, "conversation")
    loading = Samples(Order(resolve(mixture, store, 0), 0), store, Encoder(tiny.tokenizer, patches=4, image_side=SIDE))
    good = broken = 0
    for number in range(400):
        try:
            talk = loading.content(Place(0, number // 100, number % 100))
        except BadSample as error:
            assert str(error)
            broken += 1
        else:
            assert json.loads(samples[number]["json"])  # whatever we read, json reads
            assert talk.turns[0].images == len(talk.images) == 1
            good += 1
    assert good + broken == 400 and broken > 250 and good > 10


def tar_bytes(rng: Rng) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=int(rng.choice([0, 1, 2]))) as tar:
            for number in range(4):
                for extension, content in (("jpg", rng.bytes(700)), ("txt", b"words"), ("json", b"{}")):
                    entry = tarfile.TarInfo(f"{'long' * 20 if number == 2 else ''}{number}.{extension}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
        return file.getvalue()


def swapped(content: bytes, rng: Rng) -> bytes:
    blocks = [content[at : at + 512] for at in range(0, len(content), 512)]
    a, b = rng.integers(0, 30, 2)
    blocks[a], blocks[b] = blocks[b], blocks[a]
    return b"".join(blocks)


def oversized(content: bytes, rng: Rng) -> bytes:
    """A header that declares a huge or a negative size, with a checksum that is right."""
    changed = bytearray(content)
    size = b"%011o\0" % int(rng.integers(10**6, 8**11))
    changed[124:136] = size if rng.integers(2) else b"-%010o\0" % int(rng.integers(0, 3000))
    changed[148:156] = b" " * 8
    changed[148:156] = b"%06o\0 " % sum(changed[:512])
    return bytes(changed)


def test_every_tar_is_read_or_refused_and_never_read_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    shard = tmp_path / "0.tar"
    peak()
    before = peak()
    fates: Counter[str] = Counter()
    for number in range(600):
        original = tar_bytes(rng)
        mutate = (cut, flipped, spliced, swapped, oversized)[number % 5]
        shard.write_bytes(mutate(original, rng))
        try:
            found = index.build(shard)
        except BadTar as error:
            assert str(shard) in str(error)
            fates["refused"] += 1
            continue
        with tarfile.open(fileobj=io.BytesIO(original)) as tar:
            whole = {name.partition(".")[0] for name in tar.getnames()}
        assert {found.key(i) for i in range(len(found))} <= whole  # a name has a checksum; contents have none
        fates["read"] += 1
    assert fates["read"] + fates["refused"] == 600 and fates["refused"] > 250 and fates["read"] > 80
    assert peak() - before < 100 * 2**20


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg", "a.txt"], "'a' comes twice, not in one run"),
        (["a.jpg", "a.txt", "b.jpg", "b.txt", "a.jpg", "a.txt"], "'a' comes twice, not in one run"),
        (["a.jpg", "a.txt", "a.jpg", "a.txt"], "'a.jpg' comes twice"),
    ],
)
def test_members_out_of_order_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(BadTar, match=message):
        index.build(tmp_path / "0.tar")


def test_links_devices_and_hostile_names_touch_nothing(tmp_path: Path, tiny: YiVL) -> None:
    """A name is only a key here: nothing is ever extracted, and what is no regular file is passed over."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "s"
    folder.mkdir()
    image = saved(picture(rng), "JPEG")
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name in ("/etc/passwd", "../../up", "./c", "a/../b"):
            for extension, content in (("jpg", image), ("txt", b"words")):
                entry = tarfile.TarInfo(f"{name}.{extension}")
                entry.name = f"{name}.{extension}"
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            entry = tarfile.TarInfo("link.jpg")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
    index.write(folder / "0.tar")
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"sources": {"s": {"shards": "s/*.tar", "format": "caption"}}}))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"catalogue": "c.yaml", "sources": {"s": {}}}))
    before = sorted(tmp_path.rglob("*"))
    store = Store(tmp_path)
    order = Order(resolve(read(Mixture, tmp_path / "m.yaml"), store, 0), 0)
    loading = Samples(order, store, Encoder(tiny.tokenizer, patches=4, image_side=SIDE))
    assert order.epoch_samples == 4
    items = [loading[Task(0, Place(0, 0, number))] for number in range(4)]
    assert all(item.example is not None and not item.broken for item in items)
    assert sorted(tmp_path.rglob("*")) == before


def test_all_ranks_make_the_same_steps_whatever_is_broken(tmp_path: Path, tiny: YiVL) -> None:
    rng = np.random.default_rng(2)
    whole = saved(picture(rng), "JPEG")
    bad = {int(n) for n in rng.choice(600, 12, replace=False)}  # 2 %
    samples = [caption_sample(f"{n:04d}", cut(whole, rng) if n in bad else whole, f"thing {n}") for n in range(600)]
    store, mixture = store_of(tmp_path, samples)
    order = Order(resolve(mixture, store, 0), 0)

    def run(ranks: int, workers: int) -> tuple[list[int], list[Counter[str]], set[tuple[int, str]]]:
        lengths, steps, broken = [], [Counter[str]() for _ in range(600 // 16)], set()
        for rank in range(ranks):
            loader = Loader(
                Samples(order, store, Encoder(tiny.tokenizer, patches=4, image_side=SIDE)),
                global_batch=16, tokens_per_micro_batch=200, epochs=1, rank=rank, ranks=ranks, workers=workers,
            )  # fmt: skip
            found = list(loader.steps())
            lengths.append(len(found))
            for step in found:
                steps[step.number].update(key for batch in step.batches for key in batch.keys)
                broken |= {(one.position, one.key) for one in step.broken}
        return lengths, steps, broken

    lengths, steps, broken = run(1, 0)
    assert lengths == [37] and all(step.total() == 16 for step in steps)
    assert len({key for _, key in broken} & {f"{n:04d}" for n in bad}) > 8  # but those in the last 8 samples
    for ranks, workers in ((3, 0), (4, 1)):
        other = run(ranks, workers)
        assert other == ([37] * ranks, steps, broken)


@pytest.mark.parametrize("path", PIXELS)
def test_an_image_may_not_be_larger_than_the_documented_limit(path: str) -> None:
    """The limit holds for the padded square, and before anything is decoded."""
    side = int(MAX_PIXELS**0.5)
    for width, height in ((side + 200, 3), (3, side + 200), (side + 1, side + 1)):
        with pytest.raises(BadImage, match="more than the limit of"):
            PIXELS[path](saved(Image.new("1", (width, height)), "PNG"), SIDE)
    assert PIXELS[path](saved(Image.new("1", (2000, 3)), "PNG"), SIDE).shape == (3, SIDE, SIDE)
