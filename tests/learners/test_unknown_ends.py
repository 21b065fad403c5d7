"""Learners that store transitions, on episodes whose last observation is NaN."""

from dataclasses import replace

import pytest
import torch
from learner_cases import GRBAL, METRIC, PEARL, RL2, VARIBAD
from sign_tasks import SignBatch, collect, signs

from metarl.core.rollout import drop_unknown_ends
from metarl.functional.params import find_non_finite
from metarl.learners.grbal.grbal import Grbal
from metarl.learners.metric.metric import Metric
from metarl.learners.pearl.pearl import Pearl
from metarl.learners.rl2.rl2 import Rl2
from metarl.learners.varibad.varibad import Varibad

LEARNERS = {
    "grbal": (Grbal, replace(GRBAL, gradient_steps=3)),
    "metric": (Metric, replace(METRIC, encoder_steps=3)),
    "pearl": (Pearl, PEARL),
    "pearl, next obs": (Pearl, replace(PEARL, encode_next_obs=True)),
    "rl2": (Rl2, replace(RL2, credit="episode")),
    "varibad": (Varibad, replace(VARIBAD, encoder_updates=3, transition_weight=1.0)),
    "varibad, episode": (Varibad, replace(VARIBAD, encoder_updates=3, credit="episode")),
}


class FallingBatch(SignBatch):
    """Observations are NaN after a fall, and where the simulation failed in mid-episode."""

    def __init__(self):
        super().__init__(8, eventful=True)

    def step(self, action, alive):
        outcome = super().step(action, alive)
        outcome.obs = outcome.obs.copy()
        outcome.obs[outcome.terminated | outcome.fault] = float("nan")
        outcome.reward = outcome.reward.copy()
        outcome.reward[outcome.fault] = float("nan")
        return outcome


@pytest.mark.parametrize("name", LEARNERS)
def test_nan_after_a_fall_reaches_no_learner(name):
    kind, config = LEARNERS[name]
    learner = kind(config, 2, 1, seed=0)
    for iteration in range(2):
        rollouts, context = collect(learner, FallingBatch(), iteration)
        ends = torch.stack([rollout.last_obs for rollout in rollouts])
        assert ends.isnan().any() and rollouts[0].truncated.any()
        metrics = learner.update(context, rollouts, signs(6, iteration))
        assert torch.tensor(list(metrics.values())).isfinite().all()
    assert not find_non_finite(learner.state_dict())
    if hasattr(learner, "read_replay"):
        assert not find_non_finite(learner.read_replay(0, learner.replay_size()))


def test_unknown_end_ends_the_episode_a_step_before():
    rollouts, _ = collect(Rl2(RL2, 2, 1, seed=0), FallingBatch())
    rollout = rollouts[0]
    found = drop_unknown_ends(rollout)
    unknown = rollout.last_obs.isnan().any(dim=2)
    count = rollout.valid.sum(dim=2)
    assert torch.equal(found.valid.sum(dim=2), count - unknown.long())
    for n, e in unknown.nonzero().tolist():
        assert torch.equal(found.last_obs[n, e], rollout.obs[n, e, count[n, e] - 1])
    assert drop_unknown_ends(found) is found
