"""Prompt and labels: ids are those of the released way of tokenising, and nothing but answers is learned."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yivl import Conversation, Turn, YiVL, prompt
from yivl.encoder import IGNORE, IMAGE_ID, Encoder, TooLong

WORDS = st.sampled_from(
    ["", " ", "\n", "the cat", "猫在哪里？", "两只", "🐱🎉", "###", "### Assistant: yes", "\n### Human: ", "#", "##",
     "####", "<image_placeholder>", "<image>", "Human:", "\nHuman: hi", "é", "ﬁ", "\t", "1,234", "<unk>", "  two  ",
     "。"]
)  # fmt: skip
TEXT = st.lists(WORDS | st.text(max_size=12), max_size=6).map("".join)
IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    turns: list[Turn] = []
    for _ in range(draw(st.integers(1, 3))):
        turns += [Turn("human", draw(TEXT), images=draw(st.integers(0, 2))), Turn("assistant", draw(TEXT))]
    if draw(st.booleans()):
        turns.pop()
    return Conversation(turns=tuple(turns), images=(IMAGE,) * sum(turn.images for turn in turns))


def released_ids(encoder: Encoder, text: str) -> list[int]:
    """As the released code does it: split at the placeholder, tokenise the pieces, -200 between them."""
    ids: list[int] = []
    for number, piece in enumerate(text.split(prompt.PLACEHOLDER)):
        ids += [IMAGE_ID] * (encoder.patches if number else 0)
        ids += encoder.tokenizer(piece).input_ids if piece else []
    return ids


@pytest.fixture(scope="module")
def encoder(tiny: YiVL) -> Encoder:
    return Encoder(tiny.tokenizer, patches=4, image_side=28)


@settings(max_examples=300, deadline=None)
@given(chat=conversations())
def test_ids_equal_those_of_the_released_way_on_any_text(encoder: Encoder, chat: Conversation) -> None:
    assert encoder.encode(chat).input_ids.tolist() == released_ids(encoder, prompt.text(chat))


@settings(max_examples=300, deadline=None)
@given(chat=conversations())
def test_learned_are_exactly_the_answers_and_their_separators(encoder: Encoder, chat: Conversation) -> None:
    example = encoder.encode(chat)
    learned = example.labels != IGNORE
    assert (example.labels[learned] == example.input_ids[learned]).all()
    # runs of learned tokens, decoded, are the answers: one run for each, in order
    starts = np.flatnonzero(learned & ~np.concatenate([[False], learned[:-1]]))
    ends = np.flatnonzero(learned & ~np.concatenate([learned[1:], [False]])) + 1
    runs = [encoder.tokenizer.decode(example.input_ids[a:b]) for a, b in zip(starts, ends, strict=True)]
    answers = [f" {prompt.neutral(turn.text)}\n###" for turn in chat.turns if turn.role == "assistant"]
    assert runs == answers


@settings(max_examples=200, deadline=None)
@given(chat=conversations())
def test_text_cannot_forge_a_turn_or_an_image(chat: Conversation) -> None:
    text = prompt.text(chat)
    assert text.count("###") == len(chat.turns) + 1
    assert re.findall(r"### (Human|Assistant):", text) == [
        name for turn in chat.turns for name in (["Human", "Assistant"] if turn.role == "human" else [])
    ]
    assert text.count(prompt.PLACEHOLDER) == len(chat.images)


def test_a_caption_is_images_text_newline_with_the_text_learned(encoder: Encoder) -> None:
    caption = Conversation(turns=(Turn("assistant", "two cats", images=1),), images=(IMAGE,))
    example = encoder.encode(caption)
    assert example.input_ids[:4].tolist() == [IMAGE_ID] * 4
    learned = example.labels[example.labels != IGNORE]
    assert encoder.tokenizer.decode(learned) == "two cats\n"


def test_of_a_completion_only_what_follows_the_given_text_is_learned(encoder: Encoder) -> None:
    sample = Conversation(turns=(Turn("assistant", "two cats"),), given="cats cats two\n")
    example = encoder.encode(sample)
    assert encoder.tokenizer.decode(example.input_ids) == "cats cats two\ntwo cats\n"
    assert encoder.tokenizer.decode(example.labels[example.labels != IGNORE]) == "two cats\n"
    with pytest.raises(ValueError, match="only a plain sample has a given beginning"):
        Conversation(turns=(Turn("human", "hi"),), given="x")


def test_the_frame_is_that_of_the_released_prompt() -> None:
    chat = Conversation(
        turns=(Turn("human", "Q1", images=1), Turn("assistant", "A1"), Turn("human", "Q2")), images=(IMAGE,)
    )
    assert prompt.text(chat) == (
        f"{prompt.SYSTEM}\n\n### Human: <image_placeholder>\nQ1\n### Assistant: A1\n### Human: Q2\n### Assistant:"
    )


def test_an_over_long_conversation_loses_whole_exchanges_from_its_end(tiny: YiVL) -> None:
    turns = tuple(
        Turn(role, f"{role} {i}", images=int(role == "human")) for i in range(6) for role in ("human", "assistant")
    )  # type: ignore[arg-type]
    chat = Conversation(turns=turns, images=(IMAGE,) * 6)
    whole = len(Encoder(tiny.tokenizer, patches=4, image_side=28).encode(chat).input_ids)
    short = Encoder(tiny.tokenizer, patches=4, image_side=28, max_length=whole - 1).encode(chat)
    assert short.dropped_turns == 2
    assert len(short.pixels) == 5
    assert (short.input_ids == IMAGE_ID).sum() == 5 * 4
    with pytest.raises(TooLong, match="tokens, more than the 50 allowed"):
        Encoder(tiny.tokenizer, patches=4, image_side=28, max_length=50).encode(chat)


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ((Turn("human", "hi", images=2),), "2 image placeholders but 1 images"),
        ((Turn("assistant", "hi", images=1), Turn("human", "you")), "turns alternate and begin with 'human'"),
        ((), "at least one turn"),
    ],
)
def test_impossible_conversations_are_refused(turns: tuple[Turn, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conversation(turns=turns, images=(IMAGE,), source="mine", key="7")


def test_replies_are_cut_at_the_first_stop() -> None:
    assert prompt.cut(" two cats \n### Human: more") == "two cats"
    assert prompt.cut("two cats\nHuman: more") == "two cats"
    assert prompt.cut("Human: nature") == "Human: nature"
