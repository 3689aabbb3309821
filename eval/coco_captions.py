"""COCO captions: one sentence on an image, compared with those of five people by CIDEr.

    python -m eval.coco_captions MODEL --data FOLDER [--split test]

`test` and `val` are Karpathy's, 5,000 images each, which papers use; `val2014` is COCO's own, 40,504.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval import cider
from eval.annotations import entries
from eval.benchmark import BadData, Choices, Part, Verdict
from eval.command import run
from eval.image_questions import NO_REPLY, ImageBenchmark, ImageQuestion

CIDER = "CIDEr"
PROMPT = "Provide a one-sentence caption for the provided image."
"""Source: EvolvingLMMs-Lab/lmms-eval, tasks/coco_cap/utils.py; as in LLaVA-1.5's training data of captions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionQuestion(ImageQuestion):
    """An image to be captioned."""

    references: tuple[str, ...]
    """People's captions."""


class COCOCaptions(ImageBenchmark[CaptionQuestion]):
    """Images of COCO's val2014. Made only where CIDEr can be computed, since what is asked must be scored."""

    title = "COCO captions"
    splits = ("test", "val", "val2014")
    protocols = ("lmms-eval",)
    layout = (
        "dataset_coco.json (https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip), for val2014 "
        "annotations/captions_val2014.json (https://cocodataset.org/#download), and COCO's images as "
        "val2014/COCO_val2014_000000000042.jpg"
    )
    max_new_tokens = 64
    """lmms-eval's, tasks/coco_cap."""

    def __init__(self, data: Path, choices: Choices) -> None:
        super().__init__(data, choices)
        cider.require()

    def read(self) -> Iterator[CaptionQuestion]:
        """The images in their file's order."""
        yield from self._coco() if self.split == "val2014" else self._karpathy()

    def _coco(self) -> Iterator[CaptionQuestion]:
        file = self.annotation("annotations/captions_val2014.json", "captions_val2014.json")
        captions: dict[int, list[str]] = {}
        for entry in entries(file, "annotations"):
            captions.setdefault(entry.get("image_id", int), []).append(entry.get("caption", str))
        for entry in entries(file, "images"):
            number = entry.get("id", int)
            if number not in captions:
                raise BadData(f"{entry.where}: image {number} has no captions")
            yield self._question(number, f"val2014/{entry.get('file_name', str)}", captions[number], file, entry.row)

    def _karpathy(self) -> Iterator[CaptionQuestion]:
        file = self.annotation("dataset_coco.json")
        for entry in entries(file, "images"):
            if entry.get("split", str) == self.split:
                image = f"{entry.get('filepath', str)}/{entry.get('filename', str)}"
                captions = [sentence.get("raw", str) for sentence in entry.each("sentences")]
                if not captions:
                    raise BadData(f"{entry.where}: {image} has no captions")
                yield self._question(entry.get("cocoid", int), image, captions, file, entry.row)

    def _question(self, number: int, image: str, captions: Sequence[str], file: Path, row: int) -> CaptionQuestion:
        return CaptionQuestion(
            id=str(number),
            prompt=PROMPT,
            truth="\n".join(captions),
            file=file,
            row=row,
            image=self.data / image,
            references=tuple(captions),
        )

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By CIDEr. A missing caption scores 0."""
        captions = {question.id: replies.get(question.id, "") for question in self.questions}
        scores = cider.cider(captions, {question.id: question.references for question in self.questions})
        return [_verdict(question, replies.get(question.id), scores[question.id]) for question in self.questions]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """What COCO's scripts and server read: [{"image_id", "caption"}]."""
        content = [{"image_id": int(verdict.question.id), "caption": verdict.answer} for verdict in verdicts]
        return {"captions_val2014_results.json": json.dumps(content, ensure_ascii=False)}


def _verdict(question: CaptionQuestion, reply: str | None, score: float) -> Verdict:
    return Verdict(
        question=question,
        reply=reply,
        answer=reply or "",
        parts={CIDER: Part(score)},
        why=NO_REPLY if reply is None else f"{CIDER} {score:.3f}",
    )


if __name__ == "__main__":
    run("coco_captions")
