import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from metarl.functional.advantages import discounted_sum, gae, gae_over_trial, standardise


def random_episodes(lengths, horizon, seed=0):
    """Rewards and values (N, E, T), last values (N, E), mask of episodes of the given lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    reward = rng.normal(size=(*lengths.shape, horizon))
    value = rng.normal(size=(*lengths.shape, horizon))
    last_value = rng.normal(size=lengths.shape)
    valid = np.arange(horizon) < lengths[..., None]
    return [torch.from_numpy(a) for a in (reward, value, last_value, valid)]


def slow_gae(reward, value, last_value, length, discount, lam):
    """One episode by the double sum of equation 16."""
    values = [*value[:length].tolist(), float(last_value)]
    rewards = reward[:length].tolist()
    delta = [rewards[t] + discount * values[t + 1] - values[t] for t in range(length)]
    sums = [
        sum((discount * lam) ** (i - t) * delta[i] for i in range(t, length)) for t in range(length)
    ]
    return sums + [0.0] * (len(reward) - length)


def test_discounted_sum_of_three_steps_by_hand():
    # y2 = 4, y1 = 2 + 4/2 = 4, y0 = 1 + 4/2 = 3
    values = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    assert discounted_sum(values, 0.5).tolist() == [[3.0, 4.0, 4.0]]


def test_discounted_sum_equals_the_double_sum():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 2, 9)))
    slow = torch.stack(
        [sum(0.9 ** (i - t) * values[..., i] for i in range(t, 9)) for t in range(9)], dim=-1
    )
    torch.testing.assert_close(discounted_sum(values, 0.9), slow, rtol=0, atol=1e-14)


def test_discount_0_keeps_values_and_discount_1_sums_them():
    values = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)
    assert discounted_sum(values, 0.0).tolist() == [1.0, -2.0, 5.0]
    assert discounted_sum(values, 1.0).tolist() == [4.0, 3.0, 5.0]


def test_discounted_sum_keeps_the_dtype():
    assert discounted_sum(torch.ones(2, 3), 0.5).dtype == torch.float32


def test_gae_of_three_steps_by_hand():
    # discount 1/2, lambda 1/2, last value 8:
    # delta = [1 + 4/2 - 2, 2 + 6/2 - 4, 3 + 8/2 - 6] = [1, 1, 1]
    # A2 = 1, A1 = 1 + A2/4 = 5/4, A0 = 1 + A1/4 = 21/16
    advantage = gae(
        torch.tensor([1.0, 2.0, 3.0]),
        torch.tensor([2.0, 4.0, 6.0]),
        torch.tensor(8.0),
        torch.ones(3, dtype=torch.bool),
        0.5,
        0.5,
    )
    assert advantage.tolist() == [1.3125, 1.25, 1.0]


@pytest.mark.parametrize(("discount", "lam"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_gae_of_different_lengths_equals_a_loop_over_episodes(discount, lam):
    lengths = [[7, 1, 4], [6, 7, 2]]
    reward, value, last_value, valid = random_episodes(lengths, 7)
    advantage = gae(reward, value, last_value, valid, discount, lam)
    for i, row in enumerate(lengths):
        for j, length in enumerate(row):
            slow = slow_gae(reward[i, j], value[i, j], last_value[i, j], length, discount, lam)
            np.testing.assert_allclose(advantage[i, j].numpy(), slow, rtol=0, atol=1e-13)


@pytest.mark.parametrize("ended", [True, False])
def test_gae_equals_stable_baselines3(ended):
    episodes, horizon = 5, 12
    reward, value, last_value, valid = random_episodes([horizon] * episodes, horizon)
    box = spaces.Box(-1.0, 1.0, (1,))
    buffer = RolloutBuffer(horizon, box, box, "cpu", 0.95, 0.97, n_envs=episodes)
    buffer.rewards[:] = reward.T.numpy()
    buffer.values[:] = value.T.numpy()
    buffer.episode_starts[:] = 0.0
    buffer.compute_returns_and_advantage(last_value.float(), np.full(episodes, ended))
    after = torch.zeros(episodes, dtype=torch.float64) if ended else last_value
    advantage = gae(reward, value, after, valid, 0.97, 0.95)
    np.testing.assert_allclose(advantage.numpy().T, buffer.advantages, rtol=0, atol=2e-6)


def test_gae_bootstraps_after_a_fault_but_not_a_termination():
    # one valid step of three, r = 1, V = 3: delta = 1 + 0.5 * last - 3
    reward = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    value = torch.tensor([[3.0, 10.0, 20.0]] * 2)
    valid = torch.tensor([[True, False, False]] * 2)
    advantage = gae(reward, value, torch.tensor([10.0, 0.0]), valid, 0.5, 0.9)
    assert advantage.tolist() == [[3.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]


def test_gae_with_lambda_1_is_return_minus_value():
    reward, value, _, valid = random_episodes([[5, 3]], 5)
    reward = torch.where(valid, reward, 0.0)
    advantage = gae(reward, value, torch.zeros(1, 2, dtype=torch.float64), valid, 0.9, 1.0)
    expected = torch.where(valid, discounted_sum(reward, 0.9) - value, 0.0)
    torch.testing.assert_close(advantage, expected, rtol=0, atol=1e-14)


def test_invalid_steps_change_no_advantage():
    reward, value, last_value, valid = random_episodes([[5, 3, 0]], 5)
    clean = gae(reward, value, last_value, valid, 0.9, 0.8)
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    dirty = gae(
        torch.where(valid, reward, nan), torch.where(valid, value, nan), last_value, valid, 0.9, 0.8
    )
    assert torch.equal(clean, dirty)
    assert torch.equal(
        standardise(clean, valid), standardise(torch.where(valid, clean, nan), valid)
    )
    assert not dirty[~valid].any()


def test_standardise_gives_every_task_mean_0_and_std_1():
    advantage, _, _, valid = random_episodes([[6, 2, 3], [1, 4, 6]], 6)
    advantage = 50.0 + torch.tensor([1.0, 1e-3])[:, None, None] * advantage
    result = standardise(advantage, valid)
    for task in range(2):
        steps = result[task][valid[task]].numpy()
        np.testing.assert_allclose([steps.mean(), steps.std()], [0.0, 1.0], rtol=0, atol=1e-9)
        raw = advantage[task][valid[task]].numpy()
        np.testing.assert_allclose(steps, (raw - raw.mean()) / raw.std(), rtol=0, atol=1e-9)
    assert not result[~valid].any()


@pytest.mark.parametrize("constant", [0.0, 1.0, -3.7, 1e6 / 3, -1e9 / 7, 1e-9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_standardise_turns_constants_into_zeros(constant, dtype):
    valid = random_episodes([[6, 2], [1, 6]], 6)[3]
    result = standardise(torch.full((2, 2, 6), constant, dtype=dtype), valid)
    assert torch.equal(result, torch.zeros(2, 2, 6, dtype=dtype))


def test_standardise_turns_rounding_differences_into_zeros():
    valid = torch.ones(1, 20, 200, dtype=torch.bool)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 20, 200)))
    assert not standardise(1e6 * (1.0 + 1e-9 * noise), valid).any()
    assert not standardise(1e-9 * noise, valid).any()
    assert standardise(1e6 * (1.0 + 1e-3 * noise), valid).std() > 0.99


def test_standardise_of_tiny_constants_is_zero():
    valid = torch.ones(1, 2, 3, dtype=torch.bool)
    for constant in (0.0, 1e-9, 3e-30):
        tiny = torch.full((1, 2, 3), constant, dtype=torch.float64)
        assert not standardise(tiny, valid, abs(constant)).any()
    rising = torch.arange(6.0, dtype=torch.float64).reshape(1, 2, 3)
    assert standardise(1e-20 * rising, valid, 1e-20).std() > 0.9


def test_standardise_of_a_constant_task_keeps_the_others():
    advantage = torch.tensor([[[5.0, 5.0]], [[1.0, 3.0]]])
    result = standardise(advantage, torch.ones(2, 1, 2, dtype=torch.bool))
    assert result.tolist() == [[[0.0, 0.0]], [[-1.0, 1.0]]]


def test_standardise_of_a_task_without_valid_steps_is_zero():
    result = standardise(torch.ones(1, 2, 3), torch.zeros(1, 2, 3, dtype=torch.bool))
    assert torch.equal(result, torch.zeros(1, 2, 3))


# --- over a trial of episodes


def column(*values):
    return torch.tensor(values, dtype=torch.float64).unsqueeze(-1)


def test_gae_over_a_trial_of_two_episodes_by_hand():
    # two episodes of two steps, discount 1/2, lambda 1/2, nothing after the trial:
    # delta = [1 + 4/2 - 2, 2 + 6/2 - 4, 3 + 8/2 - 6, 4 + 0 - 8] = [1, 1, 1, -4]
    # A3 = -4, A2 = 1 - 4/4 = 0, A1 = 1 + 0 = 1 (across the episode's end), A0 = 1 + 1/4
    reward, value = column(1, 2, 3, 4), column(2, 4, 6, 8)
    every = torch.ones(4, 1, dtype=torch.bool)
    advantage = gae_over_trial(reward, value, every, every, 0.5, 0.5)
    assert advantage.flatten().tolist() == [1.25, 1.0, 0.0, -4.0]


def test_fault_cuts_the_trial_and_bootstraps_with_the_value():
    # the simulation fails in step 2, whose value is 6; another episode follows
    # delta1 = 2 + 6/2 - 4 = 1 and nothing beyond, A0 = 1 + 4/2 - 2 + 1/4; A3 = 4 - 8
    reward, value = column(1, 2, 0, 4), column(2, 4, 6, 8)
    valid = column(1, 1, 0, 1).bool()
    acted = torch.ones(4, 1, dtype=torch.bool)
    advantage = gae_over_trial(reward, value, valid, acted, 0.5, 0.5)
    assert advantage.flatten().tolist() == [1.25, 1.0, 0.0, -4.0]


def test_nothing_counts_behind_an_end():
    # as by hand above, but the first episode ends for good: delta1 = 2 - 4, A1 = delta1
    reward, value = column(1, 2, 3, 4), column(2, 4, 6, 8)
    every = torch.ones(4, 1, dtype=torch.bool)
    ends = column(0, 1, 0, 0).bool()
    advantage = gae_over_trial(reward, value, every, every, 0.5, 0.5, ends=ends)
    assert advantage.flatten().tolist() == [0.5, -2.0, 0.0, -4.0]


def test_steps_behind_a_trial_are_not_read():
    reward, value = column(1, 2, float("nan")), column(2, 4, float("nan"))
    valid = column(1, 1, 0).bool()
    advantage = gae_over_trial(reward, value, valid, valid, 0.5, 0.5)
    assert advantage.flatten().tolist() == [0.5, -2.0, 0.0]


def test_trial_of_one_episode_equals_plain_gae():
    reward, value, _, valid = random_episodes([[7, 3], [5, 9]], 9)
    rows = [a.flatten(0, 1).T for a in (reward, value, valid)]
    found = gae_over_trial(rows[0], rows[1], rows[2], rows[2], 0.97, 0.9)
    expected = gae(reward, value, torch.zeros(2, 2, dtype=torch.float64), valid, 0.97, 0.9)
    torch.testing.assert_close(found.T.reshape(2, 2, 9), expected)
