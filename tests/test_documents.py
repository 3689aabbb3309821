"""Documents become rows of tokens: nothing lost or moved, whatever they come in and whatever happens on the way."""

from __future__ import annotations

import fcntl
import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TINY
from rows_case import Stored, expected_ids, stored, texts
from sources_case import put

from data import index, journal
from data.formats import FORMATS
from data.prepare import main, prepare
from data.raw import BadRaw
from data.rows import cut, kind, row_sample
from yivl.tokenizer import fingerprint, load_tokenizer, save_tokenizer

ROOT = Path(__file__).resolve().parent.parent
ROW = 64
SETTINGS = {"tokenizer": str(TINY), "row": str(ROW)}
LARGE = SETTINGS | {"row": "512", "megabytes": "1"}
DOCUMENTS = texts(60)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sixty documents in files of all kinds, in their order by path."""
    folder = tmp_path_factory.mktemp("raw")
    put(folder / "a.jsonl", tuple({"id": n, "text": text} for n, text in enumerate(DOCUMENTS[:15])))
    packed = "".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS[15:25]).encode()
    put(folder / "b" / "c.jsonl.gz", gzip.compress(packed[:900]) + gzip.compress(packed[900:]))
    with pa.output_stream(folder / "b" / "d.jsonl.zst", compression="zstd") as file:
        file.write("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS[25:35]).encode())
    put(folder / "e.md", DOCUMENTS[35])
    table = pa.table({"url": ["x"] * 23, "text": pa.array(DOCUMENTS[36:59]).dictionary_encode()})
    pq.write_table(table, folder / "f.parquet", row_group_size=5)
    put(folder / "g.txt", DOCUMENTS[59].encode("utf-8-sig"))
    put(folder / "picture.jpg", b"not a document")
    return folder


def read(out: Path, kind: str = "<u2") -> list[list[Stored]]:
    """The rows of each shard, after checking that each shard has its index."""
    found = []
    for shard in sorted(out.glob("*.tar")):
        found.append(stored(shard, kind))
        assert index.check(shard).samples == len(found[-1])
    return found


def assert_cut(rows: list[Stored], documents: list[list[int]], length: int) -> None:
    """The rows are these documents without a gap, and their segments begin where a row or a document does."""
    whole = [token for ids in documents for token in ids]
    assert [token for row in rows for token in row.ids] == whole[: len(whole) // length * length]
    begins = {0, *accumulate(map(len, documents))}
    for number, row in enumerate(rows):
        here = range(number * length, (number + 1) * length)
        assert row.record["starts"] == [at - here.start for at in here if at == here.start or at in begins]
        assert row.record["row"] == length


def test_rows_are_the_tokenised_documents_in_the_order_of_the_files(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["documents", str(raw), str(out), f"tokenizer={TINY}", f"row={ROW}", "--workers", "2"]) == 0
    (rows,) = read(out)
    documents = expected_ids(DOCUMENTS)
    assert_cut(rows, documents, ROW)
    assert {row.record["tokenizer"] for row in rows} == {fingerprint(load_tokenizer(TINY))}
    assert len({row.key for row in rows}) == len(rows)
    tokens = sum(map(len, documents))
    table = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["documents read", "60"] in table and ["rows written", f"{tokens // ROW:,}"] in table
    assert ["tokens in rows", f"{tokens // ROW * ROW:,}"] in table
    assert ["tokens that fill no row", str(tokens % ROW)] in table


def large(folder: Path) -> list[str]:
    """Two files of lines and one of tables, 4 MB together; their documents, in order."""
    documents = texts(6000, seed=1, longest=200)
    put(folder / "a.jsonl", tuple({"text": text} for text in documents[:3000]))
    put(folder / "b.jsonl", tuple({"text": text} for text in documents[3000:5000]))
    pq.write_table(pa.table({"text": documents[5000:]}), folder / "c.parquet", row_group_size=100)
    return documents


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Path]:
    """Raw files that make several shards, their documents, and the shards as one worker makes them."""
    folder = tmp_path_factory.mktemp("large")
    documents = large(folder / "raw")
    prepare("documents", folder / "raw", folder / "out", LARGE)
    return folder / "raw", documents, folder / "out"


def contents(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(out.glob("*.tar"))}


def test_shards_divide_the_documents_and_lose_less_than_a_row_each(
    divided: tuple[Path, list[str], Path],
) -> None:
    raw, documents, out = divided
    reports = prepare("documents", raw, out, LARGE)
    assert len(reports) == len(list(out.glob("*.tar"))) == -(-sum(f.stat().st_size for f in raw.iterdir()) // 10**6)
    assert sum(report.read for report in reports) == len(documents)
    ids, first = expected_ids(documents), 0
    for report, rows in zip(reports, read(out), strict=True):
        own = ids[first : first + report.read]
        first += report.read
        assert_cut(rows, own, 512)
        assert report.tokens == len(rows) * 512
        assert report.rest == sum(map(len, own)) - report.tokens < 512


def test_shards_are_the_same_for_any_number_of_workers(divided: tuple[Path, list[str], Path], tmp_path: Path) -> None:
    raw, _, out = divided
    prepare("documents", raw, tmp_path, LARGE, workers=2)
    assert contents(tmp_path) == contents(out)


def test_a_killed_preparation_goes_on_to_the_same_shards(divided: tuple[Path, list[str], Path], tmp_path: Path) -> None:
    raw, _, whole = divided
    command = [sys.executable, "-m", "data.prepare", "documents", str(raw), str(tmp_path),
               *(f"{key}={value}" for key, value in LARGE.items()), "--workers", "1"]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(tmp_path.glob("*.tar"))) < 2:
            time.sleep(0.002)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    with (tmp_path / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers end too
    done = (tmp_path / journal.JOURNAL).read_text().count('"stamp"')
    assert 1 <= done < len(contents(whole))
    before = {file: file.stat().st_mtime_ns for file in sorted(tmp_path.glob("*.tar"))[:done]}
    prepare("documents", raw, tmp_path, LARGE, workers=2)
    assert contents(tmp_path) == contents(whole)
    assert {file: file.stat().st_mtime_ns for file in before} == before  # what was done is not done again


def test_files_and_a_tokenizer_that_changed_halfway_are_noticed(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "a.jsonl", tuple({"text": text} for text in texts(30)))
    shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("vit", "*.safetensors", "*.png"))
    settings = SETTINGS | {"tokenizer": str(tmp_path / "model")}

    def halfway() -> None:
        file = tmp_path / "out" / journal.JOURNAL
        file.write_bytes(b"".join(line for line in file.read_bytes().splitlines(True) if b"complete" not in line))

    prepare("documents", tmp_path / "raw", tmp_path / "out", settings)
    halfway()
    prepare("documents", tmp_path / "raw", tmp_path / "out", settings)
    halfway()
    with (tmp_path / "raw" / "a.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(journal.NotPrepared, match="the raw files changed since"):
        prepare("documents", tmp_path / "raw", tmp_path / "out", settings)
    put(tmp_path / "raw" / "a.jsonl", tuple({"text": text} for text in texts(30)))
    tokenizer = load_tokenizer(tmp_path / "model")
    tokenizer.add_tokens(["<new>"])
    (tmp_path / "model" / "tokenizer.model").unlink()
    tokenizer.save_pretrained(str(tmp_path / "model"))
    with pytest.raises(journal.NotPrepared, match=r"shard 0 had .*, tokenizer .*, and would now have"):
        prepare("documents", tmp_path / "raw", tmp_path / "out", settings)


def test_what_is_no_document_is_left_out_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = texts(4)
    lines = [
        json.dumps({"body": good[0]}).encode(),
        b"{",
        b"[" * 100_000,
        b'["a list"]',
        b'{"text": "another field"}',
        b'{"body": 7}',
        b'{"body": null}',
        b"",
        *[b'{"body": " \\n\\u3000"}'] * 30,
        '{"body": "naïve"}'.encode("latin-1"),
        b'{"body": "half a pair: \\ud83d"}',
        b'{"body": "' + b"a" * 17 * 2**20 + b'"}',
        json.dumps({"body": good[1]}).encode(),
    ]
    put(tmp_path / "raw" / "a.jsonl", b"\n".join(lines))
    put(tmp_path / "raw" / "b.md", "ungünstig".encode("latin-1"))
    put(tmp_path / "raw" / "c.txt", b"")
    pq.write_table(pa.table({"body": [None, good[2], "  "]}), tmp_path / "raw" / "0.parquet")
    binary = pa.array([b"\xff\xfe bytes", b"good bytes"])
    damaged = pa.StringArray.from_buffers(2, *binary.buffers()[1:])
    pq.write_table(pa.table({"body": damaged}), tmp_path / "raw" / "e.parquet")
    put(tmp_path / "raw" / "f.txt", good[3])
    out = tmp_path / "out"
    settings = [f"{key}={value}" for key, value in (SETTINGS | {"text": "body", "row": "8"}).items()]
    assert main(["documents", str(tmp_path / "raw"), str(out), *settings]) == 0
    told = (line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()[:-1])
    table = {name.strip(): int(count.replace(",", "")) for name, count in told}
    skipped = {name.removeprefix("skipped: "): count for name, count in table.items() if "skipped" in name}
    assert skipped == {
        "empty": 32, "not JSON": 2, "no 'body'": 2, "not a text": 3, "not UTF-8": 3, "text is not Unicode": 1,
        "longer than 16 MiB": 1,
    }  # fmt: skip
    assert table["documents read"] == sum(skipped.values()) + 5
    assert_cut(read(out)[0], expected_ids([good[2], good[0], good[1], "good bytes", good[3]]), 8)
    named = (out / journal.JOURNAL).read_text()
    at = len(lines[0]) + 1
    assert f'["a.jsonl@{at}", "not JSON", ""]' in named
    assert '["0.parquet, row 0 of row group 0", "not a text", ""]' in named


def test_a_line_belongs_to_the_stretch_it_begins_in_however_long_it_is(tmp_path: Path) -> None:
    """A MiB of a file is not divided: here are borders between lines, within one, and within one of several MiB."""
    documents = ["x" * (2**20 - 13), "y" * 10, "z" * (9 * 2**18), "short", "u" * 2**18, "end"]
    put(tmp_path / "raw.jsonl", tuple({"text": text} for text in documents))
    reports = prepare("documents", tmp_path / "raw.jsonl", tmp_path / "out", LARGE)
    assert len(reports) == 4 and sum(report.read for report in reports) == len(documents)
    assert sum(report.tokens + report.rest for report in reports) == sum(map(len, expected_ids(documents)))


def test_no_document_can_say_a_special_token(tmp_path: Path) -> None:
    told = ["before <|endoftext|> after </s> <|startoftext|><unk>", "as it is in code about language models"] * 9
    put(tmp_path / "raw.jsonl", tuple({"text": text} for text in told))
    prepare("documents", tmp_path / "raw.jsonl", tmp_path / "out", SETTINGS | {"row": "2"})
    tokenizer = load_tokenizer(TINY)
    ids = [token for row in read(tmp_path / "out")[0] for token in row.ids]
    assert ids.count(tokenizer.eos_token_id) in (17, 18) and not {0, 1} & set(ids)
    assert tokenizer.decode(ids[: ids.index(2)]) == told[0]


def test_what_cannot_be_prepared_is_told_before_anything_is_written(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for settings, message in (
        ({}, "documents needs tokenizer= and row="),
        (SETTINGS | {"row": "1"}, "row is '1'; a whole number, at least 2"),
        (SETTINGS | {"row": "4k"}, "row is '4k'; a whole number"),
        (SETTINGS | {"megabytes": "0"}, "megabytes is '0'; a whole number, at least 1"),
        (SETTINGS | {"rows": "4"}, "documents has no setting 'rows'; it has tokenizer, row, text, megabytes"),
        (SETTINGS | {"tokenizer": str(tmp_path / "no")}, "no can't be used: no tokenizer folder"),
    ):
        with pytest.raises(journal.NotPrepared, match=message):
            prepare("documents", raw, out, settings)
    with pytest.raises(journal.NotPrepared, match="--per-shard counts records"):
        prepare("documents", raw, out, SETTINGS, per_shard=5)
    put(tmp_path / "pictures" / "a.jpg", b"x")
    with pytest.raises(BadRaw, match=r"holds no \.jsonl, \.jsonl\.gz, \.jsonl\.zst, \.parquet, \.txt, \.md"):
        prepare("documents", tmp_path / "pictures", out, SETTINGS)
    with pytest.raises(journal.NotPrepared, match="no folder"):
        prepare("documents", tmp_path / "nowhere", out, SETTINGS)
    with pytest.raises(journal.NotPrepared, match="no folder"):
        prepare("llava", raw / "a.jsonl", out)
    assert not out.exists()


def test_damaged_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts(50)).encode()
    table = pa.table({"body": texts(50)})
    pq.write_table(table, tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for name, content, message in (
        ("cut.jsonl.gz", gzip.compress(lines)[:-500], "damaged after byte"),
        ("cut.parquet", whole[:-100], "can't be read as parquet"),
        ("other.parquet", whole, "has the columns body; name that of the documents with text="),
    ):
        raw = put(tmp_path / "raw" / name, content)
        settings = [f"{key}={value}" for key, value in SETTINGS.items()]
        assert main(["documents", str(raw), str(tmp_path / f"out-{name}"), *settings, "--workers", "1"]) == 1
        told = capsys.readouterr().err
        assert str(raw) in told and message in told and "Traceback" not in told


def test_documents_too_few_for_a_row_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = put(tmp_path / "raw.txt", "a few words")
    assert main(["documents", str(raw), str(tmp_path / "out"), f"tokenizer={TINY}", "row=4096"]) == 1
    assert "rows written                       0" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*.tar"))


def test_a_larger_vocabulary_takes_four_bytes_a_token() -> None:
    assert [kind(vocabulary).itemsize for vocabulary in (2400, 64_000, 65_536, 65_537, 250_000)] == [2, 2, 2, 4, 4]
    ((ids, starts),) = cut([[70_000, 2], [65_536, 1, 2]], 4, kind(70_001))
    sample = row_sample("k", ids, starts, "f")
    row = FORMATS["tokens"]({name: sample[name] for name in ("ids", "json")}, "s", "k")
    assert (row.ids.tolist(), row.starts) == ([70_000, 2, 65_536, 1], (0, 2))
    assert np.frombuffer(sample["ids"], "<u4").tolist() == row.ids.tolist()


def test_a_fingerprint_is_the_tokenizers_and_not_its_files(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TINY)
    told = fingerprint(tokenizer)
    save_tokenizer(tokenizer, tmp_path / "both")
    assert fingerprint(load_tokenizer(tmp_path / "both")) == told
    (tmp_path / "both" / "tokenizer.model").unlink()
    assert fingerprint(load_tokenizer(tmp_path / "both")) == told  # of a tokenizer.json
    tokenizer("padded to 9", padding="max_length", max_length=9, truncation=True)
    assert fingerprint(tokenizer) == told  # how it was used last does not show
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["model"]["merges"] = backend["model"]["merges"][::-1]
    for change in ("merges", "token"):
        other = load_tokenizer(TINY)
        if change == "merges":
            other._tokenizer = type(other.backend_tokenizer).from_str(json.dumps(backend))
            assert other.get_vocab() == tokenizer.get_vocab()
        else:
            other.add_tokens(["<new>"])
        assert fingerprint(other) != told


def test_shards_among_the_documents_are_refused_and_a_readme_is_no_document(tmp_path: Path) -> None:
    put(tmp_path / "raw" / "a.jsonl", ({"text": "one two three " * 40},))
    (tmp_path / "raw" / "README.md").write_text("Not a document. " * 400)
    settings = {"tokenizer": str(TINY), "row": "16"}
    with pytest.raises(journal.NotPrepared, match="write the shards elsewhere"):
        prepare("documents", tmp_path / "raw", tmp_path / "raw" / "out", settings)
    (report,) = prepare("documents", tmp_path / "raw", tmp_path / "out", settings)
    assert report.read == 1
