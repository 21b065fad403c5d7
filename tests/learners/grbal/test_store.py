"""Transitions of GrBAL's replay buffer against loops over episodes."""

import numpy as np
import pytest
import torch

from metarl.core.rollout import Rollout
from metarl.learners.grbal.store import segments, transitions
from metarl.sampling.replay_buffer import NUMBER, ReplayBuffer

LENGTHS = [[[3, 5], [1, 4]], [[5, 2], [4, 1]]]
"""Steps of the episodes by (rollout, task, episode); the horizon is 5."""


def rollout(k):
    """Observations number the steps: 100 * episode + t; last_obs is one more."""
    lengths = torch.tensor(LENGTHS[k])
    number = 1000.0 * k + torch.arange(4.0).view(2, 2) * 100.0
    t = torch.arange(5.0)
    valid = t < lengths.unsqueeze(-1)
    obs = torch.where(valid, number.unsqueeze(-1) + t, 0.0)
    fails = torch.tensor([[False, True], [False, False]]) & (lengths < 5)
    obs[0, 1, lengths[0, 1] % 5] = -7.0  # a failed step is recorded, and is no transition
    return Rollout(
        obs=obs.unsqueeze(-1),
        action=(obs * 2.0).unsqueeze(-1),
        log_prob=torch.zeros(2, 2, 5),
        reward=torch.where(valid, -obs, 0.0),
        valid=valid,
        terminated=torch.zeros(2, 2, dtype=torch.bool),
        truncated=fails,
        last_obs=(number + lengths).unsqueeze(-1),
    )


ROLLOUTS = [rollout(0), rollout(1)]


def listed():
    """Returns obs, reward before, action, next obs, reward, place of each transition by a loop."""
    found = []
    for task in range(2):
        for episode in range(2):
            place = 0
            for own in ROLLOUTS:
                steps = int(own.valid[task, episode].sum())
                for t in range(steps):
                    obs = float(own.obs[task, episode, t, 0])
                    last = float(own.last_obs[task, episode, 0])
                    following = last if t == steps - 1 else float(own.obs[task, episode, t + 1, 0])
                    if t == 0:
                        continue
                    reward = own.reward[task, episode].tolist()
                    before, action = reward[t - 1], float(own.action[task, episode, t, 0])
                    found.append((obs, before, action, following, reward[t], place))
                    place += 1
    return found


def filled(most, trials):
    replay = ReplayBuffer(most, NUMBER)
    for _ in range(trials):
        replay = replay.append(transitions(ROLLOUTS))
    return replay


def test_transitions_are_those_of_a_loop_over_trials():
    found = transitions(ROLLOUTS)
    names = "state", "action", "next_state", "place"
    columns = [column for n in names for column in found[n].reshape(17, -1).unbind(1)]
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == listed()


@pytest.mark.parametrize("most", [20, 34, 100])
def test_segments_stay_in_their_trial(most):
    """Also where the buffer has forgotten the beginning of a trial."""
    known, past, future = listed() * 2, 4, 3
    trial, number = [], -1
    for entry in known:
        number += entry[-1] == 0
        trial.append(number)
    replay, oldest = filled(most, 2), max(0, 34 - most)
    found, mask = segments(replay, np.arange(oldest, 34), past, future)
    for index in range(oldest, 34):
        for column, offset in enumerate(range(-past, future)):
            other, row = index + offset, index - oldest
            inside = oldest <= other < 34 and trial[other] == trial[index]
            assert bool(mask[row, column]) == inside
            if inside:
                assert float(found["state"][row, column, 0]) == known[other][0]
