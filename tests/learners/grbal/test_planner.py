"""The planner on a known linear system: against a loop, and against the optimal controller."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from metarl.core.rng import stream
from metarl.functional.running_moments import Moments
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.grbal.model import Scales
from metarl.learners.grbal.planner import SHIFTS, Planner, average, predict_returns, select

A = np.array([[0.0, 0.1], [-0.05, -0.02]])
B = np.array([[0.0], [0.3]])
Q, R = np.diag([1.0, 0.1]), np.array([[0.05]])


@dataclass(frozen=True)
class LinearSystem:
    """change = gain (A s + B a), reward = -(s Q s + a R a), in place of a learned model."""

    def outputs(self, params, inputs):
        states, reward, actions = inputs.split([2, 1, 1], dim=-1)
        change = states @ tensor(A).T + actions @ tensor(B).T
        cost = (states @ tensor(Q) * states).sum(-1) + (actions @ tensor(R) * actions).sum(-1)
        return torch.cat([params["gain"] * change, -cost.unsqueeze(-1) - reward], dim=-1)


def tensor(array):
    return torch.tensor(array, dtype=torch.float32)


UNIT = Scales.of({name: Moments.initial(3) for name in ("state", "change")}, 1.0)
STATES = torch.tensor([[0.3, 0.0, -0.2], [-0.3, 0.2, 0.0], [0.1, -0.4, -0.6]])
"""Two numbers, and the last reward."""
GAINS = {"gain": torch.tensor([1.0, 1.0, -1.0]).view(3, 1, 1)}
"""The last system obeys the actions with the opposite sign."""


def planned(settings, horizon=6, rows=slice(None), steps=0):
    config = GrbalConfig(plan_steps=horizon, **settings)
    planner = Planner(config, 1, stream(0, "candidates"))
    own = {"gain": GAINS["gain"][rows]}
    start = torch.zeros(len(STATES[rows]), horizon, 1)
    step = torch.full((len(start),), steps)
    return planner.plan(LinearSystem(), own, UNIT, STATES[rows], start, step)


def looped_return(state, gain, actions):
    total, state = 0.0, state[:2].double().numpy()
    for action in actions.double().numpy():
        total -= state @ Q @ state + action @ R @ action
        state = state + gain * (A @ state + B @ action)
    return total


def optimal(state, gain, horizon):
    """Returns the first action of the finite-horizon linear-quadratic regulator."""
    dynamics, effect, value = np.eye(2) + gain * A, gain * B, np.zeros((2, 2))
    for _ in range(horizon):
        force = R + effect.T @ value @ effect
        policy = np.linalg.solve(force, effect.T @ value @ dynamics)
        value = Q + dynamics.T @ value @ (dynamics - effect @ policy)
    return -policy @ state[:2].double().numpy()


def test_predicted_returns_are_those_of_a_loop():
    candidates = torch.rand(3, 4, 6, 1, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = predict_returns(LinearSystem(), GAINS, UNIT, STATES, candidates)
    for row in range(3):
        for number in range(4):
            gain = float(GAINS["gain"][row])
            expected = looped_return(STATES[row], gain, candidates[row, number])
            assert float(found[row, number]) == pytest.approx(expected, rel=1e-5)


PLANNERS = {
    "cem": ({"planner": "cem", "candidates": 200, "plan_rounds": 8}, 0.05),
    "mppi": ({"planner": "mppi", "candidates": 400, "plan_rounds": 12, "plan_std": 0.3}, 0.1),
    "shooting": (
        {"planner": "shooting", "candidates": 400, "plan_rounds": 20, "plan_std": 0.2},
        0.1,
    ),
}


@pytest.mark.parametrize("name", PLANNERS)
def test_planned_action_is_nearly_the_optimal_one(name):
    settings, tolerance = PLANNERS[name]
    plan = planned(settings)
    for row in range(3):
        best = optimal(STATES[row], float(GAINS["gain"][row]), 6)
        assert abs(best[0]) > 2 * tolerance and abs(best[0]) < 1.0
        assert float(plan[row, 0, 0]) == pytest.approx(best[0], abs=tolerance)


@pytest.mark.parametrize("planner", ["mppi", "cem", "shooting"])
def test_plan_of_a_row_does_not_depend_on_the_others(planner):
    whole = planned({"planner": planner}, steps=70)
    for row in range(3):
        assert torch.equal(
            planned({"planner": planner}, rows=slice(row, row + 1), steps=70), whole[row : row + 1]
        )
    assert torch.equal(planned({"planner": planner}, steps=70 + SHIFTS), whole)
    assert not torch.equal(planned({"planner": planner}, steps=71), whole)


def test_candidates_lie_within_the_bounds_and_keep_the_plan():
    config = GrbalConfig(plan_std=3.0, candidates=8, plan_correlation=0.9)
    noise = Planner(config, 2, stream(1, "candidates"))._noise
    assert not noise[0].any() and torch.equal(noise[1:4], -noise[5:])
    plan = planned({"plan_std": 5.0, "planner": "shooting"})
    assert float(plan.abs().max()) <= 1.0


def test_correlation_of_neighbouring_steps_is_the_given_one():
    config = GrbalConfig(candidates=2000, plan_correlation=0.6, plan_steps=2)
    noise = Planner(config, 1, stream(1, "candidates"))._noise[1:1000, :, 0]
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert float((noise[..., 0] * noise[..., 1]).mean()) == pytest.approx(0.6, abs=0.02)


def test_average_weighs_candidates_by_their_returns():
    returns = torch.tensor([[0.0, 2.0]])  # mean 1, standard deviation 1
    weight = np.exp(2.0 / 0.5) / (1.0 + np.exp(2.0 / 0.5))
    candidates = torch.tensor([[[[-1.0]], [[1.0]]]])
    found = average(candidates, returns, 0.5)
    assert float(found) == pytest.approx(2.0 * weight - 1.0)
    assert float(average(candidates, torch.zeros(1, 2), 0.5)) == 0.0


def test_select_takes_mean_and_spread_of_the_best():
    returns = torch.tensor([[3.0, 0.0, 5.0, 1.0]])
    candidates = torch.tensor([0.2, -1.0, 0.6, 1.0]).view(1, 4, 1, 1)
    mean, std = select(candidates, returns, 0.5)
    assert float(mean) == pytest.approx(0.4) and float(std) == pytest.approx(0.2)


def test_candidate_with_a_return_that_is_not_finite_is_the_worst():
    class Broken(LinearSystem):
        def outputs(self, params, inputs):
            found = super().outputs(params, inputs)
            return torch.where(inputs[..., 3:] > 0.0, torch.nan, found)

    planner = Planner(GrbalConfig(planner="mppi"), 1, stream(0, "candidates"))
    plan = planner.plan(Broken(), GAINS, UNIT, STATES, torch.zeros(3, 10, 1), torch.zeros(3).long())
    assert plan.isfinite().all() and bool((plan <= 1e-6).all())
