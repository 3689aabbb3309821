"""Loading the tokenizer of a model folder, and making sure that it is the one the model was trained with.

Recent transformers can put a space in front of every text (`LlamaTokenizer` does, whatever the SentencePiece model
says), which shifts the ids of every prompt without an error. So the generic class is used, which goes by the
SentencePiece model, and its ids are compared with SentencePiece's own.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path

import sentencepiece
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase, TokenizersBackend

from yivl.prompt import SYSTEM

PIECES = "tokenizer.model"
_FILES = ["config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"]
_PROBES = ("This is", "Human", " a", "猫在哪里？", f"{SYSTEM}\n\n### Human: 2")
_TELLING = (
    SYSTEM,
    'def f(x):\n    return [""]\t# 12345.67 != 1e-5\r\n\n\n',
    "  two  spaces ",
    "naïve cafe\u0301 ＡＢＣ，①。 \u3000ﬁn",
    "🙂 \U00020000 \u200b한국어 العربية\x00",
)
"""Texts on which tokenizers differ: both languages, code and digits, space, characters that some normalise or lack."""


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder in either layout, or of a hub name.

    Raises:
        ImportError: the installed protobuf does not fit the installed sentencepiece.
        ValueError: it gives no character offsets, or other ids than the folder's SentencePiece model.
    """
    if not Path(name).is_dir() and str(name).count("/") != 1:
        raise FileNotFoundError(f"no tokenizer folder {name}")
    folder = Path(name) if Path(name).is_dir() else Path(snapshot_download(str(name), allow_patterns=_FILES))
    pieces = folder / PIECES
    if pieces.is_file():
        _check_protobuf()
    loader = TokenizersBackend if pieces.is_file() else AutoTokenizer
    tokenizer = loader.from_pretrained(str(folder))
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or not tokenizer.is_fast:
        raise ValueError(f"{folder}: a fast tokenizer is needed, since labels are found by character offsets")
    if pieces.is_file():
        _check(tokenizer, pieces)
    return tokenizer


def _check_protobuf() -> None:
    """Without this transformers would go on, take the SentencePiece model for one of tiktoken, and say that."""
    try:
        importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception as error:
        raise ImportError(
            f"the installed sentencepiece can't be used: {error} "
            "Install a newer protobuf, or where another package forbids that, an older sentencepiece"
        ) from error


def _check(tokenizer: PreTrainedTokenizerBase, pieces: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_file=str(pieces))
    for text in _PROBES:
        got, expected = tokenizer(text, add_special_tokens=False).input_ids, reference.encode(text)
        if got != expected:
            raise ValueError(
                f"{pieces.parent}: the tokenizer turns {text!r} into {got}, but its {PIECES} gives {expected}. "
                "If there is a tokenizer.json beside it, it was made from another model: remove it"
            )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Writes `tokenizer` into a model folder, with the SentencePiece model it came from, where there is one."""
    tokenizer.save_pretrained(str(folder))
    origin = Path(tokenizer.name_or_path) / PIECES
    target = Path(folder) / PIECES
    if origin.is_file() and origin.resolve() != target.resolve():
        shutil.copyfile(origin, target)


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id that a text can get."""
    return max(tokenizer.get_vocab().values()) + 1


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hex digits that tell tokenizers apart by what they do: of the vocabulary with its ids, and of the ids of a few
    texts. Equal for one tokenizer in any of the files that it may be stored in, by any version of the libraries."""
    does = [sorted(tokenizer.get_vocab().items()), [tokenizer(t, add_special_tokens=False).input_ids for t in _TELLING]]
    return hashlib.blake2b(json.dumps(does).encode(), digest_size=8).hexdigest()
