"""TextVQA: questions that take reading text in an image, ten people's answers to each.

    python -m eval.textvqa MODEL --data FOLDER [--protocol llava-ocr]

LLaVA-1.5's published scores are of prompts with the tokens that an OCR system found in the image (`llava-ocr`); `llava`
asks without them, and lmms-eval, which does too, finds some 12 points less.

Source of the accuracy: haotian-liu/LLaVA, llava/eval/m4c_evaluator.py, which is facebookresearch/mmf's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eval.annotations import entries
from eval.benchmark import OVERALL, BadData, Published, Verdict
from eval.command import run
from eval.image_questions import LLAVA, LLAVA_SCORES, MAX_NEW_TOKENS, ImageBenchmark, short
from eval.vqa_answers import PeoplesQuestion, m4c, tally, ten, verdict

LLAVA_OCR = "llava-ocr"


class TextVQA(ImageBenchmark[PeoplesQuestion]):
    """Questions on Open Images."""

    title = "TextVQA"
    splits = ("val",)
    protocols = (LLAVA, LLAVA_OCR)
    layout = (
        "TextVQA_0.5.1_val.json and images as train_images/003a8ae2ef43b901.jpg (train_val_images.zip); for the "
        f"protocol {LLAVA_OCR} also TextVQA_Rosetta_OCR_v0.2_val.json (https://textvqa.org/dataset/)"
    )
    max_new_tokens = MAX_NEW_TOKENS

    def read(self) -> Iterator[PeoplesQuestion]:
        """The questions, which are published in lower case and asked with a capital, as LLaVA does."""
        tokens = self._tokens() if self.protocol == LLAVA_OCR else None
        file = self.annotation("TextVQA_0.5.1_val.json")
        for entry in entries(file, "data"):
            image = entry.get("image_id", str)
            question = entry.get("question", str).capitalize()
            if tokens is not None:
                if image not in tokens:
                    raise BadData(f"{entry.where}: image {image} has no tokens in {self.files[0]}")
                question += f"\nReference OCR token: {', '.join(tokens[image])}"
            answers = ten(entry, [str(answer) for answer in entry.get("answers", list)])
            yield PeoplesQuestion(
                id=str(entry.get("question_id", int)),
                prompt=short(question),
                truth=tally(answers),
                file=file,
                row=entry.row,
                image=self.data / "train_images" / f"{image}.jpg",
                answers=answers,
            )

    def _tokens(self) -> dict[str, list[str]]:
        """What was read in each image."""
        file = self.annotation("TextVQA_Rosetta_OCR_v0.2_val.json")
        return {
            entry.get("image_id", str): [str(token) for token in entry.get("ocr_tokens", list)]
            for entry in entries(file, "data")
        }

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the M4C evaluator's accuracy."""
        return [_judge(question, replies.get(question.id)) for question in self.questions]

    @property
    def published(self) -> Published | None:
        """LLaVA-1.5's, which saw the tokens."""
        if self.protocol != LLAVA_OCR:
            return None
        rows = {"LLaVA-1.5 7B": (58.2,), "LLaVA-1.5 13B": (61.3,)}
        return Published(source=LLAVA_SCORES, columns=(OVERALL,), rows=rows)


def _judge(question: PeoplesQuestion, reply: str | None) -> Verdict:
    answer = m4c(reply or "")
    return verdict(question, reply, answer, [m4c(one) for one in question.answers].count(answer))


if __name__ == "__main__":
    run("textvqa")
