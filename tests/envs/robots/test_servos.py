"""Torques of servos in a physics step, measured by the change of speed, against their formula.

A real motor driver computes stiffness (target - q) - damping speed at the start of a step and clips
it. MuJoCo's servos do so with the integrator Euler; the implicit ones treat the damping implicitly.
"""

import mujoco
import numpy as np
import pytest

from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.robot import Robot

ARM = """
<mujoco>
  <option gravity="0 0 0"><flag contact="disable"/></option>
  <worldbody>
    <body name="base" pos="0 0 5">
      <freejoint/>
      <geom type="box" size="0.2 0.1 0.05"/>
      <body name="upper" pos="0.2 0 0">
        <joint name="a" axis="0 1 0" range="-170 170"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
        <body name="lower" pos="0.3 0 0">
          <joint name="b" axis="0 1 0" range="-170 170"/>
          <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>{actuators}</actuator>
  <keyframe><key name="home" qpos="0 0 5 1 0 0 0 0 0"/></keyframe>
</mujoco>
"""
MOTORS = '<motor joint="a" ctrlrange="-6 6"/><motor joint="b" gear="2" ctrlrange="-2 2"/>'
SERVOS = """
<position joint="a" kp="10" kv="0.5" forcerange="-6 6"/>
<position joint="b" kp="10" kv="0.5" forcerange="-4 4"/>
"""


def build(tmp_path, actuators, integrator) -> Robot:
    path = tmp_path / "arm.xml"
    path.write_text(ARM.format(actuators=actuators))
    physics = {"timestep": 0.005, "cone": "pyramidal", "integrator": integrator}
    keys = {}
    if actuators is MOTORS:
        row = {"centre": 0, "scale": 0.4, "low": -3, "high": 3, "stiffness": 10, "damping": 0.5}
        keys["actuators"] = {"a": row, "b": row}
    return robot_from_mjcf(path, "arm", physics=physics, **keys)


def measure(robot):
    """Returns torques of the joints (T, 2) in physics steps and those of the formula [N m].

    The measured ones are those that change the speeds so in a step: M dv/h + bias.
    """
    model = robot.model()
    data, before = mujoco.MjData(model), mujoco.MjData(model)
    data.qpos[:], rng = robot.rest(), np.random.default_rng(0)
    data.qvel[6:] = 2.0, -1.0
    found, expected = [], []
    for _ in range(40):
        data.ctrl[:] = rng.uniform(-1.5, 1.5, 2)
        before.qpos[:], before.qvel[:] = data.qpos, data.qvel
        mujoco.mj_forward(model, before)
        mujoco.mj_step(model, data)
        inertia = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, before, inertia)
        change = (data.qvel - before.qvel) / model.opt.timestep
        found.append((inertia @ change + before.qfrc_bias)[6:])
        torque = 10.0 * (data.ctrl - before.qpos[7:]) - 0.5 * before.qvel[6:]
        expected.append(np.clip(torque, [-6, -4], [6, 4]))
    return np.array(found), np.array(expected)


@pytest.mark.parametrize("actuators", [MOTORS, SERVOS], ids=["made of motors", "of the model"])
def test_servo_with_euler_is_an_explicit_one(tmp_path, actuators):
    found, expected = measure(build(tmp_path, actuators, "Euler"))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    is_limited = np.abs(expected) >= [6, 4]
    assert 0.1 < is_limited.mean() < 0.9


def test_servo_with_implicitfast_damps_implicitly(tmp_path):
    found, expected = measure(build(tmp_path, SERVOS, "implicitfast"))
    assert np.abs(found - expected).max() > 0.1


@pytest.mark.parametrize(
    ("motor", "limits"),
    [
        ('ctrlrange="-1 1" forcerange="-20 20"', [-1.0, 1.0]),
        ('ctrlrange="-30 30" forcerange="-20 10"', [-20.0, 10.0]),
        ('ctrlrange="-5 40" forcerange="-20 10"', [-5.0, 10.0]),
        ('ctrlrange="-2 3"', [-2.0, 3.0]),
    ],
)
def test_servo_of_a_motor_has_at_most_its_force(tmp_path, motor, limits):
    path = tmp_path / "arm.xml"
    motors = f'<motor joint="a" gear="2" {motor}/><motor joint="b" ctrlrange="-6 6"/>'
    path.write_text(ARM.format(actuators=motors))
    robot = robot_from_mjcf(path)
    assert robot.servos[0][0] > 0.0
    np.testing.assert_array_equal(robot.model().actuator_forcerange[0], limits)
