"""A small bilingual SentencePiece tokenizer, trained on the spot, in the manner of Yi's: byte fallback, no space put in
front, text left as it is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from yivl.prompt import SEPARATOR
from yivl.tokenizer import PIECES, load_tokenizer

_SPECIAL = {"unk": "<unk>", "bos": "<|startoftext|>", "eos": "<|endoftext|>"}


def train_tokenizer(texts: Iterable[str], folder: Path, pieces: int) -> None:
    """Writes a tokenizer folder with a vocabulary of `pieces`, the 256 bytes and 3 special ones included."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PIECES).open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            model_type="bpe",
            vocab_size=pieces,
            byte_fallback=True,
            character_coverage=1.0,
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            split_digits=True,
            user_defined_symbols=["\n", SEPARATOR],
            max_sentencepiece_length=64,  # so that the Chinese half of the system text takes few pieces
            unk_piece=_SPECIAL["unk"],
            bos_piece=_SPECIAL["bos"],
            eos_piece=_SPECIAL["eos"],
            num_threads=1,
            minloglevel=2,
        )
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": True,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "pad_token": _SPECIAL["unk"],
        **{f"{name}_token": piece for name, piece in _SPECIAL.items()},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    load_tokenizer(folder)  # raises unless transformers gives SentencePiece's ids
