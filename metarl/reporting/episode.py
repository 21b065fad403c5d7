"""Recorded episodes, and the view in which they are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

SLOW_RATE, FAST_RATE = 5.0, 60.0
"""Control steps per second below which real time is given up, and above which steps are skipped."""
SLOW_FPS = 20.0
"""Frames per second of an episode too slow for real time."""


@dataclass(frozen=True)
class Episode:
    """One recorded episode of L >= 1 steps, with its caption.

    Attributes:
        states: Snapshots (L, n) as `env.snapshot` returns them, state i after step i.
        reward: (L,) of the same steps.
        task: (D,) the task that was played.
        task_text: The task in words, for example "angle 1.57 rad".
        stage: Progress of the adaptation, for example "after 1 adaptation".
        dt: Duration of a control step [s].
        name: Policy that was played, where several are compared, for example "rl2, seed 0".
        env: The environment that recorded it, where it is not that of the film: the states of a
            plug-in mean nothing to another one.

    Raises:
        ValueError: There is no step, states and rewards disagree, or dt is not positive; names the
            stage.
    """

    states: np.ndarray
    reward: np.ndarray
    task: np.ndarray
    task_text: str
    stage: str
    dt: float
    name: str = ""
    env: Any = None

    def __post_init__(self) -> None:
        if not len(self.states) or len(self.states) != len(self.reward):
            raise ValueError(
                f"episode {self.stage!r} has {len(self.states)} states and {len(self.reward)} "
                "rewards; need as many, and at least one"
            )
        if not 0.0 < self.dt < math.inf:
            raise ValueError(f"episode {self.stage!r}: dt must be positive, got {self.dt} s")

    def drawn_by(self, env: Any) -> Any:
        """Returns the environment that draws the episode, by default that of the film."""
        return env if self.env is None else self.env

    @property
    def playback(self) -> tuple[float, int]:
        """Frames per second, and control steps per frame.

        Together they give real time, but for steps longer than 1 / SLOW_RATE: these are shown at
        SLOW_FPS, every step a frame.
        """
        rate = 1.0 / self.dt
        if rate < SLOW_RATE:
            return SLOW_FPS, 1
        # without the small number 1 / (1 / 60) would need two steps a frame
        stride = max(1, math.ceil(rate / FAST_RATE - 1e-9))
        return rate / stride, stride


@dataclass(frozen=True)
class View:
    """Size of a picture, and the direction from which it is drawn.

    Attributes:
        size: Width and height [pixels], even.
        camera: Azimuth and elevation [degrees]; None leaves them to the environment.

    Raises:
        ValueError: The size is odd or less than 2.
    """

    size: int = 480
    camera: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.size < 2 or self.size % 2:
            raise ValueError(
                f"size must be even and at least 2 (yuv420p halves the colours), got {self.size}"
            )
