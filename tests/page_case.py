"""What tests of pages share: a parser that is strict about tags, and what a page must not do."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "input"}


class Page(HTMLParser):
    """Parses a page; fails on a tag closed out of turn. `text` is what a reader sees, style and script left out."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if not self.inside("style") and not self.inside("script"):
            self.text += data

    def inside(self, tag: str) -> bool:
        return any(name == tag for name, _ in self.open)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def assert_loads_nothing(page: Page) -> None:
    """No address anywhere but in text, no element that fetches or frames; pictures lie in the page."""
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not {"href", "srcset", "onload", "onerror"} & set(attrs)
        assert "src" not in attrs or (tag == "img" and (attrs["src"] or "").startswith("data:image/jpeg;base64,"))
    for code in re.findall(r"<(?:style|script)>(.*?)</(?:style|script)>", page.source, re.DOTALL):
        assert not re.search(r"https?:|@import|url\(|fetch|XMLHttp|import\(", code)
