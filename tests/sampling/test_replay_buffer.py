"""The replay buffer against the rollouts that were put in, and against a loop over its steps."""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from metarl.core.machine import mapped
from metarl.core.rollout import Rollout
from metarl.sampling.replay_buffer import (
    NUMBER,
    ReplayBuffer,
    TransitionSampler,
    episode_shapes,
    to_entries,
)

T = 4
SHAPES = episode_shapes(2, 1)


def make_rollout(num_tasks, num_episodes, lengths, offset, terminated=None):
    """Every number of a step tells its task, episode and step; later ones are zero."""
    size = num_tasks, num_episodes
    length = torch.tensor(lengths).view(size)
    step = torch.arange(T)
    valid = step < length.unsqueeze(-1)
    base = offset + 100.0 * torch.arange(num_tasks * num_episodes).view(*size, 1) + step
    fell = torch.zeros(size, dtype=torch.bool) if terminated is None else torch.tensor(terminated)
    return Rollout(
        obs=torch.where(valid, base, 0.0).unsqueeze(-1).repeat(1, 1, 1, 2),
        action=torch.where(valid, base, 0.0).unsqueeze(-1) + 0.25 * valid.unsqueeze(-1),
        log_prob=torch.zeros(*size, T),
        reward=torch.where(valid, base + 0.5, 0.0),
        valid=valid,
        terminated=fell.view(size),
        truncated=torch.zeros(size, dtype=torch.bool),
        last_obs=(base[..., 0] + length).unsqueeze(-1).repeat(1, 1, 2),
    )


def trial(offset=0.0, num_tasks=2):
    """Two rollouts of tasks with two episodes; some robots fall, and one never takes a step."""
    falls = [False, True] * num_tasks
    one = make_rollout(num_tasks, 2, [4, 2, 0, 3][: 2 * num_tasks], offset + 1000.0, falls)
    other = make_rollout(num_tasks, 2, [4, 4, 1, 4][: 2 * num_tasks], offset + 2000.0)
    return [one, other]


def filled(most_tasks, trials):
    buffer = ReplayBuffer(most_tasks)
    for i in range(trials):
        buffer = buffer.append(to_entries(trial(1e4 * i), buffer.next_task()))
    return buffer


def test_entries_are_ordered_by_task_and_rollout():
    entries = to_entries(trial(), first_task=7)
    assert entries["task"].tolist() == [7] * 4 + [8] * 4
    assert entries["rollout"].tolist() == [0, 0, 1, 1] * 2
    assert entries["length"].tolist() == [4, 2, 4, 4, 0, 3, 1, 4]
    assert entries["obs"][1, :, 0].tolist() == [1100.0, 1101.0, 1102.0, 0.0, 0.0]  # the last obs


def test_transitions_are_those_of_the_rollouts():
    """Draws many, and compares each kind with all that a loop finds in the rollouts."""
    buffer, expected = filled(10, 1), set()
    for rollout in trial():
        for task, episode, step in rollout.valid.nonzero().tolist():
            is_last = step + 1 == int(rollout.valid[task, episode].sum())
            before = float(rollout.obs[task, episode, step, 0])
            after = (
                rollout.last_obs[task, episode] if is_last else rollout.obs[task, episode, step + 1]
            )
            fell = is_last and bool(rollout.terminated[task, episode])
            expected.add((task, before, before + 0.25, before + 0.5, float(after[0]), fell))
    drawn = TransitionSampler(buffer).sample(np.random.default_rng(0), np.arange(2), 600)
    found = {
        (
            task,
            float(drawn.obs[task, i, 0]),
            float(drawn.action[task, i, 0]),
            float(drawn.reward[task, i]),
            float(drawn.next_obs[task, i, 1]),
            bool(drawn.terminal[task, i]),
        )
        for task in range(2)
        for i in range(600)
    }
    assert found == expected and sum(kind[-1] for kind in found) == 3 - 1


def test_valid_steps_of_a_task_are_drawn_equally_often():
    sampler = TransitionSampler(filled(10, 1))
    assert sampler.counts.tolist() == [14, 8]
    drawn = sampler.sample(np.random.default_rng(1), np.array([0]), 28_000)
    _, counts = np.unique(drawn.obs[0, :, 0].numpy(), return_counts=True)
    assert len(counts) == 14 and abs(counts - 2000).max() < 5 * 2000**0.5


def test_horizon_is_not_the_end_of_a_task():
    """Of the episodes that reach the horizon or fall, only falls are terminal."""
    drawn = TransitionSampler(filled(10, 1)).sample(np.random.default_rng(2), np.array([0]), 500)
    ends = drawn.next_obs[0, drawn.terminal[0], 0].unique().tolist()
    assert ends == [1102.0]
    assert 1004.0 in drawn.next_obs[0, ~drawn.terminal[0], 0].tolist()


def test_context_is_drawn_from_the_first_rollout_of_two():
    sampler = TransitionSampler(filled(10, 3))
    assert sampler.first_counts.tolist() == [6, 3] * 3
    drawn = sampler.sample_context(np.random.default_rng(3), np.arange(6), 200)
    assert ((drawn.obs % 1e4 >= 1000.0) & (drawn.obs % 1e4 < 2000.0)).all()
    assert torch.equal(drawn.obs[:, 0, 0].div(1e4).floor(), torch.tensor([0, 0, 1, 1, 2, 2.0]))


def test_context_is_drawn_from_all_rollouts_of_one():
    sampler = TransitionSampler(ReplayBuffer(5).append(to_entries(trial()[:1])))
    assert sampler.first_counts.tolist() == sampler.counts.tolist() == [6, 3]
    drawn = sampler.sample_context(np.random.default_rng(3), np.array([0]), 300)
    assert len(drawn.obs[0, :, 0].unique()) == 6


def test_contexts_have_one_to_all_but_the_last_rollouts():
    """Of four rollouts, as many contexts have the first alone as the first two and three."""
    rollouts = [make_rollout(1, 1, [T], 1000.0 * (k + 1)) for k in range(4)]
    sampler = TransitionSampler(ReplayBuffer(5).append(to_entries(rollouts)))
    assert sampler.first_counts.tolist() == [T]
    drawn = sampler.sample_context(np.random.default_rng(4), np.zeros(3000, dtype=int), 60)
    last = drawn.obs[..., 0].div(1000.0).floor().amax(dim=1)
    counts = [int((last == k).sum()) for k in (1, 2, 3, 4)]
    assert counts[3] == 0 and all(abs(count - 1000) < 130 for count in counts[:3])
    steps = drawn.obs[last == 3, :, 0]  # equally often from all of its steps
    _, found = steps.unique(return_counts=True)
    assert len(found) == 3 * T and (found.double() / steps.numel() * 3 * T - 1).abs().max() < 0.05


def test_beginnings_are_of_one_episode_each():
    """Up to C transitions in their order, else C drawn; n of L steps as often as u^2 says."""
    length, count, number = 200, 8, 4000
    episodes = [torch.arange(length) + 1000.0 * (k + 1) for k in range(3)]
    obs = torch.stack([*episodes[:2], episodes[2]]).view(1, 3, length, 1)
    rollout = Rollout(
        obs=obs,
        action=torch.zeros_like(obs),
        log_prob=torch.zeros(1, 3, length),
        reward=torch.zeros(1, 3, length),
        valid=torch.ones(1, 3, length, dtype=torch.bool),
        terminated=torch.zeros(1, 3, dtype=torch.bool),
        truncated=torch.zeros(1, 3, dtype=torch.bool),
        last_obs=torch.zeros(1, 3, 1),
    )
    second = dataclasses.replace(rollout, obs=obs + 1e4)
    sampler = TransitionSampler(ReplayBuffer(5).append(to_entries([rollout, second])))
    rng, tasks = np.random.default_rng(5), np.zeros(number, dtype=int)
    drawn, valid = sampler.sample_beginnings(rng, tasks, count)
    places = drawn.obs[..., 0]
    episode, step = places.div(1000.0).floor(), places % 1000.0
    assert (episode == episode[:, :1]).all()
    assert sorted(episode[:, 0].unique().tolist()) == [1.0, 2.0, 3.0]
    few = ~valid.all(dim=1)
    numbers = valid.sum(dim=1)
    order = torch.arange(float(count))
    assert torch.equal(step[few][valid[few]], order.expand(int(few.sum()), count)[valid[few]])
    for n in range(1, count):  # u is between sqrt((n - 1) / 200) and sqrt(n / 200)
        expected = (n / length) ** 0.5 - ((n - 1) / length) ** 0.5
        assert abs(int((numbers == n).sum()) / number - expected) < 0.01, n
    # of a beginning with more steps, the mean of those drawn is half its length
    assert abs(float(step[~few].mean()) - _mean_step(length, count)) < 3.0


def _mean_step(length, count):
    """Mean of a step drawn from the first n >= C of an episode's, by numerical integration."""
    u = (np.arange(100_000) + 0.5) / 100_000
    number = np.ceil(length * u**2)
    return float((number[number >= count] - 1).mean() / 2)


def test_reward_moments_are_those_of_valid_steps():
    buffer = filled(3, 3)
    rewards = [
        rollout.reward[task, episode, step].item()
        for rollout in trial()
        for task, episode, step in rollout.valid.nonzero().tolist()
    ]
    whole = ReplayBuffer(10).append(to_entries(trial()))
    mean, factor = TransitionSampler(whole).reward_moments
    assert np.isclose(mean, np.mean(rewards)) and np.isclose(factor, 1.0 / np.std(rewards))
    assert TransitionSampler(buffer).reward_moments != (mean, factor)


def test_equal_rewards_have_no_deviation():
    same = [dataclasses.replace(each, reward=0.3 * each.valid) for each in trial()]
    mean, factor = TransitionSampler(ReplayBuffer(5).append(to_entries(same))).reward_moments
    assert np.isclose(mean, 0.3) and factor == 0.0


def test_beginnings_leave_out_episodes_without_steps():
    sampler = TransitionSampler(filled(10, 3))
    drawn, valid = sampler.sample_beginnings(np.random.default_rng(3), np.arange(6), 50)
    assert ((drawn.obs % 1e4 >= 1000.0) & (drawn.obs % 1e4 < 2000.0)).all() and valid[:, 0].all()
    assert torch.equal(drawn.obs[:, 0, 0].div(1e4).floor(), torch.tensor([0, 0, 1, 1, 2, 2.0]))


def test_tasks_never_mix():
    buffer = filled(4, 5)
    drawn = TransitionSampler(buffer).sample(np.random.default_rng(4), np.arange(4), 100)
    trials = drawn.obs[..., 0].div(1e4).floor()
    assert torch.equal(trials, torch.tensor([[3.0], [3.0], [4.0], [4.0]]).expand(4, 100))
    second = (drawn.obs[..., 0] % 1000.0) >= 200.0
    assert torch.equal(second, torch.tensor([[False], [True]] * 2).expand(4, 100))


@pytest.mark.parametrize("most_tasks", [1, 2, 3, 5, 100])
def test_only_the_newest_tasks_stay(most_tasks):
    buffer = filled(most_tasks, 6)
    kept = min(most_tasks, 12)
    assert buffer.stop == 48 and len(buffer) == 4 * kept and buffer.next_task() == 12
    assert buffer.read_one("task").unique().tolist() == list(range(12 - kept, 12))
    whole = filled(100, 6).read(48 - 4 * kept, 48)
    read = buffer.read(buffer.start, buffer.stop)
    assert all(torch.equal(read[name], whole[name]) for name in whole)
    assert len(buffer.ring["task"]) < 2 * (len(buffer) + 8)  # bounded


def test_buffer_before_an_append_stays_valid():
    for most_tasks in (2, 5, 100):
        before = filled(most_tasks, 3)
        entries = before.read(before.start, before.stop)
        for _ in range(3):  # updates that failed, one after the other
            before.append(to_entries(trial(5e5), before.next_task()))
            again = before.read(before.start, before.stop)
            assert all(torch.equal(entries[name], again[name]) for name in entries)


@pytest.mark.parametrize("most_tasks", [3, 100])
def test_saved_buffer_is_loaded_bit_for_bit(most_tasks):
    buffer = filled(most_tasks, 4)
    first, second = buffer.read(buffer.start, buffer.stop - 3), buffer.read(buffer.stop - 3, 32)
    entries = {name: torch.cat([first[name], second[name]]) for name in first}
    loaded = ReplayBuffer(most_tasks).load(entries, SHAPES)
    assert (loaded.start, loaded.stop) == (buffer.start, buffer.stop)
    more = to_entries(trial(9e5), buffer.next_task())
    for one, other in ((buffer, loaded), (buffer.append(more), loaded.append(more))):
        left, right = one.read(one.start, one.stop), other.read(other.start, other.stop)
        assert all(torch.equal(left[name], right[name]) for name in left)
        draws = [
            TransitionSampler(each).sample(np.random.default_rng(5), np.arange(3), 9)
            for each in (one, other)
        ]
        assert all(
            torch.equal(a, b) for a, b in zip(*(vars(d).values() for d in draws), strict=True)
        )


@pytest.mark.parametrize("most_tasks", [3, 100])
def test_buffer_in_files_gives_the_same_transitions(most_tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    draws = []
    for least in (mapped.LEAST, 1):
        monkeypatch.setattr(mapped, "LEAST", least)
        buffer = filled(most_tasks, 4)
        assert (str(tmp_path) in Path("/proc/self/maps").read_text("utf-8")) == (least == 1)
        sampler = TransitionSampler(buffer)
        draws.append(vars(sampler.sample(np.random.default_rng(5), np.arange(3), 200)))
    assert all(torch.equal(value, draws[1][name]) for name, value in draws[0].items())


def test_forgotten_tasks_are_dropped_again_when_loaded():
    whole = filled(100, 4)
    loaded = ReplayBuffer(3).load(whole.read(0, 32), SHAPES)
    assert (loaded.start, loaded.stop) == (filled(3, 4).start, 32)


def test_entries_of_another_buffer_are_refused():
    buffer = filled(100, 2)
    entries = buffer.read(0, 16)
    broken = {name: value for name, value in entries.items() if name != "length"}
    with pytest.raises(ValueError, match="other entries: length"):
        buffer.load(broken, SHAPES)
    with pytest.raises(
        ValueError, match=r"'obs' is of shape \(16, 5, 2\), expected \(16, None, 3\)"
    ):
        buffer.load(entries, episode_shapes(3, 1))
    with pytest.raises(ValueError, match=r"'reward' is of shape \(15, 4\), expected \(16, None\)"):
        buffer.load({**entries, "reward": entries["reward"][:15]}, SHAPES)
    with pytest.raises(ValueError, match="entries of the replay store are missing"):
        buffer.load({n: v[[0, 2, 3]] for n, v in entries.items()}, SHAPES)
    with pytest.raises(ValueError, match="'reward' is not finite"):
        buffer.load({**entries, "reward": entries["reward"] * float("inf")}, SHAPES)
    with pytest.raises(ValueError, match=r"shape \(3, 1\), those before \(4, 1\)"):
        short = to_entries(trial())
        buffer.append(short | {"action": short["action"][:, :3]})
    with pytest.raises(ValueError, match=r"0\.\.3 are not held: those are 12\.\.24"):
        filled(3, 3).read(0, 3)


# --- a buffer that counts entries


def counted(numbers):
    return {"value": 0.5 * torch.tensor(list(numbers)).unsqueeze(1)}


def assert_holds(buffer, start, stop):
    """Entry i is 0.5 i."""
    read = buffer.read(start, stop)
    assert (buffer.start, buffer.stop) == (start, stop)
    assert torch.equal(read["value"], counted(range(start, stop))["value"])
    assert torch.equal(read[NUMBER], torch.arange(start, stop))


@pytest.mark.parametrize("most", [1, 7, 64, 1000])
def test_only_the_newest_entries_stay(most):
    buffer, sizes = ReplayBuffer(most, NUMBER), np.random.default_rng(0).integers(0, 20, 200)
    for size in sizes:
        buffer = buffer.append(counted(range(buffer.stop, buffer.stop + size)))
        assert_holds(buffer, max(0, buffer.stop - most), buffer.stop)
        assert len(buffer.ring["value"]) < 2 * (most + 20)
    assert buffer.stop == sizes.sum() > 1000


def test_append_that_fails_leaves_the_buffer_as_it_was(monkeypatch):
    buffer = ReplayBuffer(5, NUMBER)
    for start in range(0, 24, 3):
        buffer = buffer.append(counted(range(start, start + 3)))
    for broken in ({"value": torch.zeros(2, 4)}, {"value": [[1.0], ["x"]]}):
        with pytest.raises((ValueError, AttributeError)):
            buffer.append(broken)
        assert_holds(buffer, 19, 24)
    monkeypatch.setattr(mapped, "zeros", lambda *_: 1 / 0)  # no memory for a larger ring
    with pytest.raises(ZeroDivisionError):
        buffer.append(counted(range(50)))
    assert_holds(buffer, 19, 24)
    assert_holds(buffer.append(counted([24])), 20, 25)


def test_buffer_that_is_set_back_repeats_what_followed():
    buffer = ReplayBuffer(6, NUMBER).append(counted(range(10)))
    for size in (4, 7, 10):
        assert_holds(buffer.set_back(size), 4, size)
    for size in (0, 3, 11, 50):  # forgotten, or never appended
        empty = buffer.set_back(size)
        assert (empty.start, empty.stop, len(empty)) == (size, size, 0)
    assert_holds(buffer, 4, 10)
    again = buffer.set_back(7).append(counted([7, 8]))
    assert_holds(again, 4, 9)
    assert_holds(buffer.set_back(50).append(counted([50, 51])), 50, 52)


def test_loading_more_entries_takes_no_memory_for_them():
    whole = ReplayBuffer(1000, NUMBER).append(counted(range(900)))
    loaded = ReplayBuffer(10, NUMBER).load(whole.read(100, 900), {"value": (1,)})
    assert_holds(loaded, 890, 900)
    assert len(loaded.ring["value"]) < 20
