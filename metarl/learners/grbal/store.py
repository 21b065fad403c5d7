"""Transitions in GrBAL's replay buffer, in the order of the trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.core.rollout import Rollout, drop_unknown_ends
from metarl.sampling.replay_buffer import ReplayBuffer

PLACE = "place"
"""Name of the number of a transition in its trial (L,), int32; 0 begins a trial."""


def entry_shapes(obs_size: int, action_size: int) -> dict[str, tuple[int | None, ...]]:
    """Returns the shapes of one entry of `transitions`, for `ReplayBuffer.load`."""
    state = (obs_size + 1,)
    return {"state": state, "action": (action_size,), "next_state": state, PLACE: ()}


def segments(
    replay: ReplayBuffer, index: np.ndarray, past: int, future: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the transitions around some entries.

    Args:
        replay: Not empty.
        index: Numbers of entries that it holds (B,); those before are the past, they and those
            after the future.
        past: M.
        future: K.

    Returns:
        Entries (B, M + K, ...) by name, and the mask (B, M + K) of those of the same trial that it
        holds.
    """
    offset = np.arange(-past, future)
    wanted = index[:, None] + offset
    inside = wanted.clip(replay.start, replay.stop - 1)
    rows = inside % len(replay.ring[PLACE])
    found = {name: torch.from_numpy(value.numpy()[rows]) for name, value in replay.ring.items()}
    place = found[PLACE].numpy()
    mask = (wanted == inside) & (place == place[:, past, None] + offset)
    return found, torch.from_numpy(mask)


def transitions(rollouts: Sequence[Rollout]) -> dict[str, Tensor]:
    """Returns the transitions of a trial's K + 1 rollouts as entries, one trial after the other.

    These are state and next_state (L, S + 1), action (L, A) and place (L,). A state is the
    observation, followed by the reward of the step that led to it. The first of every episode is
    left out: no reward comes before it.
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
