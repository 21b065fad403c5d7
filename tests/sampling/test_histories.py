import numpy as np
import torch

from metarl.core.rollout import Rollout
from metarl.sampling.histories import list_episodes


def make_rollout(valid, terminated, truncated):
    """Returns a rollout of one task and two episodes whose numbers count up."""
    shape = (1, 2, 3)
    numbers = torch.arange(12, dtype=torch.float32).reshape(*shape, 2)
    ends = [torch.tensor(end).reshape(1, 2) for end in (terminated, truncated)]
    reward = numbers.sum(-1)
    last = torch.full((1, 2, 2), -1.0)
    valid = torch.tensor(valid).reshape(shape)
    return Rollout(numbers, -numbers, reward, reward, valid, *ends, last)


def test_episodes_end_where_the_task_or_the_simulation_ended():
    valid = [[True, True, False], [True, False, False]]
    rollout = make_rollout(valid, [True, False], [False, True])
    fallen, failed = list_episodes([rollout], np.array([[0.5]]), pools_episodes=True)
    assert fallen["observations"].tolist() == [[0, 1], [2, 3], [-1, -1]]
    assert fallen["actions"].tolist() == [[0, -1], [-2, -3]]
    assert fallen["terminations"].tolist() == [False, True]
    assert fallen["truncations"].tolist() == [False, False]
    assert failed["rewards"].tolist() == [13] and failed["truncations"].tolist() == [True]
    assert failed["infos"]["episode"].tolist() == [1, 1]
    assert failed["infos"]["trial"].tolist() == [0, 0]


def test_episode_without_a_step_is_left_out():
    rollout = make_rollout([[False] * 3, [True] * 3], [False, False], [True, False])
    (only,) = list_episodes([rollout], np.array([[0.5]]), pools_episodes=False)
    assert only["infos"]["trial"].tolist() == [1] * 4
    assert only["truncations"].tolist() == [False, False, True]


def test_discrete_action_is_an_index():
    rollout = make_rollout([[True] * 3] * 2, [False, False], [False, False])
    first, _ = list_episodes([rollout], np.array([[0.5]]), pools_episodes=True, discrete=True)
    assert first["actions"].tolist() == [0, 0, 0]
