"""Large arrays in files that are mapped into memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile

import numpy as np
from numpy.typing import DTypeLike

LEAST = 256_000_000
"""Smaller arrays stay in memory [bytes]."""


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Returns zeros, those of a large array in a temporary file that is mapped into memory.

    The system keeps in memory what is read, and gives up the rest when programs need room. The file
    has no name, so nothing stays of it however the process ends. Its space is reserved at once: a
    disk that were full at a later write would end the process without a message. Where the folder
    of temporary files (TMPDIR) has no such space, the array is in memory.

    Args:
        shape: Of the array.
        dtype: Its type.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="metarl-") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            content = mmap.mmap(file.fileno(), size)
    except OSError:
        return np.zeros(shape, dtype)
    return np.frombuffer(content, dtype).reshape(shape)
