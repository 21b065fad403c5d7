"""The memory that is read after a trial is the one that the policy acted on."""

import numpy as np
import pytest
import torch

from metarl.core.env import supports
from metarl.core.learner import AdaptsParams, HasMemory
from metarl.envs.registry import make
from metarl.evaluation.memory_probe import read_memory
from metarl.functional.running_moments import Moments
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.sampling.sampler import Key, rollout

SIZE = (4, 3)


@pytest.mark.parametrize("memory", sorted(MEMORIES))
def test_memory_is_read_as_the_policy_acted_on_it(memory, monkeypatch):
    env = make("navigation-2d", 1)
    learner = Rl2(Rl2Config(memory=memory, memory_size=16, hidden_size=8), 2, 2, seed=0)
    moments = Moments.initial(2).merge(torch.randn(50, 2) + 3.0)
    learner.load_state_dict(learner.state_dict() | moments.state("obs"))
    step, seen = learner.policy.memory.step, []

    def recorded(inputs, state):
        features, state = step(inputs, state)
        seen.append((features.clone(), inputs.clone()))
        return features, state

    monkeypatch.setattr(learner.policy.memory, "step", recorded)
    tasks = np.array([[0.02, 0.0], [0.4, 0.4], [0.0, 0.03], [-0.3, 0.1]])  # two are soon reached
    env.set_tasks(tasks, SIZE[1])
    context, rollouts, acted = learner.begin(*SIZE, []), [], []
    for k in range(3):
        played, context = rollout(env, learner, context, Key(0, "test", 0), k, SIZE)
        context = learner.adapt(context, played, [])
        rollouts.append(played)
        acted.append([torch.stack(each).unflatten(1, SIZE) for each in zip(*seen, strict=True)])
        seen.clear()
    assert 0 < int(rollouts[0].terminated.sum()) < 12
    horizon = env.spec.horizon
    found = read_memory(learner, rollouts, range(3 * horizon))
    for k, played in enumerate(rollouts):
        for values, expected in zip(found, acted[k], strict=True):
            valid = played.valid.permute(2, 0, 1).numpy()[: len(expected)]
            own = values[k * horizon : k * horizon + len(expected)]
            np.testing.assert_allclose(own[valid], expected.numpy()[valid], atol=2e-5)


def test_learners_declare_how_they_adapt():
    learner = Rl2(Rl2Config(memory_size=8, hidden_size=8), 2, 2, seed=0)
    assert supports(learner, HasMemory) and not supports(learner, AdaptsParams)
