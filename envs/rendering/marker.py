"""Markers: goals as they are drawn in pictures and scenes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Marker:
    """Mark that shows the goal in a video.

    Attributes:
        kind: "arrow" from the robot along `vector`, "target" on the ground at the point `vector`,
            "point" in space, for an arm, or "none".
        vector: (2,) [m, world] for a target; (3,) [m, world] for a point; (2,) of any length for an
            arrow, longer for a faster goal.
    """

    kind: Literal["arrow", "target", "point", "none"]
    vector: tuple[float, float] | tuple[float, float, float]
