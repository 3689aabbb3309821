"""What others scored on MMMU, in percent, to stand beside one's own result.

Test: Table 7 of the Yi technical report (arXiv 2403.04652), the leaderboard when Yi-VL was released. Validation: the
leaderboard rows published for Yi-VL. The dataset was corrected after both (2024-04-30 and 2024-05-30).
"""

from __future__ import annotations

from eval.benchmark import OVERALL
from eval.mmmu.subjects import DISCIPLINES

COLUMNS: tuple[str, ...] = (OVERALL, *DISCIPLINES)
"""What the numbers of a row belong to, in order; Table 7 has the disciplines in the official order."""

Row = tuple[float, float, float, float, float, float, float]

_TABLE_7: dict[str, Row] = {
    "GPT-4V": (55.7, 65.3, 64.3, 48.4, 63.5, 76.3, 41.7),
    "Yi-VL-34B": (41.6, 56.1, 33.3, 32.9, 45.9, 66.5, 36.0),
    "Qwen-VL-PLUS": (40.8, 59.9, 34.5, 32.8, 43.7, 65.5, 32.9),
    "Marco-VL": (40.4, 56.5, 31.0, 31.0, 46.9, 66.5, 33.8),
    "Yi-VL-6B": (37.8, 53.4, 30.3, 30.0, 39.3, 58.5, 34.1),
    "InfMIM-Zephyr-7B": (35.5, 50.0, 29.6, 28.2, 37.5, 54.6, 31.1),
    "SVIT": (34.1, 48.9, 28.0, 26.8, 35.5, 50.9, 30.7),
    "Emu2-Chat": (34.1, 50.6, 27.7, 28.0, 32.4, 50.3, 31.3),
    "BLIP-2 FLAN-T5-XXL": (34.0, 49.2, 28.6, 27.3, 33.7, 51.5, 30.4),
    "InstructBLIP-T5-XXL": (33.8, 48.5, 30.6, 27.6, 33.6, 49.8, 29.4),
    "LLaVA-1.5-13B": (33.6, 49.8, 28.2, 25.9, 34.9, 54.7, 28.3),
    "Qwen-VL-7B-Chat": (32.9, 47.7, 29.8, 25.6, 33.6, 45.3, 30.2),
    "SPHINX*": (32.9, 50.9, 27.2, 25.3, 34.1, 51.2, 27.8),
    "mPLUG-OWL2": (32.1, 48.5, 25.6, 24.9, 32.8, 46.7, 29.6),
    "BLIP-2 FLAN-T5-XL": (31.0, 43.0, 25.6, 25.1, 31.8, 48.0, 27.8),
    "InstructBLIP-T5-XL": (30.6, 43.3, 25.2, 25.2, 29.3, 45.8, 28.6),
    "CogVLM": (30.1, 38.0, 25.6, 25.1, 31.2, 41.5, 28.9),
}

_VALIDATION: dict[str, Row] = {
    "Yi-VL-34B": (45.9, 59.2, 36.0, 33.3, 51.3, 62.5, 41.0),
    "Yi-VL-6B": (39.1, 52.5, 30.7, 31.3, 38.0, 53.3, 35.7),
}

PUBLISHED: dict[str, dict[str, Row]] = {"validation": _VALIDATION, "test": _TABLE_7}
"""By split, best first."""

SOURCES = {
    "validation": "MMMU leaderboard, validation",
    "test": "Yi technical report, Table 7 (test)",
}
