"""Asks a model MMMU's questions and scores its replies; the only module here that knows `yivl`.

    result = evaluate_model(Path("runs/stage3/model"), Path("MMMU"), "validation", Path("runs/stage3/mmmu"), 8)
    result.official.overall.accuracy

`evaluate` does the same for anything that answers conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol as Interface

from eval.mmmu import dataset, protocol, report
from eval.mmmu.dataset import Sample
from eval.mmmu.predictions import Predictions, Run
from eval.mmmu.protocol import Protocol
from eval.mmmu.report import Result
from eval.mmmu.revision import of_folder
from yivl import YiVL
from yivl.conversation import Conversation, ImageSource, Turn
from yivl.images import ZERO, BadImage, open_image

WINDOW = 128
"""About so many questions have their images in memory at a time, and are sorted by length among themselves. MMMU's
largest images have some 4 MB."""

Batch = list[Sample]


class Answer(Interface):
    """A model's greedy replies to a batch, such as `YiVL.answer`: one to a conversation, in order, stripped."""

    def __call__(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        """The replies."""


def evaluate(
    answer: Answer,
    data: Path,
    split: str,
    out: Path,
    batch_size: int,
    model_name: str,
    subjects: Sequence[str] | None = None,
    *,
    model_revision: str | None = None,
    protocol_name: str = "yi",
    progress: Callable[[int, int], None] = lambda done, questions: None,
) -> Result:
    """Asks what `out` does not answer yet, then scores everything.

    Args:
        answer: the model.
        data: folder of MMMU's parquet files.
        split: dev, validation or test.
        out: where replies and results go; a run that was stopped there goes on.
        batch_size: questions to a call of `answer`.
        model_name: stands in the table and in the result.
        subjects: those to ask; all that `data` has if None.
        model_revision: tells the model from others, so that replies of two are not mixed; `model_name` if None.
        protocol_name: how to ask, one of `protocol.PROTOCOLS`.
        progress: called with how many questions have a reply, and how many there are.

    Raises:
        FileNotFoundError: data are missing.
        ValueError: data are not as they should be, or `out` holds another run.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    how = protocol.find(protocol_name)
    questions = dataset.load(data, split, subjects)
    run = Run(
        protocol=how.name,
        split=split,
        subjects=questions.subjects,
        model=model_name,
        model_revision=model_revision or model_name,
        data_revision=questions.revision,
        max_new_tokens=how.max_new_tokens,
        batch_size=batch_size,
    )
    with Predictions(out, run) as predictions:
        ask(answer, questions.samples, how, batch_size, predictions, progress)
        return report.write(out, questions, predictions.replies, predictions.run, model_name)


def evaluate_model(
    folder: Path,
    data: Path,
    split: str,
    out: Path,
    batch_size: int,
    subjects: Sequence[str] | None = None,
    *,
    protocol_name: str = "yi",
    progress: Callable[[int, int], None] = lambda done, questions: None,
) -> Result:
    """`evaluate` for the model in `folder`, told from others by the content of its files.

    It is loaded with the first batch: what is wrong with the data shows before, and a finished run loads none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder {folder}")
    loaded: list[YiVL] = []

    def answer(conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        if not loaded:
            loaded.append(YiVL.load(folder))
        return loaded[0].answer(conversations, max_new_tokens=max_new_tokens)

    return evaluate(
        answer,
        data,
        split,
        out,
        batch_size,
        str(folder),
        subjects,
        model_revision=of_folder(folder, without=out),
        protocol_name=protocol_name,
        progress=progress,
    )


def ask(
    answer: Answer,
    samples: Sequence[Sample],
    how: Protocol,
    batch_size: int,
    predictions: Predictions,
    progress: Callable[[int, int], None],
) -> None:
    """Adds a reply to each of `samples` to `predictions`, batch by batch.

    The batches do not depend on what is answered, and one that is answered in part is asked whole: its questions are
    padded as in a run that was never stopped, so the replies are the same.
    """
    for window in _windows(samples, how, batch_size):
        missing = [batch for batch in window if any(sample.id not in predictions.replies for sample in batch)]
        shown = [sample for batch in missing for sample in batch if how.sees_image(sample)]
        images = dict(zip((sample.id for sample in shown), dataset.read_images(shown), strict=True))
        for batch in missing:
            pictures = [images.get(sample.id) for sample in batch]
            replies = _replies(answer, batch, pictures, how)
            new = [(sample.id, reply) for sample, reply in zip(batch, replies, strict=True)]
            predictions.add((key, reply) for key, reply in new if key not in predictions.replies)
            progress(len(predictions.replies), len(samples))


def _windows(samples: Sequence[Sample], how: Protocol, batch_size: int) -> Iterator[list[Batch]]:
    """Batches of prompts of like length, so that little is padded, in windows of whole batches."""
    step = max(1, WINDOW // batch_size) * batch_size
    for first in range(0, len(samples), step):
        window = sorted(samples[first : first + step], key=lambda sample: len(how.prompt(sample)))
        yield [window[start : start + batch_size] for start in range(0, len(window), batch_size)]


def conversation(sample: Sample, image: bytes | None, how: Protocol) -> Conversation:
    """The question as the model is asked it; without an image it gets a picture of zeros."""
    picture: ImageSource = ZERO if image is None else image
    return Conversation(
        turns=(Turn("human", how.prompt(sample), images=1),), images=(picture,), source="MMMU", key=sample.id
    )


def _replies(answer: Answer, batch: Batch, pictures: Sequence[bytes | None], how: Protocol) -> list[str]:
    asked = [conversation(sample, picture, how) for sample, picture in zip(batch, pictures, strict=True)]
    try:
        replies = answer(asked, max_new_tokens=how.max_new_tokens)
    except Exception:
        _blame(batch, pictures)
        raise
    if len(replies) != len(batch):
        raise ValueError(f"the model gave {len(replies)} replies to {len(batch)} questions, from {batch[0].where} on")
    return replies


def _blame(batch: Batch, pictures: Sequence[bytes | None]) -> None:
    """Raises for the first image that can't be decoded: the model knows neither its file nor its row."""
    for sample, picture in zip(batch, pictures, strict=True):
        if picture is not None:
            try:
                open_image(picture)
            except BadImage as error:
                raise ValueError(f"{sample.where}: image_1 can't be decoded: {error}") from error
