"""The choice of samples is exact, and the order a pure function of the position."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data import index, mixture
from data.loader import Loader, Samples
from data.mixture import Chosen, Manifest, Mixture, Shard, load_manifest, resolve, taken_samples
from data.order import Order, floor_sum
from yivl import YiVL
from yivl.encoder import Encoder
from yivl.settings import SettingsError, read


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 80), st.integers(-100, 100))
def test_floor_sum_is_the_sum(n: int, m: int, a: int, b: int) -> None:
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of 120,000 pairs in 24 shards, and a small one, by their indexes alone (the tars are empty files)."""
    folder = tmp_path_factory.mktemp("large")
    for source, shards, size in (("big", 24, 5000), ("small", 3, 700)):
        for number in range(shards):
            shard = folder / source / f"{number:05d}.tar"
            shard.parent.mkdir(exist_ok=True)
            shard.touch()
            keys = [f"{number:05d}{i:04d}".encode() for i in range(size)]
            hashes = [int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") for key in keys]
            zeros = np.zeros(size, dtype=np.uint64)
            np.savez(
                index.index_path(shard).open("wb"), version=1, tar_size=0, keys=np.array(keys),
                hashes=np.array(hashes, dtype=np.uint64), offsets=zeros, sizes=zeros, text_bytes=zeros, images=zeros,
            )  # fmt: skip
    sources = {name: {"shards": f"{name}/*.tar", "format": "caption"} for name in ("big", "small")}
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}))
    mix = {"catalogue": "sources.yaml", "cap": 50_000, "sources": {"big": {}, "small": {}}}
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mix))
    return folder


def chosen_keys(folder: Path, manifest: Manifest, source: int = 0) -> set[tuple[str, str]]:
    chosen = manifest.sources[source]
    keys = set()
    for shard in chosen.shards:
        of = index.load(folder / shard.path)
        keys |= {(shard.path, of.key(i)) for i in taken_samples(manifest, chosen, shard, of)}
    return keys


def test_cap_is_exact_and_depends_on_the_seed_alone(large: Path) -> None:
    mix = read(Mixture, large / "mixture.yaml")
    manifest = resolve(mix, large, seed=1)
    assert [(s.available, s.taken) for s in manifest.sources] == [(120_000, 50_000), (2100, 2100)]
    keys = chosen_keys(large, manifest)
    assert len(keys) == 50_000
    assert chosen_keys(large, resolve(mix, large, seed=1)) == keys
    alone = replace(mix, sources={"big": mix.sources["big"]})
    assert chosen_keys(large, resolve(alone, large, seed=1)) == keys  # other sources change nothing
    others = chosen_keys(large, resolve(mix, large, seed=2))
    assert len(others) == 50_000
    assert abs(len(keys & others) - 50_000 * 5 / 12) < 1000  # independent choices share 5/12, up to 10 sigma
    counts = Counter(path for path, _ in keys)
    assert max(counts.values()) < 2300 and min(counts.values()) > 1880  # spread over all shards: 2083 +- 6 sigma


def test_a_manifest_survives_being_saved(large: Path, tmp_path: Path) -> None:
    manifest = resolve(read(Mixture, large / "mixture.yaml"), large, seed=1)
    manifest.save(tmp_path / "manifest.json")
    again = load_manifest(tmp_path / "manifest.json")
    assert again == manifest
    assert again.fingerprint() == manifest.fingerprint()
    assert resolve(read(Mixture, large / "mixture.yaml"), large, seed=2).fingerprint() != manifest.fingerprint()


def invented(*sizes: tuple[int, int]) -> Manifest:
    """Sources of so many shards and samples in each, taken whole."""
    sources = [
        Chosen(
            name=f"s{number}", format="caption", available=shards * size, cap=None, taken=shards * size, salt=0,
            threshold=2**64,
            shards=tuple(Shard(path=f"s{number}/{i:05d}.tar", samples=size, taken=size) for i in range(shards)),
        )
        for number, (shards, size) in enumerate(sizes)
    ]  # fmt: skip
    return Manifest(seed=0, sources=tuple(sources))


@pytest.mark.parametrize("sizes", [((20, 37), (3, 11), (1, 5)), ((1, 1),), ((9, 10), (9, 10)), ((1, 997),)])
def test_every_sample_comes_once_in_every_epoch(sizes: tuple[tuple[int, int], ...]) -> None:
    order = Order(invented(*sizes), seed=3)
    total = order.epoch_samples
    places = order.places(0, 3 * total)
    epochs = [places[i * total : (i + 1) * total] for i in range(3)]
    assert all(len(set(epoch)) == total for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) == 1
    if total > 5:
        assert epochs[0] != epochs[1] != epochs[2]
        assert Order(invented(*sizes), seed=4).places(0, total) != epochs[0]


def test_any_stretch_of_the_order_is_the_same_as_reading_up_to_it() -> None:
    order = Order(invented((20, 37), (3, 11), (1, 5)), seed=3)
    whole = order.places(0, 2000)
    for start in (0, 1, 500, order.epoch_samples - 3, order.epoch_samples, 1700):
        assert Order(order.manifest, 3).places(start, 100) == whole[start : start + 100]


def test_sources_alternate_in_proportion_at_every_scale() -> None:
    order = Order(invented((60, 100), (20, 100), (10, 100), (10, 10)), seed=0)
    sources = np.array([place.source for place in order.places(0, order.epoch_samples)])
    for source, share in enumerate(np.bincount(sources) / len(sources)):
        for length in (50, 256, 1000):
            counts = np.convolve(sources == source, np.ones(length), "valid")
            assert np.abs(counts - share * length).max() < 3.5  # random draws would stray by 50 in a thousand


def test_reads_stay_within_few_shards_at_a_time() -> None:
    order = Order(invented((64, 100)), seed=0)
    shards = [place.shard for place in order.places(0, order.epoch_samples)]
    blocks = [set(shards[i : i + 800]) for i in range(0, len(shards), 800)]
    assert all(len(block) == 8 for block in blocks)
    assert all(not a & b for a, b in pairwise(blocks))


def test_ranks_and_workers_change_nothing_of_a_step(shards: Path, tiny: YiVL, tmp_path: Path) -> None:
    sources = {
        "captions": {"shards": "captions/*.tar", "format": "caption"},
        "chats": {"shards": "chats/*.tar", "format": "conversation"},
    }
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"sources": sources}))
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"catalogue": "s.yaml", "sources": {"captions": {}, "chats": {}}}))
    manifest = resolve(read(Mixture, tmp_path / "m.yaml"), shards, seed=0)

    def keys(ranks: int, workers: int, start: int = 0) -> list[list[str]]:
        steps: list[list[str]] = []
        for rank in range(ranks):
            encoder = Encoder(tiny.tokenizer, patches=16, image_side=56)
            samples = Samples(Order(manifest, 5), shards, encoder)
            loader = Loader(
                samples, global_batch=12, tokens_per_micro_batch=800, epochs=2, rank=rank, ranks=ranks, workers=workers
            )
            for number, step in enumerate(loader.steps(start)):
                if rank == 0:
                    steps.append([])
                steps[number] += [key for batch in step.batches for key in batch.keys]
        return [sorted(step) for step in steps]

    one = keys(1, 0)
    assert len(one) == 200 // 12
    assert all(len(set(step)) == 12 for step in one[:8])
    assert keys(1, 2) == keys(2, 0) == keys(3, 1) == keys(16, 0) == one
    assert keys(2, 0, start=7) == one[7:]


def test_a_changed_shard_is_noticed(shards: Path, tmp_path: Path) -> None:
    manifest = invented((1, 20))
    shard = replace(manifest.sources[0].shards[0], path="captions/00000.tar", samples=21, taken=21)
    with pytest.raises(index.BadIndex, match="changed after the run began"):
        taken_samples(manifest, manifest.sources[0], shard, index.load(shards / "captions/00000.tar"))


def test_mixture_errors_name_the_way_out(large: Path, tmp_path: Path) -> None:
    mix = read(Mixture, large / "mixture.yaml")
    with pytest.raises(FileNotFoundError, match="source 'big' has no shards: nothing matches"):
        resolve(mix, tmp_path, seed=0)
    with pytest.raises(SettingsError, match=r"has no source \['biig'\]; it has big, small"):
        resolve(replace(mix, sources={"biig": mixture.Share()}), large, seed=0)
