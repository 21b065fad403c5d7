"""RL^2 beyond what tests/test_learners.py asks of every learner."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from metarl.core.errors import ConfigError
from metarl.core.rng import stream
from metarl.learners.rl2 import rl2
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.sampling.sampler import Collector, Key, trial
from metarl.sampling.sequences import Sequences

MEMORIES = ["gru", "lstm", "transformer"]
VALUE_MEMORIES = ["shared", "own"]
SMALL = {"memory_size": 16, "hidden_size": 16}


class SignBatch:
    """The task is a sign that is seen in rewards only: reward = sign * clip(action, -1, 1).

    Rows end at random, and those of the last task break down in their second step.
    """

    def __init__(self, horizon=4, *, eventful=False):
        self.spec = SimpleNamespace(obs_size=2, action_size=1, horizon=horizon, name="sign")
        self.eventful = eventful

    def set_tasks(self, tasks, num_episodes):
        self.sign = np.repeat(tasks[:, 0], num_episodes)
        self.breaks = np.arange(len(self.sign)) >= len(self.sign) - num_episodes

    def reset(self, rngs):
        self.ends = np.array([rng.integers(1, 2 * self.spec.horizon) for rng in rngs])
        self.steps = np.zeros(len(rngs), dtype=int)
        self.noise = np.array([rng.standard_normal((self.spec.horizon + 1, 2)) for rng in rngs])
        return self.noise[:, 0]

    def step(self, action, alive):
        self.steps += alive
        reward = self.sign * np.clip(action[:, 0], -1.0, 1.0)
        return SimpleNamespace(
            obs=self.noise[np.arange(len(alive)), self.steps],
            reward=reward,
            terminated=alive & self.eventful & (self.steps >= self.ends),
            fault=alive & self.eventful & self.breaks & (self.steps == 2),
        )


def signs(num_tasks, iteration=0):
    return stream(0, "signs", iteration).choice([-1.0, 1.0], (num_tasks, 1))


def collected(learner, env, iteration=0, num_tasks=6, num_adaptations=1, num_episodes=2):
    tasks = signs(num_tasks, iteration)
    key = Key(0, "train", iteration)
    return trial(env, learner, tasks, num_episodes, num_adaptations, key)


def log_probs(learner, steps):
    """Log-probabilities (L, M) of whole trials, computed as the update does."""
    inputs = learner._inputs(steps)
    features = learner.policy.memory.unroll(inputs)
    mean = learner.policy.mean(features, inputs[..., : steps.obs.shape[-1]])
    return learner.policy.log_prob(mean, steps.action)


class ChoiceBatch(SignBatch):
    """The same with two alternatives for the signs -1 and 1."""

    def __init__(self, horizon=4, *, eventful=False):
        super().__init__(horizon, eventful=eventful)
        self.spec.action_size = 2

    def step(self, action, alive):
        assert (action[alive].sum(axis=1) == 1).all() and np.isin(action, (0, 1)).all()
        return super().step(action[:, 1:] - action[:, :1], alive)


@pytest.mark.parametrize("value_memory", VALUE_MEMORIES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_the_policy_that_learns_is_the_one_that_acted_through_falls_and_faults(
    memory, value_memory
):
    env = SignBatch(eventful=True)
    config = Rl2Config(memory=memory, value_memory=value_memory, max_kl=0.0, **SMALL)
    learner = Rl2(config, 2, 1, seed=0)
    for iteration in range(3):  # with scales other than 0 and 1 too
        rollouts, context = collected(learner, env, iteration, num_adaptations=2)
        assert rollouts[0].truncated.any() and rollouts[0].terminated.any()
        steps = Sequences.of(rollouts)
        with torch.no_grad():
            error = (log_probs(learner, steps) - steps.log_prob)[steps.valid].abs().max()
        assert float(error) < 1e-5
        metrics = learner.update(context, rollouts, None)
        assert metrics["update/ratio_error"] < 1e-4


@pytest.mark.parametrize("memory", MEMORIES)
def test_halves_of_the_tasks_that_live_for_different_times_are_joined(memory):
    env = SignBatch(70)  # more steps than the first cache of a transformer holds
    env.threads, env.close = 1, lambda: None
    env.split = lambda parts: [SignBatch(70), SignBatch(70, eventful=True)]
    learner = Rl2(Rl2Config(memory=memory, max_kl=0.0, **SMALL), 2, 1, seed=0)
    collector = Collector(env)
    rollouts, _ = collector.trial(learner, signs(2), 2, 2, Key(0, "train", 0))
    assert rollouts[0].valid[0].all() and rollouts[0].truncated[1].all()
    steps = Sequences.of(rollouts)
    with torch.no_grad():
        error = (log_probs(learner, steps) - steps.log_prob)[steps.valid].abs().max()
    assert float(error) < 1e-5


def test_another_policy_than_the_one_that_acted_is_refused_and_nothing_changes():
    learner = Rl2(Rl2Config(**SMALL), 2, 1, seed=0)
    rollouts, context = collected(learner, SignBatch())
    learner.policy.actor[2].bias.data += 0.01
    before = learner.state_dict()
    with pytest.raises(FloatingPointError, match=r"not the policy that acted.*ratio"):
        learner.update(context, rollouts, None)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_a_gradient_that_is_not_finite_is_refused_and_nothing_changes(monkeypatch):
    learner = Rl2(Rl2Config(**SMALL, epochs=2), 2, 1, seed=0)
    rollouts, context = collected(learner, SignBatch())
    learner.update(context, rollouts, None)
    rollouts, context = collected(learner, SignBatch(), 1)
    before = learner.state_dict()
    calls = []

    def breaking(log_ratio, advantage, clip):
        calls.append(1)
        return log_ratio * (float("nan") if len(calls) > 5 else 1.0)

    monkeypatch.setattr(rl2, "clipped_loss", breaking)
    with pytest.raises(FloatingPointError, match="norm is nan"):
        learner.update(context, rollouts, None)
    assert len(calls) == 6  # some steps of Adam had been taken
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


@pytest.mark.parametrize("value_memory", VALUE_MEMORIES)
def test_shares_of_the_trials_add_up_to_the_whole(monkeypatch, value_memory):
    found = []
    for rows in (64, 5):
        monkeypatch.setattr(rl2, "SHARD_ROWS", rows)
        learner = Rl2(Rl2Config(**SMALL, value_memory=value_memory), 2, 1, seed=0)
        rollouts, context = collected(learner, SignBatch(eventful=True), num_tasks=10)
        learner.update(context, rollouts, None)
        found.append(learner.state_dict())
    whole, shares = found
    for name, value in whole.items():
        torch.testing.assert_close(shares[name], value, rtol=1e-3, atol=1e-5)


def test_the_loss_is_the_mean_over_valid_steps_of_a_slow_loop():
    config = Rl2Config(**SMALL, entropy_weight=0.1, value_weight=0.3, minibatches=1)
    learner = Rl2(config, 2, 1, seed=0)
    steps = Sequences.of(collected(learner, SignBatch(eventful=True))[0])
    learner.policy.log_std.data -= 0.2  # ratios other than 1
    inputs = learner._inputs(steps)
    draw = torch.Generator().manual_seed(0)
    advantage, target = (torch.randn(steps.valid.shape, generator=draw) for _ in range(2))
    batch = rl2._Batch(steps, inputs, advantage, target)
    with torch.no_grad():
        loss, statistics = learner._loss(batch, steps.valid.sum())
        mean, value = learner._forward(batch)
    log_std = learner.policy.clamped_log_std().detach()
    total, number, moved = 0.0, 0, 0.0
    for t, m in steps.valid.nonzero().tolist():
        normal = torch.distributions.Normal(mean[t, m], log_std.exp())
        ratio = float((normal.log_prob(steps.action[t, m]).sum() - steps.log_prob[t, m]).exp())
        a, clipped = float(advantage[t, m]), min(max(ratio, 0.8), 1.2)
        total += -min(ratio * a, clipped * a) - 0.1 * float(normal.entropy().sum())
        total += 0.3 * float(value[t, m] - target[t, m]) ** 2
        moved += ratio - 1.0 - np.log(ratio)
        number += 1
    assert float(loss) == pytest.approx(total / number, rel=1e-4)
    assert float(statistics[0]) == pytest.approx(moved / number, rel=1e-3)


@pytest.mark.parametrize("value_memory", VALUE_MEMORIES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_the_gradient_is_the_slope_of_the_loss(memory, value_memory):
    config = Rl2Config(**SMALL, memory=memory, value_memory=value_memory, entropy_weight=0.1)
    learner = Rl2(config, 2, 1, seed=0)
    learner.policy.double()
    steps = Sequences.of(collected(Rl2(config, 2, 1, seed=0), SignBatch(eventful=True))[0])
    draw = torch.Generator().manual_seed(0)
    shape, double = steps.valid.shape, {"dtype": torch.float64, "generator": draw}
    advantage, target = torch.randn(shape, **double), torch.randn(shape, **double)
    batch = rl2._Batch(steps, learner._inputs(steps).double(), advantage, target)
    parameters = list(learner.policy.parameters())

    def loss():
        return learner._loss(batch, steps.valid.sum())[0]

    slopes = torch.autograd.grad(loss(), parameters)
    for parameter, slope in zip(parameters, slopes, strict=True):
        way, at = torch.randn(parameter.shape, **double), parameter.data.clone()
        ends = []
        for size in (1e-6, -1e-6):
            parameter.data = at + size * way
            with torch.no_grad():
                ends.append(float(loss()))
        parameter.data = at
        expected = (ends[0] - ends[1]) / 2e-6
        assert float((slope * way).sum()) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_passes_stop_where_the_policy_has_moved_too_far():
    runs = []
    for max_kl in (0.0, 1e-6):
        learner = Rl2(Rl2Config(**SMALL, max_kl=max_kl), 2, 1, seed=0)
        rollouts, context = collected(learner, SignBatch())
        runs.append(learner.update(context, rollouts, None))
    assert [run["update/epochs"] for run in runs] == [5.0, 1.0]


# ------------------------------------------------------------------------------ memory and nothing else


class Forgetful(Rl2):
    """Begins anew in every episode."""

    def adapt(self, context, rollout, rngs=()):
        return self.begin(*rollout.valid.shape[:2], ())


def first_rewards(learner, env):
    """Mean reward of the first step of each episode, where only memory can tell the sign."""
    rollouts, _ = collected(learner, env, 10**6, num_tasks=200, num_adaptations=2)
    return [float(r.reward[..., 0].mean()) for r in rollouts]


@pytest.fixture(scope="module", params=["continuous", "discrete"])
def solver(request):
    """A learner that has met many signs, and the environment."""
    config = Rl2Config(**SMALL, lr=1e-2, discount=0.9, initial_log_std=-1.0)
    discrete = request.param == "discrete"
    env = ChoiceBatch(2) if discrete else SignBatch(2)
    learner = Rl2(config, 2, env.spec.action_size, seed=0, discrete=discrete)
    for iteration in range(40):
        rollouts, context = collected(learner, env, iteration, num_tasks=64, num_episodes=1)
        learner.update(context, rollouts, None)
    return learner, env


def test_it_solves_a_task_that_only_memory_can_solve(solver):
    before, after, later = first_rewards(*solver)
    assert abs(before) < 0.3
    assert after > 0.8
    assert later > 0.8  # a third episode, which training never had


def test_with_the_memory_cleared_between_episodes_the_gain_disappears(solver):
    learner, env = solver
    size, discrete = env.spec.action_size, learner.policy.discrete
    forgetful = Forgetful(learner.config, 2, size, seed=0, discrete=discrete)
    forgetful.load_state_dict(learner.state_dict())
    rewards = first_rewards(forgetful, env)
    assert max(map(abs, rewards)) < 0.3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"memory": "hopfield"}, "learner.memory.*gru, lstm or transformer"),
        ({"value_memory": "none"}, "learner.value_memory.*shared or own"),
        ({"memory": "transformer", "memory_size": 30}, "multiple of 4"),
        ({"memory": "transformer", "truncation": 10}, "learner.truncation.*never truncated"),
        ({"lr": 0.0}, "learner.lr"),
        ({"clip": float("nan")}, "learner.clip"),
        ({"epochs": 0}, "learner.epochs"),
        ({"discount": 1.5}, "learner.discount"),
        ({"initial_log_std": -4.0}, "learner.initial_log_std.*learner.min_log_std"),
    ],
)
def test_a_bad_setting_is_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        Rl2Config(**settings)


def test_truncated_gradients_give_another_update():
    states = []
    for truncation in (0, 2):
        learner = Rl2(Rl2Config(**SMALL, truncation=truncation), 2, 1, seed=0)
        rollouts, context = collected(learner, SignBatch())
        learner.update(context, rollouts, None)
        states.append(learner.state_dict()["policy/memory.cell.weight_hh_l0"])
    assert not torch.equal(*states)
