"""An episode as it was recorded, and its playback rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLOW_RATE, FAST_RATE = 5.0, 60.0
"""Control steps per second below which real time is given up, and above which steps are skipped."""
SLOW_FPS = 20.0
"""Frames per second of an episode too slow for real time."""


@dataclass(frozen=True)
class Episode:
    """One recorded episode of L steps.

    Attributes:
        states: Snapshots (L, n) as `env.snapshot` gives them, state i after step i.
        reward: (L,) of the same steps.
        task: (D,) the task that was played.
        label: What the policy knew of the task, for example "after 1 step".
        task_words: The task for people; "" says it from `env.spec.tasks.variables`.
    """

    states: np.ndarray
    reward: np.ndarray
    task: np.ndarray
    label: str
    task_words: str = ""


def playback(dt: float) -> tuple[float, int]:
    """Chooses how fast an episode is shown.

    Args:
        dt: Duration of a control step [s].

    Returns:
        Frames per second and steps per frame, together real time; SLOW_FPS and 1 for an environment
        whose step is longer than 1 / SLOW_RATE.
    """
    rate = 1.0 / dt
    if rate < SLOW_RATE:
        return SLOW_FPS, 1
    # the small number keeps 1 / (1 / 60) from needing two steps a frame
    stride = max(1, math.ceil(rate / FAST_RATE - 1e-9))
    return rate / stride, stride


def check_panels(panels: Sequence[Sequence[Episode]]) -> None:
    """Refuses what cannot be shown.

    Raises:
        ValueError: There is no task or a task without an episode, or states and rewards disagree.
    """
    if not panels or not all(panels):
        raise ValueError("a film needs at least one task, and every task at least one episode")
    for row in panels:
        for episode in row:
            if not len(episode.states) or len(episode.states) != len(episode.reward):
                raise ValueError(
                    f"episode {episode.label!r} has {len(episode.states)} states and "
                    f"{len(episode.reward)} rewards; need as many, and at least one"
                )
