"""The replay store of GrBAL: every transition of the run, in the order of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.core.machine import mapped
from metarl.core.rollout import Rollout, drop_unknown_ends

PLACE = "place"
"""Name of the number of a transition in its trial (L,), int32; 0 begins a trial."""


class Store:
    """Transitions by name: state and next_state (L, S + 1), action (L, A), place (L,).

    A state is the observation, followed by the reward of the step that led to it.

    Entries behind `size` are kept until the next `append`, so that a size that is set back can be
    set forward again.

    Args:
        obs_size: S.
        action_size: A.
    """

    def __init__(self, obs_size: int, action_size: int):
        self.size = self._filled = 0
        shapes = {"state": (obs_size + 1,), "action": (action_size,), "next_state": (obs_size + 1,)}
        self._data: dict[str, np.ndarray] = {
            name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()
        }
        self._data[PLACE] = np.zeros(0, np.int32)

    def append(self, entries: Mapping[str, Tensor]) -> None:
        """Appends transitions; an exception leaves the size as it was."""
        start, stop = self.size, self.size + len(entries[PLACE])
        self._reserve(stop)
        self._filled = start
        for name, array in self._data.items():
            array[start:stop] = entries[name].numpy()
        self.size = self._filled = stop

    def _reserve(self, size: int) -> None:
        capacity = len(self._data[PLACE])
        if size > capacity:
            rows = max(size, 2 * capacity)
            self._data = {name: _extend(array, rows) for name, array in self._data.items()}

    def set_back(self, size: int) -> None:
        """Makes `size` the number of entries, at most as many as there are in memory."""
        self.size = min(size, self._filled)

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Returns the entries start..stop."""
        own = slice(start, min(stop, self.size))
        return {name: torch.from_numpy(array[own]) for name, array in self._data.items()}

    def load(self, entries: Mapping[str, Tensor]) -> None:
        """Replaces all entries; none empty the store.

        Raises:
            ValueError: The entries have other names or shapes; nothing has changed.
        """
        empty = self.read(0, 0)
        given = dict(entries) or empty
        for name, value in empty.items():
            if name not in given or given[name].shape[1:] != value.shape[1:]:
                raise ValueError(f"the replay store has no entries {name!r} that fit")
        if len({len(given[name]) for name in empty}) != 1:
            raise ValueError("the entries of the replay store differ in number")
        self._data = {
            name: _extend(given[name].numpy().astype(array.dtype, copy=False), len(given[name]))
            for name, array in self._data.items()
        }
        self.size = self._filled = len(self._data[PLACE])

    def segments(
        self, index: np.ndarray, past: int, future: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the transitions around some places of the store.

        Args:
            index: Entries (B,); those before are the past, they and those after the future.
            past: M.
            future: K.

        Returns:
            Entries (B, M + K, ...) by name, and the mask (B, M + K) of those of the same trial.
        """
        offset = np.arange(-past, future)
        wanted = index[:, None] + offset
        inside = wanted.clip(0, self.size - 1)
        found = {name: torch.from_numpy(array[inside]) for name, array in self._data.items()}
        place = self._data[PLACE][index][:, None] + offset
        mask = (wanted == inside) & (self._data[PLACE][inside] == place)
        return found, torch.from_numpy(mask)


def _extend(array: np.ndarray, rows: int) -> np.ndarray:
    """Returns the array followed by zeros, so many rows in all; a large one lies in a file."""
    extended = mapped.zeros((rows, *array.shape[1:]), array.dtype)
    extended[: len(array)] = array
    return extended


def transitions(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """Returns the transitions (L, ...) of a trial's K + 1 rollouts, one trial after the other.

    The first of every episode is left out: no reward comes before it.
    """
    parts = []
    for rollout in map(drop_unknown_ends, rollouts):
        last = rollout.valid.sum(dim=2) - 1
        following = torch.cat([rollout.obs[:, :, 1:], rollout.last_obs.unsqueeze(2)], dim=2)
        is_last = torch.arange(rollout.valid.shape[2]) == last.unsqueeze(-1)
        ends = rollout.last_obs.unsqueeze(2)
        following = torch.where(is_last.unsqueeze(-1), ends, following)
        reward = rollout.reward.unsqueeze(-1)
        state = torch.cat([rollout.obs[:, :, 1:], reward[:, :, :-1]], dim=-1)
        next_state = torch.cat([following, reward], dim=-1)[:, :, 1:]
        parts.append((state, rollout.action[:, :, 1:], next_state, rollout.valid[:, :, 1:]))
    *values, valid = (torch.cat(each, dim=2) for each in zip(*parts, strict=True))
    names = "state", "action", "next_state"
    place = valid.cumsum(dim=2) - 1
    joined = {n: value[valid] for n, value in zip(names, values, strict=True)}
    return {**joined, PLACE: place[valid].int()}
