"""RefCOCO, RefCOCO+ and RefCOCOg: the box of the object that a phrase singles out in a COCO image.

    python -m eval.refcoco MODEL --data FOLDER [--split testA] [--subjects refcoco,refcoco+]

Asked as the training data asks (`yivl.refcoco`), and answered in the box form that it teaches (`yivl.boxes`). Every
phrase is a question. Right is a box whose intersection with the object's box has at least half the area of their union.

https://github.com/lichengunc/refer
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from eval.benchmark import Verdict
from eval.command import run
from eval.image_questions import ImageBenchmark

if TYPE_CHECKING:  # it takes yivl, which where torch is installed takes seconds to import
    from eval.phrases import PhraseQuestion

_SPLITS = {
    "val": ("refcoco", "refcoco+", "refcocog"),
    "testA": ("refcoco", "refcoco+"),
    "testB": ("refcoco", "refcoco+"),
    "test": ("refcocog",),
}
"""The data sets that have each split: testA is of people, testB of other things; RefCOCOg does not tell them apart."""


class RefCOCO(ImageBenchmark["PhraseQuestion"]):
    """The data sets that have the split, one after another."""

    title = "RefCOCO"
    splits = tuple(_SPLITS)
    protocols = ("yivl",)
    layout = (
        "refs(unc).p and instances.json in refcoco/ and refcoco+/, refs(umd).p and instances.json in refcocog/ "
        "(https://github.com/lichengunc/refer), and COCO's images as "
        "images/mscoco/images/train2014/COCO_train2014_000000000009.jpg"
    )
    subject_names = _SPLITS["val"]
    max_new_tokens = 64
    """A box is 25 characters, most of them tokens of their own."""

    def read(self) -> Iterator[PhraseQuestion]:
        """All phrases of the split, in the order of the objects that they refer to."""
        from eval import phrases  # noqa: PLC0415

        for name in self.chosen:
            if name in _SPLITS[self.split]:
                refs, instances = map(self.annotation, phrases.files(name))
                yield from phrases.read(self.data, name, self.split, refs, instances)

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the first box in each reply."""
        from eval import phrases  # noqa: PLC0415

        return [phrases.verdict(question, replies.get(question.id)) for question in self.questions]

    def notes(self, verdicts: Sequence[Verdict]) -> Sequence[str]:
        """How many replies hold no box."""
        without = sum(verdict.reply is not None and not verdict.answer for verdict in verdicts)
        return (f"{without} replies hold no box; they count as wrong.",) if without else ()


if __name__ == "__main__":
    run("refcoco")
