"""Held-out accuracy: questions about scenes whose combination of facts was never trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from stages.quickstart.prepare import picture
from stages.quickstart.questions import Question, all_kinds, ask, grade
from stages.quickstart.scenes import sample_scene
from yivl import YiVL, question

_BATCH = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """A question about a picture, and what was answered."""

    picture: bytes  # a JPEG file
    question: Question
    answer: str

    @property
    def correct(self) -> bool:
        """Whether the answer is the truth."""
        return grade(self.answer, self.question)


def ask_all(model: YiVL, questions: Sequence[tuple[bytes, Question]], name: str) -> list[Asked]:
    """Asks all questions; `name` is shown with the progress."""
    answered: list[Asked] = []
    for start in tqdm(range(0, len(questions), _BATCH), desc=f"{name}: held-out questions", unit="batch", leave=False):
        batch = questions[start : start + _BATCH]
        replies = model.answer([question(image, asked.text) for image, asked in batch], max_new_tokens=12)
        answered += [Asked(image, asked, reply) for (image, asked), reply in zip(batch, replies, strict=True)]
    return answered


def held_out_questions(scenes: int, seed: int) -> list[tuple[bytes, Question]]:
    """A question of each kind in each language about each of `scenes` held-out pictures."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(scenes):
        scene = sample_scene(rng, held_out=True)
        image = picture(scene, rng)
        found += [(image, ask(scene, kind, language, rng)) for kind in all_kinds for language in ("en", "zh")]
    return found


def accuracy(answered: Sequence[Asked]) -> dict[str, float]:
    """The share of right answers of each kind, and of all."""
    marks: dict[str, list[bool]] = defaultdict(list)
    for one in answered:
        marks[one.question.kind].append(one.correct)
        marks["all"].append(one.correct)
    return {kind: round(sum(right) / len(right), 4) for kind, right in marks.items()}
