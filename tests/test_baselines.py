"""Learners of Stable-Baselines3 as baselines: every one x every property, and what each mode means."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy

from envs.navigation import DenseGoal, NavigationEnv
from envs.observe import ObserveTask
from envs.protocol import Step
from envs.sb3 import vec_env
from metarl import checkpoint, evaluate
from metarl.baselines.configs import Sb3PpoConfig, Sb3Rl2Config, Sb3TrpoConfig
from metarl.baselines.curve import MAX_POINTS, Curve
from metarl.baselines.members import Played, TrialLstmPolicy
from metarl.baselines.sb3 import build
from metarl.collect import Key, trial
from metarl.config import SamplerConfig, TrainConfig
from metarl.errors import ConfigError
from metarl.threads import one_torch_thread

HORIZON = 12
SMALL = {"hidden_sizes": (8,), "epochs": 2, "minibatches": 2, "initial_log_std": -2.0}
LSTM = Sb3Rl2Config(lstm_size=8, epochs=2, minibatches=2, initial_log_std=-2.0)
CASES = {
    "ppo scratch": ("sb3-ppo", Sb3PpoConfig(mode="scratch", **SMALL)),
    "ppo oracle": ("sb3-ppo", Sb3PpoConfig(mode="oracle", normalize=True, **SMALL)),
    "ppo multi-task": ("sb3-ppo", Sb3PpoConfig(mode="multi-task", **SMALL)),
    "trpo scratch": ("sb3-trpo", Sb3TrpoConfig(mode="scratch", normalize=True, **SMALL)),
    "trpo oracle": ("sb3-trpo", Sb3TrpoConfig(mode="oracle", **SMALL)),
    "rl2": ("sb3-rl2", LSTM),
    "rl2 scaled": ("sb3-rl2", replace(LSTM, scale_rewards=True)),
}
SAMPLER = SamplerConfig(num_tasks=3, num_episodes=2, num_adaptations=1)


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def small_env(horizon=HORIZON, **goal):
    return NavigationEnv("small", DenseGoal(**goal), horizon=horizon)


def configured(name, seed=0, **changes):
    algo, learner = CASES[name]
    return TrainConfig(
        env="small", algo=algo, seed=seed, learner=learner, sampler=SAMPLER, **changes
    )


class Bench:
    """A baseline on navigation with a few short episodes."""

    def __init__(self, name, seed=0, env=None, **changes):
        self.config = configured(name, seed, **changes)
        env = env or small_env()
        oracle = getattr(self.config.learner, "mode", "") == "oracle"
        self.env = ObserveTask(env) if oracle else env
        self.learner = build(self.config, self.env, self.env.spec.tasks, vec_env)

    def iterate(self, iterations):
        """Trains; returns what does not depend on the clock."""
        with one_torch_thread():
            done = [self.learner.iterate(iteration) for iteration in iterations]
        return [replace(each, collect=0.0, update=0.0) for each in done]

    def returns(self, num_adaptations=1):
        tasks = self.learner.tasks
        if tasks is None:
            tasks = evaluate.held_out_tasks(self.env.spec, 0, 6)
        settings = {"num_episodes": 4, "num_adaptations": num_adaptations}
        key = Key(0, "evaluate", 0)
        return evaluate.evaluate(self.env, self.learner, tasks, key=key, **settings).returns


def state(bench):
    return bench.learner.state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys() and len(one) > 0
    for key, value in one.items():
        assert value.dtype == other[key].dtype and torch.equal(value, other[key]), key


def differ(one, other):
    return any(not torch.equal(value, other[key]) for key, value in one.items())


# ------------------------------------------------------------------------------------------ every one


def test_the_same_seed_gives_the_same_run_bit_for_bit_and_another_seed_another(name):
    one, other, third = Bench(name), Bench(name), Bench(name, seed=1)
    assert differ(state(one), state(third))
    assert one.iterate(range(2)) == other.iterate(range(2))
    assert_same(state(one), state(other))
    third.learner.load_state_dict(state(Bench(name)))
    assert third.iterate(range(1)) != Bench(name).iterate(range(1))  # tasks and noise differ too


def test_a_saved_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name, tmp_path):
    whole, first, second = Bench(name), Bench(name), Bench(name)
    expected = whole.iterate(range(4))
    done = first.iterate(range(2))
    checkpoint.save(tmp_path, 2, state(first), {})
    second.iterate(range(7, 8))  # whatever it has done before must not matter
    second.learner.load_state_dict(checkpoint.load_newest(tmp_path).tensors)
    done += second.iterate(range(2, 4))
    assert done == expected
    assert_same(state(second), state(whole))


def test_an_update_changes_the_policy_and_evaluation_does_not(name):
    bench = Bench(name)
    before = state(bench)
    bench.iterate(range(1))
    after = state(bench)
    policies = [key for key in before if "/policy/" in key]
    assert any(not torch.equal(before[key], after[key]) for key in policies)
    bench.returns()
    assert_same(state(bench), after)


def test_a_saved_state_does_not_change_when_training_goes_on(name):
    bench = Bench(name)
    bench.iterate(range(1))
    saved = state(bench)
    copy = {key: value.clone() for key, value in saved.items()}
    bench.iterate(range(1, 2))
    assert_same(saved, copy)
    bench.learner.load_state_dict(saved)
    bench.iterate(range(1, 2))
    assert_same(saved, copy)


def test_a_state_of_another_network_is_refused_and_changes_nothing(name):
    bench = Bench(name)
    before = state(bench)
    for key, value in before.items():
        missing = {other: tensor for other, tensor in before.items() if other != key}
        doubled = {**before, key: torch.stack([value, value])}
        for broken in (missing, doubled):
            with pytest.raises(ValueError, match=f"^{key} is "):
                bench.learner.load_state_dict(broken)
    with pytest.raises(ValueError, match="^more is not known"):
        bench.learner.load_state_dict({**before, "more": torch.zeros(1)})
    assert_same(state(bench), before)


def test_training_leaves_the_global_random_generators_as_they_were(name):
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


def test_an_update_that_is_not_finite_is_named_and_leaves_all_as_it_was(name):
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
    with pytest.raises(FloatingPointError, match=f"policy {policy}: parameter log_std is not"):
        bench.iterate(range(1, 2))
    assert_same(state(bench), before)


def test_a_policy_that_breaks_down_while_it_acts_is_a_matter_of_numbers_and_not_of_the_environment(
    name,
):
    bench = Bench(name)
    with torch.no_grad():
        bench.learner._members[-1].model.policy.log_std.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="parameter log_std is not finite"):
        bench.iterate(range(1))


class Lying(NavigationEnv):
    """Gives a reward that is not finite and calls it no fault."""

    def step(self, action, alive):
        step = super().step(action, alive)
        return Step(step.obs, np.full(len(alive), np.inf), step.terminated, step.fault)


def test_a_number_of_the_environment_that_is_not_finite_is_the_environments_fault(name):
    bench = Bench(name, env=Lying("lying", DenseGoal(), horizon=HORIZON))
    before = state(bench)
    with pytest.raises(ValueError, match="lying, row 0, step 0: obs or reward is not finite"):
        bench.iterate(range(1))
    assert_same(state(bench), before)


def test_an_iteration_takes_the_steps_of_its_rollouts_and_reports_whole_episodes(name):
    bench = Bench(name)
    (done,) = bench.iterate(range(1))
    assert done.steps == 3 * 2 * 2 * HORIZON
    assert len(done.returns) == 2 and all(np.isfinite(done.returns))
    assert 0 < done.length <= HORIZON and done.faults == 0
    assert "kl" in done.metrics and "policy/std" in done.metrics


# ---------------------------------------------------------------------------------------------- acting


def test_without_exploration_the_noise_is_not_read_and_with_it_the_densities_are_those_of_torch(
    name,
):
    bench = Bench(name)
    learner, size = bench.learner, bench.env.spec.obs_size
    obs, noise = torch.rand(3, 2, size), torch.full((3, 2, 2), float("nan"))
    with torch.inference_mode():
        mode, _ = learner.act(learner.begin(3, 2), obs, noise, explore=False)
        drawn, _ = learner.act(learner.begin(3, 2), obs, torch.ones(3, 2, 2), explore=True)
    assert mode.value.shape == (3, 2, 2) and torch.equal(mode.log_prob, torch.zeros(3, 2))
    std = np.exp(-2.0)
    torch.testing.assert_close(drawn.value, mode.value + std)
    density = torch.distributions.Normal(mode.value, std).log_prob(drawn.value).sum(dim=2)
    torch.testing.assert_close(drawn.log_prob, density)


def test_a_policy_acts_as_stable_baselines_lets_it_act(name):
    bench = Bench(name)
    bench.iterate(range(1))
    learner, size = bench.learner, bench.env.spec.obs_size
    obs = torch.rand(3, 2, size)
    context = learner.begin(3, 2)
    with torch.inference_mode():
        mode, _ = learner.act(context, obs, torch.zeros(3, 2, 2), explore=False)
    for task in range(3):
        member = learner._members[task if len(learner._members) > 1 else 0]
        seen = obs[task].numpy()
        if name.startswith("rl2"):
            seen = np.concatenate([seen, np.zeros((2, 4), dtype=np.float32)], axis=1)
        expected, _ = member.model.predict(member.normalized(seen), deterministic=True)
        np.testing.assert_allclose(mode.value[task].clamp(-1, 1), expected, atol=1e-6)


def test_memory_in_a_trial_is_what_it_was_in_training():
    """The same three episodes by metarl's trial and by SB3 on the rows it trains on; some reach their goal early."""
    env = small_env(reached=0.2)
    bench = Bench("rl2", env=env)
    bench.iterate(range(3))
    model = bench.learner._members[0].model
    goals = np.random.default_rng(0).uniform(-0.35, 0.35, (12, 2))
    with torch.no_grad():  # a policy whose actions depend much on what it remembers
        for key, value in model.policy.state_dict().items():
            if key.startswith(("lstm_actor", "action_net.weight")):
                value.mul_(500.0 if key.startswith("action") else 3.0)
    rollouts, _ = trial(env, bench.learner, goals, 1, 2, Key(0, "x", 0), explore=False)
    lengths = np.stack([r.valid[:, 0].sum(dim=1).numpy() for r in rollouts], axis=1)
    assert lengths.min() < lengths.max() == HORIZON
    assert len(np.unique(lengths)) >= 3
    assert max(float(r.action.abs().max()) for r in rollouts) > 1.0  # beyond the Box
    vec = vec_env(env, 12, trial=3)
    vec.restart(lambda episode, row: np.random.default_rng(0), goals)
    obs, states, begins = vec.reset(), None, np.ones(12, dtype=bool)
    found: dict[int, list] = {row: [] for row in range(12)}
    over = np.zeros(12, dtype=bool)
    while not over.all():
        action, states = model.predict(obs, states, begins, deterministic=True)
        obs, reward, begins, _ = vec.step(action)
        for row in np.flatnonzero(~over):
            found[row].append(reward[row])
        over |= begins
    for task in range(12):
        expected = [r.reward[task, 0][r.valid[task, 0]].numpy() for r in rollouts]
        np.testing.assert_allclose(found[task], np.concatenate(expected), atol=1e-5)


def test_scaled_rewards_are_learned_from_and_the_reward_that_is_seen_stays_raw():
    bench = Bench("rl2 scaled")
    bench.iterate(range(1))
    buffer = bench.learner._members[0].model.rollout_buffer
    plain = Bench("rl2")
    plain.iterate(range(1))
    raw = plain.learner._members[0].model.rollout_buffer
    # both were collected by the same first policy, so only what is learned from differs
    np.testing.assert_array_equal(buffer.observations, raw.observations)
    assert np.ptp(raw.observations[..., 4]) > 0.1
    shrunk = (
        buffer.rewards / raw.rewards
    )  # one factor for each of the 24 steps, which changes as returns are met
    assert shrunk.shape == (2 * HORIZON, 6) and not np.allclose(shrunk, 1.0)
    np.testing.assert_allclose(shrunk, shrunk[:, :1].repeat(6, axis=1), rtol=1e-5)


def test_a_new_trial_remembers_nothing_and_a_later_episode_does():
    bench = Bench("rl2")
    learner, obs, noise = bench.learner, torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    tasks = np.full((3, 2), 0.3)
    with torch.inference_mode():
        first, _ = learner.act(learner.begin(3, 2), obs, noise, explore=False)
        rollouts, context = trial(bench.env, learner, tasks, 2, 1, Key(0, "x", 0))
        again, _ = learner.act(learner.begin(3, 2), obs, noise, explore=False)
        later, _ = learner.act(learner.adapt(context, rollouts[-1]), obs, noise, explore=False)
    assert torch.equal(first.value, again.value) and (later.value != first.value).all()


def test_the_last_reward_of_an_episode_is_remembered_but_not_one_that_broke_down():
    learner = Bench("rl2").learner
    bench = Bench("rl2", env=small_env(horizon=3))
    rollouts, context = trial(bench.env, bench.learner, np.full((2, 2), 0.4), 1, 0, Key(0, "x", 0))
    made = rollouts[0]
    valid = made.valid.clone()
    valid[1, 0, 2] = False  # task 1 broke down in its last step
    made = replace(made, valid=valid, truncated=torch.tensor([[False], [True]]))
    context = learner.adapt(context, made)
    assert context.reward[0, 0] == made.reward[0, 0, 2] != 0.0
    assert context.reward[1, 0] == 0.0 and context.later.tolist() == [[1.0], [1.0]]


def test_one_call_of_the_lstm_equals_stable_baselines_step_by_step():
    model = Bench("rl2").learner._members[0].model
    assert type(model.policy) is TrialLstmPolicy
    rng = torch.Generator().manual_seed(0)
    lstm, rows, steps = model.policy.lstm_actor, 5, 7
    features = torch.randn(rows * steps, lstm.input_size, generator=rng)
    states = tuple(torch.randn(1, rows, lstm.hidden_size, generator=rng) for _ in range(2))
    for at in (0, 3):  # a start in the middle is left to SB3
        starts = torch.zeros(rows, steps)
        starts[::2, at] = 1.0
        arguments = (features, states, starts.flatten(), lstm)
        found, after = TrialLstmPolicy._process_sequence(*arguments)
        expected, last = RecurrentActorCriticPolicy._process_sequence(*arguments)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(after, last, atol=1e-6, rtol=1e-6)


# --------------------------------------------------------------------------------------------- learning


def trained(name, learner, iterations, sampler):
    algo, _ = CASES[name]
    config = TrainConfig(env="x", algo=algo, learner=learner, sampler=sampler)
    env = NavigationEnv("navigation-2d", DenseGoal())
    env = ObserveTask(env) if getattr(learner, "mode", "") == "oracle" else env
    bench = Bench.__new__(Bench)
    bench.config, bench.env = config, env
    bench.learner = build(config, env, env.spec.tasks, vec_env)
    start = bench.returns().mean()
    bench.iterate(range(iterations))
    return start, bench.returns().mean()


def test_ppo_that_observes_the_task_learns_navigation_and_one_that_does_not_stays_at_the_floor():
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


# ------------------------------------------------------------------------------------------- the curve


def test_the_curve_from_scratch_puts_each_return_against_the_experience_before_it():
    bench = Bench("ppo scratch")
    done = bench.iterate(range(3))
    result = json.loads(json.dumps(bench.learner.learning_curve(bench.env), allow_nan=False))
    steps = 2 * 2 * HORIZON  # of one task in one iteration: E rows x K + 1 episodes
    assert result["experience"]["env_steps"] == [0.0, steps, 2 * steps, 3 * steps]
    assert result["experience"]["episodes"][0] == 0.0
    assert all(4.0 * i <= count for i, count in enumerate(result["experience"]["episodes"]))
    assert len(result["returns"]["mean"]) == len(result["returns"]["per_task"]) == 4
    for point, iteration in zip(result["returns"]["mean"], done, strict=False):
        assert point == pytest.approx(np.mean(iteration.returns))
    assert result["num_tasks"] == 3 and result["episodes_per_task"] == 4
    np.testing.assert_array_equal(result["tasks"], evaluate.held_out_tasks(bench.env.spec, 0, 3))
    assert "from scratch" in result["note"]
    assert result["faulted_episodes"] == [0, 0, 0, 0]


class Breaking(NavigationEnv):
    """The first row breaks down in the third step of every episode."""

    def step(self, action, alive):
        step = super().step(action, alive)
        first = np.arange(len(alive)) == 0
        self.steps = 0 if not hasattr(self, "steps") else self.steps + 1
        fault = first & alive & (self.steps % 3 == 2)
        return Step(step.obs, np.where(fault, 0.0, step.reward), step.terminated & ~fault, fault)


def test_episodes_that_broke_down_are_counted_in_every_point():
    bench = Bench("ppo scratch", env=Breaking("breaking", DenseGoal(), horizon=HORIZON))
    done = bench.iterate(range(2))
    result = bench.learner.learning_curve(bench.env)
    # the first K + 1 = 2 episodes of the first of 2 rows, for 3 tasks each
    assert [iteration.faults for iteration in done] == [6.0, 6.0]
    assert result["faulted_episodes"][:2] == [6, 6] and result["faulted_episodes"][2] >= 1


def test_a_long_curve_is_thinned_out_evenly_over_the_logarithm_of_the_experience():
    curve = Curve.empty(2, 3)
    assert curve.points().size == 0
    for iteration in range(200):
        played = [
            Played(
                6, np.full((3, 1), float(iteration)), *[np.zeros((3, 1))] * 3, count, {}, 0.0, 0.0
            )
            for count in (3, 5)
        ]
        curve = curve.longer(played)
    shown = curve.points()
    assert shown[0] == 0 and shown[-1] == 199 and len(shown) <= MAX_POINTS
    assert (np.diff(shown) > 0).all() and shown[:5].tolist() == [0, 1, 2, 3, 4]
    steps, episodes = curve.experience()
    assert steps[[0, 1, 200]].tolist() == [0.0, 6.0, 1200.0]
    assert episodes[[0, 1, 200]].tolist() == [0.0, 4.0, 800.0]
    assert curve.returns[7].tolist() == [[7.0] * 3] * 2


def test_only_policies_from_scratch_have_a_curve():
    bench = Bench("ppo multi-task")
    with pytest.raises(ValueError, match="only mode scratch"):
        bench.learner.learning_curve(bench.env)
    with pytest.raises(ValueError, match="3 tasks were trained on, not 4"):
        Bench("ppo scratch").learner.begin(4, 1)


def test_discrete_actions_are_refused():
    env = small_env()
    env.spec = replace(env.spec, discrete=True)
    with pytest.raises(ConfigError, match="--algo sb3-ppo has no policy for discrete actions"):
        Bench("ppo multi-task", env=env)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
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
def test_settings_out_of_range_are_refused_by_name(kind, changes, words):
    with pytest.raises(ConfigError, match=words):
        kind(**changes)


def test_where_an_array_begins_in_memory_does_not_change_what_is_chosen():
    from metarl.baselines.members import CopyingExtractor

    extractor = CopyingExtractor(spaces.Box(-1.0, 1.0, (6,)))
    torch.manual_seed(0)
    layer, chosen = torch.nn.Linear(6, 64), []
    for start in range(16):
        seen = np.zeros(2 * 6 + 16, np.float32)[start : start + 12].reshape(2, 6)
        seen[:] = np.random.default_rng(0).standard_normal((2, 6))
        with torch.no_grad():
            chosen.append(layer(extractor(torch.from_numpy(seen))))
    assert all(torch.equal(one, chosen[0]) for one in chosen)
