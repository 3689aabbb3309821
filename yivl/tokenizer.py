"""Loading the tokenizer of a model folder, and making sure that it is the one the model was trained with.

Recent transformers can put a space in front of every text (`LlamaTokenizer` called directly does), which shifts the
ids of every prompt without an error. So the ids are compared with what the folder's own SentencePiece model gives.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import sentencepiece
from transformers import AutoTokenizer, PreTrainedTokenizerBase

PIECES = "tokenizer.model"
_PROBES = ("This is", "Human", " a", "猫在哪里？", "two\n### Human: 2")


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder in either layout (or of a hub name).

    Raises:
        ValueError: it gives no character offsets, or other ids than the folder's SentencePiece model.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise ValueError(f"{folder}: a fast tokenizer is needed, since labels are found by character offsets")
    pieces = Path(folder) / PIECES
    if pieces.is_file():
        _check(tokenizer, pieces)
    return tokenizer


def _check(tokenizer: PreTrainedTokenizerBase, pieces: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    for text in _PROBES:
        got, expected = tokenizer(text, add_special_tokens=False).input_ids, reference.encode(text)
        if got != expected:
            raise ValueError(
                f"{pieces.parent}: the tokenizer turns {text!r} into {got}, but its {PIECES} gives {expected}. "
                "If the difference is a space in front, 'tokenizer_class' in tokenizer_config.json names a class "
                "that adds one; load it through AutoTokenizer and save it again"
            )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes `tokenizer` into a model folder, with the SentencePiece model it came from, where there is one."""
    tokenizer.save_pretrained(str(folder))
    origin = Path(tokenizer.name_or_path) / PIECES
    target = Path(folder) / PIECES
    if origin.is_file() and origin.resolve() != target.resolve():
        shutil.copyfile(origin, target)
