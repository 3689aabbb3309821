"""LLaVAR: text-rich images of LAION, with what OCR reads on them and with conversations by GPT-4.

    RAW/chat_llavar.json                           with LLaVA's 595 K captions
    RAW/pretrain/….jpg                             pretrain.zip
    RAW/llava_instruct_150k_llavar_16k.json        with LLaVA's 158 K conversations
    RAW/finetune/….jpg                             finetune.zip

422 K images with OCR results and 16 K with conversations. Both files hold LLaVA's entries as well, and LLaVAR's images
are named in the manner of CC3M and COCO; so an entry is LLaVAR's when its image is in LLaVAR's folder. The others are
skipped: they are another source's.

CC BY-NC 4.0.
Source: https://huggingface.co/datasets/SALT-NLP/LLaVAR, https://github.com/SALT-NLP/LLaVAR.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data.raw import BadRaw, find, items
from data.record import Record, Skipped
from data.sources import llava

_PARTS = {"pretrain": "chat_llavar.json", "finetune": "llava_instruct_150k_llavar_16k.json"}
"""Files by the folder of their images."""


def records(raw: Path) -> Iterator[Record | Skipped]:
    """LLaVAR's own entries: the OCR results, then the conversations."""
    for folder in _PARTS:
        if not (raw / folder).is_dir():
            raise BadRaw(f"{raw} has no folder {folder}; {folder}.zip unpacks into it")
    for folder, name in _PARTS.items():
        own = set(os.listdir(raw / folder))
        for position, entry in enumerate(items(find(raw, name), "item")):
            key = f"{folder}-{llava.keyed(position, entry)}"
            image = entry.get("image") if isinstance(entry, dict) else None
            if isinstance(image, str) and image not in own:
                yield Skipped(key, "its image is not in LLaVAR's folder")
            else:
                yield llava.read(entry, key, raw / folder)
