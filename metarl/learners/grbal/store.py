"""The replay store of GrBAL: every transition of the run, in the order of the trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metarl.core.rollout import Rollout

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
        self._data = {
            "state": torch.zeros(0, obs_size + 1),
            "action": torch.zeros(0, action_size),
            "next_state": torch.zeros(0, obs_size + 1),
            PLACE: torch.zeros(0, dtype=torch.int32),
        }

    def append(self, entries: Mapping[str, Tensor]) -> None:
        """Appends transitions; an exception leaves the size as it was."""
        start, stop = self.size, self.size + len(entries[PLACE])
        self._reserve(stop)
        self._filled = start
        for name, value in self._data.items():
            value[start:stop] = entries[name]
        self.size = self._filled = stop

    def _reserve(self, size: int) -> None:
        capacity = len(self._data[PLACE])
        if size <= capacity:
            return
        larger = {
            name: torch.cat(
                [value, value.new_zeros(max(size, 2 * capacity) - capacity, *value.shape[1:])]
            )
            for name, value in self._data.items()
        }
        self._data = larger

    def set_back(self, size: int) -> None:
        """Makes `size` the number of entries, at most as many as there are in memory."""
        self.size = min(size, self._filled)

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Returns the entries start..stop."""
        return {name: value[start : min(stop, self.size)] for name, value in self._data.items()}

    def load(self, entries: Mapping[str, Tensor]) -> None:
        """Replaces all entries; none empty the store.

        Raises:
            ValueError: The entries have other names or shapes; nothing has changed.
        """
        empty = {name: value[:0] for name, value in self._data.items()}
        given = dict(entries) or empty
        for name, value in empty.items():
            if name not in given or given[name].shape[1:] != value.shape[1:]:
                raise ValueError(f"the replay store has no entries {name!r} that fit")
        if len({len(given[name]) for name in empty}) != 1:
            raise ValueError("the entries of the replay store differ in number")
        self._data = {name: given[name].to(value.dtype, copy=True) for name, value in empty.items()}
        self.size = self._filled = len(self._data[PLACE])

    def segments(self, index: Tensor, past: int, future: int) -> tuple[dict[str, Tensor], Tensor]:
        """Returns the transitions around some places of the store.

        Args:
            index: Entries (B,); those before are the past, they and those after the future.
            past: M.
            future: K.

        Returns:
            Entries (B, M + K, ...) by name, and the mask (B, M + K) of those of the same trial.
        """
        offset = torch.arange(-past, future)
        wanted = index.unsqueeze(1) + offset
        inside = wanted.clamp(0, self.size - 1)
        found = {name: value[inside] for name, value in self._data.items()}
        place = self._data[PLACE][index].unsqueeze(1) + offset
        return found, (wanted == inside) & (found[PLACE] == place)


def transitions(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """Returns the transitions (L, ...) of a trial's K + 1 rollouts, one trial after the other.

    The first of every episode is left out: no reward comes before it.
    """
    parts = []
    for rollout in rollouts:
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
