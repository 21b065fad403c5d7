"""Targets of arms: where they are, and the returns of policies that do not adapt."""

import mujoco
import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.goals.reach import Reach, Reachable
from metarl.envs.registry import make
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included.gymnasium import ANT
from metarl.envs.robots.robot import bare_model

# two links of 0.5 m and 0.3 m around the same axis, from 1 m above the ground
CHAIN = """
<mujoco>
  <worldbody>
    <body pos="0 0 {height}">
      <joint name="one" axis="0 1 0" range="-90 90"/>
      <geom type="capsule" size="0.01" fromto="0 0 0.05 0 0 0.45" {contacts}/>
      <body name="hand" pos="0 0 0.5">
        <joint name="two" axis="0 1 0" range="-150 150"/>
        <geom type="capsule" size="0.01" fromto="0 0 0.05 0 0 0.3" {contacts}/>
        <site name="gripper" pos="0 0 0.3"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <position joint="one" kp="10" inheritrange="1"/><position joint="two" kp="10" inheritrange="1"/>
  </actuator>
</mujoco>
"""


@pytest.fixture
def chain(tmp_path):
    def build(height=1.0, contacts="", **keys):
        path = tmp_path / "chain.xml"
        path.write_text(CHAIN.format(height=height, contacts=contacts))
        return robot_from_mjcf(path, **keys)

    return build


def test_reward_is_the_distance_in_space():
    tasks = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.5]])
    position = np.array([[1.0, 2.0, 3.0], [0.0, 0.3, 0.1]])
    np.testing.assert_allclose(Reach(ARM).reward(tasks, position * 0, position), [0.0, -0.5])


def test_targets_are_the_places_of_uniform_joint_angles(chain):
    robot = chain()
    points = Reachable(robot).sample(np.random.default_rng(1), 4000) - [0.0, 0.0, 1.0]
    rng = np.random.default_rng(2)
    first, second = np.radians(rng.uniform([-90, -150], [90, 150], (100_000, 2))).T
    x = 0.5 * np.sin(first) + 0.3 * np.sin(first + second)
    z = 0.5 * np.cos(first) + 0.3 * np.cos(first + second)
    np.testing.assert_allclose(points[:, 1], 0.0, atol=1e-12)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        for own, expected in ((points[:, 0], x), (points[:, 2], z)):
            assert np.quantile(own, share) == pytest.approx(np.quantile(expected, share), abs=0.03)


def test_targets_are_above_the_ground_and_in_their_bounds(chain):
    distribution = Reachable(chain(height=0.2))
    points = distribution.sample(np.random.default_rng(0), 500)
    low, high = np.array([(each.low, each.high) for each in distribution.variables]).T
    assert (points >= low).all() and (points <= high).all()
    assert low[2] == 0.0 and [each.name for each in distribution.variables][2] == "target_z"


def test_targets_are_a_function_of_their_stream():
    draws = [Reachable(ARM).sample(np.random.default_rng(seed), 5) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_targets_of_the_arm_are_within_its_links():
    points = Reachable(ARM).sample(np.random.default_rng(0), 300)
    distance = np.linalg.norm(points - [0.0, 0.0, 0.25], axis=1)
    assert distance.max() < 0.7 and points[:, 2].min() >= 0.0


def test_arm_inside_of_the_ground_is_refused(chain):
    robot = chain(height=-5.0, contacts='contype="0" conaffinity="0"')
    with pytest.raises(ConfigError, match="reach: chain: in nearly all random poses"):
        Reachable(robot).sample(np.random.default_rng(0), 1)


def test_robot_without_an_effector_is_refused():
    with pytest.raises(ConfigError, match="reach: ant has no end effector"):
        Reachable(ANT).sample(np.random.default_rng(0), 1)


def test_floors_of_the_arm_are_means_over_targets():
    floors = make("arm-reach", threads=1).spec.floors
    points = Reachable(ARM).sample(np.random.default_rng(5), 3000)
    model = bare_model(ARM)
    data = mujoco.MjData(model)
    data.qpos[:] = ARM.home
    mujoco.mj_forward(model, data)
    still = np.linalg.norm(points - data.site("gripper").xpos, axis=1)
    error = 200.0 * 5.0 * still.std() / np.sqrt(1000)  # of the 1,000 targets of the floors
    assert floors["stand still"] == pytest.approx(-200.0 * still.mean(), abs=error)
    # no place is better than the best of a grid, which need not be reachable
    grid = np.stack(np.meshgrid(*3 * [np.linspace(-0.6, 0.9, 16)]), axis=-1).reshape(-1, 3)
    best = min(np.linalg.norm(points - place, axis=1).mean() for place in grid)
    assert floors["best without the task"] <= -200.0 * best + error
    assert floors["best without the task"] > floors["stand still"]
