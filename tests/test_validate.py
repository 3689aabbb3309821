"""Validation: what is sound passes, and every kind of damage is told of with its shard and key."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import captions, jpeg
from PIL import Image

from data import index
from data.shards import caption_sample, write_shards
from data.validate import Job, main, validate
from yivl.images import MAX_PIXELS

SAMPLES = 6


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Six captions."""
    return write_shards(tmp_path / "data", captions(SAMPLES, np.random.default_rng(0)))[0]


def headers(shard: Path) -> list[tarfile.TarInfo]:
    """The members as Python's own reader lists them."""
    with tarfile.open(shard) as tar:
        return tar.getmembers()


def damage(shard: Path, change: Callable[[bytearray], bytearray | bytes | None], fresh: bool = False) -> None:
    """Changes a shard's bytes; `fresh` keeps its time, as decay on a disk does."""
    before = shard.stat()
    content = bytearray(shard.read_bytes())
    shard.write_bytes(change(content) or content)
    if fresh:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def found(shard: Path, form: str = "caption") -> list[tuple[str, str, str]]:
    return [(one.key, one.kind, one.reason) for one in validate(Job("source", shard, form)).broken]


def one_sample(folder: Path, members: dict[str, bytes]) -> Path:
    """A shard of a sound caption, the sample "odd" with these members, and another sound caption."""
    rng = np.random.default_rng(0)
    first, last = (caption_sample(key, jpeg(rng), "a thing") for key in ("first", "last"))
    return write_shards(folder / "odd", [first, {"__key__": "odd", **members}, last])[0]


def test_sound_shards_pass(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalogue = {
        "captions": {"shards": "captions/*.tar", "format": "caption"},
        "chats": {"shards": "chats/*.tar", "format": "conversation"},
    }
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": catalogue}))
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(yaml.safe_dump({"catalogue": "sources.yaml", "sources": {"captions": {}, "chats": {}}}))
    assert main(["--mixture", str(mixture), "--data", str(shards), "--workers", "2"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0][:4] == ["source", "shards", "samples", "good"]
    assert [row[:4] for row in rows[1:]] == [
        ["captions", "3", "60", "60"], ["chats", "2", "40", "40"], ["together", "5", "100", "100"],
    ]  # fmt: skip
    assert {number for row in rows[1:] for number in row[4:]} == {"0"}


def test_samples_before_a_cut_are_validated_and_the_byte_is_told(shard: Path) -> None:
    fourth = headers(shard)[9]  # three members a sample
    assert fourth.name.startswith("000000003.")
    damage(shard, lambda content: content[: fourth.offset + 700])
    report = validate(Job("source", shard, "caption"))
    assert (report.samples, report.good) == (3, 2)
    (cut, stale) = report.broken
    assert (cut.key, cut.kind) == ("000000002", "tar")
    assert f"at byte {fourth.offset}" in cut.reason and f"the file has {fourth.offset + 700}" in cut.reason
    assert (stale.key, stale.kind) == ("", "index")


@pytest.mark.parametrize("fresh", [True, False])
def test_a_flipped_bit_in_a_header_is_found_where_it_is(shard: Path, fresh: bool) -> None:
    header = headers(shard)[7]  # in the middle of the third sample

    def flip(content: bytearray) -> None:
        content[header.offset + 3] ^= 0x10

    damage(shard, flip, fresh)
    report = validate(Job("source", shard, "caption"))
    assert (report.samples, report.good) == (3, 2)
    assert report.broken[0].key == "000000002" and report.broken[0].kind == "tar"
    assert f"damaged header at byte {header.offset}" in report.broken[0].reason
    lost = f"it tells of {SAMPLES} samples; 3 were read"
    assert report.broken[1].kind == "index"
    assert (lost if fresh else "older than its shard") in report.broken[1].reason


def test_a_shard_without_end_of_archive_is_cut_off(shard: Path) -> None:
    last = headers(shard)[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    damage(shard, lambda content: content[:end])
    assert found(shard)[0][:2] == (f"{SAMPLES - 1:09d}", "tar")
    assert f"cut off at byte {end}; no end-of-archive marker" in found(shard)[0][2]


def test_what_follows_the_end_of_archive_is_found(shard: Path, tmp_path: Path) -> None:
    """As when shards are joined with `cat`: a reader that stops at the first marker would lose them."""
    other = write_shards(tmp_path / "other", captions(2, np.random.default_rng(1)))[0]
    samples = index.check(shard).samples
    damage(shard, lambda content: content + other.read_bytes())
    (one,) = (one for one in found(shard) if one[1] == "tar")
    assert "content after the end-of-archive marker" in one[2]
    assert validate(Job("s", shard, "caption")).samples == samples


@pytest.mark.parametrize("state", ["missing", "stale", "other size", "not an index", "damaged", "other keys"])
def test_an_index_that_does_not_fit_is_told_of_and_the_samples_are_still_read(
    shard: Path, tmp_path: Path, state: str
) -> None:
    beside = index.index_path(shard)
    if state == "missing":
        beside.unlink()
    elif state == "stale":
        os.utime(beside, (1, 1))
    elif state == "other size":
        other = write_shards(tmp_path / "other", captions(40, np.random.default_rng(1)))[0]
        shutil.copy(index.index_path(other), beside)
    elif state == "not an index":
        beside.write_bytes(b"x" * 100)
    elif state == "damaged":
        damage(beside, lambda content: bytearray(content.replace(b"000000004", b"00000000X")))
    else:  # of a shard of the same size
        renamed = [{**one, "__key__": f"9{one['__key__'][1:]}"} for one in captions(SAMPLES, np.random.default_rng(0))]
        shutil.copy(index.index_path(write_shards(tmp_path / "other", renamed)[0]), beside)
    report = validate(Job("source", shard, "caption"))
    assert (report.samples, report.good) == (SAMPLES, SAMPLES)
    assert [(one.key, one.kind) for one in report.broken] == [("", "index")]
    said = {
        "missing": "there is no index",
        "stale": "older than its shard",
        "other size": "another content",
        "not an index": "can't be read as an index",
        "damaged": "is damaged",
        "other keys": "differs from one made anew in names",
    }
    assert said[state] in report.broken[0].reason


def test_a_broken_jpeg_is_told_of_with_its_key(tmp_path: Path) -> None:
    whole = jpeg(np.random.default_rng(0), 200, 100)
    for content in (whole[: len(whole) // 2], b"<html>not found</html>", b""):
        shard = one_sample(tmp_path / str(len(content)), {"jpg": content, "txt": b"a thing", "json": b"{}"})
        ((key, kind, reason),) = found(shard)
        assert (key, kind) == ("odd", "image")
        assert f"image 1 of 1: {len(content)} bytes: not a readable image" in reason


def test_an_image_too_large_to_be_padded_is_told_of(tmp_path: Path) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    with io.BytesIO() as file:
        Image.new("L", (side, 8)).save(file, "PNG")
        shard = one_sample(tmp_path, {"png": file.getvalue(), "txt": b"a thing"})
    ((key, kind, reason),) = found(shard)
    assert (key, kind) == ("odd", "image") and f"{side} x 8 pixels: as a square" in reason


def chat(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": value} for speaker, value in messages]}


@pytest.mark.parametrize(
    ("members", "form", "kind", "reason"),
    [
        ({"txt": b"caf\xe9"}, "caption", "text", "its txt is not UTF-8"),
        ({"json": b'{"conversations": "\xff"}'}, "conversation", "text", "its json is not UTF-8"),
        ({"json": b'{"conversations": [{"from": "human", "value": "\\ud800"}]}'}, "conversation", "text", "surrogates"),
        ({"txt": b" "}, "caption", "format", "the caption is empty"),
        ({"json": b"{"}, "conversation", "format", "its json can't be read"),
        ({"json": json.dumps(chat(("human", "Hm?"))).encode()}, "conversation", "format", "nothing would be learned"),
        ({"json": b'{"conversations": [' + b"9" * 5000 + b"]}"}, "conversation", "format", "ValueError"),
    ],
)  # fmt: skip
def test_a_sample_that_its_format_cannot_read_is_told_of(
    tmp_path: Path, members: dict[str, bytes], form: str, kind: str, reason: str
) -> None:
    image = {"jpg": jpeg(np.random.default_rng(0))} if form == "caption" else {}
    shard = one_sample(tmp_path, image | members)
    told = [one for one in found(shard, form) if one[0] == "odd"]
    assert len(told) == 1 and told[0][1] == kind and reason in told[0][2]


def test_a_key_that_comes_twice_is_told_of(tmp_path: Path) -> None:
    shard = tmp_path / "00000.tar"
    with tarfile.open(shard, "w") as tar:
        for name in ("a.txt", "b.txt", "a.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    told = found(shard, "text")
    assert [one[:2] for one in told] == [("a", "key"), ("", "index")]
    assert "comes twice" in told[0][2]


def test_all_that_is_broken_is_listed_and_the_terminal_shows_twenty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = captions(30, np.random.default_rng(0))
    keys = [sample["__key__"] for sample in samples[:23]]
    for sample in samples[:23]:
        sample["txt"] = ""
    shard = write_shards(tmp_path / "data", samples)[0]
    out = tmp_path / "broken.jsonl"
    assert main([str(tmp_path / "data"), "--format", "caption", "--workers", "1", "--json", str(out)]) == 1
    listed = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [line["key"] for line in listed] == keys
    assert {(line["shard"], line["kind"], line["reason"]) for line in listed} == {
        (str(shard), "format", "the caption is empty")
    }
    printed = capsys.readouterr().out
    assert printed.count("the caption is empty") == 20 and f"{shard}: 3 more" in printed
    assert printed.splitlines()[-1].split()[1:4] == ["1", "30", "7"]


def test_one_damaged_shard_does_not_keep_the_others_from_being_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = write_shards(tmp_path / "data", captions(15, np.random.default_rng(0)), per_shard=5)
    damage(written[1], lambda content: content[:100])
    assert main([str(tmp_path / "data"), "--format", "caption", "--workers", "2"]) == 1
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[1:4] == ["3", "10", "10"]


def test_addresses_must_be_fetched_first(tmp_path: Path, shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["s3://bucket/{00000..00009}.tar", "--format", "caption"]) == 1
    assert "fetch it first" in capsys.readouterr().err
    sources = {name: {"shards": where, "format": "caption"} for name, where in
               {"near": "*.tar", "far": "s3://bucket/0.tar", "gone": "gone/*.tar"}.items()}  # fmt: skip
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump({"sources": sources}))
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(yaml.safe_dump({"catalogue": "sources.yaml", "sources": {key: {} for key in sources}}))
    assert main(["--mixture", str(mixture), "--data", str(shard.parent), "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].split()[:4] == ["near", "1", str(SAMPLES), str(SAMPLES)]
    assert "source 'far': s3://bucket/0.tar lies elsewhere" in said.err and "source 'gone': nothing matches" in said.err


@pytest.mark.parametrize("missing", ["nothing.tar", "empty"])
def test_what_names_no_shard_is_one_clear_line(
    tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / missing), "--format", "caption"]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and str(tmp_path / missing) in said.err
