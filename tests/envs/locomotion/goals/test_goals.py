import gymnasium
import numpy as np
import pytest
from gymnasium.utils import seeding

from metarl.envs.locomotion.goals.hidden import (
    Direction,
    Forward,
    ForwardBackward,
    Position,
    Velocity,
)
from metarl.envs.registry import make

VELOCITY = np.array([[3.0, 4.0], [-2.0, 1.0]])
POSITION = np.array([[1.0, -2.0], [0.5, 0.25]])


def reward(goal, *tasks):
    return goal.reward(np.array(tasks), VELOCITY, POSITION)


def test_forward_rewards_the_speed_along_x():
    np.testing.assert_array_equal(Forward().reward(np.zeros((2, 0)), VELOCITY, POSITION), [3, -2])


def test_direction_rewards_the_speed_along_the_angle():
    # along +x, then along +y
    np.testing.assert_allclose(reward(Direction(), [0.0], [np.pi / 2]), [3.0, 1.0])
    # 3-4-5: along the velocity, then opposite to it
    along = np.arctan2(VELOCITY[:, 1], VELOCITY[:, 0])[:, None]
    np.testing.assert_allclose(reward(Direction(), *along), [5.0, np.sqrt(5.0)])
    np.testing.assert_allclose(reward(Direction(), *(along + np.pi)), [-5.0, -np.sqrt(5.0)])


def test_forward_backward_rewards_the_signed_speed():
    np.testing.assert_array_equal(reward(ForwardBackward(), [1.0], [1.0]), [3.0, -2.0])
    np.testing.assert_array_equal(reward(ForwardBackward(), [-1.0], [-1.0]), [-3.0, 2.0])


def test_velocity_rewards_closeness_to_the_speed():
    # |3 - 1| = 2 (too fast), |-2 - 1| = 3 (backwards)
    np.testing.assert_array_equal(reward(Velocity(), [1.0], [1.0]), [-2.0, -3.0])
    np.testing.assert_array_equal(reward(Velocity(), [3.0], [0.0]), [0.0, -2.0])


def test_position_rewards_closeness_in_the_l1_norm():
    # |1 - 2| + |-2 - 2| = 5, and 0 at the goal
    np.testing.assert_array_equal(reward(Position(), [2.0, 2.0], [0.5, 0.25]), [-5.0, 0.0])


@pytest.mark.parametrize(
    "goal", [Forward(), Direction(), ForwardBackward(), Velocity(), Position()]
)
def test_goal_does_not_write_into_its_inputs(goal):
    tasks = goal.tasks.sample(np.random.default_rng(0), 2)
    inputs = [tasks, VELOCITY.copy(), POSITION.copy()]
    copies = [array.copy() for array in inputs]
    result = goal.reward(*inputs)
    result += 1.0  # the environment adds its bonus in place
    for array, before in zip(inputs, copies, strict=True):
        np.testing.assert_array_equal(array, before)


def test_markers_point_to_the_goal():
    arrow = Direction().marker(np.array([np.pi / 2]))
    assert arrow.kind == "arrow"
    np.testing.assert_allclose(arrow.vector, (0.0, 1.0), atol=1e-15)
    assert ForwardBackward().marker(np.array([-1.0])).vector == (-1.0, 0.0)
    assert Velocity().marker(np.array([2.5])).vector == (2.5, 0.0)
    target = Position().marker(np.array([1.0, -2.0]))
    assert (target.kind, target.vector) == ("target", (1.0, -2.0))


# name, bonus per step, floor of standing still, floor of the best policy that ignores the task
FLOORS = [
    ("ant-dir", 1.0, 200.0, 200.0),
    ("ant-fwd-bwd", 1.0, 200.0, 200.0),
    ("ant-goal", 0.0, -509.3, -509.3),
    ("ant-vel", 1.05, -90.0, 60.0),
    ("half-cheetah-dir", 0.0, 0.0, 0.0),
    ("half-cheetah-vel", 0.0, -300.0, -150.0),
    ("walker2d-dir", 1.0, 200.0, 200.0),
    ("walker2d-vel", 1.0, -100.0, 50.0),
    ("hopper-vel", 1.0, 0.0, 100.0),
    ("humanoid-dir", 5.0, 1000.0, 1000.0),
]


def constant_motions():
    """Returns a grid of velocities (C, 2) [m/s] up to 3, and positions (C, 2) [m]."""
    axis = np.linspace(-3.0, 3.0, 13)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    return grid, 0.5 * grid


@pytest.mark.parametrize(("name", "bonus", "still", "blind"), FLOORS)
def test_floors_equal_a_monte_carlo_over_the_tasks(name, bonus, still, blind):
    env = make(name, threads=1)
    floors, horizon, num_tasks = env.spec.floors, env.spec.horizon, 20_000
    np.testing.assert_allclose(floors["stand still"], still, atol=0.05)
    np.testing.assert_allclose(floors["best without the task"], blind, atol=0.05)

    tasks = env.goal.tasks.sample(np.random.default_rng(0), num_tasks)

    def mean_return(velocity, position):
        ones = np.ones((num_tasks, 1))
        per_step = env.goal.reward(tasks, ones * velocity, ones * position) + bonus
        # five standard errors of the mean over the tasks
        return horizon * per_step.mean(), 5 * horizon * per_step.std() / np.sqrt(num_tasks)

    measured, error = mean_return(np.zeros(2), np.zeros(2))
    assert abs(measured - still) <= error + 0.05
    returns, errors = np.array(
        [mean_return(*pair) for pair in zip(*constant_motions(), strict=True)]
    ).T
    # no constant motion exceeds the floor, and one of them reaches it
    assert (returns <= blind + errors + 0.05).all()
    assert (np.abs(returns - blind) <= errors + 0.05).any()


def test_floors_scale_with_the_horizon():
    spec = make("half-cheetah-dir/rllib", threads=1).spec
    assert (spec.horizon, spec.floors["stand still"]) == (100, 0.0)
    # 8 R / (3 pi) for R = 3 m over one step
    np.testing.assert_allclose(Position(3.0).floors()["stand still"], -8.0 / np.pi)
    assert Velocity(2.0).floors() == {"stand still": -1.0, "best without the task": -0.5}


def l1(position, task):
    return abs(position[:, 0] - task[:, 0]) + abs(position[:, 1] - task[:, 1])


# name: (action scale, reward of velocity v, position p, task g, sum a2 of squares of the sent
# action, sum c2 of squares of the clipped contact forces, h 1 where healthy after the step, else 0)
REWARDS = {
    "ant-dir": (0.2, lambda v, p, g, a2, c2, h: along(v, g) - 0.5 * a2 + h),
    "ant-fwd-bwd": (0.2, lambda v, p, g, a2, c2, h: g[:, 0] * v[:, 0] - 0.5 * a2 + h),
    "ant-goal": (0.2, lambda v, p, g, a2, c2, h: -l1(p, g) - 0.1 * a2),
    "ant-vel": (0.2, lambda v, p, g, a2, c2, h: -abs(v[:, 0] - g[:, 0]) - 0.5 * a2 + 1.05 * h),
    "half-cheetah-dir": (1.0, lambda v, p, g, a2, c2, h: g[:, 0] * v[:, 0] - 0.05 * a2),
    "half-cheetah-vel": (1.0, lambda v, p, g, a2, c2, h: -abs(v[:, 0] - g[:, 0]) - 0.05 * a2),
    "ant-dir/promp": (0.1, lambda v, p, g, a2, c2, h: along(v, g) - 0.5 * a2 - 0.5e-3 * c2 + h),
    "ant-dir/pearl": (1.0, lambda v, p, g, a2, c2, h: along(v, g) - 0.5 * a2 + h),
    "ant-dir/varibad": (1.0, lambda v, p, g, a2, c2, h: along(v, g) - 0.5 * a2 + h),
    "half-cheetah-dir/rllib": (1.0, lambda v, p, g, a2, c2, h: g[:, 0] * v[:, 0] - 0.05 * a2),
    "walker2d-dir": (1.0, lambda v, p, g, a2, c2, h: g[:, 0] * v[:, 0] + h - 1e-3 * a2),
    "walker2d-vel": (1.0, lambda v, p, g, a2, c2, h: -abs(v[:, 0] - g[:, 0]) + h - 1e-3 * a2),
    "hopper-vel": (1.0, lambda v, p, g, a2, c2, h: -abs(v[:, 0] - g[:, 0]) + h - 1e-3 * a2),
}


def along(velocity, task):
    return (np.hstack([np.cos(task), np.sin(task)]) * velocity).sum(axis=1)


@pytest.mark.parametrize("name", REWARDS)
def test_reward_is_the_formula(name):
    scale, formula = REWARDS[name]
    env = make(name, threads=1)
    tasks = env.spec.tasks.sample(np.random.default_rng(4), 3)
    env.set_tasks(tasks, 2)
    env.reset([np.random.default_rng(row) for row in range(6)])
    goal = tasks.repeat(2, axis=0)
    contacts = 0.0
    for command in np.random.default_rng(5).normal(size=(40, 6, env.spec.action_size)) / scale:
        before = env.snapshot()[:, :2]
        step = env.step(command, np.ones(6, dtype=bool))
        after = env.snapshot()[:, :2]
        sent = np.clip(scale * command, -1.0, 1.0)  # a third of the normal draws are clipped
        forces = (step.obs[:, 27:] ** 2).sum(axis=1)
        a2 = (sent**2).sum(axis=1)
        expected = formula(
            (after - before) / env.spec.dt, after, goal, a2, forces, ~step.terminated
        )
        np.testing.assert_allclose(step.reward, expected, rtol=1e-10, atol=1e-10)
        contacts = max(contacts, forces.max())
    assert (contacts > 1.0) == (name == "ant-dir/promp")


def test_reward_of_half_cheetah_is_gymnasiums():
    env = make("half-cheetah-dir", threads=1)
    env.set_tasks(np.array([[1.0], [-1.0]]), 1)
    env.reset([seeding.np_random(7)[0] for _ in range(2)])
    commands = np.random.default_rng(3).uniform(-1.0, 1.0, (50, 1, 6)).repeat(2, axis=1)
    reference = gymnasium.make("HalfCheetah-v5", ctrl_cost_weight=0.05).unwrapped
    reference.reset(seed=7)
    for t in range(50):
        reward = env.step(commands[t], np.ones(2, dtype=bool)).reward
        _, forwards, _, _, info = reference.step(commands[t, 0])
        backwards = -info["x_velocity"] + info["reward_ctrl"]
        np.testing.assert_allclose(reward, [forwards, backwards], rtol=1e-12, atol=1e-12)
