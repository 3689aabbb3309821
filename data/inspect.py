"""What a mixture holds, before anything trains on it: counts, lengths, languages, and samples with what is learned.

    python -m data.inspect MIXTURE --data shards --tokenizer FOLDER [--side 448] [--out FILE.html]

Of each source a seeded choice of the samples that the mixture takes is read and encoded as training does it. Tables
tell of them, on the terminal and on a page (`runs/inspect-MIXTURE.html`), which shows some as well. With a stage's
`seed`, its `resolution` as `--side` and its `max_length`, they are among those that this stage trains on.

Counts are exact; all else is estimated from the samples read, which come from all shards, or from four of a source that
lies elsewhere. The last row weights each source by the samples it gives.
A sample's language goes by the letters of its turns: Chinese when more than half are Han characters, English when more
than half are A to Z (so French counts as English, and Japanese may count as Chinese), other when neither.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from data.cache import Cache
from data.inspect_page import Table, shown, write_page
from data.loader import Broken, Samples, Task
from data.mixture import Chosen, Manifest, Mixture, counts, resolve
from data.order import Order, Place
from data.remote import is_remote
from data.rows import Row
from data.store import Store
from yivl.conversation import Conversation
from yivl.encoder import IMAGE_ID, Encoder, Example
from yivl.settings import read
from yivl.tokenizer import load_tokenizer

Array = np.ndarray[Any, Any]
_REASONS = 5
"""Reasons told of per source."""
_CACHE_BYTES = 200 * 2**30
_FAR_SHARDS = 4
"""Shards that are fetched of a source that lies elsewhere."""


class Reading(NamedTuple):
    """A sample in numbers; languages are 0 or 1."""

    text: int
    total: int
    images: int
    learned: int
    dropped: int
    chinese: int
    english: int
    other: int


@dataclass(frozen=True, slots=True)
class Profile:
    """What was found of one source."""

    chosen: Chosen
    tasks: list[Task]
    """The samples drawn, in the order in which they were drawn."""
    readings: dict[int, Reading] = field(default_factory=dict)
    """By position; those that are not broken."""
    broken: list[Broken] = field(default_factory=list)

    def sound(self, count: int) -> list[Task]:
        """The first samples drawn that are not broken."""
        return [task for task in self.tasks if task.position in self.readings][:count]

    @property
    def rows(self) -> Array:
        """The readings, float64 [n, 8]."""
        return np.array(list(self.readings.values()), dtype=np.float64).reshape(-1, len(Reading._fields))

    @property
    def weights(self) -> Array:
        """Taken samples that each reading stands for: a broken one is replaced by another of its source."""
        return np.full(len(self.readings), self.chosen.taken / max(len(self.readings), 1))


class Readings(Dataset["Reading | Broken"]):
    """Reads samples as training does, and keeps of each the numbers alone."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, task: Task) -> Reading | Broken:
        item = self.samples[task]
        if item.broken:
            return item.broken[0]
        assert item.example is not None
        return reading(item.example, _told(self.samples.content(task.place), self.samples.encoder.tokenizer))


def _told(content: Conversation | Row, tokenizer: PreTrainedTokenizerBase) -> str:
    """What is said in a sample."""
    if isinstance(content, Row):
        return str(tokenizer.decode(content.ids.tolist(), skip_special_tokens=True))
    return content.given + "".join(turn.text for turn in content.turns)


def reading(example: Example, text: str) -> Reading:
    """The numbers of a sample, in which this is said."""
    told = language(text)
    return Reading(
        text=int((example.input_ids != IMAGE_ID).sum()), total=len(example.input_ids), images=len(example.pixels),
        learned=example.supervised, dropped=example.dropped_turns,
        chinese=told == "Chinese", english=told == "English", other=told == "other",
    )  # fmt: skip


def language(text: str) -> str:
    """Chinese, English or other, as the module says."""
    letters = sum(map(str.isalpha, text))
    if 2 * len(re.findall("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]", text)) > letters:
        return "Chinese"
    return "English" if 2 * len(re.findall("[A-Za-z]", text)) > letters else "other"


def draw(manifest: Manifest, number: int, count: int, seed: int) -> list[Task]:
    """At most so many of the samples that a source gives, each as likely as any other, in random order.

    Their positions are not those of an epoch: they count the samples taken in the order in which they lie.
    """
    source = manifest.sources[number]
    before = sum(other.taken for other in manifest.sources[:number])
    dice = random.Random(f"{seed} {source.name}")
    chosen = list(range(len(source.shards)))
    if is_remote(source.shards[0].path):
        chosen = dice.sample(chosen, min(_FAR_SHARDS, len(chosen)))
    ends = np.cumsum([source.shards[shard].taken for shard in chosen])
    drawn = dice.sample(range(int(ends[-1])), min(count, int(ends[-1])))
    found = np.searchsorted(ends, drawn, side="right")
    return [
        Task(before + sample, Place(number, chosen[shard], sample - int(ends[shard - 1] if shard else 0)))
        for sample, shard in zip(drawn, found.tolist(), strict=True)
    ]


def profile(samples: Samples, count: int, seed: int, workers: int) -> list[Profile]:
    """Reads up to `count` samples of each source."""
    manifest = samples.order.manifest
    profiles = [Profile(chosen, draw(manifest, i, count, seed)) for i, chosen in enumerate(manifest.sources)]
    tasks = [task for one in profiles for task in sorted(one.tasks)]  # shard by shard
    options: dict[str, Any] = {"batch_size": None, "collate_fn": _unchanged, "num_workers": min(workers, len(tasks))}
    loaded: Iterator[Reading | Broken] = iter(DataLoader(Readings(samples), sampler=tasks, **options))
    for task, found in tqdm(zip(tasks, loaded, strict=True), total=len(tasks), unit="sample", disable=None):
        if isinstance(found, Broken):
            profiles[task.place.source].broken.append(found)
        else:
            profiles[task.place.source].readings[task.position] = found
    return profiles


def _unchanged(found: Reading | Broken) -> Reading | Broken:
    return found


# Tables


def tables(manifest: Manifest, profiles: Sequence[Profile]) -> list[Table]:
    """All there is to say in figures, and why samples are broken."""
    told = counts(manifest)
    rows, weights = np.concatenate([one.rows for one in profiles]), np.concatenate([one.weights for one in profiles])
    taken = manifest.taken
    shares = [len(one.broken) / max(len(one.tasks), 1) for one in profiles]
    together = sum(share * one.chosen.taken for share, one in zip(shares, profiles, strict=True)) / taken
    lengths = [(one.chosen.name, f"{len(one.tasks):,}", *_lengths(one.rows, one.weights)) for one in profiles]
    content = [
        (one.chosen.name, *_content(one.rows, one.weights), _percent(share) if one.tasks else "–")
        for one, share in zip(profiles, shares, strict=True)
    ]
    return [
        Table(
            title="Counts", about="Samples of an epoch, exactly.", head=told[0], rows=tuple(told[1:]),
        ),
        Table(
            title="Tokens and images of a sample",
            about="Means, and the length that 95% of the samples do not exceed. All tokens are those of the text and "
            "of the images. Dropped are whole turns at the end of samples that are too long.",
            head=("source", "read", "text tokens", "95%", "all tokens", "95%", "images", "turns dropped"),
            rows=(*lengths, ("together", f"{sum(len(one.tasks) for one in profiles):,}", *_lengths(rows, weights))),
        ),
        Table(
            title="What is learned",
            about="Learned tokens of a sample, and their share of all tokens. The share of samples in each language, "
            "by the letters of their turns, and of those that are broken.",
            head=("source", "learned", "of all tokens", "Chinese", "English", "other", "broken"),
            rows=(*content, ("together", *_content(rows, weights), _percent(together))),
        ),
        *_reasons(profiles),
    ]  # fmt: skip


def _lengths(rows: Array, weights: Array) -> tuple[str, ...]:
    if not len(rows):
        return ("–",) * 6
    mean = Reading(*np.average(rows, axis=0, weights=weights))
    longest = Reading(*np.percentile(rows, 95, axis=0, weights=weights, method="inverted_cdf"))
    tokens = (mean.text, longest.text, mean.total, longest.total)
    return (*(f"{number:,.0f}" for number in tokens), f"{mean.images:.2f}", f"{mean.dropped:.2f}")


def _content(rows: Array, weights: Array) -> tuple[str, ...]:
    if not len(rows):
        return ("–",) * 5
    mean = Reading(*np.average(rows, axis=0, weights=weights))
    shares = (mean.learned / mean.total, mean.chinese, mean.english, mean.other)
    return (f"{mean.learned:,.1f}", *map(_percent, shares))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _reasons(profiles: Sequence[Profile]) -> list[Table]:
    """The most frequent reasons of each source; those that differ only in their numbers count as one."""
    rows: list[tuple[str, ...]] = []
    for one in profiles:
        first: dict[str, tuple[Broken, str]] = {}
        kinds: Counter[str] = Counter()
        for broken in one.broken:
            reason = broken.reason.removeprefix(f"{broken.source}/{broken.key}: ")
            kinds[kind := re.sub(r"\d+", "0", reason)] += 1
            first.setdefault(kind, (broken, reason))
        for kind, count in kinds.most_common(_REASONS):
            broken, reason = first[kind]
            rows.append((one.chosen.name, f"{count:,}", reason, f"{broken.key} in {broken.shard}"))
    about = f"The most frequent reasons of each source, at most {_REASONS}. Training replaces such samples."
    head = ("source", "samples", "reason", "such as")
    return [Table(title="Broken samples", about=about, head=head, rows=tuple(rows), words=True)] if rows else []


def lines(table: Table) -> str:
    """A table for the terminal."""
    told = [table.title, *textwrap.wrap(table.about, 100)]
    if table.words:
        told += [f"{source}: {count} x {reason}; such as {where}" for source, count, reason, where in table.rows]
    else:
        rows = [table.head, *table.rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        told += ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join(told)


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables and writes the page."""
    options = _parser().parse_args(arguments)
    out: Path = options.out or Path("runs") / f"inspect-{options.mixture.stem}.html"
    try:
        samples = _samples(options)
        profiles = profile(samples, options.samples, options.seed, options.workers)
        told = tables(samples.order.manifest, profiles)
        pictures = {one.chosen.name: [shown(samples, task) for task in one.sound(options.pictures)] for one in profiles}
        taken, encoder = samples.order.manifest.taken, samples.encoder
        out.parent.mkdir(parents=True, exist_ok=True)
        write_page(
            out, title=f"{options.mixture.stem}: {taken:,} samples, sources: {len(profiles)}",
            about=f"Of each source up to {options.samples:,} of the samples taken were read and encoded as training "
            f"does it: images of {encoder.image_side} pixels that take {encoder.patches:,} tokens, at most "
            f"{encoder.max_length:,} tokens in all, seed {options.seed}.",
            tables=told, samples=pictures,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n\n".join(map(lines, told)))
    print(f"\n{sum(map(len, pictures.values()))} samples to look at: {out}")
    return 0


def _samples(options: argparse.Namespace) -> Samples:
    cache = Cache(options.cache, _CACHE_BYTES) if options.cache else None
    store = Store(options.data, cache)
    manifest = resolve(read(Mixture, options.mixture), store, options.seed)
    away = [one.name for one in manifest.sources if any(is_remote(shard.path) for shard in one.shards)]
    if away and cache is None:
        raise ValueError(f"{', '.join(away)}: its shards lie elsewhere; --cache FOLDER says where to keep them")
    try:
        tokenizer = load_tokenizer(options.tokenizer)
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"--tokenizer {options.tokenizer} can't be used: {reason}") from error
    encoder = Encoder(
        tokenizer, patches=options.patches or (options.side // 14) ** 2, image_side=options.side,
        max_length=options.max_length,
    )  # fmt: skip
    return Samples(Order(manifest, options.seed), store, encoder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.inspect", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("mixture", type=Path, metavar="MIXTURE", help="the mixture file")
    add("--data", type=Path, required=True, help="folder below which the sources' shards lie")
    add("--tokenizer", required=True, metavar="FOLDER", help="model folder that has the tokenizer")
    add("--side", type=_positive, default=448, help="of the square image, in pixels")
    add("--patches", type=_positive, help="tokens that an image takes; by default (side // 14) ** 2")
    add("--samples", type=_positive, default=1000, help="most samples to read of each source")
    add("--pictures", type=_count, default=3, help="samples of each source on the page")
    add("--seed", type=_count, default=0, help="of the choice of samples; a stage's is its 'seed'")
    add("--max-length", type=_positive, default=2048, help="most tokens of a sample")
    add("--workers", type=_count, default=os.cpu_count() or 1, help="processes that read; with 0 this one does")
    add("--cache", type=Path, metavar="FOLDER", help="keeps shards that lie elsewhere")
    add("--out", type=Path, metavar="FILE.html", help="the page; by default runs/inspect-MIXTURE.html")
    return parser


def _count(text: str, least: int = 0) -> int:
    if int(text) < least:
        raise argparse.ArgumentTypeError(f"{text} is less than {least}")
    return int(text)


def _positive(text: str) -> int:
    return _count(text, least=1)


if __name__ == "__main__":
    sys.exit(main())
