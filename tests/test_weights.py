"""Mixtures weighted by tokens: shares are exact, and repeated shards are visited equally often."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import captions
from hypothesis import given
from hypothesis import strategies as st
from rows_case import mixture, mixture_of, samples_of, shards_of, texts

from data import index
from data.loader import Loader, Samples
from data.mixture import (
    Catalogue,
    Mixture,
    Share,
    Source,
    describe,
    load_manifest,
    resolve,
    taken_samples,
    weighted_rows,
)
from data.order import Order
from data.shards import write_shards
from data.store import Store
from yivl.settings import SettingsError, read

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.floats(0.01, 100), st.integers(2, 9000)), min_size=1, max_size=6
    ),
    st.integers(10**9, 10**12),
)
def test_tokens_are_shared_by_weight_to_half_a_row(sources: dict[str, tuple[float, int]], tokens: int) -> None:
    mix = Mixture(catalogue=Path("c"), sources={n: Share(weight=w) for n, (w, _) in sources.items()}, tokens=tokens)
    known = {name: Source(shards="s", format="tokens", row=row) for name, (_, row) in sources.items()}
    total = sum(weight for weight, _ in sources.values())
    rows = weighted_rows(mix, known)
    for name, (weight, row) in sources.items():
        assert abs(rows[name] * row - tokens * weight / total) <= row / 2 * (1 + 1e-6)


def counted(folder: Path, name: str, shards: int, samples: int) -> None:
    """Shards of so many samples, known by their indexes alone."""
    (folder / "shards" / name).mkdir(parents=True)
    first = folder / "shards" / name / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for number in range(samples):
            tar.addfile(tarfile.TarInfo(f"{number:09d}.ids"))
    index.write(first)
    for number in range(1, shards):
        os.link(first, first.with_name(f"{number:05d}.tar"))
        os.link(index.index_path(first), index.index_path(first.with_name(f"{number:05d}.tar")))


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """10 shards of 32 rows each taken 3.4 times over, and one of 50 taken 0.6 times."""
    folder = tmp_path_factory.mktemp("repeating")
    counted(folder, "few", 10, 32)
    counted(folder, "many", 1, 50)
    sources = {"few": {"weight": 1088}, "many": {"weight": 30}}
    return samples_of(folder, mixture(folder, sources, row=8, tokens=8 * 1118))


def test_repeated_shards_give_each_row_equally_often(repeating: Samples) -> None:
    manifest, order = repeating.order.manifest, repeating.order
    few, many = manifest.sources
    assert (few.available, few.taken, few.tokens, len(few.shards)) == (320, 1088, 8704, 40)
    assert (many.available, many.taken, len(many.shards)) == (50, 30, 1)
    for epoch in range(2):
        visits: Counter[tuple[str, int]] = Counter()
        for place in order.places(epoch * 1118, 1118):
            source = manifest.sources[place.source]
            shard = source.shards[place.shard]
            of = repeating.store.index(source.name, shard.path)
            visits[shard.path, int(taken_samples(manifest, source, shard, of)[place.sample])] += 1
        assert sorted(Counter(visits.values()).items()) == [(1, 30), (3, 320 - 128), (4, 128)]
    stretch = order.places(700, 200)
    assert Order(manifest, 0).places(0, 1118)[700:900] == stretch  # a resume needs nothing but the position


def test_a_source_is_passed_over_once_before_it_is_repeated(repeating: Samples) -> None:
    order = repeating.order
    few = order.manifest.sources[0]
    visits = [(few.shards[p.shard].path, p.sample) for p in order.places(0, 1118) if p.source == 0]
    passes = [visits[first : first + 320] for first in (0, 320, 640)]
    assert all(len(set(one)) == 320 for one in passes)
    assert passes[0] != passes[1] != passes[2]  # each in an order of its own


def test_a_mixture_with_repeats_survives_its_manifest_and_tells_of_them(repeating: Samples, tmp_path: Path) -> None:
    manifest = repeating.order.manifest
    manifest.save(tmp_path / "manifest.json")
    assert load_manifest(tmp_path / "manifest.json") == manifest
    rows = [line.split() for line in describe(manifest).splitlines()]
    assert rows == [
        ["source", "available", "cap", "taken", "tokens", "share", "times"],
        ["few", "320", "–", "1,088", "8,704", "97.3%", "3.40"],
        ["many", "50", "–", "30", "240", "2.7%", "0.60"],
        ["together", "1,118", "8,944"],
    ]


def test_a_broken_row_of_a_repeated_source_is_replaced_by_another(repeating: Samples) -> None:
    for position, place in enumerate(repeating.order.places(0, 1118)):
        if place.source == 0:
            other = repeating.order.replacement(position, 1, place)
            assert other.source == 0 and other.sample < repeating.order.manifest.sources[0].shards[other.shard].taken


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sources": {"a": {"weight": 1}, "b": {}}, "tokens": 800}, "b: no weight; every source has one, or none has"),
        ({"sources": {"a": {"weight": 1}, "b": {"weight": 2}}}, "weights and 'tokens', .* need each other"),
        ({"sources": {"a": {}, "b": {}}, "tokens": 800}, "weights and 'tokens', .* need each other"),
        ({"sources": {"a": {"weight": 1, "cap": 5}}, "tokens": 800}, "weights and caps exclude each other"),
        ({"sources": {"a": {"weight": 1}}, "tokens": 800, "cap": 7}, "weights and caps exclude each other"),
        ({"sources": {"a": {"weight": 0}}, "tokens": 800}, "'sources.a': weight is 0.0; above 0"),
        ({"sources": {"a": {"weight": float("inf")}}, "tokens": 800}, "weight is inf; above 0"),
        ({"sources": {"a": {"weight": 1}}, "tokens": 0}, "tokens is 0; at least 1"),
    ],
)
def test_weights_that_cannot_be_meant_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({"catalogue": "c.yaml"} | settings))
    with pytest.raises(SettingsError, match=message):
        read(Mixture, tmp_path / "m.yaml")


def test_weights_that_the_sources_cannot_follow_are_refused(tmp_path: Path) -> None:
    counted(tmp_path, "a", 1, 3)
    counted(tmp_path, "b", 1, 3)
    store = Store(tmp_path / "shards")

    def fails(message: str, sources: dict[str, Any], **more: Any) -> None:
        with pytest.raises(SettingsError, match=message):
            resolve(mixture(tmp_path, sources, row=8, **more), store, 0)

    fails("b: not one row of 800 tokens", {"a": {"weight": 1}, "b": {"weight": 0.001}}, tokens=800)
    fails("source 'a': its weight asks for 3,001 rows, but its shards hold 3", {"a": {"weight": 1}}, tokens=8 * 3001)
    mix = mixture(tmp_path, {"a": {"weight": 1}}, row=8, tokens=800)
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": {"a": {"shards": "a/*.tar", "format": "text"}}}))
    with pytest.raises(SettingsError, match="a: weights are of tokens, and only sources of the format 'tokens'"):
        resolve(mix, store, 0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"format": "tokens"}, "row is 0; the format 'tokens' needs the tokens of a row"),
        ({"format": "tokens", "row": 1}, "row is 1; the format 'tokens' needs"),
        ({"format": "text", "row": 4096}, "row is 4096, but only samples of the format 'tokens'"),
    ],
)
def test_the_catalogue_says_how_long_rows_are_and_of_rows_alone(
    entry: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"sources": {"a": {"shards": "a/*.tar"} | entry}}))
    with pytest.raises(SettingsError, match=f"key 'sources.a': {message}"):
        read(Catalogue, tmp_path / "c.yaml")


def test_capped_rows_and_other_samples_go_together(tmp_path: Path) -> None:
    shards_of(tmp_path, "long", texts(20, longest=120))
    write_shards(tmp_path / "shards" / "captions", captions(20, np.random.default_rng(0)))
    file = mixture_of(tmp_path, {"long": {"cap": 7}, "captions": {}})
    sources = yaml.safe_load((tmp_path / "sources.yaml").read_text())
    sources["sources"]["captions"] = {"shards": "captions/*.tar", "format": "caption"}
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources, sort_keys=False))
    samples = samples_of(tmp_path, read(Mixture, file))
    step = next(Loader(samples, global_batch=27, tokens_per_micro_batch=300, epochs=1).steps())
    assert Counter(source for batch in step.batches for source in batch.sources) == {"long": 7, "captions": 20}
    told = [line.split() for line in describe(samples.order.manifest).splitlines()]
    assert told[1][2:] == ["7", "7", "448", "100.0%", f"{7 / int(told[1][1]):.2f}"] and told[2][4:] == ["–"] * 3


@pytest.mark.parametrize(("number", "sources"), [(1, 3), (2, 4)])
def test_the_mixtures_of_yi_9b_hold_the_documents_figures(number: int, sources: int) -> None:
    """Blog: 0.4 T tokens each, stage 2 with mathematics and more code. Report: a length of 4096."""
    mix = read(Mixture, CONFIGS / "mixture" / f"yi-9b-stage{number}.yaml")
    known = read(Catalogue, mix.catalogue).sources
    assert mix.tokens == 400_000_000_000 and len(mix.sources) == sources
    rows = weighted_rows(mix, {name: known[name] for name in mix.sources})
    assert abs(sum(rows.values()) * 4096 - mix.tokens) <= sources * 2048
    shares = {name: count / sum(rows.values()) for name, count in rows.items()}
    other = read(Mixture, CONFIGS / "mixture" / f"yi-9b-stage{3 - number}.yaml")
    total = sum(share.weight or 0 for share in other.sources.values())
    for name in ("code", "mathematics"):
        theirs = (other.sources[name].weight or 0) / total if name in other.sources else 0
        assert (shares.get(name, 0) > theirs) == (number == 2)
