"""The text in which a needle is hidden: a folder's, or sentences put together from the words in `languages`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from random import Random

from eval.benchmark import BadData
from eval.needle.languages import Language

BUILT_IN = "built-in"
_SENTENCE = re.compile(r".+?(?:[.!?][\"'”’)\]]*\s+|[。！？][”’」』）]*\s*|\n+|\Z)", re.DOTALL)
"""A sentence with the space after it. A full stop ends one only before space: 3.14 goes on."""


@dataclass(frozen=True)
class Haystack:
    """A text in sentences. Joined they are the text as it is; a needle goes between two of them."""

    language: Language
    source: str
    """The folder, or `BUILT_IN`."""
    sentences: tuple[str, ...]

    @cached_property
    def text(self) -> str:
        """All of it, once."""
        return "".join(self.sentences)

    @cached_property
    def keys(self) -> list[str]:
        """The language's keys that the text does not have."""
        return [key for key in self.language.keys if key not in self.text]

    @cached_property
    def revision(self) -> str:
        """sha256 of the text and of the words around it: tells this haystack from others."""
        words = [getattr(self.language, field.name) for field in fields(self.language)]
        return hashlib.sha256(repr([words, self.text]).encode()).hexdigest()

    def take(self, count: int) -> list[str]:
        """The first sentences; the text begins anew where it is over."""
        whole, rest = divmod(count, len(self.sentences))
        return [*self.sentences * whole, *self.sentences[:rest]]


def built_in(language: Language) -> Haystack:
    """All 20,736 sentences that the language's words make, shuffled; some 300,000 tokens."""
    parts = product(language.when, language.who, language.does, language.where)
    sentences = [language.noise.format(when=a, who=b, does=c, where=d) for a, b, c, d in parts]
    Random(0).shuffle(sentences)
    return Haystack(language, BUILT_IN, tuple(sentences))


def from_folder(folder: Path, language: Language) -> Haystack:
    """The .txt files of `folder/NAME`, where NAME is the language's ("en", "zh"), or else of `folder`; by name.

    Raises:
        FileNotFoundError: there are none.
        BadData: one is empty or not UTF-8.
    """
    own = folder / language.name
    files = sorted((own if own.is_dir() else folder).glob("*.txt"))
    if not files:
        raise FileNotFoundError(f"no .txt file in {folder}, nor in {own}; a haystack is made of such files")
    return Haystack(language, str(folder), tuple(sentence for file in files for sentence in split(_read(file))))


def split(text: str) -> list[str]:
    """A text's sentences, which joined are the text."""
    return _SENTENCE.findall(text)


def _read(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise BadData(f"{file}: not UTF-8 text: {error}; convert it, such as with iconv") from error
    if not text:
        raise BadData(f"{file} is empty; remove it or fill it")
    return f"{text}\n"
