"""What benchmarks of annotation files and folders of images share: reading them, and the prompts of LLaVA-1.5."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from eval.benchmark import BadData, Benchmark, Choices, Picture, Question

ACCURACY = "accuracy"
NO_REPLY = "no reply"
"""Why a question without one counts as wrong."""

LLAVA = "llava"
"""LLaVA-1.5's protocol: a question, and on the next line how to answer."""
SHORT_ANSWER = "Answer the question using a single word or phrase."
"""How, where answers are words. Source: haotian-liu/LLaVA, docs/Evaluation.md."""
MAX_NEW_TOKENS = 128
"""LLaVA-1.5's for all benchmarks. Source: haotian-liu/LLaVA, llava/eval/model_vqa_loader.py."""
LLAVA_SCORES = "haotian-liu/LLaVA, docs/MODEL_ZOO.md"
"""Where LLaVA-1.5's scores are published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageQuestion(Question):
    """A question about one image."""

    image: Path


Asked = TypeVar("Asked", bound=ImageQuestion)


class ImageBenchmark(Benchmark, Generic[Asked]):
    """Questions about one image each, in a folder. They are read when it is made, so wrong files show at once."""

    subject_names: ClassVar[tuple[str, ...]] = ()
    """What `Choices.subjects` may choose; empty where all questions are asked."""

    def __init__(self, data: Path, choices: Choices) -> None:
        super().__init__(data, choices)
        for subject in choices.subjects or ():
            if subject not in self.subject_names:
                known = f"there are {', '.join(self.subject_names)}" if self.subject_names else "it has none"
                raise ValueError(f"{self.title} has no subject {subject!r}; {known}")
        self._files: list[Path] = []
        self._questions: dict[str, Asked] = {}
        for question in self.read():
            if question.id in self._questions:
                raise BadData(f"{question.where}: {self._questions[question.id].where} has the same id")
            self._questions[question.id] = question
        if not self._questions:
            asked = f" in {', '.join(self.chosen)}" if self.chosen else ""
            raise ValueError(f"{self.title} has no questions of the split {self.split}{asked}")

    @abstractmethod
    def read(self) -> Iterator[Asked]:
        """The questions, in the official order.

        Raises:
            FileNotFoundError: an annotation file is missing.
            BadData: one is not as it should be.
        """

    def annotation(self, *names: str) -> Path:
        """The first of these annotation files that is there; from now on one of `files`.

        Raises:
            FileNotFoundError: none is.
        """
        for name in names:
            if (file := self.data / name).is_file():
                self._files.append(file)
                return file
        raise FileNotFoundError(f"{self.data} has no {' or '.join(names)}; {self.title} wants {self.layout}")

    @property
    def chosen(self) -> list[str]:
        """The subjects that are asked, in the official order."""
        return [name for name in self.subject_names if self.subjects is None or name in self.subjects]

    @property
    def questions(self) -> Sequence[Asked]:
        """In the official order."""
        return tuple(self._questions.values())

    @property
    def files(self) -> Sequence[Path]:
        """The annotation files."""
        return self._files

    def pictures(self, questions: Sequence[Question]) -> list[tuple[Picture, ...]]:
        """Each question's image, as a file."""
        images = [self._questions[question.id].image for question in questions]
        for question, image in zip(questions, images, strict=True):
            if not image.is_file():
                raise BadData(f"{question.where}: no image {image}; {self.title} wants {self.layout}")
        return [(image,) for image in images]


def short(question: str) -> str:
    """The prompt that asks for a word or phrase."""
    return f"{question}\n{SHORT_ANSWER}"
