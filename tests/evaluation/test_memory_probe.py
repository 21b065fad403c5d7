"""Probes of synthetic memories that contain the task from a known step on."""

import numpy as np
import pytest
import torch

from metarl.core.rollout import Rollout
from metarl.core.tasks import Variable
from metarl.evaluation.memory_probe import (
    choose_steps,
    find_start,
    probe_rollouts,
    read_memory,
)
from metarl.sampling.sequences import Sequences

HORIZON, NUM_TASKS, EPISODES = 40, 80, 2
VARIABLES = (
    Variable("speed", "m/s", 0.0, 3.0),
    Variable("limb", "1", 0.0, 3.0, labels=("a", "b", "c", "d")),
    Variable("mass", "kg", 1.0, 1.0),
)


def make_rollouts(num_rollouts, lengths=None, failed=None):
    """Rollouts of numbered observations; lengths (K + 1, N, E) are valid steps of the episodes."""
    size = (NUM_TASKS, EPISODES)
    lengths = np.full((num_rollouts, *size), HORIZON) if lengths is None else lengths
    failed = np.zeros((num_rollouts, *size), dtype=bool) if failed is None else failed
    rollouts = []
    for k in range(num_rollouts):
        number = torch.arange(NUM_TASKS * EPISODES * HORIZON).float().view(*size, HORIZON, 1)
        valid = torch.arange(HORIZON) < torch.from_numpy(lengths[k]).unsqueeze(-1)
        zero = torch.zeros(*size, HORIZON)
        rollouts.append(
            Rollout(
                obs=number + 1e5 * k,
                action=zero.unsqueeze(-1),
                log_prob=zero,
                reward=zero,
                valid=valid,
                terminated=~valid[:, :, -1],
                truncated=torch.from_numpy(failed[k]),
                last_obs=torch.zeros(*size, 1),
            )
        )
    return rollouts


class EchoMemory:
    """Its features are the observations in the order in which the policy met them."""

    def read_memory(self, rollouts):
        steps = Sequences.of(rollouts)
        return steps.obs.double(), steps.obs.double()


class LearningMemory:
    """Its features are noise, to which the task is added from step `start` of the trial on."""

    def __init__(self, tasks, start):
        limb = np.eye(4)[tasks[:, 1].astype(int)]
        code = np.concatenate([tasks[:, :1], limb], axis=1)
        self.code, self.start, self.tasks_read = torch.from_numpy(code), start, 0
        self.generator = torch.Generator().manual_seed(0)

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def read_memory(self, rollouts):
        tasks, steps = len(rollouts[0].obs), HORIZON * len(rollouts)
        own = self.code[self.tasks_read : self.tasks_read + tasks].repeat_interleave(EPISODES, 0)
        self.tasks_read += tasks
        features = 0.05 * self.draw(steps, tasks * EPISODES, 12)
        features[self.start :, :, :5] += own
        return features, self.draw(steps, tasks * EPISODES, 6)


def draw_tasks(seed=0):
    rng = np.random.default_rng(seed)
    speed, limb = rng.uniform(0.0, 3.0, NUM_TASKS), rng.permutation(np.arange(NUM_TASKS) % 4)
    return np.stack([speed, limb, np.ones(NUM_TASKS)], axis=1)


@pytest.fixture(scope="module")
def probed():
    """The probe of a memory that contains the task from step 10 of the second episode on."""
    tasks, start = draw_tasks(), HORIZON + 9
    return probe_rollouts(LearningMemory(tasks, start), make_rollouts(2), tasks, VARIABLES, 0)


def test_score_jumps_from_chance_to_one_at_the_known_step(probed):
    assert probed["constant"] == ["mass"] and probed["num_episodes"] == 2
    steps = np.array(probed["steps"])
    assert {HORIZON + 8, HORIZON + 9} <= set(steps)
    speed, limb = probed["numbers"]
    assert (speed["score"], limb["score"], limb["chance"]) == ("R^2", "accuracy", 0.25)
    for number, slack, text in zip((speed, limb), (0.12, 0.15), probed["sentences"], strict=True):
        values = np.array(number["memory"]["value"])
        before, after = values[steps < HORIZON + 9], values[steps >= HORIZON + 9]
        assert np.abs(before - number["chance"]).max() < slack, number["name"]
        assert after.min() > 0.98
        assert number["known_after"] == HORIZON + 9 and number["state"] == "known"
        assert f"knows {number['name']} after 49 steps" in text
    assert speed["threshold"] == pytest.approx(0.5, abs=0.01) and limb["threshold"] == 0.9


def test_inputs_and_exchanged_tasks_stay_at_chance(probed):
    for number, slack in zip(probed["numbers"], (0.12, 0.15), strict=True):
        assert np.abs(np.array(number["inputs"]["value"]) - number["chance"]).max() < slack
        exchanged = np.array(number["shuffled"]["mean"])
        assert np.abs(exchanged - number["chance"]).max() < 0.06
        assert max(number["shuffled"]["q95"]) < number["chance"] + 0.15


def test_ignorant_memory_is_not_said_to_know():
    tasks = draw_tasks(1)
    memory = LearningMemory(tasks, 2 * HORIZON)
    tree = probe_rollouts(memory, make_rollouts(1), tasks, VARIABLES, 0)
    for number, text in zip(tree["numbers"], tree["sentences"], strict=True):
        assert (number["state"], number["known_after"]) == ("not known", None)
        assert f"does not know {number['name']}" in text


class ForgetfulMemory(LearningMemory):
    """Its features are the task up to step `start`, and noise afterwards."""

    def read_memory(self, rollouts):
        features, inputs = super().read_memory(rollouts)
        return features.flip(0), inputs


def test_forgotten_number_is_not_called_known():
    tasks = draw_tasks(2)
    memory = ForgetfulMemory(tasks, HORIZON // 2)
    tree = probe_rollouts(memory, make_rollouts(1), tasks, VARIABLES, 0)
    speed, _ = tree["numbers"]
    assert (speed["state"], speed["known_after"]) == ("not kept", None)
    assert "does not keep what it knows of speed" in tree["sentences"][0]


def test_probe_does_not_depend_on_the_number_of_threads():
    tasks = draw_tasks()
    trees = [
        probe_rollouts(LearningMemory(tasks, 5), make_rollouts(1), tasks, VARIABLES, 0, threads)
        for threads in (1, 2)
    ]
    assert trees[0] == trees[1]


def test_equal_tasks_leave_nothing_to_probe():
    tasks = np.tile(draw_tasks()[:1], (NUM_TASKS, 1))
    tree = probe_rollouts(EchoMemory(), make_rollouts(1), tasks, VARIABLES, 0)
    assert tree["numbers"] == [] and tree["constant"] == ["speed", "limb", "mass"]


def test_ended_episodes_keep_their_last_state():
    rng = np.random.default_rng(6)
    lengths = rng.integers(1, HORIZON + 1, (3, NUM_TASKS, EPISODES))
    failed = (rng.uniform(size=lengths.shape) < 0.3) & (lengths < HORIZON)
    rollouts, steps = make_rollouts(3, lengths, failed), list(range(3 * HORIZON))
    features, inputs = read_memory(EchoMemory(), rollouts, steps)
    assert features.shape == (3 * HORIZON, NUM_TASKS, EPISODES, 1)
    for step in steps:
        k, t = divmod(step, HORIZON)
        for task in range(NUM_TASKS):
            for episode in range(EPISODES):
                # in the step of a failure the policy acted, though the step does not count
                acted = lengths[k, task, episode] + failed[k, task, episode]
                expected = rollouts[k].obs[task, episode, min(t, acted - 1), 0]
                assert features[step, task, episode, 0] == expected
    assert (features == inputs).all()


@pytest.mark.parametrize("horizon", [1, 7, 200, 1000])
def test_probed_steps_have_both_ends_of_every_episode(horizon):
    steps = choose_steps(horizon, 2)
    own = [step for step in steps if step < horizon]
    assert steps == own + [step + horizon for step in own] == sorted(set(steps))
    assert own[: min(10, horizon)] == list(range(min(10, horizon))) and own[-1] == horizon - 1
    # the ratio of neighbours is at most 1000 ** (1 / 31) = 1.25, before rounding
    assert all(b - a <= 0.25 * (a + 1) + 1 for a, b in zip(own, own[1:], strict=False))


def test_start_is_the_first_step_that_is_never_undercut():
    assert find_start(np.array([0.0, 0.6, 0.4, 0.5, 0.9]), 0.5) == 3
    assert find_start(np.array([0.6, 0.7]), 0.5) == 0
    assert find_start(np.array([0.9, 0.4]), 0.5) is None
