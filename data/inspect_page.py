"""The page of `data.inspect`: its tables, and samples with every token and what is learned marked.

The page is a single HTML file that loads nothing: styles and pictures lie inside it, and it runs no script. Each token
is an element of its own whose text is exactly the token's: a `u` (underlined, by any reader) when it is learned, else a
`span`. Line breaks and parts of a character are made visible by the style alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from transformers import PreTrainedTokenizerBase

from data.loader import Samples, Task
from yivl import page
from yivl.encoder import IGNORE, IMAGE_ID, Example

Array = np.ndarray[Any, Any]
_STYLE: Final = """
:root { --accent: light-dark(#14713c, #6fd396); --learned: light-dark(#d9f2e2, #173a27);
  --tick: light-dark(#b9c1ce, #4a5362); --image: light-dark(#e3ecfb, #24344f); }
article { display: grid; gap: 8px 16px; margin-bottom: 14px; }
article header { grid-column: 1 / -1; }
article header p { margin: 0; font-size: .875rem; overflow-wrap: anywhere; }
.pictures { display: flex; flex-wrap: wrap; gap: 8px; align-content: start; }
.pictures img { width: 224px; height: 224px; max-width: 100%; border-radius: 6px; }
@media (min-width: 700px) { article.seen { grid-template-columns: 224px minmax(0, 1fr); } }
.tokens { max-width: none; max-height: 40.5rem; margin: 0; padding: 0 4px 4px 0; overflow-y: auto; color: var(--ink);
  line-height: 1.9; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.tokens > * { padding: 1px 0; border-left: 1px solid var(--tick); }
.tokens > :hover { outline: 2px solid var(--accent); }
u { background: var(--learned); text-decoration: underline 2px var(--accent); text-underline-offset: 4px; }
.tokens b { padding: 1px 6px; border: 0; border-radius: 4px; background: var(--image); font-weight: 500; }
.tokens b.border { display: block; width: fit-content; margin-top: .75em; }
i::before { content: "↵"; color: var(--soft); font-style: normal; }
.part::before { content: "◦"; color: var(--soft); }
"""


class Token(NamedTuple):
    """A text token of an example."""

    id: int
    text: str
    """Empty when the token is part of a character that a later one completes."""
    learned: bool


class Patches(NamedTuple):
    """An image of an example."""

    tokens: int


class Border(NamedTuple):
    """Between two segments of an example: what follows does not attend to what stands before."""

    segment: int
    """Number of the one that begins, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A sample as the page shows it."""

    key: str
    note: str
    pictures: tuple[bytes, ...]
    """JPEG files of the squares that the model sees."""
    tokens: tuple[Token | Patches | Border, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a heading; the first cell of a row names it, and the last row of figures is all together."""

    title: str
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: bool = False
    """The cells are text rather than figures."""


def shown(samples: Samples, task: Task) -> Shown:
    """The sample of a task, which must not be broken."""
    example = samples[task].example
    assert example is not None
    shard = samples.order.manifest.sources[task.place.source].shards[task.place.shard]
    note = f"{shard.path} · {len(example.input_ids):,} tokens, {example.supervised:,} learned"
    if len(example.starts) > 1:
        note += f" in {len(example.starts)} documents"
    if example.dropped_turns:
        note += f", {example.dropped_turns} turns dropped"
    return Shown(
        key=example.key, note=note, pictures=tuple(map(_jpeg, example.pixels)),
        tokens=tuple(tokens(example, samples.encoder.tokenizer, samples.encoder.patches)),
    )  # fmt: skip


def tokens(example: Example, tokenizer: PreTrainedTokenizerBase, patches: int) -> Iterator[Token | Patches | Border]:
    """The tokens of an example in order, an image's patches as one, with the borders of its segments."""
    marks: dict[int, Patches | Border] = {
        **{at: Patches(patches) for at in np.flatnonzero(example.input_ids == IMAGE_ID)[::patches].tolist()},
        **{at: Border(number) for number, at in enumerate(example.starts[1:], 2)},
    }
    start = 0
    for end in [*sorted(marks), len(example.input_ids)]:
        ids, learned = example.input_ids[start:end].tolist(), (example.labels[start:end] != IGNORE).tolist()
        yield from map(Token, ids, spell(ids, tokenizer), learned)
        mark = marks.get(end)
        if mark is not None:
            yield mark
        start = end + patches if isinstance(mark, Patches) else end


def spell(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token; joined they are the whole. A character of several tokens stands at the last of them."""
    texts: list[str] = []
    before: list[int] = []
    pending: list[int] = []
    for number, token in enumerate(ids, 1):
        pending.append(token)
        text = _decode(tokenizer, before + pending)[len(_decode(tokenizer, before)) :]
        if text.endswith("\N{REPLACEMENT CHARACTER}") and number < len(ids):
            texts.append("")
        else:
            texts.append(text)
            before, pending = pending, []
    return texts


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _jpeg(pixels: Array) -> bytes:
    """uint8 [3, S, S] as a JPEG file."""
    return page.jpeg(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def write_page(
    path: Path, *, title: str, about: str, tables: Sequence[Table], samples: Mapping[str, Sequence[Shown]]
) -> None:
    """Writes the page; `samples` by source."""
    parts = [f"<h1>{escape(title)}</h1>\n<p>{escape(about)}</p>", *map(_table, tables)]
    if any(samples.values()):
        parts.append(
            "<h2>Samples</h2>\n<p>Learned tokens are <u>underlined</u>; thin lines stand between tokens, and pointing "
            "at one tells its id. <i></i> is a line break, <span class=part></span> a part of a character that the "
            "next tokens complete. Pictures are the squares that the model sees. Documents in a row do not see "
            "each other.</p>"
        )
    parts += [page.section(source, "", *map(_card, shown)) for source, shown in samples.items() if shown]
    page.write_page(path, title, parts, style=_STYLE)


def _table(table: Table) -> str:
    rows = [page.text_row(*cells) for cells in table.rows]
    kind = "words" if table.words else "figures"
    return page.section(table.title, table.about, page.table(table.title, table.head, rows, kind))


def _card(shown: Shown) -> str:
    images = "".join(
        page.picture(data, f"Image {number} of {shown.key}", 224) for number, data in enumerate(shown.pictures, 1)
    )
    return (
        f"<article{' class=seen' if images else ''}><header><h3>{escape(shown.key)}</h3><p>{escape(shown.note)}</p>"
        + ("</header>" if not images else f'</header><div class="pictures">{images}</div>')
        + f'<p class="tokens" tabindex="0">{"".join(map(_token, shown.tokens))}</p></article>'
    )


def _token(token: Token | Patches | Border) -> str:
    if isinstance(token, Patches):
        return f"<b>‹image: {token.tokens}›</b>"
    if isinstance(token, Border):
        return f"<b class=border>‹document {token.segment}›</b>"
    tag = "u" if token.learned else "span"
    kind = "" if token.text else " class=part"
    text = escape(_visible(token.text)).replace("\n", "<i></i>\n")
    return f"<{tag}{kind} title={token.id}>{text}</{tag}>"


def _visible(text: str) -> str:
    """Control characters, which HTML forbids or drops, as the pictures that Unicode has of them."""
    return re.sub(r"[\0-\x08\x0b-\x1f]", lambda control: chr(0x2400 + ord(control.group())), text)
