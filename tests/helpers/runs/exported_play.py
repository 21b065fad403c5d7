"""Plays exported policies with made-up observations, beside the session of the learner."""

import numpy as np
import torch

EPISODES = (500, 500)
"""Steps of two episodes."""


def made_up(size, episodes=EPISODES, seed=0):
    """Yields (obs, reward, is_first, is_last) of every step; the walk leaves no obs far away."""
    rng = np.random.default_rng(seed)
    for length in episodes:
        obs = rng.standard_normal(size)
        for t in range(length):
            obs = 0.9 * obs + 0.5 * rng.standard_normal(size)
            yield obs.astype(np.float32), float(rng.standard_normal()), t == 0, t == length - 1


def largest_difference(one, other, size, episodes=EPISODES, rows=0, adapts=False):
    """Returns max |difference| of the controls of two sessions that see the same.

    With rows, of so many robots. Both adapt after every episode, if that is asked for.
    """
    largest, last = 0.0, None
    for numbers, reward, is_first, is_last in made_up((rows or 1) * size, episodes):
        obs = numbers.reshape(rows, size) if rows else numbers
        controls = [each.act(obs, None if is_first else last) for each in (one, other)]
        largest, last = max(largest, float(np.abs(controls[0] - controls[1]).max())), reward
        if is_last:
            for each in (one, other):
                each.end_episode(reward)
                if adapts:
                    each.adapt()
    return largest


def roughen(learner, size=0.3):
    """Adds noise to the weights: those of a new policy are so small that all actions are near 0."""
    rng, state = np.random.default_rng(0), learner.state_dict()
    for name, value in state.items():
        if {"policy", "encoder"} & set(name.split("/")) and value.is_floating_point():
            noise = torch.from_numpy(rng.standard_normal(value.shape)).float()
            state[name] = value + size * noise / (value.shape or (1,))[-1] ** 0.5
    learner.load_state_dict(state)
