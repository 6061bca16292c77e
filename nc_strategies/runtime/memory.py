"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
import gc
import sys


def release() -> None:
    """Return freed memory to the system, where the C library is glibc; elsewhere only collect garbage.

    glibc keeps freed blocks below 32 MB in the arena of the thread that allocated them (mallopt(3),
    M_MMAP_THRESHOLD). After a session of a large model is closed, that is most of the model's size.
    """
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
