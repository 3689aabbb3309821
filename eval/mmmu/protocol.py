"""How a question is put to the model: its prompt, whether it sees the image, and how long it may answer.

Public protocols differ in all three, and so do their scores: the protocol's name belongs in every result. `yi` is that
of Yi-VL's own script (01-ai/Yi at 526ec7aa, `VL/llava/eval/01_eval_mmmu.py`), very probably the one behind the
published scores. Common to all here is greedy decoding, and images as RGB on a square of the padding colour, which is
how the model prepares every image.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from eval.mmmu.dataset import Sample

_TAG = re.compile(r"<image \d+>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """One way to ask."""

    name: str
    prompt: Callable[[Sample], str]
    """The user's text; the image stands before it, on a line of its own."""
    sees_image: Callable[[Sample], bool]
    """Whether `image_1` is shown. Where it is not, the model gets a picture of zeros in its place."""
    max_new_tokens: int
    """Longest reply, in tokens."""


PROTOCOLS: dict[str, Protocol] = {}


def register(protocol: Protocol) -> Protocol:
    """Makes `protocol` known by its name."""
    if protocol.name in PROTOCOLS:
        raise ValueError(f"two MMMU protocols are called {protocol.name!r}")
    PROTOCOLS[protocol.name] = protocol
    return protocol


def find(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PROTOCOLS:
        raise ValueError(f"unknown MMMU protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def _yi_prompt(sample: Sample) -> str:
    """Tags leave the question, and the space that followed them stays; the options keep theirs."""
    question = _TAG.sub("", sample.question)
    if not sample.multiple_choice:
        return f"{question}\nAnswer the question using a single word or phrase."
    options = "".join(f"{letter}. {text}\n" for letter, text in sample.choices.items())
    return f"{question}\n{options}\nAnswer with the option's letter from the given choices directly."


def _yi_sees_image(sample: Sample) -> bool:
    """No image where the options hold several.

    Where the question has no tag the script counts those of the options twice, so one is several.
    """
    tags = sum(len(_TAG.findall(option)) for option in sample.options)
    if not _TAG.search(sample.question):
        tags *= 2
    return tags <= 1


YI = register(Protocol(name="yi", prompt=_yi_prompt, sees_image=_yi_sees_image, max_new_tokens=64))
