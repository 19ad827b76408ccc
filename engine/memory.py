"""The process's own memory: what pictures are worked out in."""

from __future__ import annotations

import ctypes
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # glibc's malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
LARGEST = 32 << 20  # bytes: glibc keeps no larger piece, and no picture of a portrait is
KEPT = (1 << 31) - 1  # bytes of freed memory at the end of a heap


def keep_freed() -> bool:
    """The C library keeps memory that was freed for the next picture, instead of giving it back and asking for it anew:
    each page of new memory costs an interruption, and a portrait used some thousands of them. Whether this can be had
    here: with glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(MMAP_THRESHOLD, LARGEST) and library.mallopt(TRIM_THRESHOLD, KEPT))
