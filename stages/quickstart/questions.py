"""What is asked about a drawn scene, in English and Chinese, and the same facts as a bag of words.

The bag of words teaches a language model to read facts from anywhere in its context, before it ever meets an
image: the projector then has words to aim at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from stages.quickstart.scenes import COLOURS, COUNTS, HELD_OUT, LABELS, OPPOSITE, SHAPES, SIDES, Scene, pick
from yivl.conversation import Conversation, Turn

Kind = Literal["colour", "shape", "count", "side", "label", "choice"]
Language = Literal["en", "zh"]

facts: Final[tuple[Kind, ...]] = ("colour", "shape", "count", "side", "label")
"""The kinds with an answer of their own; `choice` asks one of them with four options."""
all_kinds: Final[tuple[Kind, ...]] = (*facts, "choice")
languages: Final[tuple[Language, ...]] = ("en", "zh")

LETTERS: Final = "ABCD"
CHOOSE: Final = "Answer with the option's letter from the given choices directly."
"""MMMU's instruction for multiple-choice questions, after a blank line."""
BRIEFLY: Final = "Answer the question using a single word or phrase."
"""MMMU's instruction for open questions, on a line of its own."""

_INSTRUCTIONS: Final[dict[Language, tuple[str, ...]]] = {
    "en": (CHOOSE, "Answer with the letter."),
    "zh": ("请直接回答正确选项的字母。", "请回答选项的字母。"),
}
_BRIEFLY: Final[dict[Language, str]] = {"en": BRIEFLY, "zh": "请用一个词语回答。"}

_WORDINGS: Final[dict[Language, dict[Kind, tuple[str, ...]]]] = {
    "en": {
        "colour": ("What colour are the objects?", "Which colour do you see?", "What is the colour?"),
        "shape": ("What shape are the objects?", "Which shape do you see?", "What is the shape?"),
        "count": ("How many objects are there?", "How many do you see?", "What is the number of objects?"),
        "side": ("Where are the objects?", "On which side are the objects?", "Which side are the objects on?"),
        "label": ("What is written?", "Which word or digit is written?", "What does the label say?"),
    },
    "zh": {
        "colour": ("图形是什么颜色？", "你看到哪种颜色？", "颜色是什么？"),
        "shape": ("图形是什么形状？", "你看到哪种形状？", "形状是什么？"),
        "count": ("有几个图形？", "你看到几个图形？", "图形的数量是多少？"),
        "side": ("图形在哪里？", "图形在哪一边？", "图形位于哪一边？"),
        "label": ("写着什么？", "写的是哪个词或数字？", "标签上写着什么？"),
    },
}

COUNT_WORDS: Final = {1: "one", 2: "two", 3: "three", 4: "four"}
_CHINESE: Final = {
    **{"red": "红色", "yellow": "黄色", "green": "绿色", "cyan": "青色", "blue": "蓝色", "purple": "紫色"},
    **{"circle": "圆形", "square": "方形", "triangle": "三角形", "star": "星形", "cross": "十字形"},
    **{"left": "左边", "right": "右边", "top": "上边", "bottom": "下边"},
}
_VALUES: Final[dict[Kind, tuple[str | int, ...]]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": COUNTS,
    "side": SIDES,
    "label": LABELS,
}
FILLERS: Final = ("and", "here", "some", "plain")
"""Words of a text context that say nothing."""
MIN_SLOTS: Final = 16


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its one accepted answer."""

    kind: Kind
    language: Language
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class Options:
    """Four answers of which one is right."""

    texts: tuple[str, ...]
    letter: str
    """Of the right one."""

    @property
    def lines(self) -> str:
        """`A. red` and so on, a line each."""
        return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, self.texts, strict=True))


def ask(scene: Scene, kind: Kind, language: Language, rng: np.random.Generator) -> Question:
    """A question of `kind` about the scene, in one of its wordings.

    Half of the English ones end as MMMU's do and begin with the space that its removed image tag leaves.
    """
    benchmark = language == "en" and rng.random() < 0.5
    space = " " if benchmark else ""
    if kind == "choice":
        fact = pick(rng, facts)
        options = choose(scene, fact, language, rng)
        instruction = CHOOSE if benchmark else pick(rng, _INSTRUCTIONS[language])
        text = f"{space}{pick(rng, wordings(fact, language))}\n{options.lines}\n\n{instruction}"
        return Question(kind, language, text, options.letter)
    text = space + pick(rng, wordings(kind, language))
    if benchmark or rng.random() < 0.3:
        text += f"\n{_BRIEFLY[language]}"
    return Question(kind, language, text, answer(scene, kind, language))


def wordings(fact: Kind, language: Language) -> tuple[str, ...]:
    """The ways to ask for a fact, without instructions."""
    return _WORDINGS[language][fact]


def answer(scene: Scene, fact: Kind, language: Language) -> str:
    """A fact of the scene as it is answered: words in small letters, a Chinese count as a digit."""
    return _spoken(_facts(scene)[fact], language)


def choose(scene: Scene, fact: Kind, language: Language, rng: np.random.Generator) -> Options:
    """The right answer among three wrong ones, at a place that says nothing."""
    right = _facts(scene)[fact]
    others = [value for value in _VALUES[fact] if value != right]
    chosen = [right, *(others[int(index)] for index in rng.permutation(len(others))[: len(LETTERS) - 1])]
    shuffled = [chosen[int(index)] for index in rng.permutation(len(chosen))]
    return Options(tuple(_spoken(value, language) for value in shuffled), LETTERS[shuffled.index(right)])


def caption(scene: Scene, language: Language, rng: np.random.Generator) -> str:
    """One sentence that names all facts."""
    opposite = OPPOSITE[scene.side]
    if language == "zh":
        side, colour, shape = _CHINESE[scene.side], _CHINESE[scene.colour], _CHINESE[scene.shape]
        what = f"{scene.count}个{colour}{shape}"
        forms: tuple[str, ...] = (
            f"{side}有{what}，{_CHINESE[opposite]}写着{scene.label}。",
            f"{what}在{side}，标签是{scene.label}。",
        )
        return pick(rng, forms)
    plural = "" if scene.count == 1 else "es" if scene.shape == "cross" else "s"
    what = f"{COUNT_WORDS[scene.count]} {scene.colour} {scene.shape}{plural}"
    forms = (
        f"{what} on the {scene.side} and the label {scene.label} on the {opposite}.",
        f"On the {scene.side} {'is' if scene.count == 1 else 'are'} {what}, and the label says {scene.label}.",
    )
    return pick(rng, forms)


def text_context(scene: Scene, rng: np.random.Generator, slots: int) -> str:
    """The facts as `slots` words in random order, each fact two or more times, among words that say nothing.

    A count is a word and a digit is always the label, so any single word can be read by itself.
    """
    if slots < MIN_SLOTS:
        raise ValueError(f"text context: {slots} slots, but the facts need at least {MIN_SLOTS}")
    words: list[str] = []
    for value in _facts(scene).values():
        words += [_spoken(value, "en")] * int(rng.integers(2, max(3, slots // 6) + 1))
    words += [pick(rng, FILLERS) for _ in range(slots - len(words))]
    return " ".join(words[int(index)] for index in rng.permutation(slots))


def conversation(
    scene_or_context: Scene | str, questions: Sequence[Question], image_bytes: bytes | None, source: str, key: str
) -> Conversation:
    """Questions and answers in turn about a picture (a scene with `image_bytes`), or about a text context."""
    if not questions:
        raise ValueError(f"{source}/{key}: a conversation needs at least one question")
    if isinstance(scene_or_context, str) != (image_bytes is None):
        raise ValueError(f"{source}/{key}: a scene goes with the bytes of its picture, a text context with None")
    turns: list[Turn] = []
    for question in questions:
        turns += [Turn("human", question.text), Turn("assistant", question.answer)]
    if isinstance(scene_or_context, str):
        turns[0] = Turn("human", f"{scene_or_context}\n{questions[0].text}")
    else:
        turns[0] = Turn("human", questions[0].text, images=1)
    images = () if image_bytes is None else (image_bytes,)
    return Conversation(turns=tuple(turns), images=images, source=source, key=key)


def grade(reply: str, question: Question) -> bool:
    """Whether the reply is the answer, apart from case, space around it and a final full stop."""
    return _bare(reply) == _bare(question.answer)


def chance(kind: Kind) -> float:
    """The best accuracy on held-out scenes that one constant answer, in the question's language, can reach."""
    if kind == "choice":
        return 1 / len(LETTERS)
    if kind != "colour":
        return 1 / len(_VALUES[kind])
    partners = [sum(shape == other for other, _ in HELD_OUT) for shape, _ in HELD_OUT]
    return max(1 / (len(SHAPES) * count) for count in partners)


def overall_chance() -> float:
    """The same over all kinds, asked equally often."""
    return sum(chance(kind) for kind in all_kinds) / len(all_kinds)


def _facts(scene: Scene) -> dict[Kind, str | int]:
    return {
        "colour": scene.colour,
        "shape": scene.shape,
        "count": scene.count,
        "side": scene.side,
        "label": scene.label,
    }


def _spoken(value: str | int, language: Language) -> str:
    if isinstance(value, int):
        return COUNT_WORDS[value] if language == "en" else str(value)
    return _CHINESE.get(value, value) if language == "zh" else value


def _bare(text: str) -> str:
    text = text.strip().casefold()
    return text[:-1].rstrip() if text.endswith((".", "。")) else text
