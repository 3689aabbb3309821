"""What a process that trains on a CPU asks of the libraries below torch."""

from __future__ import annotations

import ctypes
import os
import sys

_CACHES = {"LRU_CACHE_CAPACITY": "16", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""Kernels that torch keeps for oneDNN, per kind of operation, and that oneDNN keeps: enough for one length of row."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's `malloc.h`."""
_NEVER = -1
_LARGE = 2**30
"""Bytes of a block that the kernel gives and takes back by itself."""


def prepare() -> None:
    """Lets memory that a step frees stay with the process for the next one, and few kernels be kept.

    By itself glibc returns large blocks at once, and the kernel has to hand them out anew page by page, zeroed. And for
    each length of a row torch and oneDNN keep a set of bf16 kernels with their scratch memory, up to 1024 of a kind,
    though rows rarely have a length twice. docs/speed.md has what both cost. What the environment says already, stays.

    To be called before the first product of matrices.
    """
    for name, capacity in _CACHES.items():
        os.environ.setdefault(name, capacity)
    told = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform == "linux" and not told:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            libc.mallopt(_TRIM_THRESHOLD, _NEVER)
            libc.mallopt(_MMAP_THRESHOLD, _LARGE)
