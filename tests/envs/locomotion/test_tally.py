"""The parts of a reward add up to it, over the steps that count."""

from contextlib import closing

import numpy as np
import pytest

from metarl.core.env import HasRewardTerms, supports
from metarl.envs.locomotion.tally import Tally
from metarl.envs.registry import make

PARTS = {
    "quadruped-command": "tracking bobbing rolling jerk torque healthy control",
    "ant-dir": "goal healthy control",
    "ant-dir/promp": "goal healthy control contact",
    "humanoid-vel": "goal healthy control contact",
    "half-cheetah-vel": "goal healthy control",
}


@pytest.mark.parametrize("observe_task", [False, True])
@pytest.mark.parametrize("name", PARTS)
def test_parts_of_the_reward_add_up_to_it(name, observe_task):
    with closing(make(name, 1, observe_task=observe_task)) as env:
        assert supports(env, HasRewardTerms)
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 4), 1)
        env.reset([np.random.default_rng(row) for row in range(4)])
        rng, alive = np.random.default_rng(1), np.array([True, True, True, False])
        total, steps = 0.0, 0
        for _ in range(40):
            step = env.step(rng.uniform(-1.0, 1.0, (4, env.spec.action_size)), alive)
            total, steps = total + step.reward.sum(), steps + alive.sum()
            alive = alive & ~step.terminated
        sums, count = env.take_reward_sums()
        assert list(sums) == PARTS[name].split() and count == steps
        assert sum(map(np.sum, sums.values())) == pytest.approx(total, rel=1e-12)
        np.testing.assert_array_equal(sums["control"] < 0.0, [True, True, True, False])
        assert env.take_reward_sums() == ({}, 0)


def test_halves_of_an_environment_have_sums_of_their_own():
    with closing(make("ant-dir", 2)) as env:
        halves = env.split(2)
        for number, half in enumerate(halves):
            half.set_tasks(np.zeros((1, 1)), 1)
            half.reset([np.random.default_rng(0)])
            for _ in range(3 + number):
                half.step(np.zeros((1, 8)), np.ones(1, dtype=bool))
        assert [half.take_reward_sums()[1] for half in halves] == [3, 4]
        assert env.take_reward_sums() == ({}, 0)
        for half in halves:
            half.close()


def test_sums_that_nobody_takes_are_forgotten(monkeypatch):
    monkeypatch.setattr("metarl.envs.locomotion.tally.MOST_ROLLOUTS", 3)
    tally, every = Tally(), np.ones(2, dtype=bool)
    for rollout in range(6):
        tally.start()
        for _ in range(2):
            tally.add(every, {"goal": np.full(2, float(rollout))})
    sums, steps = tally.take()
    assert sums["goal"].tolist() == [4.0, 4.0, 6.0, 6.0, 8.0, 8.0, 10.0, 10.0] and steps == 16
    tally.add(every, {"goal": np.ones(2)})
    tally.add(every[:1], {"goal": np.ones(1)})  # another number of rows, without a start
    assert tally.take()[0]["goal"].tolist() == [1.0, 1.0, 1.0]
