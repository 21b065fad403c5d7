"""Recorded episodes of a batch, from which workers replay them, and frames of replayed episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from metarl.core.env import NoPictures, as_pixels
from metarl.envs.plugins.worker_pool import Worker


@dataclass
class Recording:
    """Record of the M current episodes of a batch, sufficient to replay them.

    Attributes:
        seeds: (M,) seeds of the resets.
        tasks: (M, D).
        actions: (M, A) of each step, as sent.
        stepped: (M,) of each step.
        rewards: (M,) of each step.
    """

    seeds: list[int]
    tasks: np.ndarray
    actions: list[np.ndarray] = field(default_factory=list)
    stepped: list[np.ndarray] = field(default_factory=list)
    rewards: list[np.ndarray] = field(default_factory=list)


def render_frames(
    name: str,
    worker: Worker,
    recording: Recording,
    row: int,
    steps: Sequence[int],
    size: tuple[int, int],
) -> Iterator[np.ndarray]:
    """Replays the episode of one row in a worker and renders it after the given numbers of steps.

    Args:
        name: Name of the environment, for messages.
        worker: A worker without rows.
        recording: The recorded episodes.
        row: The row to replay.
        steps: Numbers of steps, ascending.
        size: (width, height) [pixels].

    Yields:
        Frames (height, width, 3) uint8.

    Raises:
        NoPictures: The replay gave other rewards than were recorded, or `render` gave no picture.
    """
    worker.ask("film", recording.tasks[row], recording.seeds[row])
    start = 0
    for stop in steps:
        actions = np.array([action[row] for action in recording.actions[start:stop]])
        picture, rewards = worker.ask("frame", actions)
        if rewards != [float(reward[row]) for reward in recording.rewards[start:stop]]:
            raise NoPictures(
                f"{name} cannot be filmed: the replay gave other rewards than were recorded"
            )
        start = stop
        yield fit_picture(picture, *size)


def fit_picture(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scales a picture (h, w, 3) to fit into (height, width, 3) and centres it on black.

    Raises:
        NoPictures: The array is not a picture.
    """
    from PIL import Image

    image = Image.fromarray(as_pixels(picture))
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    frame = Image.new("RGB", (width, height))
    frame.paste(image.resize(size), ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(frame)
