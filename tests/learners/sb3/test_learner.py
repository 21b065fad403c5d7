"""Baselines of Stable-Baselines3: every one x every property, and the meaning of the modes."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from baseline_bench import (
    CASES,
    HORIZON,
    Bench,
    assert_same,
    build_baseline,
    is_different,
    small_env,
    state,
)
from torch_faults import FailingOperation, spread

from metarl.config.schema import SamplerConfig, TrainConfig
from metarl.core.env import Step
from metarl.core.errors import ConfigError
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.envs.wrappers.observe_task import ObserveTask
from metarl.learners.sb3.config import Sb3PpoConfig, Sb3Rl2Config, Sb3TrpoConfig
from metarl.learners.sb3.model import _batch_size
from metarl.runs import checkpoint


@pytest.fixture(params=CASES)
def name(request):
    return request.param


# ------------------------------------------------------------------------------------ all baselines


def test_run_is_a_function_of_the_seed(name):
    one, other, third = Bench(name), Bench(name), Bench(name, seed=1)
    assert is_different(state(one), state(third))
    assert one.iterate(range(2)) == other.iterate(range(2))
    assert_same(state(one), state(other))
    third.learner.load_state_dict(state(Bench(name)))
    assert third.iterate(range(1)) != Bench(name).iterate(range(1))  # tasks and noise differ too


def test_resumed_run_equals_the_whole_one_bit_for_bit(name, tmp_path):
    whole, first, second = Bench(name), Bench(name), Bench(name)
    expected = whole.iterate(range(4))
    done = first.iterate(range(2))
    checkpoint.save(tmp_path, 2, state(first), {})
    second.iterate(range(7, 8))  # its past must not matter
    second.learner.load_state_dict(checkpoint.load_newest(tmp_path).tensors)
    done += second.iterate(range(2, 4))
    assert done == expected
    assert_same(state(second), state(whole))


def test_update_changes_the_policy_and_evaluation_does_not(name):
    bench = Bench(name)
    before = state(bench)
    bench.iterate(range(1))
    after = state(bench)
    policies = [key for key in before if "/policy/" in key]
    assert any(not torch.equal(before[key], after[key]) for key in policies)
    bench.returns()
    assert_same(state(bench), after)


def test_saved_state_does_not_change_with_training(name):
    bench = Bench(name)
    bench.iterate(range(1))
    saved = state(bench)
    copy = {key: value.clone() for key, value in saved.items()}
    bench.iterate(range(1, 2))
    assert_same(saved, copy)
    bench.learner.load_state_dict(saved)
    bench.iterate(range(1, 2))
    assert_same(saved, copy)


def test_state_of_another_network_is_refused(name):
    bench = Bench(name)
    before = state(bench)
    for key, value in before.items():
        missing = {other: tensor for other, tensor in before.items() if other != key}
        doubled = {**before, key: torch.stack([value, value])}
        for broken in (missing, doubled):
            with pytest.raises(ValueError, match=f"^{key} is "):
                bench.learner.load_state_dict(broken)
        if value.is_floating_point() and value.numel():
            broken = {**before, key: torch.full_like(value, float("nan"))}
            with pytest.raises(ValueError, match=f"^{key} is not finite"):
                bench.learner.load_state_dict(broken)
    with pytest.raises(ValueError, match="^more is not known"):
        bench.learner.load_state_dict({**before, "more": torch.zeros(1)})
    assert_same(state(bench), before)


def test_training_restores_the_global_random_generators(name):
    bench = Bench(name)

    def drawn():
        return random.random(), np.random.random(), float(torch.rand(()))

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    expected = drawn()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(3)
    bench.iterate(range(1))
    assert drawn() == expected


def test_update_that_is_not_finite_leaves_all_as_it_was(name):
    bench = Bench(name)
    bench.iterate(range(1))
    before = state(bench)
    last = bench.learner._members[-1].model
    train = last.train

    def poisoned():
        train()
        with torch.no_grad():
            last.policy.log_std.fill_(float("nan"))

    last.train = poisoned
    policy = len(bench.learner._members) - 1
    with pytest.raises(FloatingPointError, match=f"policy {policy}: 'policy/log_std' is not"):
        bench.iterate(range(1, 2))
    assert_same(state(bench), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["in the update", "after the update"])
def test_update_that_fails_midway_changes_nothing(name, place, error, monkeypatch):
    bench, whole = Bench(name), Bench(name)
    assert bench.iterate(range(1)) == whole.iterate(range(1))
    before = state(bench)
    last = bench.learner._members[-1].model
    places = {"in the update": (last.policy.optimizer, "step"), "after the update": (last, "train")}
    target, function = places[place]
    original, calls = getattr(target, function), []

    def fail(*args, **kwargs):
        original(*args, **kwargs)
        calls.append(1)
        if function == "train" or len(calls) == 2:
            assert is_different(state(bench), before)
            raise error("midway")

    with monkeypatch.context() as patch, pytest.raises(error, match="midway"):
        patch.setattr(target, function, fail)
        bench.iterate(range(1, 2))
    assert_same(state(bench), before)
    assert bench.iterate(range(1, 2)) == whole.iterate(range(1, 2))
    assert_same(state(bench), state(whole))


def test_iteration_that_fails_at_any_operation_changes_nothing(name):
    bench, clean = Bench(name), Bench(name)
    expected, before = clean.iterate(range(1)), state(bench)
    counted = Bench(name)
    with FailingOperation() as counter:
        counted.iterate(range(1))
    for place in spread(counter.count, 3):
        with FailingOperation(place), pytest.raises(RuntimeError, match="midway"):
            bench.iterate(range(1))
        assert_same(state(bench), before)
    assert bench.iterate(range(1)) == expected


@pytest.mark.parametrize("name", ["ppo multi-task", "rl2"])
def test_baselines_in_two_threads_do_not_disturb_each_other(name):
    expected = [Bench(name, seed=seed).iterate(range(4)) for seed in (0, 1)]
    benches = [Bench(name, seed=seed) for seed in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda bench: bench.iterate(range(4)), benches)) == expected


@pytest.mark.parametrize("name", ["ppo multi-task", "rl2"])
def test_infinite_moment_of_adam_is_refused(name):
    bench = Bench(name)
    adam = bench.learner._members[-1].model.policy.optimizer
    next(iter(adam.state.values()))["exp_avg_sq"].fill_(float("inf"))
    with pytest.raises(FloatingPointError, match=r"adam/00/exp_avg_sq' is not finite"):
        bench.iterate(range(1))


def test_nan_policy_is_not_an_environment_error(name):
    bench = Bench(name)
    with torch.no_grad():
        bench.learner._members[-1].model.policy.log_std.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="log_std' is not finite"):
        bench.iterate(range(1))


def test_mean_that_overflows_is_a_numerical_error(name):
    """Every parameter is finite, but a mean is inf - inf, which torch's distribution refuses."""
    bench = Bench(name)
    policy = bench.learner._members[-1].model.policy
    with torch.no_grad():
        policy.action_net.weight.fill_(torch.finfo(torch.float32).max)
        policy.action_net.bias.fill_(-torch.finfo(torch.float32).max)
    before = state(bench)
    with pytest.raises(FloatingPointError, match="is not finite"):
        bench.iterate(range(1))
    assert_same(state(bench), before)


class Lying(NavigationEnv):
    """Gives a reward that is not finite without a fault."""

    def step(self, action, alive):
        step = super().step(action, alive)
        return Step(step.obs, np.full(len(alive), np.inf), step.terminated, step.fault)


def test_infinite_reward_is_an_environment_error(name):
    bench = Bench(name, env=Lying("lying", DenseGoal(), horizon=HORIZON))
    before = state(bench)
    with pytest.raises(ValueError, match="lying, row 0, step 0: obs or reward is not finite"):
        bench.iterate(range(1))
    assert_same(state(bench), before)


def test_iteration_takes_the_steps_of_its_rollouts(name):
    bench = Bench(name)
    (done,) = bench.iterate(range(1))
    assert done.steps == 3 * 2 * 2 * HORIZON
    assert len(done.returns) == 2 and all(np.isfinite(done.returns))
    assert 0 < done.length <= HORIZON and done.faults == 0
    assert "kl" in done.metrics and "policy/std" in done.metrics


# ----------------------------------------------------------------------------------------- learning


def trained(name, learner, iterations, sampler):
    algo, _ = CASES[name]
    config = TrainConfig(env="x", algo=algo, learner=learner, sampler=sampler)
    env = NavigationEnv("navigation-2d", DenseGoal())
    env = ObserveTask(env) if learner.mode == "oracle" else env
    bench = Bench.__new__(Bench)
    bench.config, bench.env = config, env
    bench.learner = build_baseline(config, env)
    start = bench.returns().mean()
    bench.iterate(range(iterations))
    return start, bench.returns().mean()


def test_oracle_beats_the_floor_and_blind_ppo_does_not():
    settings = {"minibatches": 8, "epochs": 5, "initial_log_std": -1.0, "learning_rate": 3e-3}
    sampler = SamplerConfig(num_tasks=16, num_episodes=1, num_adaptations=0)
    floor = NavigationEnv("x", DenseGoal()).spec.floors["stand still"]
    learner = Sb3PpoConfig(mode="oracle", **settings)
    start, oracle = trained("ppo oracle", learner, 12, sampler)
    assert start < floor and oracle > floor + 10.0
    learner = Sb3PpoConfig(mode="multi-task", **settings)
    start, blind = trained("ppo multi-task", learner, 12, sampler)
    assert start < blind < floor


def test_ppo_from_scratch_learns_each_of_its_tasks():
    settings = {"minibatches": 8, "epochs": 5, "initial_log_std": -1.0, "learning_rate": 3e-3}
    sampler = SamplerConfig(num_tasks=2, num_episodes=8, num_adaptations=0)
    learner = Sb3PpoConfig(mode="scratch", **settings)
    start, after = trained("ppo scratch", learner, 12, sampler)
    assert after > start + 20.0


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("high", [np.inf, 1.0])
def test_actions_without_an_end_are_refused(high):
    env = small_env()
    env.spec = replace(env.spec, action_range=((-np.inf, 0.0), (high, 1.0)))
    with pytest.raises(ConfigError, match="--algo sb3-ppo needs actions with two ends"):
        Bench("ppo multi-task", env=env)


def test_discrete_actions_are_refused():
    env = small_env()
    env.spec = replace(env.spec, discrete=True)
    with pytest.raises(ConfigError, match="--algo sb3-ppo has no policy for discrete actions"):
        Bench("ppo multi-task", env=env)


@pytest.mark.parametrize(
    ("kind", "changes", "text"),
    [
        (Sb3PpoConfig, {"learning_rate": 0.0}, "learner.learning_rate = 0.0: must be a finite"),
        (Sb3PpoConfig, {"hidden_sizes": (8, 0)}, "learner.hidden_sizes = "),
        (Sb3PpoConfig, {"gae_lambda": 1.5}, r"learner.gae_lambda = 1.5: must be in \[0, 1\]"),
        (Sb3TrpoConfig, {"max_kl": float("nan")}, "learner.max_kl = nan"),
        (Sb3TrpoConfig, {"line_search_decay": 1.0}, "learner.line_search_decay = 1.0"),
        (Sb3Rl2Config, {"minibatches": 0}, "learner.minibatches = 0: must be at least 1"),
        (Sb3Rl2Config, {"lstm_size": 0}, "learner.lstm_size = 0"),
        (Sb3Rl2Config, {"initial_log_std": float("inf")}, "learner.initial_log_std = inf"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind, changes, text):
    with pytest.raises(ConfigError, match=text):
        kind(**changes)


@pytest.mark.parametrize("config", [Sb3PpoConfig(), Sb3TrpoConfig(), Sb3Rl2Config()])
def test_minibatch_of_one_step_is_refused(config):
    steps = 2 * HORIZON * 4
    vec = SimpleNamespace(num_envs=4)
    assert _batch_size(replace(config, minibatches=steps // 2), vec, 2 * HORIZON) == 2
    for minibatches in (steps, 10**9):
        with pytest.raises(ConfigError, match=f"learner.minibatches = {minibatches}: must be 1 to"):
            _batch_size(replace(config, minibatches=minibatches), vec, 2 * HORIZON)
    with pytest.raises(ConfigError, match="another number, such as 2, .*no minibatch"):  # 3 + 3 + 1
        _batch_size(replace(config, minibatches=3), SimpleNamespace(num_envs=1), 7)
    assert _batch_size(replace(config, minibatches=2), SimpleNamespace(num_envs=1), 7) == 4
    with pytest.raises(ConfigError, match="an iteration has one step"):
        _batch_size(replace(config, minibatches=1), SimpleNamespace(num_envs=1), 1)
