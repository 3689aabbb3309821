"""Chinese LLaVA (LinkSoul): LLaVA's captions of CC3M and its instructions on COCO, translated into Chinese.

    RAW/LLaVA-CC3M-Pretrain-595K/chat-translated.json
    RAW/LLaVA-CC3M-Pretrain-595K/images/GCC_train_….jpg                LLaVA's images.zip, unpacked here
    RAW/LLaVA-Instruct-150K/translated/llava_instruct_150k.json
    RAW/train2017/….jpg                                                COCO's train2017.zip

595 K captions, each asked for in one question, and 158 K conversations. The originals that the publishers ship beside
(chat.json, LLaVA-Instruct-150K/original) are English, and llava_instruct_80k.json is a part of the 150k: not taken.

Texts: Apache-2.0; images: the terms of CC3M and of COCO.
Source: https://huggingface.co/datasets/LinkSoul/Chinese-LLaVA-Vision-Instructions, which sends for the images to
https://huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.raw import find
from data.record import Record, Skipped
from data.sources import llava


def records(raw: Path) -> Iterator[Record | Skipped]:
    """The captions, then the conversations."""
    captions = find(raw, "LLaVA-CC3M-Pretrain-595K/chat-translated.json")
    instructions = find(raw, "LLaVA-Instruct-150K/translated/llava_instruct_150k.json")
    yield from llava.entries(captions, captions.parent / "images", "pretrain-")
    yield from llava.entries(instructions, raw / "train2017", "instruct-")
