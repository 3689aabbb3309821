"""A model that finds needles in what it sees, and its grid."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from eval.needle.grid import Grid
from eval.needle.haystack import built_in
from eval.needle.languages import ENGLISH, Language
from eval.needle.report import Result
from eval.needle.run import measure

TOKEN = re.compile(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+")


class Finder:
    """Finds what it is asked for in its last `span` tokens, which are words and Chinese characters."""

    form = "completion"
    limit = 10_000

    def __init__(self, span: int = 10**9, stops_after: int = 10**9) -> None:
        self.span, self.stops_after, self.asked = span, stops_after, 0

    def frame(self, text: str, start: str) -> str:
        return f"[user] {text} [model] {start}"

    def length(self, prompt: str) -> int:
        return len(TOKEN.findall(prompt))

    def complete(self, prompt: str, max_new_tokens: int) -> str:
        if self.asked == self.stops_after:
            raise KeyboardInterrupt
        self.asked += 1
        assert self.length(prompt) + max_new_tokens <= self.limit
        key = re.findall(r"number for (.+?) (?:that|is)|的?([\u4e00-\u9fff]+)的特殊魔法数字是$", prompt)[-1]
        start = list(TOKEN.finditer(prompt))[-self.span :][0].start()
        pattern = (
            rf"numbers for {key[0]} is: (\d+)\." if key[0] else rf"{key[1].removeprefix('回答：')}的一个.*?：(\d+)。"
        )
        found = re.search(pattern, prompt[start:])
        return f" {found[1]}. And so on." if found else " not in the text."


def grid(**settings: Any) -> Grid:
    return Grid(**{"lengths": (300, 500, 900), "depths": (0, 25, 50, 75, 100)} | settings)


def run(out: Path, reader: Any = None, language: Language = ENGLISH, **settings: Any) -> Result:
    return measure(reader or Finder(), built_in(language), grid(**settings), out, model_name="finder")


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}
