"""Markers: goals as they are drawn in pictures and scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Marker:
    """Mark that shows the goal in a video.

    Attributes:
        kind: "arrow" from the robot along `vector`, or "target" at the point `vector`.
        vector: (2,) [m, world] for a target; (2,) of any length for an arrow, longer for a faster
            goal.
    """

    kind: Literal["arrow", "target"]
    vector: tuple[float, float]
