"""What the harnesses share: pictures and text become a reply, or the probability of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from yivl import YiVL
from yivl.conversation import Conversation, ImageSource, Turn
from yivl.encoder import IGNORE, Encoder

_GENERATION = ("temperature", "top_p", "num_beams", "do_sample")
"""Options of harnesses that are transformers' own."""


def conversation(pictures: Sequence[ImageSource], text: str, answer: str | None = None) -> Conversation:
    """Pictures, each on a line of its own, and the text below them; with an answer or open."""
    asked = Turn("human", text, images=len(pictures))
    turns = (asked,) if answer is None else (asked, Turn("assistant", answer))
    return Conversation(turns=turns, images=tuple(pictures))


def options_of(harness: Mapping[str, Any], new_tokens: int) -> dict[str, Any]:
    """A harness's generation options as `YiVL.answer` takes them: greedy at temperature 0, where sampling has no
    meaning.

    Args:
        harness: what the harness says; `until` is not among these options, see `cut`.
        new_tokens: most new tokens where it says nothing.
    """
    options = {name: harness[name] for name in _GENERATION if harness.get(name) is not None}
    if not options.get("temperature"):
        options = {"do_sample": False} | {name: options[name] for name in ("num_beams",) if name in options}
    else:
        options.setdefault("do_sample", True)
    return options | {"max_new_tokens": int(harness.get("max_new_tokens", new_tokens))}


def cut(reply: str, until: str | Sequence[str]) -> str:
    """A reply up to the first of the harness's stops; an empty stop is none."""
    stops = [until] if isinstance(until, str) else until
    ends = [at for stop in stops if stop and (at := reply.find(stop)) >= 0]
    return reply[: min(ends, default=len(reply))]


@torch.no_grad()
def log_probability(model: YiVL, asked: Conversation) -> tuple[float, bool]:
    """Of the answer that ends a conversation, with the separator that ends it: its log-probability, and whether greedy
    decoding would give it."""
    config, device = model.model.config, model.model.device
    example = Encoder(model.tokenizer, patches=config.patches, image_side=config.image_side).encode(asked)
    ids = torch.from_numpy(example.input_ids).to(device)
    targets = torch.from_numpy(example.labels).to(device)[1:]
    pixels = torch.from_numpy(example.pixels).to(device) if len(example.pixels) else None
    logits = model.model(input_ids=ids[None], pixel_values=pixels).logits[0, :-1].float()
    learned = targets != IGNORE
    logits, targets = logits[learned], targets[learned]
    each = logits.log_softmax(-1).gather(-1, targets[:, None])
    return float(each.sum()), bool((logits.argmax(-1) == targets).all())
