"""CMMMU as a benchmark: questions, pictures, verdicts, and what is handed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from eval import parquet
from eval.benchmark import OVERALL, BadData, Benchmark, Choices, Picture, Published, Question, Verdict
from eval.cmmmu import dataset
from eval.cmmmu.dataset import CATEGORIES, SIZES, TYPES, Entry
from eval.cmmmu.grading import OFFICIAL, STRICT, grade
from eval.cmmmu.prompt import picture, prompt
from eval.fallback import FALLBACKS, Marker
from eval.parquet import Cell

SEED = 42
"""Of the random fallback, as in the official script."""

_RULES = {"official": OFFICIAL, "strict": STRICT}
_COLUMNS = (OVERALL, *CATEGORIES.values())
_NOT_GIVEN = (None,) * len(CATEGORIES)
_PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "test": {
        "GPT-4V": (43.7, *_NOT_GIVEN),
        "Qwen-VL-PLUS": (36.8, *_NOT_GIVEN),
        "Yi-VL-34B": (36.5, 62.9, 19.1, 31.5, 42.1, 42.5, 34.5),
        "Yi-VL-6B": (35.0, 58.0, 19.9, 32.3, 39.3, 40.6, 32.1),
        "Qwen-VL-7B-Chat": (31.3, *_NOT_GIVEN),
    },
    "val": {
        "GPT-4V": (42.5, *_NOT_GIVEN),
        "Qwen-VL-PLUS": (39.5, *_NOT_GIVEN),
        "Yi-VL-34B": (36.2, *_NOT_GIVEN),
        "Yi-VL-6B": (35.8, *_NOT_GIVEN),
        "Qwen-VL-7B-Chat": (30.7, *_NOT_GIVEN),
    },
}
"""In percent: README of CMMMU-Benchmark/CMMMU; Yi-VL's disciplines from the benchmark's homepage."""


class CMMMU(Benchmark):
    """College-level questions about images, in Chinese."""

    title = "CMMMU"
    splits = tuple(SIZES)
    protocols = tuple(_RULES)
    fallbacks = tuple(FALLBACKS)
    layout = "the repository CMMMU-Benchmark/CMMMU, cloned, or the hub's m-a-p/CMMMU, downloaded"
    max_new_tokens = 64
    """As in Yi-VL's script."""

    def __init__(self, data: Path, choices: Choices) -> None:
        super().__init__(data, choices)
        read = dataset.load(data, self.split, choices.subjects)
        self._files = read.files
        self._entries = {entry.id: replace(entry, prompt=prompt(entry)) for entry in read.entries}

    @property
    def questions(self) -> Sequence[Entry]:
        """Categories in the official order, rows as in the files."""
        return tuple(self._entries.values())

    @property
    def files(self) -> Sequence[Path]:
        """One of lines or some shards to a category."""
        return self._files

    def pictures(self, questions: Sequence[Question]) -> list[tuple[Picture, ...]]:
        """The first of each question, or zeros."""
        entries = [self._entries[question.id] for question in questions]
        names = [picture(entry) for entry in entries]
        places = [None if name is None else entry.images[name] for entry, name in zip(entries, names, strict=True)]
        read = parquet.images([place for place in places if isinstance(place, Cell)])
        shown: list[tuple[Picture, ...]] = []
        for entry, name, place in zip(entries, names, places, strict=True):
            content = read[place] if isinstance(place, Cell) else place
            if name is not None and (content is None or (isinstance(content, Path) and not content.is_file())):
                raise BadData(f"{entry.where}: no picture {name}")
            shown.append((content,))
        return shown

    def judge(self, replies: Mapping[str, str]) -> list[Verdict]:
        """By the protocol's rules. A missing reply is wrong (the official script refuses a file without it)."""
        marker = Marker(self.fallback or "official", SEED)
        rules = _RULES[self.protocol]
        return [
            grade(entry, replies[entry.id], marker, rules) if entry.id in replies else marker.missing(entry)
            for entry in self._entries.values()
        ]

    def submission(self, verdicts: Sequence[Verdict]) -> Mapping[str, str]:
        """`{split}_response.jsonl`, which the leaderboard and the official script take: exactly id, type, response."""
        lines = [
            {"id": int(verdict.question.id), "type": self._entries[verdict.question.id].type, "response": verdict.reply}
            for verdict in verdicts
            if verdict.reply is not None
        ]
        return {f"{self.split}_response.jsonl": "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in lines)}

    def notes(self, verdicts: Sequence[Verdict]) -> Sequence[str]:
        """How many questions of each type there are, and whether these are all."""
        counts = {kind: sum(entry.type == kind for entry in self._entries.values()) for kind in TYPES}
        kinds = f"{', '.join(f'{count} {kind}' for kind, count in counts.items())}; averages are over questions."
        if len(self._entries) == SIZES[self.split]:
            return (kinds,)
        return (
            kinds,
            f"Only {len(self._entries)} of the split's {SIZES[self.split]} questions: not comparable with published "
            "scores.",
        )

    @property
    def published(self) -> Published | None:
        """Yi-VL's and others' scores; none for dev."""
        if self.split not in _PUBLISHED:
            return None
        source = f"CMMMU leaderboard, {self.split}"
        return Published(source=source, columns=_COLUMNS, rows=_PUBLISHED[self.split])
