"""Inspection: its figures are those of the samples counted independently, its page shows what training learns."""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import page_case
import pytest
import yaml
from conftest import TINY, captions, jpeg
from page_case import assert_loads_nothing
from PIL import Image
from transformers import PreTrainedTokenizerBase

from data import index
from data.formats import format_named, unpack
from data.inspect import language, main
from data.inspect_page import spell
from data.mixture import Mixture, resolve, taken_samples
from data.shards import conversation_sample, write_shards
from data.store import Store
from data.tar import read
from yivl import prompt
from yivl.conversation import Conversation, Turn
from yivl.encoder import IGNORE, IMAGE_ID, Encoder
from yivl.images import to_pixels
from yivl.settings import read as read_settings
from yivl.tokenizer import load_tokenizer

SIDE, PATCHES = 56, 16
FORMATS = {"captions": "caption", "chats": "conversation", "odd": "conversation", "broken": "caption"}


class Card(NamedTuple):
    key: str
    note: str
    pictures: list[bytes]
    tokens: list[tuple[int, str, bool]]
    """Id, text, and whether it is underlined."""
    images: list[str]


class Page(page_case.Page):
    """A page whose cards are read."""

    def __init__(self, source: str) -> None:
        self.cards: list[Card] = []
        super().__init__(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        super().handle_starttag(tag, attrs)
        if tag == "article":
            self.cards.append(Card("", "", [], [], []))
        if tag == "img":
            self.cards[-1].pictures.append(base64.b64decode((dict(attrs)["src"] or "").partition(",")[2]))
        if tag in ("u", "span") and self.inside("article"):
            self.cards[-1].tokens.append((int(dict(attrs)["title"] or ""), "", tag == "u"))

    def handle_data(self, data: str) -> None:
        super().handle_data(data)
        if not self.inside("article"):
            return
        tag, card = self.open[-1][0], self.cards[-1]
        if tag in ("u", "span"):
            number, text, learned = card.tokens[-1]
            card.tokens[-1] = (number, text + data, learned)
        elif tag == "b":
            card.images.append(data)
        elif tag in ("h3", "p") and self.inside("header"):
            self.cards[-1] = card._replace(**{"key" if tag == "h3" else "note": data})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(TINY)


def mixture_of(folder: Path, sources: dict[str, dict[str, Any]], cap: int | None = None) -> Path:
    catalogue = {name: {"shards": f"{name}/*.tar", "format": FORMATS[name]} for name in sources}
    (folder / "sources.yaml").write_text(yaml.safe_dump({"sources": catalogue}))
    mixture = folder / "mixture.yaml"
    mixture.write_text(yaml.safe_dump({"catalogue": "sources.yaml", "sources": sources, "cap": cap}))
    return mixture


def look(mixture: Path, data: Path, *more: str, out: str = "page.html") -> Path:
    """Runs the command on the tiny tokenizer; returns the page."""
    page = mixture.parent / out
    options = ["--data", str(data), "--tokenizer", str(TINY), "--side", str(SIDE), "--workers", "0"]
    assert main([str(mixture), *options, "--out", str(page), *more]) == 0
    return page


def tables(printed: str) -> dict[str, dict[str, list[str]]]:
    """The printed cells by title and first cell."""
    found: dict[str, dict[str, list[str]]] = {}
    for block in printed.strip().split("\n\n"):
        title, *lines = block.splitlines()
        found[title] = {line.split()[0]: line.split()[1:] for line in lines}
    return found


def taken(mixture: Path, data: Path, seed: int = 0) -> dict[str, list[Conversation]]:
    """What the mixture takes, read from the shards without an order or a loader."""
    manifest = resolve(read_settings(Mixture, mixture), Store(data), seed)
    found: dict[str, list[Conversation]] = {}
    for source in manifest.sources:
        conversations = found.setdefault(source.name, [])
        for shard in source.shards:
            of = index.load(index.index_path(data / shard.path))
            with (data / shard.path).open("rb") as file:
                for number in taken_samples(manifest, source, shard, of):
                    blob = read(file, int(of.offsets[number]), int(of.sizes[number]))
                    members = unpack(blob, of.key(number))
                    conversations.append(format_named(source.format)(members, source.name, of.key(number)))
    return found


def text_tokens(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> int:
    pieces = prompt.text(conversation).split(prompt.PLACEHOLDER)
    return sum(len(tokenizer(piece, add_special_tokens=False).input_ids) for piece in pieces if piece)


def percentile(values: list[tuple[float, float]]) -> float:
    """The least value that, with those below it, has 95% of the weight."""
    goal, passed = 0.95 * sum(weight for _, weight in values), 0.0
    for value, weight in sorted(values):
        passed += weight
        if passed >= goal - 1e-9:
            return value
    raise AssertionError


def test_counts_are_those_of_the_manifest(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = mixture_of(tmp_path, {"captions": {}, "chats": {"cap": 7}}, cap=33)
    look(mixture, shards, "--samples", "3")
    manifest = resolve(read_settings(Mixture, mixture), Store(shards), 0)
    counts = tables(capsys.readouterr().out)["Counts"]
    for source in manifest.sources:
        assert counts[source.name] == [str(source.available), str(source.cap), str(source.taken)]
    assert [counts["captions"], counts["chats"], counts["together"]] == [["60", "33", "33"], ["40", "7", "7"], ["40"]]


def test_figures_are_those_of_the_prompts_counted_one_by_one(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    mixture = mixture_of(tmp_path, {"captions": {"cap": 10}, "chats": {}})
    look(mixture, shards)
    printed = tables(capsys.readouterr().out)
    told = taken(mixture, shards)
    counted = {
        name: [(text_tokens(one, tokenizer), len(one.images)) for one in conversations]
        for name, conversations in told.items()
    }
    counted["together"] = counted["captions"] + counted["chats"]
    for name, samples in counted.items():
        text = [float(tokens) for tokens, _ in samples]
        total = [tokens + PATCHES * images for tokens, images in samples]
        images = sum(images for _, images in samples) / len(samples)
        p95 = [percentile([(value, 1.0) for value in values]) for values in (text, total)]
        expected = [f"{np.mean(text):.0f}", f"{p95[0]:.0f}", f"{np.mean(total):.0f}", f"{p95[1]:.0f}", f"{images:.2f}"]
        assert printed["Tokens and images of a sample"][name] == [str(len(samples)), *expected, "0.00"]
    assert counted["together"] and printed["Counts"]["together"] == ["50"]


def test_the_last_row_weights_sources_by_what_is_taken(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    """10 samples are read of each, of 60 captions (always an image) and 40 chats."""
    mixture = mixture_of(tmp_path, {"captions": {}, "chats": {}})
    page = Page(look(mixture, shards, "--samples", "10", "--pictures", "10").read_text(encoding="utf-8"))
    row = tables(capsys.readouterr().out)["Tokens and images of a sample"]["together"]
    by_key = {one.key: one for conversations in taken(mixture, shards).values() for one in conversations}
    chosen = [by_key[card.key] for card in page.cards]
    weights = {"captions": 6.0, "chats": 4.0}
    assert Counter(one.source for one in chosen) == {"captions": 10, "chats": 10}
    total = [(text_tokens(one, tokenizer) + PATCHES * len(one.images), weights[one.source]) for one in chosen]
    assert row[0] == "20"
    assert row[3:5] == [f"{sum(v * w for v, w in total) / 100:.0f}", f"{percentile(total):.0f}"]
    assert row[5] == f"{sum(len(one.images) * weights[one.source] for one in chosen) / 100:.2f}"


def test_learned_tokens_and_languages_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    answers = ["a cat", "一只猫", "кот", "12", "两只 cat", "一只黑色的猫 cat"]
    samples = [
        conversation_sample(Conversation(turns=(Turn("human", "?"), Turn("assistant", text)), key=f"k{i}"))
        for i, text in enumerate(answers)
    ]
    write_shards(tmp_path / "odd", samples)
    look(mixture_of(tmp_path, {"odd": {}}), tmp_path)
    learned, share, *rest = tables(capsys.readouterr().out)["What is learned"]["odd"]
    encoder = Encoder(tokenizer, patches=PATCHES, image_side=SIDE)
    labels = [encoder.tokens(prompt.render(one))[1] for one in taken(tmp_path / "mixture.yaml", tmp_path)["odd"]]
    supervised = sum(label != IGNORE for one in labels for label in one)
    assert learned == f"{supervised / 6:.1f}" and share == f"{100 * supervised / sum(map(len, labels)):.1f}%"
    assert rest == ["33.3%", "33.3%", "33.3%", "0.0%"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is it? 猫", "English"), ("这是什么？Yi", "Chinese"), ("кот", "other"), ("12!", "other"), ("", "other"),
        ("ねこ", "other"), ("𠀀", "Chinese"), ("Où est le café ?", "English"), ("猫a", "other"),
    ],
)  # fmt: skip
def test_language_goes_by_most_letters(text: str, expected: str) -> None:
    assert language(text) == expected


def test_page_shows_every_token_and_underlines_the_labels(
    shards: Path, tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    mixture = mixture_of(tmp_path, {"captions": {}, "chats": {}})
    page = Page(look(mixture, shards, "--pictures", "4").read_text(encoding="utf-8"))
    by_key = {one.key: one for conversations in taken(mixture, shards).values() for one in conversations}
    encoder = Encoder(tokenizer, patches=PATCHES, image_side=SIDE, max_length=2048)
    assert len(page.cards) == 8
    for card in page.cards:
        conversation = by_key[card.key]
        example = encoder.encode(conversation)
        text = example.input_ids != IMAGE_ID
        assert [token for token, _, _ in card.tokens] == example.input_ids[text].tolist()
        assert [learned for _, _, learned in card.tokens] == (example.labels[text] != IGNORE).tolist()
        shown = "".join(text for _, text, _ in card.tokens)
        assert shown == prompt.text(conversation).replace(prompt.PLACEHOLDER, "")
        assert card.images == [f"‹image: {PATCHES}›"] * len(conversation.images)
        assert f"{len(example.input_ids)} tokens, {example.supervised} learned" in card.note


def test_page_shows_the_padded_square_that_the_model_sees(tmp_path: Path) -> None:
    with io.BytesIO() as file:
        Image.linear_gradient("L").resize((900, 300)).save(file, "JPEG")
        wide = file.getvalue()
    conversation = Conversation(
        turns=(Turn("human", "Which?", images=2), Turn("assistant", "Both.")),
        images=(wide, jpeg(np.random.default_rng(0), 300, 300)), key="two",
    )  # fmt: skip
    write_shards(tmp_path / "odd", [conversation_sample(conversation)])
    options = ["--side", "600", "--patches", "9"]
    page = Page(look(mixture_of(tmp_path, {"odd": {}}), tmp_path, *options).read_text(encoding="utf-8"))
    (card,) = page.cards
    assert card.images == ["‹image: 9›"] * 2
    pictures = [Image.open(io.BytesIO(picture)) for picture in card.pictures]
    assert [(picture.format, picture.size) for picture in pictures] == [("JPEG", (448, 448))] * 2
    square = Image.fromarray(to_pixels(wide, 600).transpose(1, 2, 0)).resize((448, 448))
    assert np.abs(np.asarray(pictures[0]).astype(int) - np.asarray(square)).mean() < 2


def test_page_loads_nothing_and_text_stays_text(tmp_path: Path) -> None:
    hostile = '<script>alert("x")</script> & <img src="https://example.com/x.png"> \x07\r\nhttp://example.com'
    conversation = Conversation(turns=(Turn("human", hostile), Turn("assistant", hostile)), key="<b>&key")
    write_shards(tmp_path / "odd", [conversation_sample(conversation)])
    page = Page(look(mixture_of(tmp_path, {"odd": {}}), tmp_path).read_text(encoding="utf-8"))
    assert_loads_nothing(page)
    assert not page.all("script") and not page.all("img")
    assert not any("style" in attrs for _, attrs in page.tags)
    (card,) = page.cards
    assert card.key == "<b>&key"
    shown = "".join(text for _, text, _ in card.tokens)
    assert shown.count(hostile.replace("\x07", "␇").replace("\r", "␍")) == 2


def test_the_same_seed_gives_the_same_page_with_any_number_of_workers(shards: Path, tmp_path: Path) -> None:
    mixture = mixture_of(tmp_path, {"captions": {"cap": 30}, "chats": {}})
    pages = [
        look(mixture, shards, "--samples", "12", *more, out=f"{number}.html").read_bytes()
        for number, more in enumerate([[], [], ["--workers", "2"], ["--seed", "1"]])
    ]
    assert pages[0] == pages[1] == pages[2] != pages[3]


def test_broken_samples_are_counted_by_reason_and_never_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = captions(40, np.random.default_rng(0))
    for sample in samples[:20]:
        sample["jpg"] = sample["jpg"][: 400 + int(sample["__key__"])]  # each cut at another byte
    samples[20]["txt"] = " "
    broken = {sample["__key__"] for sample in samples[:21]}
    write_shards(tmp_path / "broken", samples, per_shard=15)
    page = Page(look(mixture_of(tmp_path, {"broken": {}}), tmp_path, "--pictures", "40").read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert (
        tables(printed)["What is learned"]["broken"][-1]
        == tables(printed)["What is learned"]["together"][-1]
        == "52.5%"
    )
    lines = tables(printed)["Broken samples"]
    assert "broken: 1 x the caption is empty; such as 000000020 in broken/00001.tar" in printed
    assert lines["broken:"] and "not a readable image" in printed
    assert {card.key for card in page.cards} == {sample["__key__"] for sample in samples} - broken
    assert "the caption is empty" in page.text


def test_turns_dropped_and_samples_too_long_are_told_of(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: PreTrainedTokenizerBase
) -> None:
    mixture = mixture_of(tmp_path, {"chats": {}})
    encoder = Encoder(tokenizer, patches=PATCHES, image_side=SIDE)
    lengths = sorted(len(encoder.encode(one).input_ids) for one in taken(mixture, shards)["chats"])
    limit = lengths[len(lengths) // 2]
    page = Page(look(mixture, shards, "--max-length", str(limit), "--pictures", "40").read_text(encoding="utf-8"))
    turns = {one.key: len(one.turns) for one in taken(mixture, shards)["chats"]}
    dropped = [turns[card.key] - 2 * "".join(t for _, t, _ in card.tokens).count("Assistant:") for card in page.cards]
    assert sum(dropped) > 0
    row = tables(capsys.readouterr().out)["Tokens and images of a sample"]["chats"]
    assert row[-1] == f"{sum(dropped) / len(dropped):.2f}"
    assert [f"{one} turns dropped" in card.note for one, card in zip(dropped, page.cards, strict=True)] == [
        one > 0 for one in dropped
    ]


def test_a_source_without_a_sound_sample_has_no_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "broken", [{**sample, "jpg": b"?"} for sample in captions(4, np.random.default_rng(0))])
    look(mixture_of(tmp_path, {"broken": {}}), tmp_path)
    printed = tables(capsys.readouterr().out)
    assert printed["Tokens and images of a sample"]["broken"] == ["4", *"–" * 6]
    assert printed["What is learned"]["broken"] == [*"–" * 5, "100.0%"]


@pytest.mark.parametrize("text", [" 猫在 hello\n### Human: 龘é", "\N{REPLACEMENT CHARACTER}", "🐼🐼", "  a  ", ""])
def test_tokens_spell_the_text(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer(text, add_special_tokens=False).input_ids
    spelled = spell(ids, tokenizer)
    assert len(spelled) == len(ids) and "".join(spelled) == text


def test_a_cut_off_character_is_spelled_as_the_tokenizer_does(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = tokenizer("a猫", add_special_tokens=False).input_ids[:-1]
    assert "".join(spell(ids, tokenizer)) == tokenizer.decode(ids)


def test_what_is_missing_is_one_clear_line(shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixture = mixture_of(tmp_path, {"captions": {}})
    (tmp_path / "no-tokenizer").mkdir()
    away = tmp_path / "away.yaml"
    away.write_text(json.dumps({"catalogue": "far.yaml", "sources": {"far": {}}}))
    (tmp_path / "far.yaml").write_text(
        json.dumps({"sources": {"far": {"shards": "s3://b/00000.tar", "format": "text"}}})
    )
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "00000.tar.index").write_bytes(
        index.index_path(sorted((shards / "captions").glob("*.tar"))[0]).read_bytes()
    )
    for file, data, folder, said in [
        (tmp_path / "none.yaml", shards, TINY, f"no settings file {tmp_path / 'none.yaml'}"),
        (mixture, tmp_path / "nowhere", TINY, "source 'captions' has no shards"),
        (mixture, shards, tmp_path / "no" / "folder", "can't be used: no tokenizer folder"),
        (mixture, shards, tmp_path / "no-tokenizer", f"--tokenizer {tmp_path / 'no-tokenizer'} can't be used"),
        (away, tmp_path, TINY, "far: its shards lie elsewhere; --cache FOLDER"),
    ]:
        arguments = [str(file), "--data", str(data), "--tokenizer", str(folder), "--out", str(tmp_path / "x.html")]
        assert main(arguments) == 1
        told = capsys.readouterr()
        assert said in told.err and told.err.count("\n") == 1 and told.out == ""
        assert not (tmp_path / "x.html").exists()
