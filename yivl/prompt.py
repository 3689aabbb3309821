"""The prompt: the only file that knows "### Human:".

    SYSTEM\\n\\n### Human: <image_placeholder>\\nQUESTION\\n### Assistant: ANSWER\\n### Human: NEXT\\n### Assistant:

A conversation becomes segments, each marked as learned or not. Learned are the answers, each with the space
before it and the separator `\\n###` that ends it, so that the model learns to stop. The space after the separator
belongs to the next role name (Yi's tokenizer has `▁Human` as one piece) and can't be supervised without it.

Nothing that a person writes can pass for part of the frame: in the text of a turn a run of three or more `#` is
spread out (`###` becomes `# # #`), and `<image_placeholder>` loses its underscore.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from yivl.conversation import Conversation

SYSTEM = (
    "This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. "
    "Read all the images carefully, and respond to the human's questions with informative, helpful, detailed "
    "and polite answers. "
    "这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。"
    "仔细阅读所有的图像，并对人类的问题做出信息丰富、有帮助、详细的和礼貌的回答。"
)
"""The released system text, English then Chinese (01-ai/Yi, `VL/`, conversation `mm_default`)."""

PLACEHOLDER = "<image_placeholder>"
SEPARATOR = "###"
STOPS = (SEPARATOR, "\nHuman:", "\n Human:")
"""A reply ends at the separator; released models sometimes begin the next turn without it."""

_HASHES = re.compile("#{3,}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of the prompt: text, or one image (whose text is the placeholder)."""

    text: str
    learn: bool = False
    image: bool = False


_IMAGE = Segment(PLACEHOLDER, image=True)


def neutral(text: str) -> str:
    """`text` with whatever could forge a turn or an image made harmless."""
    spread = _HASHES.sub(lambda run: " ".join(run.group()), text)
    return spread.replace(PLACEHOLDER, "<image placeholder>")


def render(conversation: Conversation) -> list[Segment]:
    """The conversation as segments in reading order; their texts joined are the prompt.

    A caption or document is rendered as LLaVA's plain form: image placeholders, what is given, text, newline.
    """
    if conversation.plain:
        turn = conversation.turns[0]
        given = [Segment(neutral(conversation.given))] if conversation.given else []
        return [_IMAGE] * turn.images + given + [Segment(neutral(turn.text) + "\n", learn=True)]
    segments = [Segment(f"{SYSTEM}\n\n{SEPARATOR} ")]
    for turn in conversation.turns:
        if turn.role == "human":
            segments.append(Segment("Human: "))
            segments += [_IMAGE, Segment("\n")] * turn.images
            segments.append(Segment(f"{neutral(turn.text)}\n{SEPARATOR} Assistant:"))
        else:
            segments += [Segment(f" {neutral(turn.text)}\n{SEPARATOR}", learn=True), Segment(" ")]
    return segments


def text(conversation: Conversation) -> str:
    """The prompt as one string, with `<image_placeholder>` where the images go."""
    return "".join(segment.text for segment in render(conversation))


def cut(reply: str) -> str:
    """A raw reply up to the first stop, without the space around it."""
    ends = [at for stop in STOPS if (at := reply.find(stop)) >= 0]
    return reply[: min(ends, default=len(reply))].strip()
