"""The replay store of GrBAL against loops over episodes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl.core.machine import mapped
from metarl.core.rollout import Rollout
from metarl.learners.grbal.store import Store, transitions

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


def stored(store):
    found = store.read(0, store.size)
    columns = [found[name].reshape(store.size, -1).unbind(1) for name in found]
    return list(zip(*(column.tolist() for each in columns for column in each), strict=True))


def test_transitions_are_those_of_a_loop_over_trials():
    store = Store(1, 1)
    store.append(transitions(ROLLOUTS))
    assert stored(store) == listed() and store.size == 17


def test_segments_stay_in_their_trial():
    store = Store(1, 1)
    for _ in range(2):
        store.append(transitions(ROLLOUTS))
    known, past, future = listed() * 2, 4, 3
    trial, number = [], -1
    for entry in known:
        number += entry[-1] == 0
        trial.append(number)
    found, mask = store.segments(np.arange(34), past, future)
    for index in range(34):
        for column, offset in enumerate(range(-past, future)):
            other = index + offset
            inside = 0 <= other < 34 and trial[other] == trial[index]
            assert bool(mask[index, column]) == inside
            if inside:
                assert float(found["state"][index, column, 0]) == known[other][0]


def test_store_that_is_set_back_repeats_what_followed():
    store, entries = Store(1, 1), transitions(ROLLOUTS)
    store.append(entries)
    before = stored(store)
    for _ in range(3):
        store.append(entries)
    store.set_back(17)
    assert stored(store) == before
    store.set_back(100)
    assert stored(store) == before * 4
    store.set_back(17)
    store.append(entries)
    store.set_back(100)
    assert stored(store) == before * 2


def test_store_in_files_has_the_same_transitions(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(mapped, "LEAST", 1)
    store, loaded = Store(1, 1), Store(1, 1)
    for _ in range(3):
        store.append(transitions(ROLLOUTS))
    loaded.load(store.read(0, store.size))
    assert str(tmp_path) in Path("/proc/self/maps").read_text("utf-8")
    assert stored(store) == stored(loaded) == listed() * 3


def test_entries_of_another_learner_are_refused():
    store, entries = Store(1, 1), transitions(ROLLOUTS)
    store.append(entries)
    before = stored(store)
    for name, value in entries.items():
        for broken in (value[:-1], torch.zeros(17, 4)):
            with pytest.raises(ValueError, match="replay store"):
                store.load({**entries, name: broken})
        with pytest.raises(ValueError, match=f"replay store has no entries '{name}'"):
            store.load({n: v for n, v in entries.items() if n != name})
    assert stored(store) == before
    other = Store(1, 1)
    other.load(entries)
    assert stored(other) == before
    other.load({})
    assert other.size == 0
