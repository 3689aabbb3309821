"""The quickstart's data: a drawn world as shards in both formats, and a tokenizer for it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.shards import caption_sample, conversation_sample, write_shards
from stages.quickstart.questions import LANGUAGES, Question, all_kinds, ask, caption, conversation, text_context
from stages.quickstart.scenes import Scene, draw, sample_scene
from stages.quickstart.tokenizer import train_tokenizer
from yivl import prompt
from yivl.conversation import Conversation

PICTURE = 112
"""Side of the drawn pictures, in pixels: more than any stage looks at."""
VOCABULARY = 720
"""Pieces of the tokenizer; `vocab_size` in configs/quickstart/model.yaml."""
_SLOTS = (16, 64)
"""Fewest and most words of a text context: from as many as an image has tokens in stage 1 to more than in stage 3. A
language model that has read from 16 alone can't read from more."""

_HELD_OUT = 32
"""Pictures in each language that the stages look at as they train, and never train on."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """Samples of each source."""

    words: int
    """Conversations about a scene in words."""
    descriptions: int
    """Sentences about a scene in words."""
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
    write_shards(shards / "descriptions", _descriptions(rng, amounts.descriptions), per_shard=2000)
    write_shards(shards / "captions", _captions(rng, amounts.captions), per_shard=1000)
    for language in LANGUAGES:
        samples = _questions(rng, amounts.questions, language)
        write_shards(shards / f"questions_{language}", samples, per_shard=1000)
    unseen = np.random.default_rng((seed, 1))
    for language in LANGUAGES:
        samples = _questions(unseen, _HELD_OUT, language, held_out=True)
        write_shards(shards / f"held_out_{language}", samples, per_shard=1000)


def picture(scene: Scene, rng: np.random.Generator) -> bytes:
    """A JPEG file of the scene."""
    with io.BytesIO() as file:
        draw(scene, PICTURE, rng).save(file, "JPEG", quality=95)
        return file.getvalue()


def shuffled_questions(scene: Scene, language: str, rng: np.random.Generator) -> list[Question]:
    """One question of each kind, in random order."""
    return [ask(scene, all_kinds[kind], language, rng) for kind in rng.permutation(len(all_kinds))]


def _words(rng: np.random.Generator, key: str) -> Conversation:
    scene = sample_scene(rng, held_out=False)
    language = LANGUAGES[int(rng.integers(2))]
    context = text_context(scene, rng, int(rng.integers(_SLOTS[0], _SLOTS[1] + 1)))
    return conversation(context, shuffled_questions(scene, language, rng), None, "words", key)


def _descriptions(rng: np.random.Generator, count: int) -> Iterator[dict[str, Any]]:
    """Completions: a scene in words, and then the sentence that a caption would be."""
    for number in range(count):
        scene = sample_scene(rng, held_out=False)
        context = text_context(scene, rng, int(rng.integers(_SLOTS[0], _SLOTS[1] + 1)))
        said = caption(scene, LANGUAGES[number % 2], rng)
        yield {"__key__": f"{number:06d}", "json": {"prompt": f"{context}\n", "completion": said}}


def _captions(rng: np.random.Generator, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        scene = sample_scene(rng, held_out=False)
        language = LANGUAGES[number % 2]
        yield caption_sample(f"{number:09d}", picture(scene, rng), caption(scene, language, rng))


def _questions(
    rng: np.random.Generator, count: int, language: str, *, held_out: bool = False
) -> Iterator[dict[str, Any]]:
    for number in range(count):
        scene = sample_scene(rng, held_out=held_out)
        asked = shuffled_questions(scene, language, rng)
        source = f"{'held_out' if held_out else 'questions'}_{language}"
        yield conversation_sample(conversation(scene, asked, picture(scene, rng), source, f"{number:06d}"))
