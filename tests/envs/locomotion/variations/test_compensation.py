"""Joints whose actuators compensate gravity: with the last actuator they lose that, too."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.failures import Actuator, Cripple, Damage, Locked, Weak
from metarl.envs.locomotion.goals.hidden import Forward, RewardTerms
from metarl.envs.locomotion.recipe import Recipe
from metarl.envs.robots.included.gymnasium import HALF_CHEETAH
from metarl.envs.robots.included.quadruped import QUADRUPED

MODEL = """<mujoco><worldbody><geom name="floor" type="plane" size="1 1 1" pos="0 0 -5"/>
<body gravcomp="1"><joint name="j" axis="0 1 0" actuatorgravcomp="true" {limit}/>
<geom size="0.1" mass="1" pos="0.3 0 0"/></body>
<body pos="1 0 0" gravcomp="1"><joint name="k" axis="0 1 0" actuatorgravcomp="true"/>
<geom size="0.1" mass="1" pos="0.3 0 0"/></body></worldbody>
<actuator><motor name="j" joint="j"/><position name="k" joint="k"/>{more}</actuator></mujoco>"""
WEIGHT = 9.81 * 0.3
LIMIT = 'actuatorfrcrange="-9 9"'


@pytest.fixture
def write(tmp_path):
    def write_robot(limit="", more="", limbs=((0,), (1,))):
        path = tmp_path / "robot.xml"
        path.write_text(MODEL.format(limit=limit, more=more))
        options = {"model_file": str(path), "limbs": limbs, "planar": False, "frame_skip": 1}
        return replace(HALF_CHEETAH, name="own", **options)

    return write_robot


def build(robot, variation):
    return MujocoBatchEnv("test", Recipe(robot, Forward(), RewardTerms(), (variation,)), 1)


def play(env, *tasks):
    """Returns the torques (M, 2) of both joints at rest, after a step with outputs of zero."""
    env.set_tasks(np.array(tasks), 1)
    env.reset([np.random.default_rng(i) for i in range(len(tasks))])
    env.step(np.zeros((len(tasks), env.spec.action_size)), np.ones(len(tasks), dtype=bool))
    torques = []
    for row in range(len(tasks)):
        model = env._batch.get_model(row)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        torques.append(data.qfrc_actuator[:2].copy())
    return np.array(torques)


@pytest.mark.parametrize("limit", ["", LIMIT])
@pytest.mark.parametrize("variation, kind", [(Cripple(), []), (Damage(), [0, 1])], ids=["c", "d"])
def test_dead_joint_is_limp_and_the_other_is_held(write, variation, kind, limit):
    env = build(write(limit), variation)
    found = play(env, [0, 0, *kind], [1, 0, *kind], [0, 50, *kind])
    held = np.array([[0.0, -WEIGHT], [-WEIGHT, 0.0], [-WEIGHT, -WEIGHT]])
    np.testing.assert_allclose(found, held, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(play(env, [0, 50, *kind]), held[2:], rtol=1e-9)  # a new episode


def test_joint_of_two_actuators_is_held_by_the_second(write):
    second = '<motor name="l" joint="j"/>'
    env = build(write(more=second, limbs=((0,), (1,), (2,))), Cripple())
    np.testing.assert_allclose(play(env, [0, 0], [2, 0]), -WEIGHT, rtol=1e-9)
    env = build(write(more=second, limbs=((0, 2), (1,))), Cripple())
    np.testing.assert_allclose(play(env, [0, 0])[0], [0.0, -WEIGHT], rtol=1e-9, atol=1e-12)


def test_compensation_raises_the_version_of_failures_alone(write):
    variations = Cripple(), Locked(), Damage(), Weak(), Actuator()
    for robot, raised in ((write(), [1, 1, 1, 0, 0]), (QUADRUPED, [0] * 5)):
        assert [each.num_revisions(robot) for each in variations] == raised
