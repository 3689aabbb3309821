"""Shards, their indexes and the sample formats."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from conftest import captions, chats, jpeg

from data import index
from data.formats import FORMATS, BadSample, unpack
from data.shards import write_shards
from data.tar import BadTar, read


def test_every_sample_is_found_with_what_webdataset_reads(shards: Path) -> None:
    for shard in sorted(shards.rglob("*.tar")):
        found = index.load(index.index_path(shard))
        theirs = list(webdataset.WebDataset(str(shard), shardshuffle=False))
        assert [found.key(i) for i in range(len(found))] == [sample["__key__"] for sample in theirs]
        with shard.open("rb") as file:
            for i, sample in enumerate(theirs):
                ours = unpack(read(file, int(found.offsets[i]), int(found.sizes[i])), found.key(i))
                assert ours == {name: content for name, content in sample.items() if not name.startswith("__")}


def test_tars_of_other_tools_are_read(tmp_path: Path) -> None:
    """GNU and pax long names, folders, as tarfile (and so img2dataset) writes them."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        shard = tmp_path / f"{form}.tar"
        long = "x" * 60 + "/" + "图" * 10 if form == tarfile.USTAR_FORMAT else "x/" * 40 + "图" * 60
        with tarfile.open(shard, "w", format=form) as tar:
            tar.addfile(tarfile.TarInfo("folder"), None)
            for name, content in ((f"{long}.txt", b"one"), (f"{long}.json", b"{}"), ("b.c.txt", b"two")):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        index.write(shard)
        found = index.load(index.index_path(shard))
        assert [found.key(i) for i in range(len(found))][-2:] == [long, "b"]
        with shard.open("rb") as file:
            blob = read(file, int(found.offsets[-2]), int(found.sizes[-2]))
        assert unpack(blob, long) == {"txt": b"one", "json": b"{}"}
        with pytest.raises(BadTar, match="where its index says 'other'"):
            unpack(blob, "other")


def test_an_index_older_than_its_shard_is_refused(tmp_path: Path) -> None:
    shard = write_shards(tmp_path, captions(3, np.random.default_rng(0)))[0]
    later = time.time() + 10
    os.utime(shard, (later, later))
    with pytest.raises(index.BadIndex, match=r"older than its shard; run: python -m data\.index"):
        index.check(shard)
    assert index.main([str(tmp_path)]) == 0
    os.utime(index.index_path(shard), (later, later))
    assert index.check(shard).samples == 3


def test_an_index_of_another_content_is_refused(tmp_path: Path) -> None:
    shard = write_shards(tmp_path / "a", captions(3, np.random.default_rng(0)))[0]
    other = write_shards(tmp_path / "b", captions(5, np.random.default_rng(0)))[0]
    shard.write_bytes(other.read_bytes())
    os.utime(shard, (1, 1))
    with pytest.raises(index.BadIndex, match="another content"):
        index.check(shard)


@pytest.mark.parametrize("part", [0.3, 0.7, 0.999])
def test_a_truncated_tar_is_an_error_that_says_where(
    tmp_path: Path, part: float, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_shards(tmp_path, captions(4, np.random.default_rng(0)))[0]
    whole = shard.read_bytes()
    end = len(whole.rstrip(b"\0"))
    shard.write_bytes(whole[: int(end * part)])
    with pytest.raises(BadTar, match=r"00000\.tar: cut off"):
        index.build(shard)
    assert index.main([str(shard)]) == 1
    assert "cut off" in capsys.readouterr().err


def test_a_damaged_header_is_an_error_that_says_where(tmp_path: Path) -> None:
    shard = write_shards(tmp_path, captions(4, np.random.default_rng(0)))[0]
    content = bytearray(shard.read_bytes())
    at = content.index(b"000000002.jpg")
    content[at + 4] ^= 1
    shard.write_bytes(content)
    with pytest.raises(BadTar, match="damaged header at byte"):
        index.build(shard)


def test_content_after_the_end_of_a_tar_is_an_error(tmp_path: Path) -> None:
    """Else samples would be lost without a word: behind a header of zeros, or of tars put one behind the other."""
    shard = write_shards(tmp_path, captions(4, np.random.default_rng(0)))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole + whole)
    with pytest.raises(BadTar, match="content after the end-of-archive marker"):
        index.build(shard)
    at = whole.index(b"000000002.jpg") // 512 * 512
    shard.write_bytes(whole[:at] + bytes(512) + whole[at + 512 :])
    with pytest.raises(BadTar, match="content after the end-of-archive marker"):
        index.build(shard)


def test_a_key_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    samples = captions(3, np.random.default_rng(0))
    with pytest.raises(BadTar, match="'000000000' comes twice"):
        write_shards(tmp_path / "a", [*samples, samples[0]])
    with pytest.raises(BadTar, match=r"'000000002\.jpg' comes twice"):
        write_shards(tmp_path / "b", [*samples, samples[2]])


def test_an_index_counts_all_images_of_a_sample(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = [
        {"__key__": "a", "0.jpg": jpeg(rng), "1.jpg": jpeg(rng), "json": b"{}"},
        {"__key__": "b", "jpg": jpeg(rng), "json": b"{}"},
        {"__key__": "c", "json": b"{}"},
    ]
    shard = write_shards(tmp_path, samples)[0]
    assert index.load(index.index_path(shard)).images.tolist() == [2, 1, 0]


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    shard = write_shards(tmp_path, captions(30, np.random.default_rng(0)))[0]
    file = index.index_path(shard)
    whole = file.read_bytes()
    for at in (len(whole) - 3, len(whole) - 200, len(whole) // 2):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(index.BadIndex, match="damaged"):
            index.load(file)


def test_shards_are_not_mixed_with_those_of_a_former_run(tmp_path: Path) -> None:
    write_shards(tmp_path, captions(3, np.random.default_rng(0)))
    with pytest.raises(FileExistsError, match="holds shards already"):
        write_shards(tmp_path, captions(3, np.random.default_rng(0)))


def test_a_conversation_keeps_its_turns_and_images() -> None:
    sample = chats(3, np.random.default_rng(0))[2]
    members = {name: content for name, content in sample.items() if name != "__key__"}
    chat = FORMATS["conversation"](members, "chats", "k")
    assert [turn.role for turn in chat.turns] == ["human", "assistant"] * 3
    assert chat.turns[0].text == "What is number 2?"
    assert chat.images == (sample["jpg"],)


def test_the_image_tag_moves_to_the_front_of_its_turn() -> None:
    record = {"conversations": [{"from": "human", "value": "What is it?\n<image>"}, {"from": "gpt", "value": "A cat"}]}
    chat = FORMATS["conversation"]({"json": json.dumps(record).encode(), "jpg": b"x"}, "s", "k")
    assert (chat.turns[0].text, chat.turns[0].images) == ("What is it?", 1)


@pytest.mark.parametrize(
    ("form", "members", "message"),
    [
        ("caption", {"jpg": b"x"}, "no txt member, only jpg"),
        ("caption", {"txt": b"words"}, "there is no image"),
        ("caption", {"jpg": b"x", "txt": b" \n"}, "caption is empty"),
        ("caption", {"jpg": b"x", "txt": b"\xff\xfe"}, "not UTF-8"),
        ("conversation", {"json": b"{"}, "its json can't be read"),
        ("conversation", {"json": b"[" * 100_000}, "its json can't be read: RecursionError"),
        ("conversation", {"json": b'{"id": ' + b"9" * 5000 + b"}"}, "its json can't be read"),
        (
            "conversation",
            {"json": b'{"conversations": [{"from": "human", "value": "\\ud800"}, {"from": "gpt", "value": "a"}]}'},
            "its text is not Unicode",
        ),
        ("conversation", {"json": b'{"id": 1}'}, "no readable 'conversations'"),
        (
            "conversation",
            {"json": b'{"conversations": [{"from": "human", "value": "<image> <image>"}]}', "jpg": b"x"},
            "2 image placeholders but 1 images",
        ),
        (
            "conversation",
            {"json": b'{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "<image>"}]}'},
            "an answer holds an <image>",
        ),
        ("completion", {"json": b'{"prompt": "x"}'}, "no readable 'prompt' and 'completion'"),
        ("conversation", {"json": b'{"conversations": [{"from": ["human"], "value": "a"}]}'}, "from ['human']"),
        ("conversation", {"json": b'{"conversations": [{"from": "robot", "value": "hi"}]}'}, "from 'robot'"),
        ("conversation", {"json": b'{"conversations": [{"from": "human", "value": [1]}]}'}, "is not a text but [1]"),
    ],
)
def test_broken_samples_say_why(form: str, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(BadSample, match=re.escape(message)):
        FORMATS[form](members, "source", "key")


def test_several_images_come_in_the_order_of_their_numbers() -> None:
    rng = np.random.default_rng(0)
    pictures = {f"{i}.jpg": jpeg(rng) for i in (10, 2, 0, "\N{SUPERSCRIPT TWO}")}
    record = {"conversations": [{"from": "human", "value": "<image>" * 4 + "which?"}]}
    chat = FORMATS["conversation"]({**pictures, "json": json.dumps(record).encode()}, "s", "k")
    assert chat.images[1:] == (pictures["0.jpg"], pictures["2.jpg"], pictures["10.jpg"])
