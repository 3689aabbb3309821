"""ShareGPT4V: images described in detail by GPT4-Vision, each as one question and answer.

    RAW/sharegpt4v/sharegpt4v_instruct_gpt4-vision_cap100k.json
    RAW/coco/train2017, RAW/sam/images, RAW/llava/llava_pretrain/images, RAW/share_textvqa/images,
    RAW/web-celebrity/images, RAW/web-landmark/images, RAW/wikiart/images

RAW is the `data` folder of the publishers' tree; entries name their images from there. 102 K descriptions. The other
files are not taken: 1.2 M captions by a model trained on these, and LLaVA's mixture with some of these put in.

CC BY-NC 4.0, for research use.
Source: https://huggingface.co/datasets/Lin-Chen/ShareGPT4V, and for the tree
https://github.com/InternLM/InternLM-XComposer/blob/main/projects/ShareGPT4V/docs/Data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.raw import find
from data.record import Record, Skipped
from data.sources import llava

_FILE = "sharegpt4v_instruct_gpt4-vision_cap100k.json"


def records(raw: Path) -> Iterator[Record | Skipped]:
    """All descriptions."""
    return llava.entries(find(raw, f"sharegpt4v/{_FILE}", _FILE), raw)
