"""The quickstart's data: a drawn world as shards in both formats, and a tokenizer for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.shards import caption_sample, conversation_sample, write_shards
from stages.quickstart.questions import FACTS, LANGUAGES, Question, ask, caption, conversation, drill, text_context
from stages.quickstart.scenes import Scene, draw, sample_scene
from stages.quickstart.tokenizer import train_tokenizer
from yivl import prompt

PICTURE = 112
"""Side of the drawn pictures, in pixels: the resolution of stages 2 and 3."""
VOCABULARY = 720
"""Pieces of the tokenizer; `vocab_size` in configs/quickstart/model.yaml."""
_SLOTS = (16, 64)
"""Fewest and most words of a text context: as many as an image has tokens at the low and the high resolution. A
language model that has read from 16 alone can't read from 64."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Samples of each source."""

    words: int
    drills: int
    captions: int
    questions: int
    """In each language."""


def prepare(folder: Path, amounts: Amounts, seed: int) -> None:
    """Writes the shards and the tokenizer below `folder`."""
    rng = np.random.default_rng(seed)
    texts = [prompt.text(words) for words in (_words(rng, f"{i}") for i in range(1500))]
    texts += [caption(sample_scene(rng, held_out=False), language, rng) for language in LANGUAGES for _ in range(300)]
    train_tokenizer(texts, folder / "tokenizer", VOCABULARY)
    shards = folder / "shards"
    words = (conversation_sample(_words(rng, f"{i:06d}")) for i in range(amounts.words))
    write_shards(shards / "words", words, per_shard=2000)
    drills = ({"__key__": f"{i:06d}", "txt": drill(LANGUAGES[i % 2], rng)} for i in range(amounts.drills))
    write_shards(shards / "drills", drills, per_shard=5000)
    write_shards(shards / "captions", _captions(rng, amounts.captions), per_shard=1000)
    for language in LANGUAGES:
        samples = _questions(rng, amounts.questions, language)
        write_shards(shards / f"questions_{language}", samples, per_shard=1000)


def picture(scene: Scene, rng: np.random.Generator) -> bytes:
    """A JPEG file of the scene."""
    with io.BytesIO() as file:
        draw(scene, PICTURE, rng).save(file, "JPEG", quality=95)
        return file.getvalue()


def shuffled_questions(scene: Scene, language: str, rng: np.random.Generator) -> list[Question]:
    """Some facts asked for openly and some by choice, in random order. A choice is the harder thing to learn."""
    kinds = [FACTS[fact] for fact in rng.permutation(len(FACTS))[:4]] + ["choice"] * 2
    return [ask(scene, kinds[kind], language, rng) for kind in rng.permutation(len(kinds))]


def _words(rng: np.random.Generator, key: str) -> Any:
    scene = sample_scene(rng, held_out=False)
    language = LANGUAGES[int(rng.integers(2))]
    context = text_context(scene, rng, int(rng.integers(_SLOTS[0], _SLOTS[1] + 1)))
    return conversation(context, shuffled_questions(scene, language, rng), None, "words", key)


def _captions(rng: np.random.Generator, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        scene = sample_scene(rng, held_out=False)
        language = LANGUAGES[number % 2]
        yield caption_sample(f"{number:09d}", picture(scene, rng), caption(scene, language, rng))


def _questions(rng: np.random.Generator, count: int, language: str) -> Iterator[dict[str, Any]]:
    for number in range(count):
        scene = sample_scene(rng, held_out=False)
        asked = shuffled_questions(scene, language, rng)
        source = f"questions_{language}"
        yield conversation_sample(conversation(scene, asked, picture(scene, rng), source, f"{number:06d}"))
