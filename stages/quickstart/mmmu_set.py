"""An MMMU-shaped set of held-out scenes, in the hub's parquet layout: one subject of each discipline, its questions
about drawn pictures rather than about the subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.quickstart.prepare import picture
from stages.quickstart.questions import CHOSEN, FACTS, ask, choice
from stages.quickstart.scenes import pick, sample_scene

SUBJECTS: Final = ("Art", "Economics", "Math", "Pharmacy", "History", "Computer_Science")
_OPEN_EVERY = 5
"""Each so many-th question has no options."""
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS: Final = (
    "id", "question", "options", "explanation", *(f"image_{n}" for n in range(1, 8)), "img_type", "answer",
    "topic_difficulty", "question_type", "subfield",
)  # fmt: skip


def write_mmmu_set(folder: Path, questions: int, seed: int) -> None:
    """Writes `folder`/SUBJECT/validation-00000-of-00001.parquet with so many questions for each subject."""
    rng = np.random.default_rng(seed)
    schema = pa.schema([(name, _IMAGE if name.startswith("image_") else pa.string()) for name in _COLUMNS])
    for subject in SUBJECTS:
        rows = [_row(subject, number, rng) for number in range(1, questions + 1)]
        (folder / subject).mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema), folder / subject / "validation-00000-of-00001.parquet"
        )


def _row(subject: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    scene = sample_scene(rng, held_out=True)
    if number % _OPEN_EVERY:
        kind = pick(rng, CHOSEN)
        drawn = choice(scene, kind, "en", rng)
        text, options, answer, form = drawn.text, list(drawn.options), drawn.letter, "multiple-choice"
    else:
        kind = pick(rng, FACTS)
        asked = ask(scene, kind, "en", rng)
        text, options, answer, form = asked.text.split("\n")[0], [], asked.answer, "open"
    row: dict[str, Any] = dict.fromkeys(_COLUMNS)
    return row | {
        "id": f"validation_{subject}_{number}",
        "question": f"{text}<image 1>",
        "options": repr(options),
        "explanation": "",
        "image_1": {"bytes": picture(scene, rng), "path": f"{number}.jpg"},
        "img_type": "['Drawings']",
        "answer": answer,
        "topic_difficulty": "Easy",
        "question_type": form,
        "subfield": kind,
    }
