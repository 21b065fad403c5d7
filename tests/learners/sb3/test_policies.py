"""Acting of Stable-Baselines3 policies in a trial: noise, memory, scales."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_bench import CASES, HORIZON, Bench, small_env
from gymnasium import spaces
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from whole_trial import trial

from metarl.envs.wrappers.sb3 import vec_env
from metarl.learners.sb3.model import TrialLstmPolicy
from metarl.sampling.sampler import Key


@pytest.mark.parametrize("name", CASES)
def test_mode_ignores_noise_and_densities_are_those_of_torch(
    name,
):
    bench = Bench(name)
    learner, size = bench.learner, bench.env.spec.obs_size
    obs, noise = torch.rand(3, 2, size), torch.full((3, 2, 2), float("nan"))
    with torch.inference_mode():
        mode, _ = learner.act(learner.begin(3, 2, ()), obs, noise, explore=False)
        drawn, _ = learner.act(learner.begin(3, 2, ()), obs, torch.ones(3, 2, 2), explore=True)
    assert mode.value.shape == (3, 2, 2) and torch.equal(mode.log_prob, torch.zeros(3, 2))
    std = np.exp(-2.0)
    torch.testing.assert_close(drawn.value, mode.value + std)
    density = torch.distributions.Normal(mode.value, std).log_prob(drawn.value).sum(dim=2)
    torch.testing.assert_close(drawn.log_prob, density)


@pytest.mark.parametrize("name", CASES)
def test_policy_acts_as_in_stable_baselines(name):
    bench = Bench(name)
    bench.iterate(range(1))
    learner, size = bench.learner, bench.env.spec.obs_size
    obs = torch.rand(3, 2, size)
    context = learner.begin(3, 2, ())
    with torch.inference_mode():
        mode, _ = learner.act(context, obs, torch.zeros(3, 2, 2), explore=False)
    for task in range(3):
        member = learner._members[task if len(learner._members) > 1 else 0]
        seen = obs[task].numpy()
        if name.startswith("rl2"):
            seen = np.concatenate([seen, np.zeros((2, 4), dtype=np.float32)], axis=1)
        expected, _ = member.model.predict(member.normalize(seen), deterministic=True)
        np.testing.assert_allclose(mode.value[task].clamp(-1, 1), expected, atol=1e-6)


def test_memory_in_a_trial_equals_that_of_training():
    """Plays three episodes by metarl's trial and by SB3 on its training rows; some end early."""
    env = small_env(reached=0.2)
    bench = Bench("rl2", env=env)
    bench.iterate(range(3))
    model = bench.learner._members[0].model
    goals = np.random.default_rng(0).uniform(-0.35, 0.35, (12, 2))
    with torch.no_grad():  # a policy whose actions depend strongly on its memory
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


def test_scaled_rewards_leave_the_observed_reward_raw():
    bench = Bench("rl2 scaled")
    bench.iterate(range(1))
    buffer = bench.learner._members[0].model.rollout_buffer
    plain = Bench("rl2")
    plain.iterate(range(1))
    raw = plain.learner._members[0].model.rollout_buffer
    # the same first policy collected both, so only the rewards for learning differ
    np.testing.assert_array_equal(buffer.observations, raw.observations)
    assert np.ptp(raw.observations[..., 4]) > 0.1
    # one factor for each of the 24 steps, which changes with the statistics of returns
    shrunk = buffer.rewards / raw.rewards
    assert shrunk.shape == (2 * HORIZON, 6) and not np.allclose(shrunk, 1.0)
    np.testing.assert_allclose(shrunk, shrunk[:, :1].repeat(6, axis=1), rtol=1e-5)


def test_memory_lasts_one_trial():
    bench = Bench("rl2")
    learner, obs, noise = bench.learner, torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    tasks = np.full((3, 2), 0.3)
    with torch.inference_mode():
        first, _ = learner.act(learner.begin(3, 2, ()), obs, noise, explore=False)
        rollouts, context = trial(bench.env, learner, tasks, 2, 1, Key(0, "x", 0))
        again, _ = learner.act(learner.begin(3, 2, ()), obs, noise, explore=False)
        later, _ = learner.act(learner.adapt(context, rollouts[-1], ()), obs, noise, explore=False)
    assert torch.equal(first.value, again.value) and (later.value != first.value).all()


def test_last_reward_is_remembered_unless_the_episode_failed():
    learner = Bench("rl2").learner
    bench = Bench("rl2", env=small_env(horizon=3))
    rollouts, context = trial(bench.env, bench.learner, np.full((2, 2), 0.4), 1, 0, Key(0, "x", 0))
    made = rollouts[0]
    valid = made.valid.clone()
    valid[1, 0, 2] = False  # task 1 failed in its last step
    made = replace(made, valid=valid, truncated=torch.tensor([[False], [True]]))
    context = learner.adapt(context, made, ())
    assert context.reward[0, 0] == made.reward[0, 0, 2] != 0.0
    assert context.reward[1, 0] == 0.0 and context.later.tolist() == [[1.0], [1.0]]


def test_one_call_of_the_lstm_equals_step_by_step_calls():
    model = Bench("rl2").learner._members[0].model
    assert type(model.policy) is TrialLstmPolicy
    rng = torch.Generator().manual_seed(0)
    lstm, rows, steps = model.policy.lstm_actor, 5, 7
    features = torch.randn(rows * steps, lstm.input_size, generator=rng)
    states = tuple(torch.randn(1, rows, lstm.hidden_size, generator=rng) for _ in range(2))
    for at in (0, 3):  # SB3 handles a start in the middle
        starts = torch.zeros(rows, steps)
        starts[::2, at] = 1.0
        arguments = (features, states, starts.flatten(), lstm)
        found, after = TrialLstmPolicy._process_sequence(*arguments)
        expected, last = RecurrentActorCriticPolicy._process_sequence(*arguments)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(after, last, atol=1e-6, rtol=1e-6)


def test_actions_do_not_depend_on_memory_alignment():
    from metarl.learners.sb3.model import CopyingExtractor

    extractor = CopyingExtractor(spaces.Box(-1.0, 1.0, (6,)))
    torch.manual_seed(0)
    layer, chosen = torch.nn.Linear(6, 64), []
    for start in range(16):
        seen = np.zeros(2 * 6 + 16, np.float32)[start : start + 12].reshape(2, 6)
        seen[:] = np.random.default_rng(0).standard_normal((2, 6))
        with torch.no_grad():
            chosen.append(layer(extractor(torch.from_numpy(seen))))
    assert all(torch.equal(one, chosen[0]) for one in chosen)
