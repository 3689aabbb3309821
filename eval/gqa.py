"""GQA: questions composed from scene graphs of images, with one right answer each.

    python -m eval.gqa MODEL --data FOLDER [--split testdev]

A reply is right when it is the answer, in lower case and without full stops at its end.

Sources: GQA's eval.py (https://cs.stanford.edu/people/dorarad/gqa/evaluate.html), which compares as it is written;
haotian-liu/LLaVA, scripts/convert_gqa_for_eval.py, which writes replies for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from eval.annotations import named_entries
from eval.benchmark import OVERALL, Part, Published, Verdict
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

_SEMANTIC = {"attr": "attribute", "cat": "category", "global": "scene", "obj": "object", "rel": "relation"}
"""The official script's words for them."""


class GQA(ImageBenchmark[ImageQuestion]):
    """The balanced questions."""

    title = "GQA"
    splits = ("testdev", "val")
    protocols = (LLAVA,)
    layout = (
        "testdev_balanced_questions.json (or val_balanced_questions.json), also in questions1.2/, and images as "
        "images/n161313.jpg (https://cs.stanford.edu/people/dorarad/gqa/download.html)"
    )
    max_new_tokens = MAX_NEW_TOKENS

    def read(self) -> Iterator[ImageQuestion]:
        """The questions of the split."""
        name = f"{self.split}_balanced_questions.json"
        file = self.annotation(name, f"questions1.2/{name}")
        for number, entry in named_entries(file):
            types = entry.inside("types")
            structure, meaning = types.get("structural", str), types.get("semantic", str)
            yield ImageQuestion(
                id=number,
                prompt=short(entry.get("question", str)),
                truth=entry.get("answer", str),
                groups={
                    "answers": "open" if structure == "query" else "binary",
                    "structural type": structure,
                    "semantic type": _SEMANTIC.get(meaning, meaning),
                },
                file=file,
                row=entry.row,
                image=self.data / "images" / f"{entry.get('imageId', str)}.jpg",
            )

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By equality."""
        return [_judge(question, replies.get(question.id)) for question in self.questions]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """What the official script reads: [{"questionId", "prediction"}]."""
        content = [{"questionId": verdict.question.id, "prediction": verdict.answer} for verdict in verdicts]
        return {f"{self.split}_predictions.json": json.dumps(content, ensure_ascii=False)}

    @property
    def published(self) -> Published | None:
        """LLaVA-1.5's."""
        if self.split != "testdev":
            return None
        rows = {"LLaVA-1.5 7B": (62.0,), "LLaVA-1.5 13B": (63.3,)}
        return Published(source=LLAVA_SCORES, columns=(OVERALL,), rows=rows)


def _judge(question: ImageQuestion, reply: str | None) -> Verdict:
    answer = (reply or "").rstrip(".").lower()
    right = reply is not None and answer == question.truth
    why = "the answer" if right else "not the answer"
    return Verdict(
        question=question,
        reply=reply,
        answer=answer,
        parts={ACCURACY: Part(right)},
        why=NO_REPLY if reply is None else why,
    )


if __name__ == "__main__":
    run("gqa")
