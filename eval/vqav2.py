"""VQAv2: people's questions on COCO images, ten people's answers to each.

    python -m eval.vqav2 MODEL --data FOLDER [--split val]

Replies are normalised as LLaVA hands them in, then scored as the challenge's server does it. There an answer that all
ten people gave is compared as it is written, and any other after normalising both sides.

Source: GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.annotations import entries
from eval.benchmark import BadData, Verdict
from eval.command import run
from eval.image_questions import LLAVA, MAX_NEW_TOKENS, ImageBenchmark, short
from eval.vqa_answers import PeoplesQuestion, m4c, official, one_line, tally, ten, verdict

_IMAGES = {"val": "val2014", "test-dev": "test2015", "test": "test2015"}
_QUESTIONS = {"val": "val2014", "test-dev": "test-dev2015", "test": "test2015"}


class _People(NamedTuple):
    answers: tuple[str, ...]
    groups: dict[str, str]


class VQAv2(ImageBenchmark[PeoplesQuestion]):
    """Open-ended questions on COCO's val2014 and test2015."""

    title = "VQAv2"
    splits = tuple(_QUESTIONS)
    protocols = (LLAVA,)
    layout = (
        "v2_OpenEnded_mscoco_val2014_questions.json and v2_mscoco_val2014_annotations.json "
        "(https://visualqa.org/download.html) and COCO's images as val2014/COCO_val2014_000000000042.jpg; for test and "
        "test-dev v2_OpenEnded_mscoco_test2015_questions.json, v2_OpenEnded_mscoco_test-dev2015_questions.json and "
        "test2015/COCO_test2015_000000000001.jpg"
    )
    max_new_tokens = MAX_NEW_TOKENS

    def read(self) -> Iterator[PeoplesQuestion]:
        """The questions of the split; those of val with their answers."""
        file = self._questions_file(self.split)
        self._handed_in = file if self.split != "test-dev" else self._questions_file("test")
        people = self._people() if self.split == "val" else None
        folder = _IMAGES[self.split]
        for entry in entries(file, "questions"):
            number = entry.get("question_id", int)
            if people is not None and number not in people:
                raise BadData(f"{entry.where}: question {number} has no answers in {self.files[-1]}, or comes twice")
            answers, groups = people.pop(number) if people is not None else ((), {})
            yield PeoplesQuestion(
                id=str(number),
                prompt=short(entry.get("question", str)),
                truth=tally(answers),
                groups=groups,
                file=file,
                row=entry.row,
                image=self.data / folder / f"COCO_{folder}_{entry.get('image_id', int):012d}.jpg",
                answers=answers,
            )
        if people:
            raise BadData(f"{self.files[-1]}: question {next(iter(people))} is not in {file}")

    def _questions_file(self, split: str) -> Path:
        return self.annotation(f"v2_OpenEnded_mscoco_{_QUESTIONS[split]}_questions.json")

    def _people(self) -> dict[int, _People]:
        return {
            entry.get("question_id", int): _People(
                ten(entry, [given.get("answer", str) for given in entry.each("answers")]),
                {"answer type": entry.get("answer_type", str), "question type": entry.get("question_type", str)},
            )
            for entry in entries(self.annotation("v2_mscoco_val2014_annotations.json"), "annotations")
        }

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the official accuracy."""
        return [_judge(question, replies.get(question.id)) for question in self.questions]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """`submission.json` for EvalAI: [{"question_id", "answer"}].

        The server wants every question of test2015, also where only test-dev was asked; the others get no answer.
        Source: haotian-liu/LLaVA, scripts/convert_vqav2_for_submission.py.
        """
        answers = {int(verdict.question.id): verdict.answer for verdict in verdicts}
        numbers = [entry.get("question_id", int) for entry in entries(self._handed_in, "questions")]
        content = [{"question_id": number, "answer": answers.get(number, "")} for number in numbers]
        return {"submission.json": json.dumps(content, ensure_ascii=False)}


def _judge(question: PeoplesQuestion, reply: str | None) -> Verdict:
    answer = m4c(reply or "")
    given = [one_line(one) for one in question.answers]
    unanimous = len(set(given)) == 1
    agreeing = given.count(answer) if unanimous else list(map(official, given)).count(official(answer))
    return verdict(question, reply, answer, agreeing)


if __name__ == "__main__":
    run("vqav2")
