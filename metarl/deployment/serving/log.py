"""The log of a server: latencies in bounded memory, and records as JSON lines."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from metarl.core.messages import warn

SHORTEST, LONGEST = 1e-6, 100.0
"""Range of the latencies that have bins of their own [s]."""

_BINS_PER_DECADE = 100
_NUM_BINS = round(_BINS_PER_DECADE * math.log10(LONGEST / SHORTEST))


class Latencies:
    """Histogram of durations in bins that are 2.3 % wide, however many there are."""

    def __init__(self) -> None:
        self._counts = [0] * (_NUM_BINS + 1)
        self._edges = SHORTEST * 10.0 ** (np.arange(1, _NUM_BINS + 2) / _BINS_PER_DECADE)
        self._edges[-1] = math.inf
        self.count, self.longest = 0, 0.0

    def add(self, seconds: float) -> None:
        """Counts a duration [s]."""
        place = _BINS_PER_DECADE * math.log10(max(seconds, SHORTEST) / SHORTEST)
        self._counts[min(int(place), _NUM_BINS)] += 1
        self.count += 1
        self.longest = max(self.longest, seconds)

    def quantile(self, share: float) -> float:
        """Returns the upper end of the bin below which, and in which, a share lies [s]."""
        if not self.count:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._counts), share * self.count))
        return min(float(self._edges[place]), self.longest)

    def summary(self) -> dict[str, float]:
        """Returns median, 99.9th percentile and largest [ms]."""
        found = (self.quantile(0.5), self.quantile(0.999), self.longest)
        return {k: 1e3 * v for k, v in zip(("median", "p99.9", "max"), found, strict=True)}


class Log:
    """Records of a server, in a file if one is given.

    Args:
        path: JSON lines are appended here; None writes nothing.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._file: TextIO | None = None if path is None else path.open("a", encoding="utf-8")
        self.refused: Counter[str] = Counter()

    def write(self, event: str, **numbers: Any) -> None:
        """Writes a record with the time in seconds since 1970.

        Where the disk refuses, the log ends with a warning: the robot needs its server.
        """
        if self._file is None:
            return
        record = {"time": round(time.time(), 3), "event": event, **numbers}
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            self.close()
            reason = error.strerror or error
            warn(f"{self._path}: {reason}; no more records")

    def refuse(self, reason: str) -> bool:
        """Counts a message that was refused; returns whether it is the first for this reason."""
        self.refused[reason] += 1
        if self.refused[reason] == 1:
            self.write("refused", reason=reason)
        return self.refused[reason] == 1

    def close(self) -> None:
        """Closes the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # what is left in the buffer of a full disk
                file.close()
