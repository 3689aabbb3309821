"""Converters for data of one's own: LLaVA's layout, JSON lines, folders and parquet; and what holds for all."""

from __future__ import annotations

import inspect
import json
import pickle
import pkgutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet as pq
from sources_case import caption, gpt, human, put, talk, whole

from data import sources
from data.raw import BadRaw
from data.record import Record, Skipped
from data.sources import folder, jsonl, llava, parquet
from yivl.conversation import Turn

SOURCES = [import_module(f"data.sources.{module.name}") for module in pkgutil.iter_modules(sources.__path__)]


# llava


def test_llava_entries_become_conversations_with_their_images_below_raw(tmp_path: Path) -> None:
    put(tmp_path / "mine.json", [
        {"id": "a", "image": "x/1.jpg", "conversations": talk("<image>\nWhat is it?", " A cat. ", "Sure?", "Yes.")},
        {"id": "b", "image": "2.jpg", "conversations": talk("这是什么？\n<image>", "一只猫。")},
        {"id": "c", "conversations": talk("Hello", "Hi")},
    ])  # fmt: skip
    assert whole(llava.records(tmp_path)) == [
        Record(
            "0-a", (human("What is it?", 1), gpt("A cat."), human("Sure?"), gpt("Yes.")), (tmp_path / "x" / "1.jpg",)
        ),
        Record("1-b", (human("这是什么？", 1), gpt("一只猫。")), (tmp_path / "2.jpg",)),
        Record("2-c", (human("Hello"), gpt("Hi"))),
    ]


def test_llava_images_stand_in_the_turns_that_mark_them_else_in_the_first(tmp_path: Path) -> None:
    put(tmp_path / "mine.json", [
        {"id": 1, "image": ["1.jpg", "2.jpg"], "conversations": talk("One <image>", "1", "<image>\nTwo", "2")},
        {"id": 2, "image": ["1.jpg", "2.jpg"], "conversations": talk("Hello", "Hi", "<image><image>\nBoth?", "Both.")},
        {"id": 3, "image": ["1.jpg", "2.jpg"], "conversations": talk("Which?", "The left.", "Why?", "It is.")},
        {"id": 4, "image": "1.jpg", "conversations": talk("<image>", "A cat.")},
    ])  # fmt: skip
    found = [one for one in whole(llava.records(tmp_path)) if isinstance(one, Record)]
    assert [[(turn.text, turn.images) for turn in one.turns] for one in found] == [
        [("One", 1), ("1", 0), ("Two", 1), ("2", 0)],
        [("Hello", 0), ("Hi", 0), ("Both?", 2), ("Both.", 0)],
        [("Which?", 2), ("The left.", 0), ("Why?", 0), ("It is.", 0)],
        [("", 1), ("A cat.", 0)],
    ]  # fmt: skip


def test_llava_leaves_out_a_first_answer_and_system_messages(tmp_path: Path) -> None:
    messages = [
        {"from": "system", "value": "Be brief."},
        {"from": "assistant", "value": "How can I help?"},
        {"from": "user", "value": "What?"},
        {"from": "gpt", "value": "That."},
    ]
    put(tmp_path / "mine.json", [{"image": "1.jpg", "conversations": messages}])
    assert whole(llava.records(tmp_path)) == [
        Record("0", (human("What?", 1), gpt("That.")), (tmp_path / "1.jpg",)),
    ]


def test_llava_keys_are_distinct_where_ids_repeat_and_are_safe_in_tar_names(tmp_path: Path) -> None:
    entry = {"conversations": talk("a", "b")}
    put(tmp_path / "mine.json", [{"id": "x", **entry}, {"id": "x", **entry}, {"id": "a/b.c 图", **entry}, entry])
    assert [one.key for one in whole(llava.records(tmp_path))] == ["0-x", "1-x", "2-a_b_c_图", "3"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("text", "not an object"),
        ({"image": "/etc/passwd", "conversations": talk("a", "b")}, "image path leaves the folder"),
        ({"image": "x/../../y.jpg", "conversations": talk("a", "b")}, "image path leaves the folder"),
        ({"image": ["1.jpg", 2], "conversations": talk("a", "b")}, "an image is not a path"),
        ({"image": "1.jpg"}, "no question with an answer"),
        ({"image": "1.jpg", "conversations": []}, "no question with an answer"),
        ({"conversations": [{"from": "gpt", "value": "a"}]}, "no question with an answer"),
        ({"conversations": talk("a", "b", "c")}, "the last question has no answer"),
        ({"conversations": [*talk("a"), *talk("b")]}, "speakers do not alternate"),
        ({"conversations": [*talk("a"), {"from": "tool", "value": "b"}]}, "unknown speaker"),
        ({"conversations": [*talk("a"), {"from": "gpt", "value": None}]}, "a message has no speaker or no text"),
        ({"conversations": ["a", "b"]}, "a message is not an object"),
        ({"conversations": talk("a", " ")}, "empty message"),
        ({"conversations": talk("\n", "b")}, "empty message"),
        ({"conversations": talk("<image>\na", "b")}, "not as many images as <image>"),
        ({"image": "1.jpg", "conversations": talk("<image><image>a", "b")}, "not as many images as <image>"),
        ({"image": "1.jpg", "conversations": talk("a", "<image>b")}, "an answer holds an <image>"),
    ],
)
def test_llava_skips_what_is_no_conversation(tmp_path: Path, entry: object, reason: str) -> None:
    put(tmp_path / "mine.json", [entry])
    assert whole(llava.records(tmp_path)) == [Skipped("0", reason)]


def test_llava_takes_the_file_and_the_folder_that_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a.json", [])
    put(tmp_path / "b.json", [{"image": "1.jpg", "conversations": talk("a", "b")}])
    with pytest.raises(BadRaw, match=r"has a\.json, b\.json where one \.json is expected; name it with file="):
        list(llava.records(tmp_path))
    for images, place in (("pictures", tmp_path / "pictures"), ("/mnt/pictures", Path("/mnt/pictures"))):
        (found,) = whole(llava.records(tmp_path, file="b.json", images=images))
        assert isinstance(found, Record)
        assert found.images == (place / "1.jpg",)


def test_llava_without_json_or_with_damaged_json_says_which(tmp_path: Path) -> None:
    with pytest.raises(BadRaw, match=r"has no \.json where one \.json is expected"):
        list(llava.records(tmp_path))
    put(tmp_path / "mine.json", json.dumps([{"conversations": talk("a", "b")}] * 2)[:-9])
    with pytest.raises(BadRaw, match=r"mine\.json: damaged after 1 entries"):
        list(llava.records(tmp_path))


# JSON lines


def test_a_line_of_jsonl_is_what_its_keys_say(tmp_path: Path) -> None:
    parts = [{"type": "image", "index": 0}, {"type": "text", "text": "什么？"}]
    put(tmp_path / "b.jsonl", (
        {"id": "x", "image": "1.jpg", "conversations": talk("<image>\nWhat?", "A cat.")},
        {"images": ["1.jpg", "2.jpg"], "messages": [
            {"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>Same as <image>?"},
            {"role": "assistant", "content": "No."}]},
        {"images": ["1.jpg"], "messages": [
            {"role": "user", "content": parts}, {"role": "assistant", "content": [{"type": "text", "text": "猫"}]}]},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"image": "1.jpg", "text": "<image>\nA cat, 一只猫"},
        {"image": ["1.jpg"], "caption": "A cat"},
        {"text": "A document.\n\nOf two parts.\n"},
    ))  # fmt: skip
    one = tmp_path / "1.jpg"
    assert whole(jsonl.records(tmp_path)) == [
        Record("b/1-x", (human("What?", 1), gpt("A cat.")), (one,)),
        Record("b/2", (human("Same as ?", 2), gpt("No.")), (one, tmp_path / "2.jpg")),
        Record("b/3", (human("什么？", 1), gpt("猫")), (one,)),
        Record("b/4", (human("Hi"), gpt("Hello"))),
        caption("b/5", one, "A cat, 一只猫"),
        caption("b/6", one, "A cat"),
        Record("b/7", (gpt("A document.\n\nOf two parts.\n"),)),
    ]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ([], "not an object"),
        ({"image": "1.jpg", "answer": "x"}, "unknown keys"),
        ({"image": "1.jpg", "text": 3}, "the text is not a string"),
        ({"image": "1.jpg", "text": "<image>"}, "empty text"),
        ({"text": " "}, "empty text"),
        ({"caption": "A cat"}, "a caption without an image"),
        ({"image": None, "text": "A cat"}, "a caption without an image"),
        ({"image": "../1.jpg", "text": "A cat"}, "image path leaves the folder"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no question with an answer"),
    ],
)
def test_a_line_of_jsonl_that_is_nothing_known_is_skipped(tmp_path: Path, entry: object, reason: str) -> None:
    put(tmp_path / "a.jsonl", (entry,))
    assert whole(jsonl.records(tmp_path)) == [Skipped("a/1", reason)]


def test_jsonl_files_are_read_in_order_with_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("b", "a", "a/c", "a-1"):
        put(tmp_path / f"{name}.jsonl", ({"id": "1", "text": name}, {"id": "1", "text": name}))
    assert [one.key for one in whole(jsonl.records(tmp_path))] == [
        f"{name}/{line}-1" for name in ("a/c", "a-1", "a", "b") for line in (1, 2)
    ]
    assert [one.key for one in jsonl.records(tmp_path, file="a/c.jsonl")] == ["a/c/1-1", "a/c/2-1"]


def test_a_line_that_is_not_json_is_named_and_so_is_a_folder_without_lines(tmp_path: Path) -> None:
    with pytest.raises(BadRaw, match=r"holds no \.jsonl"):
        list(jsonl.records(tmp_path))
    put(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": \n')
    with pytest.raises(BadRaw, match=r"a\.jsonl: line 3 is not JSON"):
        list(jsonl.records(tmp_path))


# folders


def test_a_folder_gives_images_with_the_texts_beside_them(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/2.png", "a/1.webp", "a/1.png", "c.jpg", "e.jpg", "f.jpg", ".DS_Store", "notes.md"):
        put(tmp_path / name, b"")
    for name, text in {"b": ' A cat, "quoted".\n', "a/2": "\ufeff猫", "a/1": "dog", "d": "alone", "e": "\n"}.items():
        put(tmp_path / f"{name}.txt", text)
    put(tmp_path / "f.txt", "café".encode("latin-1"))
    assert whole(folder.records(tmp_path)) == [
        caption("b", tmp_path / "b.JPG", 'A cat, "quoted".'),
        Skipped("c", "an image without a text"),
        Skipped("d", "a text without an image"),
        Skipped("e", "empty text"),
        Skipped("f", "the text is not UTF-8"),
        caption("a/1", tmp_path / "a" / "1.png", "dog"),
        Skipped("a/1.webp", "a second image for one text"),
        caption("a/2", tmp_path / "a" / "2.png", "猫"),
    ]


def test_a_folder_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "notes.md", "x")
    with pytest.raises(BadRaw, match=r"holds no images \(jpg, .*\) and no \.txt"):
        list(folder.records(tmp_path))


# parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(file: Path, types: dict[str, pa.DataType], rows: list[tuple[Any, ...]], group: int = 2) -> Path:
    """Writes rows with `group` of them in a row group."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: pa.array([row[n] for row in rows], type=kind) for n, (name, kind) in enumerate(types.items())}
    pq.write_table(pa.table(columns), file, row_group_size=group)
    return file


def read(found: Iterable[Record | Skipped]) -> list[tuple[str, tuple[Turn, ...], list[bytes]]]:
    return [
        (one.key, one.turns, [image.read_bytes() for image in one.images])
        for one in whole(found)
        if isinstance(one, Record)
    ]


def test_parquet_images_are_read_lazily_from_their_row_group_also_after_pickling(tmp_path: Path) -> None:
    rows = [({"bytes": bytes([n]) * 1000, "path": f"{n}.jpg"}, f"caption {n}, 图") for n in range(7)]
    file = table(tmp_path / "data" / "train-00000-of-00001.parquet", {"image": IMAGE, "text": pa.string()}, rows)
    assert pq.ParquetFile(file).num_row_groups == 4
    found = whole(parquet.records(tmp_path))
    assert [one.key for one in found] == [f"data/train-00000-of-00001/{n}" for n in range(7)]
    copies = pickle.loads(pickle.dumps(found))
    assert copies == found
    for n in (6, 0, 3, 1, 2, 5, 4, 4):
        one = copies[n]
        assert one.turns == (Turn("assistant", f"caption {n}, 图", images=1),)
        assert one.images[0].read_bytes() == bytes([n]) * 1000


def test_parquet_takes_the_path_where_bytes_are_null(tmp_path: Path) -> None:
    put(tmp_path / "img" / "1.jpg", b"one")
    put(tmp_path / "elsewhere" / "img" / "1.jpg", b"another")
    rows: list[tuple[Any, ...]] = [
        ({"bytes": None, "path": "img/1.jpg"}, "a"),
        ({"bytes": b"two", "path": None}, "b"),
        ({"bytes": None, "path": "../1.jpg"}, "c"),
        ({"bytes": None, "path": None}, "d"),
        (None, "e"),
    ]
    table(tmp_path / "a.parquet", {"image": IMAGE, "caption": pa.string()}, rows)
    found = whole(parquet.records(tmp_path))
    first, second, outside, nothing = (one.images[0] for one in found[:4] if isinstance(one, Record))
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")
    with pytest.raises(OSError, match=r"a\.parquet: row 0 of row group 1, 'image': image path leaves the folder"):
        outside.read_bytes()
    with pytest.raises(OSError, match=r"row 1 of row group 1, 'image': no bytes and no path"):
        nothing.read_bytes()
    assert found[4] == Skipped("a/4", "a caption without an image")
    other = next(parquet.records(tmp_path, images="elsewhere"))
    assert isinstance(other, Record)
    assert other.images[0].read_bytes() == b"another"


def test_listing_parquet_reads_no_image(tmp_path: Path) -> None:
    """The bytes of the images are damaged on the disk, and nothing is noticed before they are asked for."""
    rows: list[tuple[Any, ...]] = [([{"bytes": b"\x07" * 50_000, "path": None}] * 2, ["a"]), ([], ["b"])]
    types = {"images": pa.list_(IMAGE), "texts": pa.list_(pa.string())}
    file = table(tmp_path / "a.parquet", types, rows)
    chunk = pq.ParquetFile(file).metadata.row_group(0).column(0)
    assert chunk.path_in_schema == "images.list.element.bytes"
    content = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)
    found = whole(parquet.records(tmp_path))
    assert [len(one.images) for one in found if isinstance(one, Record)] == [2]
    assert isinstance(found[0], Record)
    with pytest.raises(OSError, match=r"a\.parquet"):
        found[0].images[0].read_bytes()


def test_parquet_has_conversations_in_each_of_the_usual_forms(tmp_path: Path) -> None:
    message = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    rows: list[tuple[Any, ...]] = [
        (
            [{"bytes": b"1", "path": None}, {"bytes": b"2", "path": None}],
            talk("<image>One", "1", "<image>Two", "2"),
        ),
        ([], talk("Hi", "Hello")),
        (None, talk("Hi")),
    ]
    table(tmp_path / "a.parquet", {"images": pa.list_(IMAGE), "conversations": message}, rows)
    content = pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))
    roles = pa.list_(pa.struct([("role", pa.string()), ("content", content)]))
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image", "text": None}]},
        {"role": "assistant", "content": [{"type": "text", "text": "That."}]},
    ]
    table(tmp_path / "b.parquet", {"jpg": pa.binary(), "messages": roles}, [(b"3", parts)])
    exchange = pa.list_(pa.struct([("user", pa.string()), ("assistant", pa.string()), ("source", pa.string())]))
    asked = [{"user": f"{n}?", "assistant": f"{n}.", "source": "vqa"} for n in range(11)]
    table(tmp_path / "c.parquet", {"images": pa.list_(IMAGE), "texts": exchange}, [([{"bytes": b"4"}], asked)])
    assert read(parquet.records(tmp_path)) == [
        ("a/0", (human("One", 1), gpt("1"), human("Two", 1), gpt("2")), [b"1", b"2"]),
        ("a/1", (human("Hi"), gpt("Hello")), []),
        ("b/0", (human("What?", 1), gpt("That.")), [b"3"]),
        ("c/0", tuple(t for n in range(10) for t in (human(f"{n}?", n == 0), gpt(f"{n}."))), [b"4"]),
        ("c/0-1", (human("10?", 1), gpt("10.")), [b"4"]),
    ]


def test_parquet_columns_may_be_lists_of_bytes_or_paths_with_lists_of_captions_or_text_alone(tmp_path: Path) -> None:
    put(tmp_path / "1.jpg", b"one")
    several = {"images": pa.list_(pa.binary()), "caption": pa.list_(pa.string())}
    table(tmp_path / "a.parquet", several, [([b"1", b"2"], ["x", "y"])])
    table(tmp_path / "b.parquet", {"image": pa.string(), "text": pa.string()}, [("1.jpg", "x"), ("/1.jpg", "y")])
    table(tmp_path / "c.parquet", {"text": pa.string(), "url": pa.string()}, [("A document.\n", "u"), (None, "u")])
    both = (Turn("assistant", "x", images=2), Turn("assistant", "y", images=2))
    assert read(parquet.records(tmp_path)) == [
        ("a/0-0", both[:1], [b"1", b"2"]),
        ("a/0-1", both[1:], [b"1", b"2"]),
        ("b/0", (Turn("assistant", "x", images=1),), [b"one"]),
        ("c/0", (gpt("A document.\n"),), []),
    ]
    assert [one for one in parquet.records(tmp_path) if isinstance(one, Skipped)] == [
        Skipped("b/1", "image path leaves the folder"),
        Skipped("c/1", "the text is not a string"),
    ]


def test_parquet_columns_are_named_where_their_names_are_unusual_or_several_are_usual(tmp_path: Path) -> None:
    types = {"image": IMAGE, "picture": IMAGE, "text": pa.string(), "caption": pa.string(), "alt": pa.string()}
    table(tmp_path / "a.parquet", types, [({"bytes": b"1"}, {"bytes": b"2"}, "t", "c", "a")])
    columns = "has the columns image, picture, text, caption, alt; name one of them with"
    with pytest.raises(BadRaw, match=rf"a\.parquet {columns} text="):
        list(parquet.records(tmp_path))
    with pytest.raises(BadRaw, match=rf"a\.parquet {columns} image=, not 'photo'"):
        list(parquet.records(tmp_path, text="alt", image="photo"))
    assert read(parquet.records(tmp_path, text="alt", image="picture")) == [
        ("a/0", (Turn("assistant", "a", images=1),), [b"2"])
    ]


def test_parquet_without_texts_without_files_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadRaw, match=r"holds no \.parquet"):
        list(parquet.records(tmp_path))
    table(tmp_path / "a.parquet", {"image": IMAGE, "label": pa.int64()}, [({"bytes": b"1"}, 1)])
    with pytest.raises(BadRaw, match=r"a\.parquet has the columns image, label; name the one with the texts"):
        list(parquet.records(tmp_path))
    put(tmp_path / "a.parquet", "no parquet at all")
    with pytest.raises(BadRaw, match=r"a\.parquet can't be read as parquet"):
        list(parquet.records(tmp_path))


# all


@pytest.mark.parametrize(
    "source",
    [source for source in SOURCES if not hasattr(source, "jobs")],  # documents: test_documents
    ids=lambda source: source.__name__.rsplit(".", 1)[-1],
)
def test_an_empty_folder_is_refused_and_settings_are_strings_by_keyword(source: Any, tmp_path: Path) -> None:
    reader = getattr(source, "shards", None) or source.records
    with pytest.raises(BadRaw, match=str(tmp_path)):
        list(reader(tmp_path))
    _, *settings = inspect.signature(reader).parameters.values()
    assert all(setting.kind is setting.KEYWORD_ONLY and isinstance(setting.default, str) for setting in settings)
