"""MMMU's thirty subjects in the official order, its six disciplines, and how many questions each has.

Source: MMMU-Benchmark/MMMU, `mmmu/utils/data_utils.py` (order and disciplines); the dataset `MMMU/MMMU` on the hub
(numbers of questions).
"""

from __future__ import annotations

SPLITS = ("validation", "dev", "test")
"""The usual one first."""

TEST_QUESTIONS = {
    "Accounting": 380,
    "Agriculture": 287,
    "Architecture_and_Engineering": 551,
    "Art": 231,
    "Art_Theory": 429,
    "Basic_Medical_Science": 326,
    "Biology": 345,
    "Chemistry": 603,
    "Clinical_Medicine": 325,
    "Computer_Science": 371,
    "Design": 169,
    "Diagnostics_and_Laboratory_Medicine": 162,
    "Economics": 267,
    "Electronics": 256,
    "Energy_and_Power": 432,
    "Finance": 355,
    "Geography": 565,
    "History": 278,
    "Literature": 112,
    "Manage": 245,
    "Marketing": 181,
    "Materials": 458,
    "Math": 505,
    "Mechanical_Engineering": 429,
    "Music": 334,
    "Pharmacy": 430,
    "Physics": 408,
    "Psychology": 305,
    "Public_Health": 509,
    "Sociology": 252,
}
"""Questions of the split `test` by subject."""

SUBJECTS: tuple[str, ...] = tuple(TEST_QUESTIONS)
"""In the order in which the official scripts go through them, on which the random fallback depends."""

DISCIPLINES: dict[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
"""Yi's own script files Psychology under Science; this is the benchmark's map."""


def size(split: str, subject: str) -> int:
    """How many questions the hub's dataset has for `subject`."""
    return {"dev": 5, "validation": 30}.get(split) or TEST_QUESTIONS[subject]


def total(split: str) -> int:
    """How many questions the whole split has."""
    return sum(size(split, subject) for subject in SUBJECTS)


def in_order(names: list[str]) -> list[str]:
    """`names` in the official order, each once.

    Raises:
        ValueError: one is no subject of MMMU.
    """
    unknown = sorted(set(names) - set(SUBJECTS))
    if unknown:
        raise ValueError(f"unknown MMMU subject {', '.join(map(repr, unknown))}; there are {', '.join(SUBJECTS)}")
    return [subject for subject in SUBJECTS if subject in names]


def discipline_of(subject: str) -> str:
    """The discipline that a subject belongs to."""
    return next(name for name, subjects in DISCIPLINES.items() if subject in subjects)
