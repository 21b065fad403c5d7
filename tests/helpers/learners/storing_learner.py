"""A small learner with a replay store, for the tests of checkpoints."""

import torch

from metarl.core.rollout import Action


class Store:
    """An append-only store of numbered entries; counts how often each is read."""

    def __init__(self):
        self.entries = {"number": torch.zeros(0, dtype=torch.int64), "obs": torch.zeros(0, 2)}
        self.read = []

    def append(self, obs):
        start = self.replay_size()
        numbers = torch.arange(start, start + len(obs))
        new = {"number": numbers, "obs": obs}
        self.entries = {name: torch.cat([self.entries[name], new[name]]) for name in new}

    def replay_size(self):
        return len(self.entries["number"])

    def read_replay(self, start, stop):
        self.read.append((start, stop))
        return {name: value[start:stop] for name, value in self.entries.items()}

    def load_replay(self, entries):
        empty = {name: value[:0] for name, value in self.entries.items()}
        if entries and entries.keys() != empty.keys():
            raise ValueError("the entries have other names")
        self.entries = dict(entries) or empty


class BoundedStore(Store):
    """A store that holds the newest entries only."""

    def __init__(self, most=10):
        super().__init__()
        self.most = most

    def replay_start(self):
        return max(0, self.replay_size() - self.most)

    def read_replay(self, start, stop):
        assert start >= self.replay_start()
        return super().read_replay(start, stop)


class StoringLearner(Store):
    """Heads for the mean of all observations that it has stored, so its actions need them."""

    pools_episodes = True

    def __init__(self):
        super().__init__()
        self.goal = torch.zeros(2)

    def begin(self, num_tasks, num_episodes, rngs):
        return None

    def act(self, context, obs, noise, feedback=None, *, explore):
        return Action(self.goal - obs + 0.3 * noise, torch.zeros(obs.shape[:2])), context

    def adapt(self, context, rollout, rngs):
        return context

    def update(self, context, rollouts, tasks):
        for rollout in rollouts:
            self.append(rollout.obs[rollout.valid][::10])
        self.goal = self.entries["obs"].mean(dim=0)
        return {"entries": float(self.replay_size())}

    def state_dict(self):
        return {"goal": self.goal.clone()}

    def load_state_dict(self, state):
        if state.keys() != {"goal"}:
            raise ValueError("'goal' is missing")
        self.goal = state["goal"].clone()
