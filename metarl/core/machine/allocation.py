"""Memory of the C library's allocator."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt in glibc's malloc.h."""

LARGEST = 1 << 30
"""Size up to which freed memory is kept [bytes]."""


def keep_freed_memory() -> bool:
    """Makes the process keep memory that it frees, instead of returning it to the system.

    An update frees and allocates the same megabytes thousands of times. Each time the system would
    clear the pages and map them again, which every thread of the process waits for. An LSTM's
    update took 1.45 s instead of 1.83 s on one thread, with 338 page faults instead of 125,000.

    Returns:
        Whether the C library has these settings; only glibc has.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    return bool(set_option(M_MMAP_THRESHOLD, LARGEST) and set_option(M_TRIM_THRESHOLD, LARGEST))
