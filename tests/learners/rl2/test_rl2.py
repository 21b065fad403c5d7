"""RL^2 beyond the properties of all learners in tests/learners/test_properties.py."""

import math
from types import SimpleNamespace

import pytest
import torch
from chaotic_memory import assert_roundings_are_no_other_policy
from sign_tasks import ChoiceBatch, SignBatch, collect, signs

from metarl.core.errors import ConfigError
from metarl.learners import ppo_passes
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.rl2 import Rl2
from metarl.networks.actor_critic import MEMORIES
from metarl.sampling import sampler
from metarl.sampling.sampler import Collector, Key
from metarl.sampling.sequences import Sequences

VALUE_MEMORIES = ["shared", "own"]
SMALL = {"memory_size": 16, "hidden_size": 16}


def log_probs(learner, steps):
    """Log-probabilities (L, M) of whole trials, computed as in the update."""
    inputs = learner._inputs(steps)
    features = learner.policy.memory.unroll(inputs)
    output = learner.policy.output(features, inputs[..., : steps.obs.shape[-1]])
    params = learner.policy.distribution_params()
    return learner.policy.distribution.log_prob(params, output, steps.action)


@pytest.mark.parametrize("value_memory", VALUE_MEMORIES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_recomputed_policy_equals_the_one_that_acted(memory, value_memory):
    env = SignBatch(eventful=True)
    config = Rl2Config(memory=memory, value_memory=value_memory, max_kl=0.0, **SMALL)
    learner = Rl2(config, 2, 1, seed=0)
    for iteration in range(3):  # later ones have moments other than 0 and 1
        rollouts, context = collect(learner, env, iteration, num_adaptations=2)
        assert rollouts[0].truncated.any() and rollouts[0].terminated.any()
        steps = Sequences.of(rollouts)
        with torch.no_grad():
            error = (log_probs(learner, steps) - steps.log_prob)[steps.valid].abs().max()
        assert float(error) < 1e-5
        metrics = learner.update(context, rollouts, None)
        assert metrics["update/ratio_error"] < 1e-4


def test_logged_noise_is_that_of_the_policy_that_acted():
    learner = Rl2(Rl2Config(initial_log_std=-0.5, max_kl=0.0, lr=0.1, **SMALL), 2, 1, seed=0)
    rollouts, context = collect(learner, SignBatch(), 0, num_adaptations=1)
    metrics = learner.update(context, rollouts, None)
    assert metrics["policy/log_std"] == pytest.approx(-0.5)
    assert metrics["policy/entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e) - 0.5)
    assert abs(float(learner.policy.distribution_params()["log_std"].detach()) + 0.5) > 0.01


@pytest.mark.parametrize("memory", MEMORIES)
def test_contexts_of_task_slices_of_unequal_length_are_joined(monkeypatch, memory):
    monkeypatch.setattr(sampler, "MIN_ROWS_TO_SPLIT", 0)
    env = SignBatch(70)  # longer than the first cache of a transformer
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


def test_policy_that_did_not_act_is_rejected():
    learner = Rl2(Rl2Config(**SMALL), 2, 1, seed=0)
    rollouts, context = collect(learner, SignBatch())
    learner.policy.actor[2].bias.data += 0.01
    before = learner.state_dict()
    with pytest.raises(FloatingPointError, match=r"not the policy that acted.*ratio"):
        learner.update(context, rollouts, None)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


class WideBatch(SignBatch):
    """The same with A actions, of which the first one counts."""

    def __init__(self, num_actions, horizon=30):
        super().__init__(horizon)
        self.spec.action_size = num_actions


@pytest.mark.parametrize("log_std", [-4.6, 0.0])
@pytest.mark.parametrize("num_actions", [500, 2000])
@pytest.mark.parametrize("memory", MEMORIES)
def test_many_actions_with_any_noise_are_no_other_policy(memory, num_actions, log_std):
    settings = {"initial_log_std": log_std, "min_log_std": -5.0, "epochs": 1}
    learner = Rl2(Rl2Config(**SMALL, **settings, memory=memory), 2, num_actions, seed=0)
    learner.policy.actor[2].weight.data *= 100.0  # means of size 1 instead of 0.01
    rollouts, context = collect(learner, WideBatch(num_actions))
    before = learner.state_dict()
    assert learner.update(context, rollouts, None)["update/ratio_error"] < 0.01
    learner.load_state_dict(before)
    learner.policy.actor[2].bias.data += 1e-3
    with pytest.raises(FloatingPointError, match="not the policy that acted"):
        learner.update(context, rollouts, None)


def test_memory_that_multiplies_roundings_is_no_other_policy(monkeypatch):
    settings = {"memory": "gru", "epochs": 1, "initial_log_std": -2.0}
    learner = Rl2(Rl2Config(**SMALL, **settings), 2, 1, seed=0)

    def collected():
        rollouts, context = collect(learner, SignBatch(horizon=200))
        return context, rollouts, None

    assert_roundings_are_no_other_policy(learner, learner.policy, collected, 1e-3, monkeypatch)


def test_statistics_that_change_within_an_iteration_are_found():
    learner = Rl2(Rl2Config(**SMALL), 2, 1, seed=0)
    learner.policy.actor[2].weight.data *= 100.0
    for iteration in range(2):
        rollouts, context = collect(learner, SignBatch(), iteration)
        if iteration == 1:
            obs = rollouts[0].obs.flatten(0, 2)
            moments = learner._state.moments
            moments["obs"] = moments["obs"].merge(obs)
            with pytest.raises(FloatingPointError, match="not the policy that acted"):
                learner.update(context, rollouts, None)
        else:
            learner.update(context, rollouts, None)


class LargeBatch(SignBatch):
    """The same with observations of mean 100 and standard deviation 50."""

    def reset(self, rngs):
        super().reset(rngs)
        self.noise = 100.0 + 50.0 * self.noise
        return self.noise[:, 0]


def test_first_update_learns_from_scaled_observations(monkeypatch):
    learner = Rl2(Rl2Config(**SMALL), 2, 1, seed=0)
    rollouts, context = collect(learner, LargeBatch())
    seen, step = [], learner._step

    def record(batch, rows):
        seen.append(batch.rows(rows))
        return step(batch, rows)

    monkeypatch.setattr(learner, "_step", record)
    learner.update(context, rollouts, None)
    obs = torch.cat([batch.inputs[..., :2].flatten(0, 1) for batch in seen[:4]])
    torch.testing.assert_close(obs.mean(dim=0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(obs.std(dim=0, correction=0), torch.ones(2))
    moments = learner._state.moments  # merged once
    assert moments["obs"].count == sum(int(r.valid.sum()) for r in rollouts)
    rollouts, context = collect(learner, LargeBatch(), 1)
    learner.update(context, rollouts, None)
    assert moments["obs"].count == 2 * rollouts[0].valid.numel() * 2


def test_gradient_that_is_not_finite_restores_the_learner(monkeypatch):
    learner = Rl2(Rl2Config(**SMALL, epochs=2), 2, 1, seed=0)
    rollouts, context = collect(learner, SignBatch())
    learner.update(context, rollouts, None)
    rollouts, context = collect(learner, SignBatch(), 1)
    before = learner.state_dict()
    calls = []

    def clipped_loss(log_ratio, advantage, clip):
        calls.append(1)
        return log_ratio * (float("nan") if len(calls) > 5 else 1.0)

    monkeypatch.setattr(ppo_passes, "clipped_loss", clipped_loss)
    with pytest.raises(FloatingPointError, match="norm is not finite.*nan"):
        learner.update(context, rollouts, None)
    assert len(calls) > 6  # some steps of Adam came before
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_step_to_infinity_restores_the_learner():
    learner = Rl2(Rl2Config(**SMALL, epochs=1, minibatches=1), 2, 1, seed=0)
    rollouts, context = collect(learner, SignBatch())
    learner.update(context, rollouts, None)
    rollouts, context = collect(learner, SignBatch(), 1)
    learner._adam.param_groups[0]["lr"] = float("inf")  # one step, so no gradient comes after it
    before = learner.state_dict()
    with pytest.raises(FloatingPointError, match="'.*' is not finite after the update"):
        learner.update(context, rollouts, None)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


# at the bound, and below it, as older versions saved
@pytest.mark.parametrize("log_std", [-1.0, -5.0])
@pytest.mark.parametrize(("entropy_weight", "change"), [(10.0, 0.02), (-10.0, 0.0)])
def test_log_std_comes_back_from_its_bound(entropy_weight, change, log_std):
    learner = Rl2(Rl2Config(**SMALL, initial_log_std=-1.0, min_log_std=-1.0), 2, 1, seed=0)
    config = SimpleNamespace(**{**vars(learner.config), "entropy_weight": entropy_weight})
    learner._gradient._config = config
    learner.load_state_dict({**learner.state_dict(), "policy/log_std": torch.tensor([log_std])})
    assert learner.policy.log_std.tolist() == [-1.0]
    rollouts, context = collect(learner, SignBatch())
    metrics = learner.update(context, rollouts, None)  # 20 steps of Adam, each 1e-3 long
    assert learner.policy.log_std.tolist() == pytest.approx([-1.0 + change], abs=1e-3 * change)
    assert metrics["policy/log_std"] == -1.0  # of the policy that acted, not -5


def test_update_ends_early_beyond_max_kl():
    runs = []
    for max_kl in (0.0, 1e-6):
        learner = Rl2(Rl2Config(**SMALL, max_kl=max_kl), 2, 1, seed=0)
        rollouts, context = collect(learner, SignBatch())
        runs.append(learner.update(context, rollouts, None))
    assert [run["update/epochs"] for run in runs] == [5.0, 1.0]


@pytest.mark.parametrize(("target_kl", "factor"), [(1e3, 1.5), (1e-9, 1 / 1.5)])
def test_step_size_moves_towards_the_target_kl(target_kl, factor):
    config = Rl2Config(**SMALL, target_kl=target_kl, epochs=2)
    learner = Rl2(config, 2, 1, seed=0)
    rollouts, context = collect(learner, SignBatch())
    metrics = learner.update(context, rollouts, None)
    assert metrics["update/lr"] == pytest.approx(config.lr * factor**2)
    other = Rl2(config, 2, 1, seed=0)  # the seed orders the minibatches
    other.load_state_dict(learner.state_dict())
    rollouts, context = collect(learner, SignBatch(), 1)
    assert learner.update(context, rollouts, None) == other.update(context, rollouts, None)


# --- tasks that only memory can solve


class Forgetful(Rl2):
    """Clears the memory before every episode."""

    def adapt(self, context, rollout, rngs=()):
        return self.begin(*rollout.valid.shape[:2], ())


def first_rewards(learner, env):
    """Mean reward of the first step of each episode, which needs memory of the sign."""
    rollouts, _ = collect(learner, env, 10**6, num_tasks=200, num_adaptations=2)
    return [float(r.reward[..., 0].mean()) for r in rollouts]


@pytest.fixture(scope="module", params=["continuous", "discrete"])
def solver(request):
    """A learner trained on many signs, and the environment."""
    config = Rl2Config(**SMALL, lr=1e-2, discount=0.9, initial_log_std=-1.0)
    discrete = request.param == "discrete"
    env = ChoiceBatch(2) if discrete else SignBatch(2)
    learner = Rl2(config, 2, env.spec.action_size, seed=0, discrete=discrete)
    for iteration in range(40):
        rollouts, context = collect(learner, env, iteration, num_tasks=64, num_episodes=1)
        learner.update(context, rollouts, None)
    return learner, env


def test_memory_solves_a_task_that_needs_it(solver):
    before, after, later = first_rewards(*solver)
    assert abs(before) < 0.3
    assert after > 0.8
    assert later > 0.8  # training has only two episodes


def test_gain_disappears_if_memory_is_cleared_every_episode(solver):
    learner, env = solver
    size, discrete = env.spec.action_size, isinstance(env, ChoiceBatch)
    forgetful = Forgetful(learner.config, 2, size, seed=0, discrete=discrete)
    forgetful.load_state_dict(learner.state_dict())
    rewards = first_rewards(forgetful, env)
    assert max(map(abs, rewards)) < 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"memory": "hopfield"}, "learner.memory.*gru, lstm, mann, mingru or transformer"),
        ({"value_memory": "none"}, "learner.value_memory.*shared or own"),
        ({"memory": "transformer", "memory_size": 30}, "multiple of 4"),
        ({"memory": "transformer", "truncation": 10}, "learner.truncation.*never truncated"),
        ({"memory": "mingru", "truncation": 10}, "learner.truncation.*never truncated"),
        ({"falls": "stop"}, "learner.falls = 'stop': must be continue or end"),
        ({"attention_window": 5}, "learner.attention_window = 5: must be 0 with gru"),
        ({"actor": "linear"}, "learner.actor.*mlp or hypernetwork"),
        ({"lr": 0.0}, "learner.lr"),
        ({"clip": float("nan")}, "learner.clip"),
        ({"epochs": 0}, "learner.epochs"),
        ({"discount": 1.5}, "learner.discount"),
        ({"initial_log_std": -4.0}, "learner.initial_log_std.*learner.min_log_std"),
    ],
)
def test_bad_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        Rl2Config(**settings)


def test_truncation_changes_the_update():
    states = []
    for truncation in (0, 2):
        learner = Rl2(Rl2Config(**SMALL, truncation=truncation), 2, 1, seed=0)
        rollouts, context = collect(learner, SignBatch())
        learner.update(context, rollouts, None)
        states.append(learner.state_dict()["policy/memory.cell.weight_hh_l0"])
    assert not torch.equal(*states)
