"""What was measured and compared, as tables and as records for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from yivl.depth.comparison import Outcome
from yivl.depth.cosine import LAST, Profile
from yivl.tables import aligned

Measured = Mapping[str, Mapping[str, Profile]]
"""Profiles by the model's name and the text's."""
_NAMED = 12
"""Tokens up to which each has a column."""


def measured_text(measured: Measured, first: int) -> str:
    """For each text the layers' values; then the models', without the `first` layers and the last two.

    One model's layers have a column for each token of a short text.
    """
    parts = []
    for text in next(iter(measured.values())):
        profiles = {model: texts[text] for model, texts in measured.items()}
        parts.append(f"{text}\n\n{_layers(profiles)}")
    texts = list(next(iter(measured.values())))
    head = [f"layers without the first {'one' if first == 1 else first} and the last two", *texts]
    rows = [[model, *(_cosine(found[text].value(first)) for text in texts)] for model, found in measured.items()]
    return "\n".join([*parts, aligned([head, *rows])])


def measured_record(measured: Measured, first: int) -> dict[str, Any]:
    """The same for JSON, with the cosines of the first tokens of each text."""
    return {
        "left_out": {"first": first, "last": LAST},
        "models": {
            model: {text: {"value": profile.value(first), **asdict(profile)} for text, profile in texts.items()}
            for model, texts in measured.items()
        },
    }


def compared_text(text: str, outcomes: Sequence[Outcome]) -> str:
    """A row for the model itself and each expansion."""
    head = [text, "layers", "new", "block's cosine", "its copy's", "perplexity", "same next token"]
    rows = [
        [
            one.name,
            str(len(one.profile.layers)),
            _span(one),
            _cosine(one.block),
            _cosine(one.copied),
            f"{one.perplexity:.2f}",
            f"{100 * one.agreement:.1f} %",
        ]
        for one in outcomes
    ]
    return aligned([head, *rows])


def compared_record(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The same for JSON."""
    return {
        one.name: {
            "layers": list(one.layers),
            "new": list(one.added),
            "block_cosine": one.block,
            "copy_cosine": one.copied,
            "perplexity": one.perplexity,
            "agreement": one.agreement,
            "profile": asdict(one.profile),
        }
        for one in outcomes
    }


def _layers(profiles: Mapping[str, Profile]) -> str:
    one = next(iter(profiles.values()))
    if len(profiles) > 1 or len(one.tokens) > _NAMED:
        head = ["layer", *profiles]
        columns = [profile.layers for profile in profiles.values()]
    else:
        head = ["layer", "mean of all but the first", *(repr(token) for token in one.tokens)]
        columns = [one.layers, *one.by_token]
    rows = enumerate(zip_longest(*columns))
    return aligned([head, *([str(layer), *map(_cosine, values)] for layer, values in rows)])


def _span(outcome: Outcome) -> str:
    return f"{outcome.added[0]} to {outcome.added[-1]}" if outcome.added else "-"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
