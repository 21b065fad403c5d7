"""Joints whose actuators compensate gravity: dead ones lose that, weak ones all but their share."""

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


def measure(env, tasks, controls, steps=1):
    """Returns the torques (M, 2) of both joints that begin at rest, in the last of the steps."""
    tasks = np.array(tasks, dtype=float)
    env.set_tasks(tasks, 1)
    env.restore(np.zeros((len(tasks), env.model.nq)), np.zeros((len(tasks), env.model.nv)))
    return proceed(env, controls, steps)


def proceed(env, controls, steps=1):
    rows = len(env._qpos)
    action = np.tile(np.array(controls), (rows, 1)) / env.spec.action_scale
    inner, outer = (env._batch.bind(name) for name in ("qfrc_actuator", "qfrc_applied"))
    for _ in range(steps):
        env.step(action, np.ones(rows, dtype=bool))
    return inner + outer


@pytest.mark.parametrize("limit", [None, 2.0, 9.0])
@pytest.mark.parametrize("control", [-8.0, -1.0, 0.0, 1.0, 2.0, 8.0])
@pytest.mark.parametrize(
    "variation, task",
    [(Weak(), [0, 0, 0.25]), (Damage(), [0, 0, 2, 0.25]), (Actuator(), [0.25, 1, 0])],
    ids=["weak", "damage", "actuator"],
)
def test_weak_joint_has_its_share_of_all_torques(write, variation, task, control, limit):
    robot = write("" if limit is None else f'actuatorfrcrange="-{limit} {limit}"')
    env = build(replace(robot, control_range=((-9.0, 9.0),) * 2), variation)
    whole = np.clip(control - WEIGHT, *((-limit, limit) if limit else (-np.inf, np.inf)))
    strong = [*task[:-1], 1.0] if len(task) > 3 or variation.name == "weak" else [1.0, 1.0, 0]
    found = measure(env, [task, strong], [control, 0.0])
    expected = [[0.25 * whole, -WEIGHT], [whole, -WEIGHT]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_weak_joint_is_held_before_its_onset_and_in_new_episodes(write):
    env = build(write(LIMIT), Weak())
    tasks = [[0, 2, 0.25], [1, 0, 0.25]]
    for _ in range(2):
        np.testing.assert_allclose(measure(env, tasks, [0.0, 0.0])[0], -WEIGHT, rtol=1e-12)
        position = env._qpos.copy()
        limits = [env._batch.get_model(row).jnt_actfrcrange[0, 1] for row in range(2)]
        assert limits == [9.0, 9.0]
        assert not position[0].any()  # in balance
        np.testing.assert_allclose(
            proceed(env, [0.0, 0.0], 2)[0], [-0.25 * WEIGHT, -WEIGHT], rtol=1e-12
        )
    rows = np.array([True, False])
    env.reset_rows(rows, [np.random.default_rng(0)], np.array([[1.0, 50.0, 0.5]]))
    assert env._batch.get_model(0).jnt_actfrcrange[0, 1] == 9.0


def test_weak_arm_sinks_as_with_a_motor_of_its_own(write):
    env = build(write(LIMIT), Weak())
    measure(env, [[0, 0, 0.25]], [0.0, 0.0], 100)
    model = env.robot.model()
    data = mujoco.MjData(model)
    for _ in range(100):
        mujoco.mj_forward(model, data)
        data.qfrc_applied[0] = -0.75 * data.qfrc_gravcomp[0]
        mujoco.mj_step(model, data)
    assert data.qpos[0] > 0.1  # the arm falls
    np.testing.assert_allclose(env._qpos[0], data.qpos, rtol=2e-2, atol=1e-12)


@pytest.mark.parametrize("order", [(Actuator(), Cripple()), (Cripple(), Actuator())])
def test_dead_joint_is_limp_beside_other_strengths(write, order):
    env = build(write(LIMIT), order[0])
    env = MujocoBatchEnv("test", Recipe(env.robot, Forward(), RewardTerms(), order), 1)
    names = [v.name for v in env.spec.tasks.variables]
    values = {"gear j": 0.5, "gear k": 0.5, "delay": 0, "limb": 0, "onset": 0}
    found = measure(env, [[values[name] for name in names]], [0.0, 0.0])
    np.testing.assert_allclose(found, [[0.0, -0.5 * WEIGHT]], rtol=1e-12, atol=1e-12)


def test_compensation_raises_versions_of_strengths_and_failures(write):
    variations = Cripple(), Locked(), Damage(), Weak(), Actuator()
    for robot, raised in ((write(), [1, 1, 2, 1, 1]), (QUADRUPED, [0] * 5)):
        assert [each.num_revisions(robot) for each in variations] == raised
