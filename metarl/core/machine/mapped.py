"""Large arrays in files that are mapped into memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from metarl.core.messages import warn

LEAST = 256_000_000
"""Smaller arrays stay in memory [bytes]."""


MOUNTS = Path("/proc/self/mountinfo")
"""The file systems of this process, with number and type; see proc(5)."""

_IN_MEMORY = ("tmpfs", "ramfs")
"""Types of file systems whose files are in memory."""


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Returns zeros, those of a large array in a temporary file that is mapped into memory.

    The system keeps in memory what is read, and gives up the rest when programs need room. The file
    has no name, so nothing stays of it however the process ends. Its space is reserved at once: a
    disk that were full at a later write would end the process without a message.

    Where the folder of temporary files (TMPDIR) has no such space, or is itself in memory, as a
    tmpfs is, the array is in memory, which takes what is written alone; a warning says so once.

    Args:
        shape: Of the array.
        dtype: Its type.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST:
        return np.zeros(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="metarl-") as file:
            if kind := _find_kind_in_memory(os.fstat(file.fileno()).st_dev):
                _warn(f"{tempfile.gettempdir()} is a {kind}, whose files are in memory")
                return np.zeros(shape, dtype)
            os.posix_fallocate(file.fileno(), 0, size)
            content = mmap.mmap(file.fileno(), size)
    except OSError as error:
        _warn(f"no temporary file of {size / 1e6:,.0f} MB ({error.strerror or error})")
        return np.zeros(shape, dtype)
    return np.frombuffer(content, dtype).reshape(shape)


def _find_kind_in_memory(device: int) -> str:
    """Returns the type of a file system whose files are in memory, "" for others."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        place, _, rest = line.partition(" - ")
        if place.split()[2:3] == [number]:
            kind = rest.split()[0]
            return kind if kind in _IN_MEMORY else ""
    return ""


@cache
def _warn(reason: str) -> None:
    """Says once why large arrays are in memory."""
    hint = "the variable TMPDIR names a folder on a disk with room"
    warn(f"large arrays, as of replay buffers, stay in memory: {reason}; {hint}")
