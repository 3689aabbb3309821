"""Needle in a haystack: exact lengths and depths, needles nobody can guess, a grid that shows what a model does."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from needle_case import TOKEN, Finder, files, grid, run
from PIL import Image
from processes import ROOT, wait_until

from eval.benchmark import BadData
from eval.needle.__main__ import doubling
from eval.needle.grid import Cell
from eval.needle.haystack import Haystack, built_in, from_folder, split
from eval.needle.languages import CHINESE, ENGLISH, Language
from eval.needle.model import FolderReader
from eval.needle.prompt import ANSWER_TOKENS, build, draw
from eval.needle.report import recall
from eval.needle.run import measure

LANGUAGE = pytest.mark.parametrize("language", [ENGLISH, CHINESE], ids=lambda language: language.name)


# ------------------------------------------------------------------ lengths, depths, needles


@LANGUAGE
@pytest.mark.parametrize("needles", [1, 4])
@pytest.mark.parametrize("length", [700, 999, 2048, 4096])
@pytest.mark.parametrize("form", ["chat", "completion"])
def test_a_prompt_takes_the_length_within_a_sentence_and_never_more(
    language: Language, needles: int, length: int, form: str
) -> None:
    reader, haystack, cell = FolderReader(TINY, form=form), built_in(language), Cell(length, 30)
    counter = sentencepiece.SentencePieceProcessor(model_file=str(TINY / "tokenizer.model"))
    text = build(reader, haystack, cell, draw(haystack, cell, needles, 0), 0)
    total = len(counter.encode(text)) + ANSWER_TOKENS
    sentence = max(len(counter.encode(one)) for one in haystack.sentences[:500])
    assert length - sentence < total <= length


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30),
    room=st.integers(170, 900),
    depth=st.floats(0, 100),
)
def test_lengths_hold_for_sentences_of_any_lengths(lengths: list[int], room: int, depth: float) -> None:
    sentences = tuple(" ".join(["word"] * (count - 1) + ["end. "]) for count in lengths)
    haystack, cell, reader = Haystack(ENGLISH, "words", sentences), Cell(room, depth), Finder()
    needles = draw(haystack, cell, 2, 0)
    fixed = reader.length(reader.frame(ENGLISH.before + ENGLISH.after, ENGLISH.start)) + ANSWER_TOKENS
    fixed += (
        2 * (len(TOKEN.findall(ENGLISH.needle)) + 1) + 2
    )  # every key has two words, in two needles and two questions
    total = reader.length(build(reader, haystack, cell, needles, 0)) + ANSWER_TOKENS
    expected, count = fixed, 0
    while expected + lengths[count % len(lengths)] <= room:
        expected += lengths[count % len(lengths)]
        count += 1
    assert total == expected


@LANGUAGE
def test_depths_are_in_order_and_0_is_before_and_100_behind_everything(language: Language) -> None:
    haystack, found = built_in(language), []
    for depth in range(0, 101, 5):
        cell = Cell(1500, depth)
        needles = draw(haystack, cell, 3, 0)
        whole = build(Finder(), haystack, cell, needles, 0)
        body = whole[whole.index(language.before) + len(language.before) : whole.index(language.after[:4])]
        hidden = language.hidden(*needles[0]).rstrip()
        before, after = body.split(hidden)
        assert all(body.count(language.hidden(*needle).rstrip()) == 1 for needle in needles)
        share = len(before) / (len(before) + len(after))
        nearest = max(map(len, [hidden, *haystack.sentences])) / 2 + 1
        assert abs(share - depth / 100) * (len(before) + len(after)) <= nearest
        assert (before == "") == (depth == 0) and (after.strip() == "") == (depth == 100)
        found.append(share)
    assert found == sorted(found)


@LANGUAGE
def test_needles_differ_and_are_not_in_the_haystack(language: Language) -> None:
    haystack = built_in(language)
    drawn = [needle for cell in grid(samples=20).cells for needle in draw(haystack, cell, 6, seed=1)[:1]]
    assert len({needle.value for needle in drawn}) == len(drawn) == 300
    assert len({needle.key for needle in drawn}) > 150
    needles = draw(haystack, Cell(500, 50), 256, seed=1)
    assert len({needle.key for needle in needles}) == len({needle.value for needle in needles}) == 256
    assert all(re.fullmatch(r"[1-9]\d{6}", needle.value) for needle in needles)
    assert not any(needle.value in haystack.text for needle in needles)
    assert not any(key in haystack.text for key in language.keys)
    assert len(set(language.keys)) == 256


def test_a_key_that_the_haystack_has_is_not_drawn() -> None:
    *known, free = ENGLISH.keys
    haystack = Haystack(ENGLISH, "keys", tuple(f"Here is the {key}. " for key in known))
    assert [needle.key for needle in draw(haystack, Cell(100, 0), 1, 0)] == [free]
    with pytest.raises(ValueError, match="2 needles, but there are only 1 keys that the haystack does not have"):
        draw(haystack, Cell(100, 0), 2, 0)


def test_a_number_that_the_haystack_has_is_not_drawn() -> None:
    plain = draw(Haystack(ENGLISH, "plain", ("Nothing. ",)), Cell(100, 0), 1, 0)[0]
    numbered = draw(Haystack(ENGLISH, "numbered", (f"It is 1{plain.value}2. ",)), Cell(100, 0), 1, 0)[0]
    assert numbered.key == plain.key and numbered.value != plain.value


def test_needles_change_with_the_seed_and_the_cell_but_not_with_the_grid() -> None:
    haystack = built_in(ENGLISH)
    drawn = {draw(haystack, cell, 1, seed)[0].value for cell in grid(samples=2).cells for seed in range(5)}
    assert len(drawn) == 2 * 15 * 5
    assert draw(haystack, Cell(400, 50), 4, 0) == draw(haystack, Cell(400, 50.0), 4, 0)
    assert draw(haystack, Cell(400, 50), 4, 0)[0] != draw(built_in(CHINESE), Cell(400, 50), 4, 0)[0]


# ------------------------------------------------------------------ haystacks


@given(st.text(alphabet="ab .!?。！？”\n3", max_size=60))
def test_sentences_joined_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


def test_sentences_end_at_full_stops_of_either_language_and_at_lines() -> None:
    assert split('It is 3.14. "Yes!" he said.\nNext line\n\n他说：“对。”然后走了！Oh? End') == [
        "It is 3.14. ", '"Yes!" ', "he said.\n", "Next line\n\n", "他说：“对。”", "然后走了！", "Oh? ", "End"
    ]  # fmt: skip


def test_a_folder_is_read_by_name_and_by_language(tmp_path: Path) -> None:
    for name, text in {
        "b.txt": "Second. One.",
        "a.txt": "\ufeffFirst.\n",
        "c.md": "no",
        "zh/x.txt": "只有中文。",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert from_folder(tmp_path, ENGLISH).sentences == ("First.\n", "Second. ", "One.\n")
    assert from_folder(tmp_path, CHINESE).sentences == ("只有中文。\n",)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no \.txt file in .*nothing"):
        from_folder(tmp_path / "nothing", ENGLISH)
    (tmp_path / "a.txt").write_bytes("Größe".encode("latin-1"))
    with pytest.raises(BadData, match=r"a\.txt: not UTF-8 text: .* position 2"):
        from_folder(tmp_path, ENGLISH)
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(BadData, match=r"a\.txt is empty"):
        from_folder(tmp_path, ENGLISH)


def test_a_short_haystack_begins_anew() -> None:
    assert Haystack(ENGLISH, "", ("a", "b", "c")).take(7) == ["a", "b", "c", "a", "b", "c", "a"]


@LANGUAGE
def test_built_in_sentences_are_all_different_and_have_no_digits(language: Language) -> None:
    haystack = built_in(language)
    assert len(set(haystack.sentences)) == len(haystack.sentences) == 12**4
    assert not re.search(r"\d", haystack.text)


# ------------------------------------------------------------------ what comes out


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        (" 1234567.", 1.0),
        ("The number is **1234567**", 1.0),
        ("7654321, no, 1234567", 1.0),
        ("是1234567。", 1.0),
        ("1,234,567", 0.0),
        ("12345678", 0.0),
        ("91234567", 0.0),
        ("123456", 0.0),
        ("", 0.0),
    ],
)
def test_recall_is_the_whole_number_in_the_reply(reply: str, found: float) -> None:
    assert recall(reply, "1234567") == found


@LANGUAGE
@pytest.mark.parametrize("needles", [1, 5])
def test_a_model_that_finds_everything_is_green_everywhere(language: Language, needles: int, tmp_path: Path) -> None:
    result = run(tmp_path, language=language, needles=needles, samples=2)
    assert set(result.by_place.values()) == {1.0} and len(result.by_place) == 15
    assert (result.mean, result.effective_length) == (1.0, 900)


@LANGUAGE
def test_a_model_that_sees_the_end_alone_is_red_where_the_needle_is_further_away(
    language: Language, tmp_path: Path
) -> None:
    result = run(tmp_path, Finder(span=280), language)
    # Behind the haystack stand 26 tokens in English and 40 in Chinese, before it about as many, the answer has 32:
    # of 900 it has some 800, of which the model sees the last 240 or 254.
    assert result.row(300) == [1, 1, 1, 1, 1]
    assert result.row(500) == [0, 0, 1, 1, 1]
    assert result.row(900) == [0, 0, 0, 1, 1]
    assert result.effective_length == 300


def test_the_effective_length_ends_at_the_first_that_is_too_low(tmp_path: Path) -> None:
    class Moody(Finder):
        def complete(self, prompt: str, max_new_tokens: int) -> str:
            found = super().complete(prompt, max_new_tokens)
            return "no" if 300 < self.length(prompt) < 500 else found

    result = run(tmp_path, Moody())
    assert list(result.by_length.values()) == [1, 0, 1]
    assert result.effective_length == 300
    assert run(tmp_path / "blind", Finder(span=1)).effective_length is None


def test_files_of_a_run(tmp_path: Path) -> None:
    result = run(tmp_path, Finder(span=280))
    rows = list(csv.reader(io.StringIO((tmp_path / "recall.csv").read_text())))
    assert rows[0] == ["depth", "300", "500", "900"]
    assert [row[0] for row in rows[1:]] == ["0", "25", "50", "75", "100"]
    assert [float(row[3]) for row in rows[1:]] == [0, 0, 0, 1, 1]
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 15
    assert all((answer["value"] in answer["reply"]) == bool(answer["recall"]) for answer in answers)
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["recall"]["by_length_and_depth"]["900"] == [0, 0, 0, 1, 1]
    assert record["effective_length"] == {"tokens": 300, "threshold": 0.856}
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    assert (record["language"], record["form"], record["model"]) == ("en", "completion", "finder")
    assert result.text == (tmp_path / "table.md").read_text()
    assert "| 900    |  40.0 |   0.0 |   0.0 |   0.0 | 100.0 | 100.0 |" in result.text
    assert "mean 66.7" in result.text and "Effective length: 300 tokens" in result.text


def test_the_heatmap_is_green_or_red_as_the_cells_are(tmp_path: Path) -> None:
    def share(out: Path, colour: tuple[int, int, int]) -> float:
        pixels = np.asarray(Image.open(out / "heatmap.png").convert("RGB"), dtype=int)  # [height, width, 3]
        return float((abs(pixels - colour).max(axis=-1) < 8).mean())

    red, green = (215, 48, 31), (26, 152, 80)
    run(tmp_path / "all")
    run(tmp_path / "none", Finder(span=1))
    assert share(tmp_path / "all", green) > 0.3 > 0.02 > share(tmp_path / "all", red)
    assert share(tmp_path / "none", red) > 0.3 > 0.02 > share(tmp_path / "none", green)


# ------------------------------------------------------------------ stops and refusals


@pytest.mark.parametrize("after", [0, 1, 7, 14])
def test_a_run_that_was_stopped_goes_on_to_the_same_files(after: int, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Finder(stops_after=after))
    if after:  # and was cut off while it wrote
        with (tmp_path / "stopped" / "predictions.jsonl").open("a") as file:
            file.write('{"id": "900-1')
    again = Finder()
    run(tmp_path / "stopped", again)
    assert again.asked == 15 - after
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


_SLOW = """
import sys, time
sys.path[:0] = ["tests"]
from pathlib import Path
import needle_case
class Slow(needle_case.Finder):
    def complete(self, prompt, max_new_tokens):
        time.sleep(0.1)
        return super().complete(prompt, max_new_tokens)
needle_case.run(Path(sys.argv[1]), Slow())
"""


def test_a_killed_run_goes_on_to_the_same_files(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", _SLOW, str(out)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    kept = out / "predictions.jsonl"
    wait_until(lambda: kept.exists() and kept.read_bytes().count(b"\n") >= 3, process, every=0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    begun = kept.read_bytes().count(b"\n")
    again = Finder()
    run(out, again)
    run(tmp_path / "whole")
    assert 3 <= begun < 15 and again.asked == 15 - begun
    assert files(out) == files(tmp_path / "whole")


def test_a_larger_grid_asks_what_is_new(tmp_path: Path) -> None:
    run(tmp_path)
    more = Finder()
    result = run(tmp_path, more, lengths=(500, 250, 300, 500), depths=(0, 50, 33.3), samples=2)
    assert more.asked == 3 * 3 * 2 - 4
    assert result.grid.lengths == (250, 300, 500)
    assert len(result.answers) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"needles": 2}, "needles was 1, now 2"),
        ({"model_name": "other"}, "model was 'finder', now 'other'"),
        ({"haystack": Haystack(ENGLISH, "mine", ("My own. ",))}, "data was "),
        ({"haystack": built_in(CHINESE)}, "split was 'en', now 'zh'"),
        ({"form": "chat"}, "protocol was 'completion', now 'chat'"),
    ],
)
def test_another_run_is_refused_in_the_same_folder(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    run(tmp_path)
    reader = Finder()
    reader.form = change.get("form", reader.form)
    cells = grid(**{name: value for name, value in change.items() if name in ("seed", "needles")})
    haystack = change.get("haystack", built_in(ENGLISH))
    with pytest.raises(ValueError, match=message):
        measure(reader, haystack, cells, tmp_path, model_name=change.get("model_name", "finder"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"lengths": (300, 20_000)},
            r"length 20000: finder reads 10000 tokens at most \(its max_position_embeddings\)",
        ),
        ({"lengths": (60,)}, r"length 60: question, needles, answer and a sentence take \d+ tokens"),
        ({"lengths": ()}, "at least one length and one depth"),
        ({"depths": (0, 101)}, "depth 101; depths are percentages"),
        ({"needles": 0}, "needles 0; at least 1"),
        ({"samples": 0}, "samples 0; at least 1"),
        ({"lengths": (0, 5)}, "length 0; at least 1"),
    ],
)
def test_an_impossible_grid_is_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings)


def test_lengths_double_up_to_what_the_model_reads() -> None:
    assert doubling(4096) == [1024, 2048, 4096]
    assert doubling(5000) == [1024, 2048, 4096, 5000]
    assert doubling(512) == [512]
    with pytest.raises(ValueError, match="say --lengths"):
        doubling(None)
