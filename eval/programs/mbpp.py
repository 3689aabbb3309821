"""MBPP: 500 functions in Python to be written from a sentence and their tests, 3-shot.

The prompt is the paper's, with its three examples, task_id 2, 3 and 4 of the split `prompt`, a blank line between any
two; the task `mbpp` of lm-evaluation-harness puts the same to the letter. Yi's README says that prompts are those of
the original benchmarks and that nothing is done to what a model writes. (OpenCompass quotes the examples' code and
looks for code in replies by twenty patterns; bigcode's harness gives no examples, and one test in a docstring.) The
split `sanitized` has 257 of the problems, with sentences and tests gone over by hand.

A program is the code up to `[DONE]`, what the tests import or set up, and the tests. In the published files the setup
makes objects of classes that the code has to define, so it comes after it; lm-evaluation-harness leaves it out, and so
fails any answer to those problems.

Sources: google-research/google-research, mbpp/README.md; arXiv 2108.07732; 01-ai/Yi, README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eval.annotations import Entry
from eval.benchmark import BadData
from eval.programs.benchmark import CodeBenchmark, Problem

EXAMPLES = (2, 3, 4)
"""task_id of those before each problem."""

_SENTENCE = {"full": "text", "sanitized": "prompt"}


class MBPP(CodeBenchmark):
    """The problems of the split `test`, which are task_id 11 to 510."""

    title = "MBPP"
    splits = ("full", "sanitized")
    layout = "mbpp/full/{prompt,test}-*.parquet (or mbpp/sanitized), the hub's google-research-datasets/mbpp"
    shots = len(EXAMPLES)
    stops = ("[DONE]",)

    def read(self) -> Iterator[Problem]:
        """In the file's order."""
        folder = self.data / "mbpp" / self.split
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; {self.title} wants {self.layout}")
        examples = {entry.get("task_id", int): entry for entry in self.rows(folder, "prompt")}
        if missing := [str(number) for number in EXAMPLES if number not in examples]:
            raise BadData(f"{folder}: the split prompt has no task_id {', '.join(missing)}")
        shots = "".join(
            f"{self._asked(examples[number])}{examples[number].get('code', str)}\n[DONE]\n\n" for number in EXAMPLES
        )
        for entry in self.rows(folder, "test"):
            setup = [entry.get("test_setup_code", str)] if self.split == "full" else _texts(entry, "test_imports")
            yield Problem(
                id=str(entry.get("task_id", int)),
                prompt=shots + self._asked(entry),
                truth=entry.get("code", str),
                after="\n" + "\n".join([*setup, *_texts(entry, "test_list")]),
                file=entry.file,
                row=entry.row,
            )

    def _asked(self, entry: Entry) -> str:
        tests = "\n".join(_texts(entry, "test_list"))
        sentence = entry.get(_SENTENCE[self.split], str)
        return (
            f"You are an expert Python programmer, and here is your task: {sentence} "
            f"Your code should pass these tests:\n\n{tests}\n[BEGIN]\n"
        )


def _texts(entry: Entry, name: str) -> Sequence[str]:
    """The strings in the list under `name`."""
    found = entry.get(name, list)
    if not all(isinstance(one, str) for one in found):
        raise BadData(f"{entry.where}: {name!r} should hold strings, in {str(found)[:200]}")
    return found
