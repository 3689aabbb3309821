"""Looks at samples that are not trained on: their loss for each source, and what the model answers to some of them.

Which samples: the first of each source in an order that depends on the held-out mixture alone. So they are the same at
every look, after a resume, for any number of processes, and in runs of other seeds, which can be compared. A look draws
no random numbers and changes nothing: a run with looks is the run without.

They are read once, at the start: a source that can't be read ends the run there, and no look waits for shards. Each
process reads all and keeps its part of them in memory, pixels included: 64 samples of 15 sources at 448 pixels are
0.6 GB over all processes, and in each of them while the run begins.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.loader import BrokenSource, Samples, Task
from data.mixture import Manifest, Mixture, resolve, taken_samples
from data.order import Order, Place
from data.packing import empty, micro_batches, spread
from data.rows import Row
from data.store import Store
from stages.engines.engine import Engine
from stages.record import Answer
from stages.stage import Stage
from yivl import prompt
from yivl.encoder import Encoder, Example
from yivl.images import Pixels
from yivl.model import YiVLForConditionalGeneration
from yivl.processor import YiVLProcessor
from yivl.ranks import Ranks
from yivl.settings import SettingsError, read
from yivl.weights import sync

log = logging.getLogger("yivl")
_SEED = 1
"""Of the choice and order of held-out samples."""
_NEW_TOKENS = 64
"""Most tokens of an answer."""


class Look(NamedTuple):
    """What a look found."""

    losses: Mapping[str, float]
    """Mean over the supervised tokens of each source."""
    tokens: Mapping[str, int]
    """How many these are."""
    answers: tuple[Answer, ...]


class HeldOut:
    """The held-out samples of a run. All processes build it together.

    Args:
        stage: its `held_out` names the mixture.
        trained: what the run trains on.
        store: where the shards are.
        encoder: as training has it.
        ranks: the processes of the run.
        folder: the run's; pictures go to `answers/` in it.

    Raises:
        FileNotFoundError, BadIndex: as `data.mixture.resolve` does.
        BrokenSource: of a source, many samples in a row can't be used.
        SettingsError: a source has no samples, or one of them is trained on as well.
        OSError: a picture could not be written; on the other processes OtherProcessFailed.
    """

    def __init__(
        self, stage: Stage, *, trained: Manifest, store: Store, encoder: Encoder, ranks: Ranks, folder: Path
    ) -> None:
        self.ranks = ranks
        self.tokenizer = encoder.tokenizer
        sources = ranks.alike(lambda: _picked(stage, trained, store, encoder))
        examples = [one.example for picked in sources for one in picked]
        share = spread([len(example.input_ids) for example in examples], ranks.count)[ranks.rank]
        batches = micro_batches([examples[number] for number in share], stage.tokens_per_micro_batch)
        rows = max(ranks.gather(len(batches)))  # all make the same collective calls
        self.batches = batches + [empty(stage.resolution)] * (rows - len(batches))
        self.questions = _questions(sources, stage.answers)
        ranks.by_first(lambda: _save_pictures(self.questions, folder))
        self.sources = [picked[0].example.source for picked in sources]
        told = ", ".join(f"{len(picked)} of {name}" for name, picked in zip(self.sources, sources, strict=True))
        log.info("held out: %s; %d of them are answered", told, len(self.questions))

    def look(self, engine: Engine) -> Look:
        """The model as it is now; all processes call it together, between two steps, and are told the same."""
        mine: list[tuple[str, float, int]] = []
        for batch in self.batches:
            parts = engine.token_losses(batch).double().split(batch.supervised_each)
            # an empty row has one part, of no source
            mine += [(name, part.sum().item(), len(part)) for name, part in zip(batch.sources, parts, strict=False)]
        found = [one for share in self.ranks.gather(mine) for one in share]
        tokens = {name: sum(count for source, _, count in found if source == name) for name in self.sources}
        losses = {
            name: math.fsum(loss for source, loss, _ in found if source == name) / tokens[name] for name in self.sources
        }
        return Look(losses=losses, tokens=tokens, answers=self._answers(engine))

    def _answers(self, engine: Engine) -> tuple[Answer, ...]:
        if not self.questions:
            return ()
        with engine.generating() as model:
            replies = self._replies(model, engine.synced)
        return tuple(asked.answered(reply) for asked, reply in zip(self.questions, replies, strict=True))

    def _replies(self, model: YiVLForConditionalGeneration, synced: bool) -> list[str]:
        """What the model writes after the prompts: greedy, all in one batch."""
        processor = YiVLProcessor.of(model.config, self.tokenizer)
        images = [pixels.transpose(1, 2, 0) for asked in self.questions for pixels in asked.pixels]
        inputs = processor(images, [asked.prompt for asked in self.questions]).to(model.device)
        sequences = model.generate(
            **inputs, do_sample=False, max_new_tokens=_NEW_TOKENS, stop_strings=list(prompt.STOPS),
            tokenizer=self.tokenizer, synced_gpus=synced,
        )  # fmt: skip
        new = sequences[:, inputs["input_ids"].shape[1] :]
        replies: list[str] = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return replies


class _Picked(NamedTuple):
    """A held-out sample."""

    samples: Samples
    """Of its source alone."""
    place: Place
    example: Example


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A sample up to where the model is to go on, and how it goes on in truth."""

    source: str
    key: str
    text: str
    """What the person asks; of a completion what is given, of a caption nothing."""
    prompt: str
    """As the model reads it."""
    pixels: Pixels  # uint8 [n, 3, S, S], the images in the prompt
    truth: str
    plain: bool
    picture: str | None = None
    """Below the run's folder: the images as the model sees them, side by side."""

    def answered(self, reply: str) -> Answer:
        """With what the model wrote; a caption ends with its line."""
        said = prompt.cut(reply.partition("\n")[0] if self.plain else reply)
        return Answer(
            source=self.source, key=self.key, question=self.text, answer=said, truth=self.truth, picture=self.picture
        )


def _picked(stage: Stage, trained: Manifest, store: Store, encoder: Encoder) -> list[list[_Picked]]:
    """Of each source its held-out samples; see `HeldOut` for what it raises."""
    assert stage.held_out is not None
    manifest = resolve(read(Mixture, stage.held_out), store, _SEED)
    if nothing := [source.name for source in manifest.sources if not source.taken]:
        raise SettingsError(f"{stage.held_out}: the shards of {', '.join(nothing)} hold no samples")
    # each source has an order of its own, which the others do not change
    alone = [Manifest(seed=manifest.seed, sources=(source,)) for source in manifest.sources]
    sources = [_pick(Samples(Order(one, _SEED), store, encoder), stage.held_out_samples) for one in alone]
    for picked in sources:
        _refuse_trained(picked, trained)
    return sources


def _pick(samples: Samples, count: int) -> list[_Picked]:
    """The first samples of an order; those that can't be used are passed over.

    Raises:
        BrokenSource: many in a row can't be used.
    """
    picked: list[_Picked] = []
    for position in range(samples.order.epoch_samples):
        (place,) = samples.order.places(position, 1)
        item = samples[Task(position, place)]
        if item.example is None:
            raise BrokenSource(item.broken)
        if item.broken:  # what came instead may be picked by itself
            one = item.broken[0]
            log.info("held out: %s in %s can't be used: %s", one.key, one.shard, one.reason)
            continue
        picked.append(_Picked(samples, place, item.example))
        if len(picked) == count:
            break
    return picked


def _refuse_trained(picked: Sequence[_Picked], trained: Manifest) -> None:
    """Makes sure that none of a source's held-out samples is trained on.

    Shards count as one when their digests are equal: a file under several names, or copies of it. A sample that was
    written into another shard is not noticed.

    Raises:
        SettingsError: one is.
    """
    order, store = picked[0].samples.order, picked[0].samples.store
    (source,) = order.manifest.sources
    for number in sorted({one.place.shard for one in picked}):
        shard = source.shards[number]
        twins = [(other, twin) for other in trained.sources for twin in other.shards if twin.digest == shard.digest]
        if not twins:
            continue
        index = store.index(source.name, shard.path)
        ours = taken_samples(order.manifest, source, shard, index)[
            [one.place.sample for one in picked if one.place.shard == number]
        ]
        for other, twin in twins:
            both = np.intersect1d(ours, taken_samples(trained, other, twin, index))
            if len(both):
                raise SettingsError(
                    f"held_out: {len(both)} samples of source {source.name!r}, such as {index.key(int(both[0]))} in "
                    f"{shard.path}, are trained on as source {other.name!r} ({twin.path}); hold out other shards"
                )


def _questions(sources: Sequence[Sequence[_Picked]], count: int) -> tuple[_Question, ...]:
    """The first samples that ask or show something: one of each source, then a second of each, and so on."""
    asking = [filter(None, map(_question, picked)) for picked in sources]
    in_turn = (one for turn in zip_longest(*asking) for one in turn if one)
    return tuple(
        replace(one, picture=f"answers/{number}.png") if len(one.pixels) else one
        for number, one in enumerate(islice(in_turn, count), 1)
    )


def _question(picked: _Picked) -> _Question | None:
    conversation = picked.samples.content(picked.place)
    if isinstance(conversation, Row):
        return None  # of documents
    first, plain = conversation.turns[0], conversation.plain
    before = "".join(segment.text for segment in takewhile(lambda s: not s.learn, prompt.render(conversation)))
    if not before:
        return None  # a document
    return _Question(
        source=picked.example.source,
        key=picked.example.key,
        text=conversation.given if plain else first.text,
        prompt=before,
        pixels=picked.example.pixels[: first.images],
        truth=first.text if plain else conversation.turns[1].text,
        plain=plain,
    )


def _save_pictures(questions: Sequence[_Question], folder: Path) -> None:
    for asked in questions:
        if asked.picture is None:
            continue
        file = folder / asked.picture
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.unfinished")
        Image.fromarray(np.concatenate(asked.pixels, axis=2).transpose(1, 2, 0)).save(temporary, "PNG")
        sync(temporary)
        temporary.replace(file)
