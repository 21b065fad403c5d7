"""How far the consequences of RL^2's actions reach, against a loop over steps."""

from dataclasses import replace

import pytest
import torch
from sign_tasks import SignBatch, collect

from metarl.core.errors import ConfigError
from metarl.functional.running_moments import normalize
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.gradient import Batch
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.sampling.sequences import Sequences

CONFIG = Rl2Config(memory_size=16, hidden_size=16, credit="episode", discount=0.9, gae_lambda=0.8)


def build(config, *, eventful=True):
    """A learner after two updates, and the rollouts of a third trial."""
    learner, env = Rl2(config, 2, 1, seed=0), SignBatch(eventful=eventful)
    for iteration in range(2):
        rollouts, context = collect(learner, env, iteration, num_adaptations=2)
        learner.update(context, rollouts, None)
    return learner, collect(learner, env, 2, num_adaptations=2)[0]


class Reader:
    """Reads a trial step by step, as the robot does."""

    def __init__(self, learner):
        self.learner, self.policy = learner, learner.policy
        self.state, self.own_state = (memory.initial(1) for memory in self.memories())
        self.mean, self.factor = learner._state.moments["value"].scale()

    def memories(self):
        return self.policy.memory, self.policy.value_memory

    def look(self, obs, previous, done):
        """The value of an observation, and the states of both memories after it."""
        action, reward = previous
        obs = normalize(obs, self.learner._state.moments["obs"].scale())
        inputs = torch.cat([obs, action, torch.tensor([reward, done])])[None]
        features, state = self.policy.memory.step(inputs, self.state)
        own_features, own_state = self.policy.value_memory.step(inputs, self.own_state)
        _, value = self.policy.heads((features, own_features), obs[None])
        return float(value / self.factor + self.mean), state, own_state

    def read(self, *inputs):
        value, self.state, self.own_state = self.look(*inputs)
        return value


@torch.no_grad()
def obvious_advantages(learner, rollouts):
    """Raw advantages of the valid steps, trial by trial."""
    found, config = [], learner.config
    for row in range(rollouts[0].reward.shape[0] * rollouts[0].reward.shape[1]):
        reader, previous, is_first = Reader(learner), (torch.zeros(1), 0.0), True
        for rollout in rollouts:
            obs, action, reward = (
                part.flatten(0, 1)[row] for part in (rollout.obs, rollout.action, rollout.reward)
            )
            count = int(rollout.valid.flatten(0, 1)[row].sum())
            failed = bool(rollout.truncated.flatten()[row])
            values = []
            for t in range(count):
                done = float(t == 0 and not is_first)
                values.append(reader.read(obs[t], previous, done))
                previous = action[t], float(reward[t])
            last = rollout.last_obs.flatten(0, 1)[row]
            after, *states = reader.look(last, previous, float(count == 0 and not is_first))
            if failed:  # the policy has acted on the last observation
                reader.state, reader.own_state = states
                previous = action[count], float(reward[count])
            is_first = False
            values.append(0.0 if bool(rollout.terminated.flatten()[row]) else after)
            total, own = 0.0, []
            for t in reversed(range(count)):
                delta = float(reward[t]) + config.discount * values[t + 1] - values[t]
                total = delta + config.discount * config.gae_lambda * total
                own.append(total)
            found += own[::-1]
    return torch.tensor(found)


@pytest.mark.parametrize("value_memory", ["shared", "own"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_advantages_equal_a_loop_over_episodes(memory, value_memory, monkeypatch):
    learner, rollouts = build(replace(CONFIG, memory=memory, value_memory=value_memory))
    assert any(bool(r.terminated.any()) for r in rollouts)
    assert any(bool(r.truncated.any()) for r in rollouts)
    expected = obvious_advantages(learner, rollouts)
    kept = []
    monkeypatch.setattr(learner, "_epochs", lambda batch: kept.append(batch) or {})
    learner._optimise(rollouts)
    steps, (batch,) = Sequences.of(rollouts), kept
    found = batch.advantage.T[steps.valid.T]
    expected = (expected - expected.mean()) / expected.std(correction=0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_rewards_of_later_episodes_are_no_consequences():
    for credit in ("trial", "episode"):
        learner, rollouts = build(replace(CONFIG, credit=credit), eventful=False)
        steps = Sequences.of(rollouts)
        batch = Batch.of(steps, learner._inputs(steps))
        reward, ends = learner._assign_credit(rollouts, batch)
        is_last = torch.zeros_like(steps.valid)
        is_last[3::4] = True
        assert torch.equal(reward == steps.reward, ~is_last | (credit == "trial"))
        assert ends is None if credit == "trial" else torch.equal(ends, is_last)


def test_unknown_credit_is_refused():
    with pytest.raises(ConfigError, match="learner.credit = 'all': must be trial or episode"):
        Rl2Config(credit="all")
