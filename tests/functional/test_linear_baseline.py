import dataclasses

import numpy as np
import pytest
import torch

from metarl.core.rollout import Rollout
from metarl.functional.advantages import advantages
from metarl.functional.linear_baseline import features, fit_predict

NAN = float("nan")


def make_rollout(lengths, horizon, *, faulted=(), fell=(), obs_size=3, seed=0):
    """Random episodes of the given lengths (N, E); faulted and fell list (task, episode)."""
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    valid = np.arange(horizon) < lengths[..., None]
    ends = {name: np.zeros(lengths.shape, dtype=bool) for name in ("terminated", "truncated")}
    for name, episodes in (("truncated", faulted), ("terminated", fell)):
        for place in episodes:
            ends[name][place] = True
    # the observation of the failed step is kept
    seen = valid | (np.arange(horizon) == lengths[..., None]) & ends["truncated"][..., None]
    arrays = {
        "obs": rng.normal(size=(*valid.shape, obs_size)) * seen[..., None],
        "action": rng.normal(size=(*valid.shape, 2)) * valid[..., None],
        "log_prob": rng.normal(size=valid.shape) * valid,
        "reward": (1.0 + rng.normal(size=valid.shape)) * valid,
    }
    tensors = {name: torch.from_numpy(a.astype(np.float32)) for name, a in arrays.items()}
    flags = {name: torch.from_numpy(a) for name, a in ends.items()}
    last = {"last_obs": torch.zeros(*valid.shape[:2], obs_size)}
    return Rollout(**tensors, valid=torch.from_numpy(valid), **flags, **last)


def lstsq_with_ridge(x, y, ridge):
    """Ridge regression by least squares, with sqrt(ridge) w = 0 for each coefficient."""
    penalty = np.sqrt(ridge * np.mean((x * x).sum(axis=0))) * np.eye(x.shape[1])
    stacked = np.concatenate([x, penalty]), np.concatenate([y, np.zeros(x.shape[1])])
    return np.linalg.lstsq(*stacked, rcond=None)[0]


def slow_advantages(rollout, discount, lam):
    """One task, one episode, one step at a time, in NumPy."""
    obs, reward = rollout.obs.double().numpy(), rollout.reward.double().numpy()
    lengths = rollout.valid.sum(dim=2).numpy()
    x = features(rollout.obs).numpy()
    result = np.zeros(reward.shape)
    for i in range(len(obs)):
        rows, targets = [], []
        for j, length in enumerate(lengths[i]):
            if not rollout.truncated[i, j]:
                rows += [x[i, j, t] for t in range(length)]
                targets += [
                    sum(discount ** (s - t) * reward[i, j, s] for s in range(t, length))
                    for t in range(length)
                ]
        weights = lstsq_with_ridge(np.array(rows), np.array(targets), 1e-5)
        for j, length in enumerate(lengths[i]):
            value = [x[i, j, t] @ weights for t in range(length)]
            value.append(x[i, j, length] @ weights if rollout.truncated[i, j] else 0.0)
            running = 0.0
            for t in reversed(range(length)):
                delta = reward[i, j, t] + discount * value[t + 1] - value[t]
                running = delta + discount * lam * running
                result[i, j, t] = running
        taken = rollout.valid[i].numpy()
        result[i][taken] = (result[i][taken] - result[i][taken].mean()) / result[i][taken].std()
    return result


# --- features


def test_features_are_observation_square_and_clock():
    obs = torch.tensor([[0.5, -20.0], [3.0, 11.0], [0.0, -2.0]])
    # o and o^2 of o clipped to [-10, 10]; t, t^2, t^3 with t in hundreds of steps; 1
    expected = [
        [0.5, -10.0, 0.25, 100.0, 0.0, 0.0, 0.0, 1.0],
        [3.0, 10.0, 9.0, 100.0, 0.01, 1e-4, 1e-6, 1.0],
        [0.0, -2.0, 0.0, 4.0, 0.02, 4e-4, 8e-6, 1.0],
    ]
    found = features(obs)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-18)


def test_features_of_a_batch_equal_those_of_its_episodes():
    obs = make_rollout([[4, 4], [4, 4]], 4).obs
    stacked = torch.stack([torch.stack([features(episode) for episode in task]) for task in obs])
    assert torch.equal(features(obs), stacked)


# --- fit


def test_return_linear_in_the_features_is_predicted_exactly():
    obs = make_rollout([[12] * 4] * 2, 12).obs
    x = features(obs).numpy()
    weights = np.random.default_rng(1).normal(size=(2, x.shape[-1]))
    target = np.einsum("nets,ns->net", x, weights)
    valid = torch.ones(2, 4, 12, dtype=torch.bool)
    predicted = fit_predict(obs, torch.from_numpy(target), valid, ridge=1e-13).numpy()
    for task in range(2):
        design = x[task].reshape(-1, x.shape[-1])
        solved = np.linalg.lstsq(design, target[task].ravel(), rcond=None)[0]
        np.testing.assert_allclose(predicted[task].ravel(), design @ solved, rtol=0, atol=1e-5)
        np.testing.assert_allclose(predicted[task], target[task], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ridge", [1e-5, 1e-2])
def test_fit_is_ridge_regression_over_valid_steps(ridge):
    rollout = make_rollout([[12, 5, 9], [3, 12, 7]], 12)
    target = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3, 12)))
    predicted = fit_predict(rollout.obs, target, rollout.valid, ridge=ridge).numpy()
    x = features(rollout.obs).numpy()
    for task in range(2):
        taken = rollout.valid[task].numpy()
        weights = lstsq_with_ridge(x[task][taken], target[task].numpy()[taken], ridge)
        np.testing.assert_allclose(predicted[task], x[task] @ weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["constant", "zero", "one valid step", "no valid step", "huge"])
def test_degenerate_data_give_finite_predictions_and_advantages(kind):
    rollout = make_rollout([[6, 6, 6]], 6)
    obs, valid = rollout.obs, rollout.valid
    if kind in ("constant", "zero"):
        obs = torch.full_like(obs, 2.5 if kind == "constant" else 0.0)
    elif kind == "huge":
        obs = 1e30 * obs
    else:
        valid = torch.zeros_like(valid)
        valid[0, 1, 0] = kind == "one valid step"
    rollout = dataclasses.replace(rollout, obs=obs, valid=valid)
    assert bool(fit_predict(obs, rollout.reward, valid).isfinite().all())
    advantage, explained = advantages(rollout, 0.99, 0.95)
    assert bool(advantage.isfinite().all())
    assert not advantage[~valid].any()
    assert np.isfinite(explained)


# --- advantages


@pytest.mark.parametrize(("discount", "lam"), [(0.99, 1.0), (0.9, 0.5)])
def test_advantages_equal_a_loop_over_tasks_episodes_and_steps(discount, lam):
    rollout = make_rollout(
        [[20, 13, 4, 20, 9], [20, 20, 1, 0, 20]],
        20,
        fell=[(0, 1), (1, 2)],
        faulted=[(0, 2), (0, 4), (1, 3)],  # one of them in its first step
    )
    advantage, _ = advantages(rollout, discount, lam)
    slow = slow_advantages(rollout, discount, lam)
    assert advantage.dtype == torch.float32
    np.testing.assert_allclose(advantage.numpy(), slow, rtol=0, atol=2e-6)
    assert not advantage[~rollout.valid].any()


def test_rewards_of_a_faulted_episode_do_not_change_the_fit():
    # with lambda 1 and discount 1, advantage = return - value, so a change of the other episodes'
    # values would show in their advantages, up to the task's shift and scale
    rollout = make_rollout([[10, 10, 6]], 10, faulted=[(0, 2)])
    reward = rollout.reward.clone()
    reward[0, 2, :6] += 100.0
    values = []
    for changed in (rollout.reward, reward):
        advantage, explained = advantages(dataclasses.replace(rollout, reward=changed), 1.0, 1.0)
        own = advantage[0, :2].double()
        values.append((own - own.mean()) / own.std())
        values.append(torch.tensor(explained))
    torch.testing.assert_close(values[0], values[2], rtol=0, atol=1e-4)
    assert values[1] == values[3]


def test_fault_is_bootstrapped_and_fall_is_not():
    # rewards are 1 until the horizon, so the value of a state is the number of steps left
    horizon, cut = 50, 20
    clean = make_rollout([[horizon] * 5 + [cut] * 2], horizon, faulted=[(0, 5)], fell=[(0, 6)])
    rollout = dataclasses.replace(clean, reward=clean.valid.float())
    own = advantages(rollout, 1.0, 1.0)[0][0]
    # the robot that fell lost its future rewards; the one whose simulation failed did not
    assert float(own[6, :cut].mean()) < float(own[5, :cut].mean()) - 2.0
    assert float((own[5, :cut].mean() - own[:5].mean()).abs()) < 0.5


def test_invalid_steps_influence_nothing_bit_for_bit():
    rollout = make_rollout(
        [[8, 5, 3, 0], [8, 1, 8, 6]], 8, fell=[(0, 1), (1, 1)], faulted=[(0, 2), (0, 3), (1, 3)]
    )
    valid = rollout.valid
    steps = torch.arange(8)
    reached = (steps == valid.sum(dim=2, keepdim=True)) & rollout.truncated[..., None]
    nan = torch.tensor(NAN)
    garbage = Rollout(
        obs=torch.where((valid | reached)[..., None], rollout.obs, nan),
        action=torch.where(valid[..., None], rollout.action, nan),
        log_prob=torch.where(valid, rollout.log_prob, nan),
        reward=torch.where(valid, rollout.reward, nan),
        valid=valid,
        terminated=rollout.terminated,
        truncated=rollout.truncated,
        last_obs=torch.full_like(rollout.last_obs, NAN),
    )
    clean, dirty = advantages(rollout, 0.99, 0.95), advantages(garbage, 0.99, 0.95)
    assert torch.equal(clean[0], dirty[0])
    assert clean[1] == dirty[1]


def test_task_of_failed_episodes_keeps_the_others_unchanged():
    whole = make_rollout([[6, 6], [0, 0], [6, 6]], 6, faulted=[(1, 0), (1, 1)])
    fields = {f.name: getattr(whole, f.name)[[0, 2]] for f in dataclasses.fields(Rollout)}
    advantage, explained = advantages(whole, 0.99, 0.95)
    without, explained_without = advantages(Rollout(**fields), 0.99, 0.95)
    assert torch.equal(advantage[[0, 2]], without)
    assert not advantage[1].any()
    assert explained == pytest.approx(explained_without, rel=1e-12)  # the order of the sum


def test_tasks_do_not_influence_each_other_bit_for_bit():
    rollout = make_rollout([[8, 5, 3], [8, 1, 8], [4, 4, 7]], 8, faulted=[(0, 2)])
    together = advantages(rollout, 0.99, 0.95)[0]
    for task in range(3):
        fields = {
            f.name: getattr(rollout, f.name)[task : task + 1] for f in dataclasses.fields(Rollout)
        }
        assert torch.equal(together[task : task + 1], advantages(Rollout(**fields), 0.99, 0.95)[0])


def test_explained_variance_is_1_for_a_clock_0_for_constants():
    rollout = make_rollout([[30] * 6], 30)
    # a return that falls linearly with time is one of the features
    assert (
        advantages(dataclasses.replace(rollout, reward=rollout.valid.float()), 1.0, 1.0)[1] > 0.99
    )
    nothing = dataclasses.replace(rollout, reward=torch.zeros_like(rollout.reward))
    assert advantages(nothing, 1.0, 1.0)[1] == 0.0


def test_advantages_of_double_observations_are_double():
    rollout = make_rollout([[6, 6]], 6)
    double = dataclasses.replace(rollout, obs=rollout.obs.double())
    assert advantages(double, 0.99, 0.95)[0].dtype == torch.float64


@pytest.mark.parametrize("factor", [1e-30, 1e-8, 1e-3, 1e3, 1e12])
def test_advantages_do_not_depend_on_the_unit_of_the_reward(factor):
    rollout = make_rollout([[8, 5, 3], [8, 1, 8]], 8)
    plain, explained = advantages(rollout, 0.99, 0.95)
    other = dataclasses.replace(rollout, reward=factor * rollout.reward.double())
    scaled, again = advantages(other, 0.99, 0.95)
    assert plain.abs().max() > 1.0 and again == pytest.approx(explained)
    np.testing.assert_allclose(scaled.numpy(), plain.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("horizon", [200, 1000, 4000])
def test_small_observations_are_used_at_long_horizons(horizon):
    obs = 0.1 * torch.randn(1, 4, horizon, 3, generator=torch.Generator().manual_seed(0))
    target = 10.0 * obs[..., 0].double()
    predicted = fit_predict(obs, target, torch.ones(1, 4, horizon, dtype=torch.bool))
    assert (predicted - target).var() < 0.01 * target.var()
