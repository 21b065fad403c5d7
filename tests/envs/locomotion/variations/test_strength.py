"""Strength: measured torques are in proportion to it, for all actuators and at every limit."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.failures import Actuator, Weak
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.robots.included.gymnasium import HALF_CHEETAH
from metarl.envs.robots.included.quadruped import QUADRUPED

MODEL = """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1" pos="0 0 -5"/>
<body><joint name="j" axis="0 1 0" {joint}/><geom size="0.1" mass="1"/></body>
<body pos="1 0 0"><joint name="k" axis="0 1 0"/><geom size="0.1" mass="1"/></body>
</worldbody><tendon><fixed name="t" {tendon}><joint joint="j" coef="2"/></fixed></tendon>
<actuator>{actuator}<motor name="k" joint="k"/></actuator></mujoco>"""
LIMIT = 'actuatorfrcrange="-3 3"'
ACTUATORS = {
    "motor": '<motor joint="j" gear="-2"/>',
    "limited motor": '<motor joint="j" gear="2" forcerange="-1 1"/>',
    "position": '<position joint="j" kp="20" kv="2" gear="3"/>',
    "limited position": '<position joint="j" kp="20" forcerange="-4 4"/>',
    "velocity": '<velocity joint="j" kv="3"/>',
    "damper": '<damper joint="j" kv="3" ctrlrange="0 9"/>',
    "affine gain": '<general joint="j" gaintype="affine" gainprm="1 2 3"/>',
    "tendon": '<position tendon="t" kp="20" kv="2"/>',
    "heavy motor": '<motor joint="j" gear="2" armature="0.3" damping="0.2" forcerange="-1 1"/>',
}
SENSORS = """<sensor><actuatorpos actuator="a"/><actuatorvel actuator="a"/>
<actuatorfrc actuator="a"/></sensor></mujoco>"""
SHARE = 0.25


def write_robot(folder, actuator, joint="", tendon=""):
    path = folder / "robot.xml"
    path.write_text(MODEL.format(actuator=actuator, joint=joint, tendon=tendon))
    return replace(HALF_CHEETAH, name="own", model_file=str(path), limbs=((0,), (1,)), planar=False)


def build(robot, variation):
    return MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms(), (variation,)), 1)


def torque(model, position, speed, control):
    data = mujoco.MjData(model)
    data.qpos[0], data.qvel[0], data.ctrl[0] = position, speed, control
    mujoco.mj_forward(model, data)
    return data.qfrc_actuator[0]


def weaken(env, variation):
    """Returns the model of a row in which actuator 0 has its share of the strength."""
    is_factor = isinstance(variation, Actuator)
    task = [SHARE, 1.0, 0.0] if is_factor else [0.0, 0.0, SHARE]
    env.set_tasks(np.array([task]), 1)
    env.reset([np.random.default_rng(0)])
    env.step(np.zeros((1, 2)), np.ones(1, dtype=bool))
    return env._batch.get_model(0)


@pytest.mark.parametrize("variation", [Actuator(), Weak()], ids=lambda v: v.name)
@pytest.mark.parametrize("limits", [{}, {"joint": LIMIT}, {"tendon": LIMIT}], ids=str)
@pytest.mark.parametrize("kind", ACTUATORS)
def test_strength_multiplies_the_measured_torque(kind, limits, variation, tmp_path):
    robot = write_robot(tmp_path, ACTUATORS[kind], **limits)
    model = weaken(build(robot, variation), variation)
    bare = robot.model()
    for control in (0.02, 0.3, 8.0):  # the last is beyond each limit
        state = 0.1, 0.4, control
        assert torque(bare, *state) != 0.0
        assert torque(model, *state) == pytest.approx(SHARE * torque(bare, *state), rel=1e-12)


@pytest.mark.parametrize("variation", [Actuator(), Weak()], ids=lambda v: v.name)
@pytest.mark.parametrize("own", ["", 'armature="0.3" damping="0.2"'])
def test_strength_leaves_inertia_damping_and_encoders(variation, own, tmp_path):
    robot = write_robot(tmp_path, f'<motor name="a" joint="j" gear="2" {own}/>')
    path = tmp_path / "robot.xml"
    path.write_text(path.read_text().replace("</mujoco>", SENSORS))
    env = build(robot, variation)
    models = [robot.model(), weaken(env, variation)]
    data = [mujoco.MjData(model) for model in models]
    for each, one in zip(models, data, strict=True):
        one.qpos[0], one.qvel[0], one.ctrl[0] = 0.1, 0.4, 0.3
        mujoco.mj_forward(each, one)
    np.testing.assert_array_equal(data[1].qfrc_passive, data[0].qfrc_passive)
    np.testing.assert_array_equal(data[1].M, data[0].M)
    np.testing.assert_allclose(data[1].sensordata, data[0].sensordata * [1.0, 1.0, SHARE])
    assert env.spec.version == 2


def test_strength_of_a_shared_joint_scales_its_limit_by_mean(tmp_path):
    both = '<motor name="a" joint="j" gear="9"/><motor name="b" joint="j" gear="9"/>'
    robot = replace(write_robot(tmp_path, both, joint=LIMIT), limbs=())
    env = build(robot, Actuator())
    env.set_tasks(np.array([[0.5, 1.0, 1.0, 0.0]]), 1)
    np.testing.assert_allclose(env._batch.get_model(0).jnt_actfrcrange[0], [-2.25, 2.25])


def test_strength_raises_the_version_only_where_it_changed(tmp_path):
    limited = tmp_path / "limited"
    limited.mkdir()
    versions = [
        build(robot, Weak()).spec.version
        for robot in (
            QUADRUPED,
            write_robot(tmp_path, ACTUATORS["position"]),
            write_robot(limited, ACTUATORS["position"], joint=LIMIT),
        )
    ]
    assert versions == [1, 1, 2]
