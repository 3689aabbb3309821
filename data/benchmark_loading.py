"""The second half of `python -m data.benchmark`: what loading costs from shard to packed batch, and how fast a run over
100 million pairs begins.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from data import index
from data.loader import Loader, Samples
from data.mixture import Mixture, resolve
from data.order import Order
from data.shards import caption_sample, write_shards
from data.store import Store
from yivl.encoder import Encoder
from yivl.fast_images import PIXELS
from yivl.settings import read

_PAIRS = 600
_BATCH = 100
_WORDS = "a the of on in with red small old market street boats people two under light grey near river".split()  # noqa: SIM905
_CAPTION_WORDS = 30
_SHARDS, _SHARD_PAIRS = 10_000, 10_000
_PATCH = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingRate:
    """A line of the first table."""

    pixels: str
    side: int
    workers: int
    samples_per_second: float
    """By the clock."""
    samples_per_second_and_core: float
    """Of CPU time, of this process and its workers together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """How a run over many shards begins, from their indexes alone."""

    shards: int
    pairs: int
    cap: int
    resolve_seconds: float
    """From the mixture file to the manifest."""
    first_step_seconds: float
    """From the manifest to what a rank of 8 loads for the first step of 4096."""
    position_seconds: float
    """To the samples at any other position, at worst of 20."""
    megabytes: float
    """Of memory, more than before."""


def loading_rates(jpegs: Sequence[bytes], sides: Sequence[int], workers: Sequence[int]) -> list[LoadingRate]:
    """Reads, decodes, tokenises and packs captions of 30 words with these photos.

    Args:
        jpegs: the photos.
        sides: of the square images.
        workers: numbers of worker processes.
    """
    draw = random.Random(0)
    texts = [" ".join(draw.choices(_WORDS, k=_CAPTION_WORDS)) for _ in range(_PAIRS)]
    samples = [caption_sample(f"{n:06d}", jpegs[n % len(jpegs)], text) for n, text in enumerate(texts)]
    tokenizer = _tokenizer(texts)
    rates = []
    with _mixture(lambda folder: write_shards(folder, samples, per_shard=100), cap=None) as (store, mixture):
        order = Order(resolve(mixture, store, 0), 0)
        for side in sides:
            for name, pixels in PIXELS.items():
                for count in workers:
                    patches = (side // _PATCH) ** 2
                    encoder = Encoder(tokenizer, patches=patches, image_side=side, pixels=pixels)
                    loader = Loader(
                        Samples(order, store, encoder),
                        global_batch=_BATCH,
                        tokens_per_micro_batch=16 * (patches + 100),
                        epochs=1,
                        workers=count,
                    )
                    wall, spent = _time(lambda loader=loader: sum(len(step.batches) for step in loader.steps()))  # type: ignore[misc]
                    rates.append(
                        LoadingRate(
                            pixels=name, side=side, workers=count, samples_per_second=_PAIRS / wall,
                            samples_per_second_and_core=_PAIRS / spent,
                        )
                    )  # fmt: skip
    return rates


def beginning() -> Beginning:
    """100 million pairs in 10,000 shards, by their indexes: hard links to one."""

    def write(folder: Path) -> None:
        first = folder / "00000.tar"
        folder.mkdir()
        with tarfile.open(first, "w") as tar:
            for number in range(_SHARD_PAIRS):
                tar.addfile(tarfile.TarInfo(f"{number:09d}.txt"))
        index.write(first)
        for number in range(1, _SHARDS):
            shard = folder / f"{number:05d}.tar"
            os.link(first, shard)
            os.link(index.index_path(first), index.index_path(shard))

    fresh = multiprocessing.get_context("spawn")  # a process whose memory nothing else has swelled
    with (
        _mixture(write, cap=_SHARDS * _SHARD_PAIRS // 2) as (store, _),
        ProcessPoolExecutor(1, mp_context=fresh) as process,
    ):
        return process.submit(_begin, store.folder).result()


def _begin(folder: Path) -> Beginning:
    before = _peak()
    start = time.perf_counter()
    manifest = resolve(read(Mixture, folder / "mixture.yaml"), Store(folder), 0)
    resolved = time.perf_counter() - start

    start = time.perf_counter()
    encoder = Encoder(_tokenizer(_WORDS), patches=256, image_side=224)
    samples = Samples(Order(manifest, 0), Store(folder), encoder)
    Loader(samples, global_batch=4096, tokens_per_micro_batch=8192, epochs=1, ranks=8).tasks(0)
    first = time.perf_counter() - start

    draw, slowest = random.Random(0), 0.0
    for _ in range(20):
        start = time.perf_counter()
        Order(manifest, 0).places(draw.randrange(manifest.taken), 1)
        slowest = max(slowest, time.perf_counter() - start)
    (chosen,) = manifest.sources
    return Beginning(
        shards=len(chosen.shards), pairs=chosen.available, cap=chosen.taken, resolve_seconds=resolved,
        first_step_seconds=first, position_seconds=slowest, megabytes=(_peak() - before) / 1e6,
    )  # fmt: skip


def loading_table(lines: Sequence[LoadingRate]) -> str:
    """The rates as text."""
    rows = [f"{'pixels':8} {'to':>4} {'workers':>8} {'samples/s':>10} {'samples/s and core':>19}"]
    rows += [
        f"{one.pixels:8} {one.side:>4} {one.workers:>8} {one.samples_per_second:>10,.0f} "
        f"{one.samples_per_second_and_core:>19,.0f}"
        for one in lines
    ]
    return "\n".join(rows)


def beginning_table(one: Beginning) -> str:
    """The figures as text."""
    rows = [
        ("from the mixture file to the manifest", f"{one.resolve_seconds:.2f} s"),
        ("from there to the first step's samples", f"{one.first_step_seconds:.3f} s"),
        ("to those at any other position, at worst", f"{one.position_seconds:.3f} s"),
        ("memory beside what the libraries take", f"{one.megabytes:.0f} MB"),
    ]
    head = f"{one.pairs:,} pairs in {one.shards:,} shards, of which {one.cap:,} are taken"
    return "\n".join([head, *(f"{name:42} {value:>10}" for name, value in rows)])


def _tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A small BPE tokenizer of these texts: what it splits takes as long as with a large one."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=100, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made)


@contextmanager
def _mixture(write: Callable[[Path], object], cap: int | None) -> Iterator[tuple[Store, Mixture]]:
    """A data folder with one source of captions, for as long as it is used."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "pairs")
        catalogue = {"sources": {"pairs": {"shards": "pairs/*.tar", "format": "caption"}}}
        (folder / "sources.yaml").write_text(yaml.safe_dump(catalogue))
        (folder / "mixture.yaml").write_text(
            yaml.safe_dump({"catalogue": "sources.yaml", "cap": cap, "sources": {"pairs": {}}})
        )
        yield Store(folder), read(Mixture, folder / "mixture.yaml")


def _time(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time with that of ended children."""

    def spent() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    start, before = time.perf_counter(), spent()
    run()
    return time.perf_counter() - start, spent() - before


def _peak() -> int:
    """Most bytes of memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
