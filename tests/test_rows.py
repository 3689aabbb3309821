"""Rows of documents in training: documents don't see each other, weights are exact, what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from page_case import Page
from rows_case import mixture, mixture_of, samples_of, shards_of, stored, texts

from data.formats import FORMATS, BadSample
from data.inspect import main as inspect
from data.loader import BrokenSource, Loader, Samples, Task
from data.order import Place
from data.packing import pack
from data.rows import row_sample
from data.shards import write_shards
from data.validate import Job, validate
from data.validate import main as validate_all
from stages.planning.flops import work_of
from stages.stage import Stage
from stages.train import train
from yivl import YiVL
from yivl.conversation import Conversation, Turn
from yivl.encoder import IGNORE, Example
from yivl.settings import read
from yivl.tokenizer import fingerprint, load_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of rows of 64 tokens below `shards`: some 90 rows of long documents, some 30 of short ones."""
    folder = tmp_path_factory.mktemp("rows")
    shards_of(folder, "long", texts(20, longest=120))
    shards_of(folder, "short", texts(90, seed=1, longest=8))
    return folder


def examples_of(samples: Samples, count: int, source: int = 0) -> list[Example]:
    items = [samples[Task(number, Place(source, 0, number))] for number in range(count)]
    return [item.example for item in items if item.example]


# Packing


def test_a_packed_row_gives_the_logits_of_its_documents_alone(folder: Path, tmp_path: Path, tiny: YiVL) -> None:
    samples = samples_of(folder, mixture(tmp_path, {"short": {}, "long": {}}))
    talk = Conversation(turns=(Turn("human", "What is it?"), Turn("assistant", "A cat.")), key="k")
    examples = [*examples_of(samples, 2), samples.encoder.encode(talk), *examples_of(samples, 2, source=1)]
    batch = pack(examples)
    assert batch.sample_bounds == (0, 64, 128, 128 + len(examples[2].input_ids), *(batch.tokens - n for n in (64, 0)))
    assert len(batch.bounds) > 12
    with torch.no_grad():
        packed = tiny.model(
            batch.input_ids[None], batch.pixels, position_ids=batch.position_ids[None], bounds=batch.bounds
        ).logits[0]
        at = 0
        documents = [ids for example in examples for ids in np.split(example.input_ids, example.starts[1:])]
        for ids in documents:
            alone = tiny.model(torch.from_numpy(ids)[None]).logits[0]
            assert torch.allclose(packed[at : at + len(ids)], alone, atol=1e-6)
            at += len(ids)
    assert at == batch.tokens


def test_every_token_of_a_row_is_learned_but_the_first_of_each_document(folder: Path, tmp_path: Path) -> None:
    samples = samples_of(folder, mixture(tmp_path, {"short": {}, "long": {}}))
    rows = stored(folder / "shards" / "short" / "00000.tar")[:3]
    batch = pack(examples_of(samples, 3))
    assert batch.input_ids.tolist() == [token for row in rows for token in row.ids]
    firsts = [64 * number + start for number, row in enumerate(rows) for start in row.record["starts"]]
    expected = [IGNORE if at in firsts else token for at, token in enumerate(batch.input_ids.tolist())]
    assert batch.labels.tolist() == expected and list(batch.bounds) == [*firsts, 192]
    assert [at for at, position in enumerate(batch.position_ids.tolist()) if position == 0] == firsts
    assert batch.supervised_each == [64 - len(row.record["starts"]) for row in rows]
    assert batch.keys == tuple(f"short/{row.key}" for row in rows) and batch.sources == ("short",) * 3
    work = work_of([batch])
    assert work.tokens == 192 and work.supervised == sum(batch.supervised_each)
    assert work.squares == sum((end - start) ** 2 for start, end in zip(firsts, [*firsts[1:], 192], strict=True))


def test_an_example_checks_its_segments() -> None:
    ids = np.arange(4)
    pixels = np.zeros((0, 3, 2, 2), dtype=np.uint8)
    for starts in ((1,), (0, 0), (0, 3, 2), (0, 4), ()):
        with pytest.raises(ValueError, match="segments begin at"):
            Example(input_ids=ids, labels=ids, pixels=pixels, starts=starts)
    good = pack([Example(input_ids=ids, labels=ids, pixels=pixels, starts=(0, 3))])
    assert good.labels.tolist() == [IGNORE, 1, 2, IGNORE]
    with pytest.raises(ValueError, match=r"samples are bounded at \(0, 2, 4\), segments at \(0, 3, 4\)"):
        replace(good, sample_bounds=(0, 2, 4))


# Loading


def test_rows_are_loaded_alike_by_any_number_of_ranks_and_workers(folder: Path, tmp_path: Path) -> None:
    mix = mixture(tmp_path, {"long": {"weight": 1}, "short": {"weight": 2}}, tokens=64 * 300)

    def steps(ranks: int, workers: int) -> list[list[tuple[str, list[int]]]]:
        found: list[list[tuple[str, list[int]]]] = [[] for _ in range(30)]
        for rank in range(ranks):
            loader = Loader(
                samples_of(folder, mix), global_batch=10, tokens_per_micro_batch=200, epochs=1, rank=rank, ranks=ranks,
                workers=workers,
            )  # fmt: skip
            for number, step in enumerate(loader.steps()):
                for batch in step.batches:
                    assert batch.tokens <= 200
                    parts = batch.input_ids.split(64)
                    found[number] += [(key, ids.tolist()) for key, ids in zip(batch.keys, parts, strict=True)]
        return [sorted(step) for step in found]

    one = steps(1, 0)
    assert all(len(step) == 10 for step in one) and steps(3, 0) == one == steps(1, 2)
    stored_rows = {
        f"{name}/{row.key}": row.ids
        for name in ("long", "short")
        for row in stored(folder / "shards" / name / "00000.tar")
    }
    assert all(stored_rows[key] == ids for step in one for key, ids in step)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            {"row": 32},
            r"its rows have 64 tokens; its entry in the catalogue says row: 32 ",
        ),
        (
            {"max_length": 63},
            "its rows have 64 tokens, more than the 63 allowed: raise max_l",
        ),
        (
            {"token": "<new>"},
            r"its rows were tokenised with another tokenizer \(fingerprint",
        ),
    ],
)
def test_rows_that_are_not_for_this_model_end_the_run_at_once(
    folder: Path, tmp_path: Path, odd: dict[str, Any], message: str, workers: int
) -> None:
    mix = mixture(tmp_path, {"long": {}}, row=odd.get("row", 64))
    samples = samples_of(folder, mix, odd.get("max_length"))
    if "token" in odd:
        samples.encoder.tokenizer.add_tokens([odd["token"]])
    loader = Loader(samples, global_batch=4, tokens_per_micro_batch=64, epochs=1, workers=workers)
    with pytest.raises(BrokenSource, match=f"source 'long' can't be used: {message}") as raised:
        next(loader.steps())
    (broken,) = raised.value.broken  # not one of twenty
    assert broken.shard == "long/00000.tar" and broken.key in str(raised.value)


def test_a_damaged_row_is_replaced_and_told_of(tmp_path: Path) -> None:
    told, ids = fingerprint(load_tokenizer(TINY)), np.arange(300, 308, dtype="<u2")
    rows = [row_sample(f"{number}", ids, [0, 3], told) for number in range(6)]
    rows[1]["ids"] = np.full(8, 2400, dtype="<u2").tobytes()  # the vocabulary has 2400
    rows[4]["ids"] = rows[4]["ids"][:-3]
    write_shards(tmp_path / "shards" / "some", rows)
    samples = samples_of(tmp_path, mixture(tmp_path, {"some": {}}, row=8))
    step = next(Loader(samples, global_batch=6, tokens_per_micro_batch=64, epochs=1).steps())
    assert sum(len(batch.keys) for batch in step.batches) == 6
    reasons = {broken.key: broken.reason for broken in step.broken}
    assert reasons == {
        "1": "it holds the token 2400; the vocabulary has 2400", "4": "its ids are 13 bytes, which are not 8 tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "ids", "message"),
    [
        ({"row": 4, "starts": [0], "tokenizer": "f"}, None, "it has no ids member, only json"),
        ({"row": 4, "starts": [0]}, 8, "no readable 'row', 'starts' and 'tokenizer'"),
        ([4], 8, "no readable 'row', 'starts' and 'tokenizer'"),
        ({"row": 4, "starts": 0, "tokenizer": "f"}, 8, "no readable"),
        ({"row": 4, "starts": [], "tokenizer": "f"}, 8, "does not tell of segments"),
        ({"row": 4, "starts": [1], "tokenizer": "f"}, 8, "does not tell of segments"),
        ({"row": 4, "starts": [0, 2, 2], "tokenizer": "f"}, 8, "does not tell of segments"),
        ({"row": 4, "starts": [0, 4], "tokenizer": "f"}, 8, "does not tell of segments"),
        ({"row": "4", "starts": [0], "tokenizer": "f"}, 8, "does not tell of segments"),
        ({"row": True, "starts": [0], "tokenizer": "f"}, 2, "does not tell of segments"),
        ({"row": 4, "starts": [0.0], "tokenizer": "f"}, 8, "does not tell of segments"),
        ({"row": 4, "starts": [0], "tokenizer": "f"}, 7, "its ids are 7 bytes, which are not 4 tokens"),
    ],
)
def test_unreadable_rows_say_why(record: object, ids: int | None, message: str) -> None:
    members = {"json": json.dumps(record).encode()} | ({} if ids is None else {"ids": bytes(ids)})
    with pytest.raises(BadSample, match=message):
        FORMATS["tokens"](members, "source", "key")


def test_a_stage_trains_on_rows_and_looks_at_held_out_ones(
    folder: Path, tmp_path: Path, stage_file: Callable[..., Path]
) -> None:
    shards_of(folder, "unseen", texts(30, seed=2, longest=40))
    (tmp_path / "held").mkdir()
    held_out = mixture_of(tmp_path / "held", {"unseen": {}})
    stage = stage_file(
        data=str(folder / "shards"), learning_rate={"language": 1e-3}, mixture="weighted/mixture.yaml", global_batch=20,
        tokens_per_micro_batch=200, held_out=str(held_out), held_out_samples=4, run=str(tmp_path / "run"),
    )  # fmt: skip
    (tmp_path / "weighted").mkdir()
    mixture_of(tmp_path / "weighted", {"long": {"weight": 1}, "short": {"weight": 3}}, tokens=64 * 120)
    train(read(Stage, stage))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in log] == [20 * 64] * 6
    short = stored(folder / "shards" / "short" / "00000.tar")
    assert len(short) < 90  # so some rows come more than once
    assert all(0 < line["supervised"] < line["tokens"] - 20 for line in log)
    looks = [json.loads(line) for line in (tmp_path / "run" / "held_out.jsonl").read_text().splitlines()]
    assert set(looks[-1]["losses"]) == {"unseen"} and looks[-1]["losses"]["unseen"] < looks[0]["losses"]["unseen"]


# Looking


def test_inspect_shows_the_documents_of_a_row_apart(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = mixture_of(tmp_path, {"short": {"weight": 1}}, tokens=64 * 100)
    page = tmp_path / "page.html"
    options = ["--data", str(folder / "shards"), "--tokenizer", str(TINY), "--workers", "0", "--out", str(page)]
    assert inspect([str(file), *options, "--pictures", "2"]) == 0
    counts = capsys.readouterr().out.split("\n\n")[0]
    rows = stored(folder / "shards" / "short" / "00000.tar")
    expected = ["short", str(len(rows)), "–", "100", "6,400", "100.0%", f"{100 / len(rows):.2f}"]
    assert expected in [line.split() for line in counts.splitlines()]
    told = Page(page.read_text())
    for row in rows:
        if row.key not in told.text:
            continue
        tokenizer = load_tokenizer(TINY)
        ends = [*row.record["starts"][1:], 64]
        for number, (start, end) in enumerate(zip(row.record["starts"], ends, strict=True), 1):
            text = tokenizer.decode(row.ids[start:end], clean_up_tokenization_spaces=False)
            assert text in told.text and (number == 1 or f"‹document {number}›" in told.text)
    assert sum(row.key in told.text for row in rows) == 2


def test_validate_reads_every_row(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = mixture_of(tmp_path, {"long": {}, "short": {}})
    assert validate_all(["--mixture", str(file), "--data", str(folder / "shards"), "--workers", "1"]) == 0
    capsys.readouterr()
    assert validate_all(
        ["--mixture", str(mixture_of(tmp_path, {"long": {}}, row=32)), "--data", str(folder / "shards")]
    )
    assert "format: it has 64 tokens, not 32" in capsys.readouterr().out
    ids = np.arange(8, dtype="<u2")
    rows = [row_sample("0", ids, [0], "one"), row_sample("1", ids, [0], "other"), row_sample("2", ids[:4], [0], "one")]
    (shard,) = write_shards(tmp_path / "odd", rows)
    assert [(one.key, one.kind, one.reason) for one in validate(Job("s", shard, "tokens")).broken] == [
        ("1", "format", "its tokenizer has the fingerprint other, that of 0 has one"),
        ("2", "format", "it has 4 tokens, not 8"),
    ]
