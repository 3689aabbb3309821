"""The choice of samples is exact, and the order a pure function of the position."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data import index, mixture
from data.loader import Loader, Samples, Task
from data.mixture import Chosen, Manifest, Mixture, Shard, load_manifest, quotas, resolve, taken_samples
from data.order import RUN, WINDOW_RUNS, Order, Place, floor_sum
from data.store import Store
from yivl import YiVL
from yivl.encoder import Encoder
from yivl.settings import SettingsError, read


@given(st.integers(0, 60), st.integers(1, 60), st.integers(0, 80), st.integers(-100, 100))
def test_floor_sum_is_the_sum(n: int, m: int, a: int, b: int) -> None:
    assert floor_sum(n, m, a, b) == sum((a * i + b) // m for i in range(n))


def linked(folder: Path, shards: int, original: Path) -> None:
    """As many shards as wanted that share one content, by hard links."""
    folder.mkdir(parents=True)
    for number in range(shards):
        shard = folder / f"{number:05d}.tar"
        os.link(original, shard)
        os.link(index.index_path(original), index.index_path(shard))


def tar_of(file: Path, samples: int) -> Path:
    """A shard of that many empty captions."""
    with tarfile.open(file, "w") as tar:
        for number in range(samples):
            tar.addfile(tarfile.TarInfo(f"{number:09d}.txt"))
    index.write(file)
    return file


def mixture_of(folder: Path, names: Sequence[str], cap: int | None) -> Mixture:
    sources = {name: {"shards": f"{name}/*.tar", "format": "caption"} for name in names}
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}))
    mix = {"catalogue": "sources.yaml", "cap": cap, "sources": {name: {} for name in names}}
    (folder / "mixture.yaml").write_text(yaml.safe_dump(mix))
    return read(Mixture, folder / "mixture.yaml")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of 120,000 pairs in 24 shards, and one of 2,100 in 3."""
    folder = tmp_path_factory.mktemp("large")
    linked(folder / "big", 24, tar_of(folder / "5000.tar", 5000))
    linked(folder / "small", 3, tar_of(folder / "700.tar", 700))
    mixture_of(folder, ("big", "small"), 50_000)
    return folder


def chosen_keys(folder: Path, manifest: Manifest, source: int = 0) -> set[tuple[str, str]]:
    chosen = manifest.sources[source]
    keys = set()
    for shard in chosen.shards:
        of = Store(folder).index(chosen.name, shard.path)
        keys |= {(shard.path, of.key(i)) for i in taken_samples(manifest, chosen, shard, of)}
    return keys


def test_cap_is_exact_and_depends_on_the_seed_alone(large: Path) -> None:
    mix = read(Mixture, large / "mixture.yaml")
    manifest = resolve(mix, Store(large), seed=1)
    assert [(s.available, s.taken) for s in manifest.sources] == [(120_000, 50_000), (2100, 2100)]
    keys = chosen_keys(large, manifest)
    assert len(keys) == 50_000
    assert chosen_keys(large, resolve(mix, Store(large), seed=1)) == keys
    alone = replace(mix, sources={"big": mix.sources["big"]})
    assert chosen_keys(large, resolve(alone, Store(large), seed=1)) == keys  # other sources change nothing
    others = chosen_keys(large, resolve(mix, Store(large), seed=2))
    assert len(others) == 50_000
    assert abs(len(keys & others) - 50_000 * 5 / 12) < 1000  # independent choices share 5/12, up to 10 sigma
    counts = Counter(path for path, _ in keys)
    assert set(counts.values()) == {2083, 2084}  # 50,000 / 24: every shard gives its share


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.floats(0, 1), st.integers(0, 2**64))
def test_every_shard_gives_its_share_of_a_cap(counts: list[int], part: float, draw: int) -> None:
    taken = int(part * sum(counts))
    shares = quotas(counts, taken, draw)
    assert sum(shares) == taken
    for count, share in zip(counts, shares, strict=True):
        assert 0 <= share <= count
        assert abs(share - taken * count / max(sum(counts), 1)) < 1


def test_over_all_draws_every_sample_is_taken_equally_often() -> None:
    counts = [3, 1, 0, 7, 2]
    total = np.sum([quotas(counts, 5, draw) for draw in range(13)], axis=0)
    assert total.tolist() == [5 * count for count in counts]


def test_a_manifest_survives_being_saved(large: Path, tmp_path: Path) -> None:
    manifest = resolve(read(Mixture, large / "mixture.yaml"), Store(large), seed=1)
    manifest.save(tmp_path / "manifest.json")
    again = load_manifest(tmp_path / "manifest.json")
    assert again == manifest
    assert again.fingerprint() == manifest.fingerprint()
    assert resolve(read(Mixture, large / "mixture.yaml"), Store(large), seed=2).fingerprint() != manifest.fingerprint()


def invented(*sizes: tuple[int, int]) -> Manifest:
    """Sources of so many shards and samples in each, taken whole."""
    sources = [
        Chosen(
            name=f"s{number}", format="caption", available=shards * size, cap=None, taken=shards * size,
            shards=tuple(Shard(path=f"s{number}/{i:05d}.tar", samples=size, taken=size, digest="")
                         for i in range(shards)),
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


def test_samples_are_read_in_runs_of_neighbours() -> None:
    """However long a shard is, what is read at a time are a few stretches of it, each wholly."""
    order = Order(invented((16, 10_000)), seed=0)
    places = order.places(0, order.epoch_samples)
    window = RUN * WINDOW_RUNS
    for start in range(0, len(places) - window, 7 * window + 131):  # also across the borders of windows
        read = places[start : start + window]
        stretches = {(place.shard, place.sample // RUN) for place in read}
        assert len(stretches) <= 2 * WINDOW_RUNS + 2
        assert len({place.shard for place in read}) > 4  # and yet of several shards
    first = [place.sample for place in places[:window]]
    assert np.corrcoef(first, np.arange(window))[0, 1] < 0.2  # shuffled


def test_what_will_be_read_is_known_ahead() -> None:
    order = Order(invented((40, 50), (3, 20), (1, 30)), seed=2)
    places = order.places(0, order.epoch_samples)
    for position in range(0, order.epoch_samples, 97):
        ahead = order.shards_from(position)
        assert len(set(ahead)) == len(ahead) <= 16 + 3 + 1
        needed = [(place.source, place.shard) for place in places[position : position + 400]]  # less than a block
        assert set(needed) <= set(ahead)
        assert needed[0] in ahead[:12]


def test_a_replacement_is_a_sample_of_the_same_block() -> None:
    order = Order(invented((20, 30), (1, 5)), seed=1)
    for position, place in enumerate(order.places(0, order.epoch_samples)):
        other = order.replacement(position, 1, place)
        assert other == Order(order.manifest, 1).replacement(position, 1, place)
        assert other.source == place.source
        assert 0 <= other.sample < order.manifest.sources[place.source].shards[other.shard].taken
        assert (place.source, other.shard) in order.shards_from(position)
    draws = {order.replacement(3, attempt, Place(1, 0, 0)).sample for attempt in range(50)}
    assert draws == set(range(5))


def test_a_block_of_few_samples_is_no_reason_to_take_the_broken_one_again() -> None:
    order = Order(invented((100, 1)), seed=1)
    for place in order.places(0, 100):
        draws = {order.replacement(7, attempt, place) for attempt in range(1, 20)}
        assert len(draws) > 10


def test_samples_that_changed_under_equal_counts_make_another_manifest(tmp_path: Path) -> None:
    prints = set()
    for name, first in (("one", 0), ("two", 1)):
        (tmp_path / name / "s").mkdir(parents=True)
        with tarfile.open(tmp_path / name / "s" / "0.tar", "w") as tar:
            for number in range(9):
                tar.addfile(tarfile.TarInfo(f"{number + first:09d}.txt"))
        index.write(tmp_path / name / "s" / "0.tar")
        prints.add(resolve(mixture_of(tmp_path / name, ("s",), 5), Store(tmp_path / name), 0).fingerprint())
    assert len(prints) == 2


@pytest.fixture
def indexed(tmp_path: Path, tiny: YiVL) -> Samples:
    """3,000 and 70 samples by their indexes alone."""
    linked(tmp_path / "a", 30, tar_of(tmp_path / "100.tar", 100))
    linked(tmp_path / "b", 2, tar_of(tmp_path / "35.tar", 35))
    store = Store(tmp_path)
    manifest = resolve(mixture_of(tmp_path, ("a", "b"), 2500), store, seed=0)
    return Samples(Order(manifest, 5), store, Encoder(tiny.tokenizer, patches=16, image_side=56))


def shares(samples: Samples, ranks: int, steps: Sequence[int]) -> list[list[Task]]:
    """What all ranks together load for each step."""
    loaders = [
        Loader(samples, global_batch=256, tokens_per_micro_batch=800, epochs=2, rank=rank, ranks=ranks)
        for rank in range(ranks)
    ]
    return [sorted(task for loader in loaders for task in loader.tasks(step)) for step in steps]


@pytest.mark.parametrize("ranks", [1, 2, 8, 96, 128])
def test_every_sample_comes_once_an_epoch_for_any_number_of_ranks(indexed: Samples, ranks: int) -> None:
    order = indexed.order
    assert order.epoch_samples == 2570
    steps = shares(indexed, ranks, range(2 * 2570 // 256))
    assert all(len(step) == 256 for step in steps)
    tasks = [task for step in steps for task in step]
    assert [task.position for task in tasks] == list(range(20 * 256))
    assert [task.place for task in tasks] == order.places(0, 20 * 256)
    assert len({task.place for task in tasks[:2570]}) == 2570


def test_a_resume_on_other_ranks_takes_exactly_what_was_not_seen(indexed: Samples) -> None:
    whole = shares(indexed, 1, range(20))
    assert shares(indexed, 4, range(7)) + shares(indexed, 2, range(7, 12)) + shares(indexed, 3, range(12, 20)) == whole


def test_ranks_and_workers_change_nothing_of_a_step(shards: Path, tiny: YiVL, tmp_path: Path) -> None:
    manifest = resolve(mixed_formats(tmp_path), Store(shards), seed=0)

    def keys(ranks: int, workers: int, start: int = 0) -> list[list[str]]:
        steps: list[list[str]] = []
        for rank in range(ranks):
            encoder = Encoder(tiny.tokenizer, patches=16, image_side=56)
            samples = Samples(Order(manifest, 5), Store(shards), encoder)
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
    assert keys(1, 2) == keys(1, 4) == keys(2, 0) == keys(3, 1) == keys(16, 0) == one
    assert keys(2, 0, start=7) == one[7:]


def mixed_formats(folder: Path) -> Mixture:
    sources = {
        "captions": {"shards": "captions/*.tar", "format": "caption"},
        "chats": {"shards": "chats/*.tar", "format": "conversation"},
    }
    (folder / "s.yaml").write_text(yaml.safe_dump({"sources": sources}))
    (folder / "m.yaml").write_text(yaml.safe_dump({"catalogue": "s.yaml", "sources": {"captions": {}, "chats": {}}}))
    return read(Mixture, folder / "m.yaml")


def test_a_changed_shard_is_noticed(shards: Path, tmp_path: Path) -> None:
    manifest = invented((1, 20))
    shard = replace(manifest.sources[0].shards[0], path="captions/00000.tar", samples=21, taken=21)
    with pytest.raises(index.BadIndex, match="changed after the run began"):
        taken_samples(manifest, manifest.sources[0], shard, Store(shards).index("captions", "captions/00000.tar"))


def test_mixture_errors_name_the_way_out(large: Path, tmp_path: Path) -> None:
    mix = read(Mixture, large / "mixture.yaml")
    with pytest.raises(FileNotFoundError, match="source 'big' has no shards: nothing matches"):
        resolve(mix, Store(tmp_path), seed=0)
    linked(tmp_path / "big", 2, large / "5000.tar")
    (tmp_path / "big" / "00001.tar").unlink()
    with pytest.raises(index.BadIndex, match=r"00001\.tar\.index has no shard beside it"):
        resolve(mix, Store(tmp_path), seed=0)
    with pytest.raises(SettingsError, match=r"has no source \['biig'\]; it has big, small"):
        resolve(replace(mix, sources={"biig": mixture.Share()}), Store(large), seed=0)
