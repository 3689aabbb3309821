"""Asks a model the questions of a benchmark; the only module here that knows `yivl`, beside the commands that call it.

    result = evaluate_model(Path("runs/stage3/model"), MMMU(Path("MMMU"), Choices()), Path("runs/stage3/mmmu"))

`evaluate` does the same for anything that answers conversations. Several processes (torchrun) share the work: the
batches are the same as for one, each is asked by one of them, and the first puts the replies together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol as Interface

from eval import page, predictions, results
from eval.benchmark import BadData, Benchmark, Picture, Question
from eval.predictions import Predictions, Run
from eval.results import Result
from eval.revision import of_folder
from yivl import YiVL
from yivl.conversation import Conversation, Turn
from yivl.images import ZERO, BadImage, open_image
from yivl.ranks import Ranks

WINDOW = 128
"""About so many questions have their images in memory at a time, and are sorted by length among themselves. MMMU's
largest images have some 4 MB."""

Progress = Callable[[int, int], None]
"""Called with how many questions of this process have a reply, and how many there are."""


class Answer(Interface):
    """A model's greedy replies to a batch, such as `YiVL.answer`: one to a conversation, in order, stripped."""

    def __call__(self, conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        """The replies."""


def evaluate(
    answer: Answer,
    benchmark: Benchmark,
    out: Path,
    *,
    model_name: str,
    model_revision: str | None = None,
    batch_size: int = 8,
    ranks: Ranks | None = None,
    in_step: bool = False,
    progress: Progress = lambda done, questions: None,
) -> Result:
    """Asks what `out` does not answer yet, then scores everything. All processes call it together.

    Args:
        answer: the model.
        benchmark: its questions.
        out: where replies and results go; a run that was stopped there goes on.
        model_name: stands in the table and in the result.
        model_revision: tells the model from others, so that replies of two are not mixed; `model_name` if None.
        batch_size: questions to a call of `answer`.
        ranks: the processes; this one alone if None.
        in_step: all processes call `answer` equally often, because they make every forward pass together (ZeRO 3);
            `out` holds no replies yet.
        progress: see `Progress`.

    Raises:
        BadData: a picture is missing or can't be decoded.
        ValueError: `out` holds another run, or `batch_size` is none.
        OtherProcessFailed: the first process could not begin or write; it says why.
    """
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size}; at least one question is asked at a time")
    ranks = ranks or Ranks()
    run = Run(
        benchmark=benchmark.title,
        protocol=benchmark.protocol,
        split=benchmark.split,
        subjects=None if benchmark.subjects is None else list(benchmark.subjects),
        model=model_name,
        model_revision=model_revision or model_name,
        data=str(benchmark.data),
        data_revision=benchmark.revision,
        max_new_tokens=benchmark.max_new_tokens,
        batch_size=batch_size,
    )
    ranks.by_first(lambda: predictions.begin(out, run))
    out.mkdir(parents=True, exist_ok=True)  # on the machines of the other processes
    with Predictions(out, ranks.rank) as kept:
        kept.share(ranks.gather)
        _ask(answer, benchmark, batch_size, kept, ranks, progress)
        if in_step:
            _keep_up(answer, benchmark, batch_size, ranks)
        kept.share(ranks.gather)
        result = results.score(benchmark, out, kept.replies, predictions.read_run(out) or run)
        ranks.by_first(lambda: _write(benchmark, result))
    return result


def _write(benchmark: Benchmark, result: Result) -> None:
    results.write(benchmark, result)
    page.write(benchmark, result)


def evaluate_model(
    folder: Path,
    benchmark: Benchmark,
    out: Path,
    *,
    batch_size: int = 8,
    ranks: Ranks | None = None,
    progress: Progress = lambda done, questions: None,
) -> Result:
    """`evaluate` for the model in `folder`, told from others by the content of its files.

    It is loaded with the first batch: what is wrong with the data shows before, and a finished run loads none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no model folder {folder}")
    device = (ranks or Ranks()).device
    loaded: list[YiVL] = []

    def answer(conversations: Sequence[Conversation], *, max_new_tokens: int) -> list[str]:
        if not loaded:
            loaded.append(YiVL.load(folder, device=device))
        return loaded[0].answer(conversations, max_new_tokens=max_new_tokens)

    return evaluate(
        answer,
        benchmark,
        out,
        model_name=str(folder),
        model_revision=of_folder(folder, without=out),
        batch_size=batch_size,
        ranks=ranks,
        progress=progress,
    )


def _ask(
    answer: Answer, benchmark: Benchmark, batch_size: int, kept: Predictions, ranks: Ranks, progress: Progress
) -> None:
    """Adds a reply to each question of this process.

    The batches do not depend on what is answered, and one that is answered in part is asked whole: its questions are
    padded as in a run that was never stopped, so the replies are the same.
    """
    windows = list(_windows(benchmark.questions, batch_size))
    numbered = iter(range(sum(map(len, windows))))
    mine = [[batch for batch in window if next(numbered) % ranks.count == ranks.rank] for window in windows]
    asked = sum(len(batch) for window in mine for batch in window)
    done = sum(question.id in kept.replies for window in mine for batch in window for question in batch)
    for window in mine:
        missing = [batch for batch in window if any(question.id not in kept.replies for question in batch)]
        questions = [question for batch in missing for question in batch]
        pictures = dict(zip((one.id for one in questions), benchmark.pictures(questions), strict=True))
        for batch in missing:
            replies = _replies(answer, benchmark, batch, [pictures[question.id] for question in batch])
            new = [(question.id, reply) for question, reply in zip(batch, replies, strict=True)]
            new = [(key, reply) for key, reply in new if key not in kept.replies]
            kept.add(new)
            done += len(new)
            progress(done, asked)


def _keep_up(answer: Answer, benchmark: Benchmark, batch_size: int, ranks: Ranks) -> None:
    """Asks a question more on the processes that had a batch less than others; nobody listens."""
    batches = sum(map(len, _windows(benchmark.questions, batch_size)))
    if ranks.rank >= batches % ranks.count > 0:
        batch = benchmark.questions[:1]
        _replies(answer, benchmark, batch, benchmark.pictures(batch))


def _windows(questions: Sequence[Question], batch_size: int) -> Iterator[list[list[Question]]]:
    """Batches of prompts of like length, so that little is padded, in windows of whole batches."""
    step = max(1, WINDOW // batch_size) * batch_size
    for first in range(0, len(questions), step):
        window = sorted(questions[first : first + step], key=lambda question: len(question.prompt))
        yield [window[start : start + batch_size] for start in range(0, len(window), batch_size)]


def conversation(question: Question, pictures: Sequence[Picture], source: str) -> Conversation:
    """The question as the model is asked it."""
    images = tuple(ZERO if picture is None else picture for picture in pictures)
    return Conversation(
        turns=(Turn("human", question.prompt, images=len(images)),), images=images, source=source, key=question.id
    )


def _replies(
    answer: Answer, benchmark: Benchmark, batch: Sequence[Question], pictures: Sequence[Sequence[Picture]]
) -> list[str]:
    asked = [conversation(one, seen, benchmark.title) for one, seen in zip(batch, pictures, strict=True)]
    try:
        replies = answer(asked, max_new_tokens=benchmark.max_new_tokens)
    except Exception:
        _blame(batch, pictures)
        raise
    if len(replies) != len(batch):
        raise ValueError(f"the model gave {len(replies)} replies to {len(batch)} questions, from {batch[0].where} on")
    return replies


def _blame(batch: Sequence[Question], pictures: Sequence[Sequence[Picture]]) -> None:
    """Raises for the first picture that can't be decoded: the model knows neither its file nor its row."""
    for question, seen in zip(batch, pictures, strict=True):
        for picture in seen:
            if picture is not None:
                try:
                    open_image(picture)
                except (BadImage, OSError) as error:
                    raise BadData(f"{question.where}: the picture can't be decoded: {error}") from error
