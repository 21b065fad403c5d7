"""Torque part of the reward of commands: true limits, whatever the robot observes."""

import mujoco
import numpy as np
import pytest

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.goals.command import Command, find_force_limits
from metarl.envs.locomotion.goals.hidden import RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.registry import make
from metarl.envs.robots.guessing.guess import robot_from_mjcf

LEG = """<body pos="{x} 0 0"><joint name="{name}" axis="0 1 0" range="-60 60" {limit}/>
<geom name="{name}" type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3"/></body>"""
ROBOT = """<mujoco><worldbody><body pos="0 0 0.35"><freejoint/>
<geom type="box" size="0.3 0.15 0.05"/><site name="imu"/>{legs}</body></worldbody>
<tendon><fixed name="t" {tendon}><joint joint="a" coef="1"/></fixed></tendon>
<actuator>{actuators}</actuator><sensor><accelerometer name="acc" site="imu" delay="0.01"
nsample="8" interp="zoh"/></sensor></mujoco>"""
LIMIT = 'actuatorfrcrange="-3 2"'
SERVO = '<position name="a" joint="a" kp="200" gear="2"/>'
SERVOS = SERVO + '<position name="b" joint="b" kp="20"/>'


@pytest.fixture
def write(tmp_path):
    def write_model(actuators=SERVOS, limit="", tendon=""):
        legs = LEG.format(name="a", x=0.2, limit=limit) + LEG.format(name="b", x=-0.2, limit="")
        path = tmp_path / "robot.xml"
        path.write_text(ROBOT.format(legs=legs, actuators=actuators, tendon=tendon))
        return path

    return write_model


def play(robot, steps=30):
    """Returns the states and sums of the parts of the reward of an episode of two rows."""
    env = MujocoBatchEnv("test", Recipe(robot, Command(), RewardTerms()), 1)
    env.set_tasks(np.zeros((2, 0)), 1)
    env.reset([np.random.default_rng(row) for row in range(2)])
    rng, states = np.random.default_rng(1), []
    for _ in range(steps):
        env.step(rng.standard_normal((2, env.spec.action_size)), np.ones(2, dtype=bool))
        states.append(env.snapshot())
    return np.array(states), env.take_reward_sums()[0]


@pytest.mark.parametrize("term", ["foot contacts", "sensor acc"])
def test_reward_does_not_depend_on_what_is_observed(write, term):
    path = write()
    observed = {"scale": 1.0, "clip": 0.0, "noise": 0.0}
    terms = {"joint positions": observed, "joint speeds": observed}
    plain, more = (
        play(robot_from_mjcf(path, observation=own, feet=["a", "b"]))
        for own in (terms, {**terms, term: observed})
    )
    np.testing.assert_array_equal(plain[0], more[0])
    assert (plain[1]["torque"] < 0.0).all()
    for name, values in plain[1].items():
        np.testing.assert_array_equal(values, more[1][name], err_msg=name)


@pytest.mark.parametrize(
    ("change", "limit", "cut"),
    [
        ({}, 2 * 200 * np.pi / 3, np.inf),  # kp times the range of the target
        ({"limit": LIMIT}, 1.5, 1.5),  # 3 N m over the gear
        ({"actuators": '<motor name="a" joint="a" gear="-5" ctrlrange="-1 2"/>'}, 2.0, np.inf),
        ({"actuators": '<damper name="a" joint="a" kv="5" ctrlrange="0 1"/>'}, np.inf, np.inf),
        (
            {"actuators": '<position name="a" tendon="t" kp="9" ctrlrange="-8 8"/>'}
            | {"tendon": LIMIT},
            3.0,
            3.0,
        ),
    ],
    ids=["servo", "joint", "motor", "damper", "tendon"],
)
def test_force_limit_is_that_of_the_physics(write, change, limit, cut):
    limits, cuts = find_force_limits(robot_from_mjcf(write(**change)).model())
    assert limits[0] == pytest.approx(limit) and cuts[0] == pytest.approx(cut)


def test_torque_cost_of_a_limited_joint_is_at_most_its_weight(write):
    robot = robot_from_mjcf(write(actuators=SERVO, limit='actuatorfrcrange="-3 3"'))
    _, parts = play(robot, 20)
    assert (parts["torque"] >= -0.2 * 20 * 2).all()
    data = mujoco.MjData(robot.model())
    data.qpos[:], data.ctrl[:] = robot.rest(), 1.0
    mujoco.mj_forward(robot.model(), data)
    limits, _ = find_force_limits(robot.model())
    assert data.qfrc_actuator[6] == pytest.approx(2 * limits[0])  # the gear is 2


def test_damper_costs_no_torque(write):
    _, parts = play(robot_from_mjcf(write('<damper name="a" joint="a" kv="5" ctrlrange="0 1"/>')))
    assert np.all(parts["torque"] == 0.0)


def test_limits_of_quadrupeds_are_those_of_their_motors():
    env = make("quadruped-command", 1)
    limits, cut = find_force_limits(env.model)
    np.testing.assert_array_equal(limits, np.tile([24.0, 24.0, 36.0], 4))
    assert np.isinf(cut).all() and env.spec.version == 2  # as before
