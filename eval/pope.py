"""POPE: is there such an object in the image? Half of the objects asked about are not, in three ways of choosing them.

    python -m eval.pope MODEL --data FOLDER

`yes` is the positive class. F1 is 2 TP / (2 TP + FP + FN), over all questions together, and so is not the mean of the
three categories' F1, which papers report as POPE's: that is `mean F1`.

Sources: AoiDragon/POPE, evaluate.py, and the same in haotian-liu/LLaVA, llava/eval/eval_pope.py, by category.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from eval.annotations import lines
from eval.benchmark import OVERALL, BadData, Part, Published, Verdict
from eval.command import run
from eval.image_questions import (
    ACCURACY,
    LLAVA,
    LLAVA_SCORES,
    MAX_NEW_TOKENS,
    NO_REPLY,
    ImageBenchmark,
    ImageQuestion,
    short,
)

PRECISION, RECALL, F1, MEAN_F1, YES_RATIO = "precision", "recall", "F1", "mean F1", "yes ratio"
_YES, _NO = "yes", "no"
_DENIALS = ("No", "not", "no")
"""One of these words in the first sentence makes a reply a no; any other reply is a yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectQuestion(ImageQuestion):
    """Whether an object is in an image."""

    category: str
    """How it was chosen."""

    @property
    def present(self) -> bool:
        """Whether it is there."""
        return self.truth == _YES


class POPE(ImageBenchmark[ObjectQuestion]):
    """Questions about objects in COCO's val2014."""

    title = "POPE"
    splits = ("coco",)
    protocols = (LLAVA,)
    layout = (
        "coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json, also in coco/ "
        "(https://github.com/AoiDragon/POPE, output/coco), and COCO's images as val2014/COCO_val2014_000000000042.jpg"
    )
    subject_names = ("random", "popular", "adversarial")
    max_new_tokens = MAX_NEW_TOKENS

    def read(self) -> Iterator[ObjectQuestion]:
        """One category after another."""
        for category in self.chosen:
            name = f"coco_pope_{category}.json"
            file = self.annotation(name, f"coco/{name}")
            for entry in lines(file):
                label = entry.get("label", str)
                if label not in (_YES, _NO):
                    raise BadData(f"{entry.where}: label {label!r}; it should be {_YES} or {_NO}")
                yield ObjectQuestion(
                    id=f"{category}-{entry.get('question_id', int)}",
                    prompt=short(entry.get("text", str)),
                    truth=label,
                    groups={"category": category},
                    file=file,
                    row=entry.row,
                    image=self.data / "val2014" / entry.get("image", str),
                    category=category,
                )

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the official rules. A missing reply counts as the wrong answer, and as neither yes nor no."""
        answers = {question.id: said(replies[question.id]) for question in self.questions if question.id in replies}
        claimed = {one.id: answers[one.id] == _YES if one.id in answers else not one.present for one in self.questions}
        weights: Counter[str] = Counter()
        for question in self.questions:
            weights[question.category] += claimed[question.id] + question.present
        return [
            Verdict(
                question=question,
                reply=replies.get(question.id),
                answer=answers.get(question.id, ""),
                parts=_parts(claimed[question.id], question.present, weights[question.category])
                | {YES_RATIO: Part(answers.get(question.id) == _YES, question.id in answers)},
                why=_why(answers.get(question.id)),
            )
            for question in self.questions
        ]

    @property
    def published(self) -> Published | None:
        """LLaVA-1.5's F1."""
        mean = (85.9, None, None, None)
        rows = {"LLaVA-1.5 7B (mean F1)": mean, "LLaVA-1.5 13B (mean F1)": mean}
        return Published(source=LLAVA_SCORES, columns=(OVERALL, *self.subject_names), rows=rows)


def said(reply: str) -> str:
    """Yes or no, as the official script reads a reply: the first sentence, split at spaces, without commas."""
    words = reply.split(".")[0].replace(",", "").split(" ")
    return _NO if any(word in words for word in _DENIALS) else _YES


def _parts(claimed: bool, present: bool, weight: int) -> dict[str, Part]:
    """A question's part in each metric.

    Args:
        claimed: whether the answer is yes.
        present: whether it should be.
        weight: sum over its category of what divides F1; by it every category has the same share in the mean.
    """
    found = claimed and present
    return {
        ACCURACY: Part(claimed == present),
        PRECISION: Part(found, claimed),
        RECALL: Part(found, present),
        F1: Part(2 * found, claimed + present),
        MEAN_F1: Part(2 * found / weight, (claimed + present) / weight) if weight else Part(0, 0),
    }


def _why(answer: str | None) -> str:
    if answer is None:
        return NO_REPLY
    return "a no, No or not in its first sentence" if answer == _NO else "no no, No or not in its first sentence"


if __name__ == "__main__":
    run("pope")
