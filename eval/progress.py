"""Tells a person how far a run is."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable


def progress(what: str = "questions") -> Callable[[int, int], None]:
    """Prints a line for the first batch, for the last, and every half minute between; on the first process."""
    begun: tuple[float, int] | None = None
    last = 0.0

    def show(done: int, of: int) -> None:
        nonlocal begun, last
        now = time.monotonic()
        if os.environ.get("RANK", "0") != "0" or (begun and done < of and now - last < 30):
            return
        # Counted from the end of the first batch: before it the model was loaded.
        begun = begun or (now, done)
        last = now
        rate = (done - begun[1]) / (now - begun[0]) if now > begun[0] else 0.0
        pace = f", {rate:.2f}/s, {(of - done) / rate / 60:.0f} min left" if rate else ""
        print(f"{done} of {of} {what}{pace}", file=sys.stderr, flush=True)

    return show
