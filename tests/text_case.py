"""Tiny text benchmarks in the layout and schema in which the hub has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MATH = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra",
    "precalculus",
)  # fmt: skip


def write(folder: Path, split: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    """Rows as the one shard of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{split}-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    return file


def arc(data: Path, train: int = 26, test: int = 6) -> None:
    def row(n: int) -> dict[str, Any]:
        labels = ["1", "2", "3", "4"] if n % 5 == 0 else ["A", "B", "C", "D"]
        texts = [f"thing {n}", "a much longer thing", "猫", f"{n + 1}"]
        return {"id": f"Mercury_{n}", "question": f"Which one is number {n}?",
                "choices": {"text": texts, "label": labels}, "answerKey": labels[n % 4]}  # fmt: skip

    for split, count in {"train": train, "validation": 2, "test": test}.items():
        write(data / "ai2_arc" / "ARC-Challenge", split, [row(n) for n in range(count)])


def hellaswag(data: Path, train: int = 11, validation: int = 5) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"ind": n, "activity_label": "Washing", "ctx_a": f"A person has {n} plates.", "ctx_b": "the person",
                "ctx": "", "endings": ["washes them.", "eats [title] soap.", "sleeps.", f"counts to {n}."],
                "source_id": "", "split": "", "split_type": "", "label": str(n % 4)}  # fmt: skip

    for split, count in {"train": train, "validation": validation}.items():
        write(data / "hellaswag" / "data", split, [row(n) for n in range(count)])


def mmlu(data: Path, subjects: tuple[str, ...], sizes: tuple[int, ...] = (3,)) -> None:
    """So many test questions as `sizes` says in turn."""
    for number, subject in enumerate(subjects):
        rows = [
            {"question": f"What is {n} in {subject}?", "subject": subject, "choices": [f"{n}", "two", "三", "none"],
             "answer": (n + number) % 4}
            for n in range(max(5, *sizes))
        ]  # fmt: skip
        write(data / "mmlu" / subject, "dev", rows[:5])
        write(data / "mmlu" / subject, "test", rows[: sizes[number % len(sizes)]])


def winogrande(data: Path, train: int = 6, validation: int = 5) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"sentence": f"The cup did not fit the box {n} times because the _ was too big.", "option1": "cup",
                "option2": "box", "answer": str(1 + n % 2)}  # fmt: skip

    for split, count in {"train": train, "validation": validation}.items():
        write(data / "winogrande" / "winogrande_xl", split, [row(n) for n in range(count)])


def gsm8k(data: Path, train: int = 6, test: int = 2) -> None:
    def row(n: int) -> dict[str, Any]:
        answer = f"He adds {n} and 1 to get <<{n}+1={n + 1}>>{n + 1}.\n#### {n + 1}"
        return {"question": f"Tom has {n} eggs and buys 1. How many has he?", "answer": answer}

    for split, count in {"train": train, "test": test}.items():
        write(data / "gsm8k" / "main", split, [row(n) for n in range(count)])


def math(data: Path, test: int = 1) -> None:
    def row(n: int) -> dict[str, Any]:
        return {"problem": f"What is ${n}+1$?", "level": "Level 1", "type": "Algebra",
                "solution": f"It is $\\boxed{{{n + 1}}}$."}  # fmt: skip

    for subject in MATH:
        for split, count in {"train": 1, "test": test}.items():
            write(data / "hendrycks_math" / subject, split, [row(n) for n in range(count)])
