"""What each process of a launch does. Not in `__main__`, whose functions processes that are spawned can't find."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Sequence

from stages import train

STOPPED = 143
"""Exit status of a run that was asked to stop and saved its state, as of `stages.train`."""


def work(arguments: Sequence[str], asked: ctypes.c_bool) -> int:
    """Trains. The status is returned: to torchrun only a crash is a failure that calls for a restart, but not an error
    that was told, nor a stop.

    Args:
        arguments: of `stages.train`.
        asked: True when nothing shall be begun any more.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would end the process as if it had succeeded
    status = STOPPED if asked.value else train.main(arguments)
    launcher = multiprocessing.parent_process()
    if launcher is not None and not launcher.is_alive():
        sys.exit(status)  # torchrun's wrapper would wait for it forever
    return status
