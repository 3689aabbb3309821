"""VizWiz-VQA: photos and spoken questions of blind people, ten people's answers to each.

    python -m eval.vizwiz MODEL --data FOLDER [--split val]

Replies are normalised as LLaVA hands them in, then scored as VizWiz' evaluation does it: normalised once more, and
compared with people's answers as these are written. Beside the accuracy stands how well questions that the photo does
not answer are told: officially a task of its own, of which a model that only answers can take the F1.

Source: VizWiz' API for Python, vqaEvaluation/vqaEval.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from eval.annotations import Entry, entries
from eval.benchmark import BadData, Part, Verdict
from eval.command import run
from eval.image_questions import LLAVA, MAX_NEW_TOKENS, ImageBenchmark, short
from eval.vqa_answers import PeoplesQuestion, m4c, official, tally, ten, verdict

UNANSWERABLE = "unanswerable"
UNANSWERABLE_F1 = f"{UNANSWERABLE} F1"
_HINT = "When the provided information is insufficient, respond with 'Unanswerable'."
"""LLaVA-1.5's, on a line after the question. Source: EvolvingLMMs-Lab/lmms-eval, tasks/vizwiz_vqa."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoQuestion(PeoplesQuestion):
    """A question about a blind person's photo."""

    answerable: bool
    """By what most of the ten said; without meaning where answers are withheld."""


class VizWiz(ImageBenchmark[PhotoQuestion]):
    """One question a photo."""

    title = "VizWiz"
    splits = ("val", "test")
    protocols = (LLAVA,)
    layout = (
        "Annotations/val.json (or val.json) and photos as val/VizWiz_val_00000000.jpg; for test likewise "
        "(https://vizwiz.org/tasks-and-datasets/vqa/)"
    )
    max_new_tokens = MAX_NEW_TOKENS

    def read(self) -> Iterator[PhotoQuestion]:
        """The questions of the split; those of val with their answers."""
        file = self.annotation(f"Annotations/{self.split}.json", f"annotations/{self.split}.json", f"{self.split}.json")
        for entry in entries(file):
            photo = entry.get("image", str)
            answers = _answers(entry) if self.split == "val" else ()
            yield PhotoQuestion(
                id=photo,
                prompt=short(f"{entry.get('question', str)}\n{_HINT}"),
                truth=tally(answers),
                groups={"answer type": entry.get("answer_type", str)} if answers else {},
                file=file,
                row=entry.row,
                image=self.data / self.split / photo,
                answers=answers,
                answerable=not answers or _answerable(entry),
            )

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the official accuracy, and the F1 of telling what can't be answered."""
        return [_judge(question, replies.get(question.id)) for question in self.questions]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """`submission.json` for EvalAI: [{"image", "answer"}].

        Source: haotian-liu/LLaVA, scripts/convert_vizwiz_for_submission.py.
        """
        content = [{"image": verdict.question.id, "answer": verdict.answer} for verdict in verdicts]
        return {"submission.json": json.dumps(content, ensure_ascii=False)}


def _answers(entry: Entry) -> tuple[str, ...]:
    return ten(entry, [given.get("answer", str) for given in entry.each("answers")])


def _answerable(entry: Entry) -> bool:
    value = entry.get("answerable", int)
    if value not in (0, 1):
        raise BadData(f"{entry.where}: 'answerable' should be 0 or 1, not {value}")
    return value == 1


def _judge(question: PhotoQuestion, reply: str | None) -> Verdict:
    answer = m4c(reply or "")
    compared = official(answer)
    judged = verdict(question, reply, answer, question.answers.count(compared))
    if not judged.parts:
        return judged
    claimed, present = compared == UNANSWERABLE, not question.answerable
    return replace(judged, parts={**judged.parts, UNANSWERABLE_F1: Part(2 * (claimed and present), claimed + present)})


if __name__ == "__main__":
    run("vizwiz")
