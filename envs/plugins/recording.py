"""Recorded episodes of a batch, from which workers replay them, and frames of replayed episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from metarl.core.env import NoPictures, as_pixels
from metarl.envs.plugins.worker_pool import Worker


@dataclass(frozen=True)
class RecordedStep:
    """One step of M rows, which the episodes of the stepped rows share.

    Attributes:
        actions: (M, A), as sent.
        rewards: (M,).
    """

    actions: np.ndarray
    rewards: np.ndarray


@dataclass
class Episode:
    """Record of one episode of one row, sufficient to replay it.

    Attributes:
        row: Its row.
        seed: Seed of its reset.
        task: (D,).
        restart: Number of earlier episodes of the row since the reset of all rows.
        steps: The steps that it took.
        film: Its index among the filmed episodes, or None.
    """

    row: int
    seed: int
    task: np.ndarray
    restart: int = 0
    steps: list[RecordedStep] = field(default_factory=list)
    film: int | None = None

    def actions(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Returns the actions (L, A) of some steps, as sent."""
        return np.array([step.actions[self.row] for step in self.steps[start:stop]])

    def rewards(self, start: int = 0, stop: int | None = None) -> list[float]:
        """Returns the rewards of some steps."""
        return [float(step.rewards[self.row]) for step in self.steps[start:stop]]


class Recording:
    """Records of the M current episodes of a batch.

    A step is kept as long as an episode that took it is current or filmed. So the memory is bounded
    by the longest current episode, however often rows restart and however long others rest.

    Args:
        seeds: (M,) seeds of the resets.
        tasks: (M, D).

    Attributes:
        episodes: The current episode of each row.
    """

    def __init__(self, seeds: Sequence[int], tasks: np.ndarray):
        rows = enumerate(zip(seeds, tasks, strict=True))
        self.episodes = [Episode(row, seed, task) for row, (seed, task) in rows]

    def restart(self, rows: np.ndarray, seeds: Sequence[int], tasks: np.ndarray) -> None:
        """Begins an episode in some rows.

        Args:
            rows: The mask (M,) of L rows.
            seeds: (L,) seeds of the resets.
            tasks: (M, D), of which those of the L rows are used.
        """
        for row, seed in zip(np.flatnonzero(rows).tolist(), seeds, strict=True):
            count = self.episodes[row].restart + 1
            self.episodes[row] = Episode(row, seed, tasks[row], count)

    def append(self, actions: np.ndarray, rewards: np.ndarray, stepped: np.ndarray) -> None:
        """Adds a step of the rows of a mask (M,): actions (M, A) as sent, rewards (M,)."""
        step = RecordedStep(actions, rewards)
        for row in np.flatnonzero(stepped).tolist():
            self.episodes[row].steps.append(step)


def take_snapshot(recording: Recording, films: list[Episode]) -> np.ndarray:
    """Returns states (M, 2): index of each row's episode in films, steps that it took.

    Adds the episodes to films if they are not there yet.
    """
    for episode in recording.episodes:
        if episode.film is None:
            episode.film = len(films)
            films.append(episode)
    return np.array([(each.film, len(each.steps)) for each in recording.episodes], dtype=float)


def render_frames(
    name: str,
    worker: Worker,
    films: Sequence[Episode],
    states: np.ndarray,
    size: tuple[int, int],
) -> Iterator[np.ndarray]:
    """Replays filmed episodes in a worker and renders them after given numbers of steps.

    Args:
        name: Name of the environment, for messages.
        worker: A worker without rows.
        films: The recorded episodes.
        states: Snapshots (L, 2) of a row, in the order in which they were taken.
        size: (width, height) [pixels].

    Yields:
        Frames (height, width, 3) uint8.

    Raises:
        NoPictures: The replay gave other rewards than were recorded, or `render` gave no picture.
    """
    current, start = -1, 0
    for film, stop in states.astype(int).tolist():
        episode = films[film]
        if film != current:
            worker.ask("film", episode.task, episode.seed)
            current, start = film, 0
        picture, rewards = worker.ask("frame", episode.actions(start, stop))
        if rewards != episode.rewards(start, stop):
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
