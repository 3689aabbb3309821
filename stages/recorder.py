"""What a run tells while it runs: a line in log.jsonl and a point in TensorBoard per step, and a progress bar."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from data.loader import Broken
from stages.run_folder import RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """An optimiser step."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Mean over the supervised tokens of the step."""
    grad_norm: float
    """Before clipping."""
    rates: Mapping[str, float]
    """Of each trained part."""
    samples: int
    tokens: int
    supervised: int
    images: int
    micro_batches: int
    dropped_turns: int
    data_seconds: float
    """Waited for data."""
    seconds: float
    """The whole step, data included."""


class Silent:
    """Takes the place of the recorder in all processes but the first."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *what: object) -> None:
        pass

    def quarantine(self, step: int, broken: Sequence[Broken]) -> None:
        """Nothing."""

    def record(self, record: Record, broken: Sequence[Broken]) -> None:
        """Nothing."""


class Recorder:
    """Writes records; a context manager, since files and the bar must be closed."""

    def __init__(self, folder: RunFolder, name: str, start: int, total: int) -> None:
        with contextlib.ExitStack() as stack:
            self._log = stack.enter_context(folder.log.open("a", encoding="utf-8"))
            self._quarantine = stack.enter_context(folder.quarantine.open("a", encoding="utf-8"))
            self._board = SummaryWriter(str(folder.tensorboard), purge_step=start + 1)
            stack.callback(self._board.close)
            terminal = sys.stderr.isatty()
            self._bar = tqdm(
                total=total, initial=start, desc=name, unit="step", dynamic_ncols=terminal,
                mininterval=0.1 if terminal else 15,
            )  # fmt: skip
            stack.callback(self._bar.close)
            self._open = stack.pop_all()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # on a full disk closing fails too, and must not hide the error that says so
        with contextlib.suppress(OSError) if error else contextlib.nullcontext():
            self._open.close()

    def quarantine(self, step: int, broken: Sequence[Broken]) -> None:
        """Samples that were replaced."""
        for sample in broken:
            print(json.dumps({"step": step, **asdict(sample)}), file=self._quarantine)
        self._quarantine.flush()

    def record(self, record: Record, broken: Sequence[Broken]) -> None:
        """One step, and the samples that were replaced in it."""
        self.quarantine(record.step, broken)
        print(json.dumps(asdict(record)), file=self._log, flush=True)
        samples_rate, tokens_rate = record.samples / record.seconds, record.tokens / record.seconds
        scalars = {
            "loss": record.loss,
            "grad_norm": record.grad_norm,
            "samples_per_second": samples_rate,
            "tokens_per_second": tokens_rate,
            **{f"rate/{part}": rate for part, rate in record.rates.items()},
        }
        for name, value in scalars.items():
            self._board.add_scalar(name, value, record.step)
        peak = max(record.rates.values())
        self._bar.set_postfix_str(
            f"loss {record.loss:.4f}, rate {peak:.2e}, {samples_rate:.1f} samples/s, {tokens_rate:,.0f} tokens/s",
            refresh=False,
        )
        self._bar.update()
