"""Questions about a drawn scene, in English and Chinese, and the same facts as text alone."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from stages.quickstart.scenes import COLOURS, COUNTS, LABELS, SHAPES, SIDES, Scene, pick
from yivl.conversation import Conversation, ImageSource, Turn

LANGUAGES: Final = ("en", "zh")
FACTS: Final = ("colour", "shape", "count", "side", "label")
all_kinds: Final = (*FACTS, "choice")

_ZH: Final = {
    "red": "红色", "yellow": "黄色", "green": "绿色", "cyan": "青色", "blue": "蓝色", "purple": "紫色",
    "circle": "圆形", "square": "方形", "triangle": "三角形", "star": "星形", "cross": "十字形",
    "left": "左边", "right": "右边", "top": "上边", "bottom": "下边",
}  # fmt: skip
_VALUES: Final[dict[str, tuple[Any, ...]]] = {
    "colour": tuple(COLOURS), "shape": SHAPES, "count": COUNTS, "side": SIDES, "label": LABELS,
}  # fmt: skip
_COUNT_WORDS: Final = ("one", "two", "three")
"""How the text context says the count, so that it can't be taken for a label that is a digit."""
_FILLERS: Final = ("and", "the", "of", "so", "ground", "light")

WORD_OR_PHRASE: Final = "Answer the question using a single word or phrase."
LETTER: Final = "Answer with the option's letter from the given choices directly."
"""The instructions of the MMMU prompt."""

LETTERS: Final = "ABCD"
CHOSEN: Final = ("count", "side")
"""Kinds asked for by choice: those with few values, which stand in the same order every time. To find the letter of
an option in any order takes a language model many times the text that this one sees."""

_TEMPLATES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "colour": {
        "en": ("What colour are the objects?", "Which colour was used for the objects?"),
        "zh": ("这些图形是什么颜色？", "图形的颜色是什么？"),
    },
    "shape": {
        "en": ("What shape are the objects?", "Which shape is drawn here?"),
        "zh": ("这些图形是什么形状？", "画的是什么形状？"),
    },
    "count": {
        "en": ("How many objects are there?", "What is the number of objects?"),
        "zh": ("一共有几个图形？", "图形的数量是多少？"),
    },
    "side": {
        "en": ("On which side are the objects?", "Where are the objects?"),
        "zh": ("图形在哪一边？", "图形在什么位置？"),
    },
    "label": {
        "en": ("What is written in the picture?", "Read what is written."),
        "zh": ("图中写着什么？", "请读出写着的内容。"),
    },
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question and its one right answer."""

    kind: str
    language: str
    text: str
    answer: str


def spoken(value: Any, language: str) -> str:
    """A fact as an answer says it."""
    return _ZH.get(value, str(value)) if language == "zh" else str(value)


def fact(scene: Scene, kind: str) -> Any:
    """The scene's value of a kind of fact."""
    return getattr(scene, kind)


def ask(scene: Scene, kind: str, language: str, rng: np.random.Generator) -> Question:
    """A question of that kind about the scene, in one of its wordings."""
    if kind == "choice":
        return _choice(scene, language, rng)
    text = pick(rng, _TEMPLATES[kind][language])
    if language == "en" and rng.random() < 0.5:
        text = f"{text}\n{WORD_OR_PHRASE}"
    return Question(kind, language, text, spoken(fact(scene, kind), language))


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with three or four options, one of them true."""

    text: str
    options: tuple[str, ...]
    letter: str


def choice(scene: Scene, kind: str, language: str, rng: np.random.Generator) -> Choice:
    """A fact of a kind in `CHOSEN`, asked for by choice."""
    options = tuple(spoken(value, language) for value in _VALUES[kind])
    return Choice(pick(rng, _TEMPLATES[kind][language]), options, LETTERS[_VALUES[kind].index(fact(scene, kind))])


def _choice(scene: Scene, language: str, rng: np.random.Generator) -> Question:
    drawn = choice(scene, pick(rng, CHOSEN), language, rng)
    lines = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, drawn.options, strict=False))
    instruction = LETTER if language == "en" else "请直接回答选项的字母。"
    return Question("choice", language, f"{drawn.text}\n{lines}\n\n{instruction}", drawn.letter)


def caption(scene: Scene, language: str, rng: np.random.Generator) -> str:
    """A sentence that names all the facts."""
    if language == "zh":
        colour, shape, side = (spoken(fact(scene, kind), "zh") for kind in ("colour", "shape", "side"))
        return f"{side}有{scene.count}个{colour}的{shape}，写着{scene.label}。"
    objects = scene.shape if scene.count == 1 else f"{scene.shape}{'es' if scene.shape == 'cross' else 's'}"
    where = pick(rng, ("on the", "at the"))
    return f"{scene.count} {scene.colour} {objects} {where} {scene.side}, with {scene.label} written."


def text_context(scene: Scene, rng: np.random.Generator, slots: int) -> str:
    """The scene's facts as a bag of `slots` words in random order: what image tokens will carry later.

    Each fact comes at least once, anywhere; the rest repeats facts or fills.
    """
    facts = [scene.colour, scene.shape, _COUNT_WORDS[scene.count - 1], scene.side, scene.label]
    pool = [*facts, *_FILLERS]
    words = facts + [pool[int(i)] for i in rng.integers(0, len(pool), slots - len(facts))]
    return " ".join(words[int(i)] for i in rng.permutation(slots))


def conversation(
    context: Scene | str, questions: Sequence[Question], image: ImageSource | None, source: str, key: str
) -> Conversation:
    """The questions and their answers as one conversation; the image, or the text context, stands in its first turn."""
    turns: list[Turn] = []
    for number, question in enumerate(questions):
        first = number == 0
        text = f"{context}\n{question.text}" if first and isinstance(context, str) else question.text
        turns += [Turn("human", text, images=int(first and image is not None)), Turn("assistant", question.answer)]
    return Conversation(turns=tuple(turns), images=() if image is None else (image,), source=source, key=key)


def grade(reply: str, question: Question) -> bool:
    """Whether a reply is the answer, but for case and a full stop."""
    return reply.strip().rstrip(".。").casefold() == question.answer.casefold()


def chance(kind: str) -> float:
    """The best accuracy on held-out scenes of one constant answer, in the question's language."""
    if kind == "label":
        return 1 / len(LABELS)
    if kind == "choice":
        each = [_held_out_shares(chosen) for chosen in CHOSEN]
        return max(sum(shares) / len(CHOSEN) for shares in itertools.zip_longest(*each, fillvalue=0.0))
    return max(_held_out_shares(kind))


def _held_out_shares(kind: str) -> list[float]:
    """How often each value of a fact comes in held-out scenes, in the order of `_VALUES`."""
    facts = itertools.product(SHAPES, COLOURS, COUNTS, SIDES)
    scenes = [Scene(shape=s, colour=c, count=n, side=where, label="0") for s, c, n, where in facts]
    answers = Counter(fact(scene, kind) for scene in scenes if scene.held_out)
    return [answers[value] / answers.total() for value in _VALUES[kind]]
