"""MMMU-Pro: MMMU's questions with up to twelve options, and as screenshots with the question inside the picture.

    python -m eval.mmmu_pro MODEL --data FOLDER [--split standard-10] [--protocol direct]

Splits are the three configurations of the hub's `MMMU/MMMU_Pro`; each has 1730 questions, under the name `test`:

    FOLDER/standard (10 options)/test-00000-of-00002.parquet    standard-10; "10" is nominal, some have more or less
    FOLDER/standard (4 options)/test-00000-of-00002.parquet     standard-4
    FOLDER/vision/test-00000-of-00004.parquet                   vision

Columns of the standard ones: id, question, options (a Python list literal), image_1 to image_7, answer, subject, and
what is not read; of vision: id, image, options, answer, subject. All questions are multiple-choice.

Protocols are the instructions of the official `prompts.yaml`, `direct` and `cot`. Pictures stand in the order in which
the question and its shuffled options mention them, each as often as it is mentioned (issue #70). `direct-one` and
`cot-one` show only the first one mentioned, as a model like Yi-VL needs it that reads one picture and 4096 tokens.

Source: MMMU-Benchmark/MMMU, `mmmu-pro/infer/infer_transformers.py`, `mmmu-pro/prompts.yaml`, `mmmu-pro/evaluate.py`.
The official script seeds nothing, so that its draws differ from run to run; here they come from a stated seed. It also
passes over files named after `standard (10 options)`, which is why one is written that it does read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval import parquet
from eval.benchmark import OVERALL, BadData, Benchmark, Choices, Picture, Published, Question, Verdict
from eval.command import run
from eval.fallback import FALLBACKS, Marker
from eval.mmmu.dataset import IMAGES, TAG, lettered
from eval.mmmu.subjects import DISCIPLINES, discipline_of, in_order
from eval.parquet import Cell
from eval.parsing import LOOSE, Found, parse_multi_choice_response

SEED = 42
"""Of the random fallback; ours, as the official script has none."""
QUESTIONS = 1730
"""Of each split."""

_FOLDERS = {"standard-10": "standard (10 options)", "standard-4": "standard (4 options)", "vision": "vision"}
_VISION = "vision"

_LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) where LETTER "
    "is one of options."
)
_DIRECT = "Answer with the option letter from the given choices directly."
_STEPS = "Think step by step before answering."
_INSTRUCTIONS = {
    ("direct", False): _DIRECT,
    ("direct", True): f"{_DIRECT} {_LAST_LINE}",
    ("cot", False): f"Answer the preceding multiple choice question. {_LAST_LINE} {_STEPS}",
    ("cot", True): f"Write out the multiple-choice question in the image and then solve it. {_LAST_LINE} {_STEPS}",
}
"""By mode, and whether the question is in the picture."""
_MAX_NEW_TOKENS = {"direct": 50, "cot": 4096}
"""Of `infer_transformers.py`, whose 50 leave no room for steps; of `infer_llava_onevision.py`. The model's context may
allow less."""

_ANSWER = "Answer:"
_NOT_GIVEN = (None,) * len(DISCIPLINES)
_PUBLISHED: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("standard-10", "cot"): (55.0, *_NOT_GIVEN),
    ("standard-10", "direct"): (40.1, *_NOT_GIVEN),
    ("vision", "cot"): (50.1, *_NOT_GIVEN),
    ("vision", "direct"): (42.4, *_NOT_GIVEN),
}
"""GPT-4o, in percent: `mmmu-pro/evaluate.py` on the replies in `mmmu-pro/output`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item(Question):
    """One question. Its `truth` is a letter."""

    options: tuple[str, ...]
    columns: tuple[str, ...]
    """Of the pictures that are shown, in order."""

    @property
    def choices(self) -> dict[str, str]:
        """The options by letter."""
        return lettered(self.options)


class MMMUPro(Benchmark):
    """MMMU with more options, and with the question inside the picture."""

    title = "MMMU-Pro"
    splits = tuple(_FOLDERS)
    protocols = ("direct", "cot", "direct-one", "cot-one")
    fallbacks = tuple(FALLBACKS)
    layout = (
        "the hub's MMMU/MMMU_Pro, downloaded: the folders `standard (10 options)`, `standard (4 options)`, `vision`"
    )

    def __init__(self, data: Path, choices: Choices) -> None:
        super().__init__(data, choices)
        if choices.subjects is not None:
            self.subjects = tuple(in_order(list(choices.subjects)))
        self._mode = self.protocol.split("-")[0]
        self.max_new_tokens = _MAX_NEW_TOKENS[self._mode]
        self._files = parquet.shards(data / _FOLDERS[self.split], "test")
        self._items: dict[str, Item] = {}
        for file in self._files:
            for item in self._read(file):
                if item.id in self._items:
                    raise BadData(f"{item.where}: the same id as {self._items[item.id].where}")
                self._items[item.id] = item
        if not self._items:
            raise BadData(f"{self._files[0]}: no questions{'' if self.subjects is None else ' of these subjects'}")

    @property
    def questions(self) -> Sequence[Item]:
        """As in the files."""
        return tuple(self._items.values())

    @property
    def files(self) -> Sequence[Path]:
        """The shards."""
        return self._files

    def pictures(self, questions: Sequence[Question]) -> list[tuple[Picture, ...]]:
        """Those that are shown with each."""
        cells = [
            [Cell(item.file, item.row, column, item.where) for column in item.columns]
            for item in (self._items[question.id] for question in questions)
        ]
        read = parquet.images([cell for of_item in cells for cell in dict.fromkeys(of_item)])
        for cell, content in read.items():
            if content is None:
                raise BadData(f"{cell.where}: {cell.column} is mentioned, and empty")
        return [tuple(read[cell] for cell in of_item) for of_item in cells]

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the official parser. A missing reply is wrong."""
        marker = Marker(self.fallback or "official", SEED)
        return [
            marker.choice(item, reply, parse(reply, item.choices), list(item.choices), item.truth.__eq__)
            if (reply := replies.get(item.id)) is not None
            else marker.missing(item)
            for item in self._items.values()
        ]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """All replies in a file that the official `evaluate.py` reads."""
        setting = "vision" if self.split == _VISION else "standard"
        lines = [
            {"id": item.id, "options": str(list(item.options)), "answer": item.truth, "response": verdict.reply}
            for item, verdict in zip(self._items.values(), verdicts, strict=True)
            if verdict.reply is not None
        ]
        content = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        return {f"output_{setting}_{self._mode}.jsonl": content}

    def notes(self, verdicts: Sequence[Verdict]) -> Sequence[str]:
        """What the score is part of, and whether these are all questions."""
        paper = "The paper's overall score is the mean of standard-10 and vision."
        if len(self._items) == QUESTIONS:
            return (paper,)
        return (paper, f"Only {len(self._items)} of {QUESTIONS} questions: not comparable with published scores.")

    @property
    def published(self) -> Published | None:
        """GPT-4o's scores by the same script; none for standard-4."""
        row = _PUBLISHED.get((self.split, self._mode))
        if row is None:
            return None
        source = "mmmu-pro/evaluate.py on the outputs in MMMU-Benchmark/MMMU"
        return Published(source=source, columns=(OVERALL, *DISCIPLINES), rows={"GPT-4o": row})

    def _read(self, file: Path) -> Iterator[Item]:
        vision = self.split == _VISION
        text = ("id", "options", "answer", "subject", *(() if vision else ("question",)))
        images = ("image",) if vision else tuple(f"image_{number}" for number in IMAGES)
        for row, record in parquet.rows(file, text, images):
            where = f"{file}, row {row}"
            subject = parquet.given(record, "subject", where)
            if self.subjects is not None and subject not in self.subjects:
                continue
            id = parquet.given(record, "id", where)
            options = parquet.string_list(record["options"], f"{where} ({id})")
            if not options:
                raise BadData(f"{where} ({id}): no options")
            question = "" if vision else parquet.given(record, "question", where)
            yield self._item(id, question, options, parquet.given(record, "answer", where), subject, file, row)

    def _item(
        self, id: str, question: str, options: tuple[str, ...], answer: str, subject: str, file: Path, row: int
    ) -> Item:
        instruction = _INSTRUCTIONS[self._mode, self.split == _VISION]
        listed = "\n".join(f"{letter}. {text}" for letter, text in lettered(options).items())
        prompt = instruction if self.split == _VISION else f"{question}\n{listed}\n{instruction}"
        columns = ("image",) if self.split == _VISION else tuple(f"image_{n}" for n in TAG.findall(prompt))
        return Item(
            id=id,
            prompt=TAG.sub("[image]", prompt),
            truth=answer,
            groups={"discipline": _discipline(subject, f"{file}, row {row} ({id})"), "subject": subject},
            file=file,
            row=row,
            options=options,
            columns=columns[:1] if self.protocol.endswith("-one") else columns,
        )


def parse(response: str, options: Mapping[str, str]) -> Found | None:
    """The letter that `response` chooses; None where the official script draws one.

    The letters of options behind the last `Answer:` count first, in words too, if there is exactly one of them; else
    the whole response is read, more loosely than for MMMU.
    """
    _, marker, told = response.rpartition(_ANSWER)
    letters = [letter for letter in options if letter in told] if marker else []
    if len(letters) == 1:
        return Found(letters[0], f"{letters[0]} behind the last `{_ANSWER}`")
    return parse_multi_choice_response(response, options, LOOSE)


def _discipline(subject: str, where: str) -> str:
    try:
        return discipline_of(in_order([subject])[0])
    except ValueError as error:
        raise BadData(f"{where}: {error}") from error


if __name__ == "__main__":
    run("mmmu_pro")
