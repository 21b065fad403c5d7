"""Learning curves of policies from scratch: returns against the experience before them."""

import json

import numpy as np
import pytest
from baseline_bench import HORIZON, Bench

from metarl.core.env import Step
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.evaluation import evaluate
from metarl.learners.sb3.learning_curve import MAX_POINTS, Curve
from metarl.learners.sb3.model import Played


def test_curve_pairs_returns_with_earlier_experience():
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


class Failing(NavigationEnv):
    """The first row fails in the third step of every episode."""

    steps = -1

    def step(self, action, alive):
        step = super().step(action, alive)
        first = np.arange(len(alive)) == 0
        self.steps += 1
        fault = first & alive & (self.steps % 3 == 2)
        return Step(step.obs, np.where(fault, 0.0, step.reward), step.terminated & ~fault, fault)


def test_failed_episodes_are_counted_in_every_point():
    bench = Bench("ppo scratch", env=Failing("failing", DenseGoal(), horizon=HORIZON))
    done = bench.iterate(range(2))
    result = bench.learner.learning_curve(bench.env)
    # the first K + 1 = 2 episodes of the first of 2 rows, for 3 tasks each
    assert [iteration.faults for iteration in done] == [6.0, 6.0]
    assert result["faulted_episodes"][:2] == [6, 6] and result["faulted_episodes"][2] >= 1


def test_long_curve_is_thinned_out_on_a_log_scale():
    curve = Curve.empty(2, 3)
    assert curve.points().size == 0
    for iteration in range(200):
        played = [
            Played(
                6, np.full((3, 1), float(iteration)), *[np.zeros((3, 1))] * 3, count, {}, 0.0, 0.0
            )
            for count in (3, 5)
        ]
        curve = curve.extend(played)
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
        Bench("ppo scratch").learner.begin(4, 1, ())
