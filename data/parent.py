"""Processes that end with the one that began them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from multiprocessing import parent_process

_PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""


def end_with_parent() -> None:
    """Lets this process, which `multiprocessing` began, be killed when its parent ends; on Linux."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent and parent.pid != os.getppid():  # it ended before
        os._exit(1)
