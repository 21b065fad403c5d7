"""What each variation says that it changes, measured on every robot."""

import mujoco
import numpy as np
import pytest
from mujoco_runs import build, momentum, streams

from metarl.envs.locomotion.variations import (
    VARIATIONS,
    Params,
)
from metarl.envs.robots.included.gymnasium import (
    ROBOTS,
)
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.robot import bare_model


def pose(env, tasks):
    """Starts an episode of each task in the air, with joints off their home, all driven alike."""
    env.set_tasks(tasks, 1)
    env.reset(streams(len(tasks)))
    qpos = np.tile(env.robot.rest(), (len(tasks), 1))
    qpos[:, env.robot.height_index] += 5.0
    qpos[:, -env.model.nu :] += 0.05
    env.restore(qpos, np.zeros((len(tasks), env.model.nv)))


def forces(env):
    """Returns the torques (M, A) of the actuators in a control step with equal controls."""
    force = env._batch.bind("qfrc_actuator")
    env._ctrl[:] = np.array(env.spec.action_centre) + 0.1
    env._world.drive()
    env._batch.forward(None)
    joints = env.model.jnt_dofadr[env.model.actuator_trnid[:, 0]]
    return force[:, joints].copy()


def whole_mass(env):
    return np.array([momentum(env, row)[0] for row in range(2)])


def field(name):
    return lambda env: np.array([getattr(env._batch.get_model(row), name) for row in range(2)])


def centre_of_mass(env):
    centres = []
    for row in range(2):
        data = env._batch.get_data(row)
        mujoco.mj_forward(env._batch.get_model(row), data)
        centres.append(data.subtree_com[0].copy())
    return np.array(centres)


def lateness(env):
    """Returns the control step (M,) in which another control arrives."""
    late = np.full(2, -1)
    for step in range(6):
        env._ctrl[:] = np.array(env.spec.action_centre) + 0.1
        env._world.drive()
        has_come = (env._ctrl != env._world._home_ctrl).any(axis=1)
        late[has_come & (late < 0)] = step
    return late


def speed_after_a_push(env):
    env._world.drive()
    return np.linalg.norm(env._qvel[:, : 1 if env.robot.planar else 2], axis=1)


def wind(env):
    force = env._batch.bind("xfrc_applied")[:, env.robot.torso()]
    return np.linalg.norm(force[:, :3], axis=1)


def share_of_forces(env):
    """Returns the torques (M, A) over those of a robot without a variation."""
    plain = build(env.robot)
    pose(plain, np.zeros((2, 0)))
    return forces(env) / forces(plain)


def of_limb(robot, share):
    limbs = robot.limbs or tuple((k,) for k in range(bare_model(robot).nu))
    expected = np.ones((2, bare_model(robot).nu))
    expected[1, list(limbs[0])] = share
    return expected


# name: (two tasks of a robot, measured quantity, its values for the two tasks)
def cases(robot):
    planar, bare = robot.planar, bare_model(robot)
    own, torso = bare.body_mass.sum(), bare.body_mass[robot.torso()]
    place = [0.0] if planar else [0.0, 0.0]
    tilt, flat = ([0.0], [0.1]) if planar else ([0.0, 0.0], [0.1, 0.0])
    shift = np.zeros(3 if not planar else 2)
    shift[0] = 0.02
    centre = np.array([0.02 * torso / own, 0.0, 0.0])
    heading = [] if planar else [0.7]
    blow = [3.0] if planar else [0.0, 3.0]
    gears, strong = np.ones(bare.nu), np.linspace(0.6, 1.4, bare.nu)
    count = len(Params().tasks(robot).variables)
    factors = np.array([1.0, 1.5])[:, None]
    return {
        "params": ([[0.0] * count, [1.0] * count], field("body_mass"), factors * bare.body_mass),
        "friction": (
            [[0.5], [1.2]],
            lambda env: field("geom_friction")(env)[:, env.model.geom(robot.ground).id, 0],
            [0.5, 1.2],
        ),
        "payload": ([[0.0, *place], [0.5, *place]], whole_mass, [own, own + 0.5 * torso]),
        "load": ([[0.0, *place], [0.3, *place]], whole_mass, [own, 1.3 * own]),
        "com": ([0.0 * shift, shift], lambda env: np.diff(centre_of_mass(env), axis=0), [centre]),
        "gravity": (
            [[9.81, *tilt], [8.0, *flat]],
            lambda env: np.array([env._batch.get_model(row).opt.gravity for row in range(2)]),
            [[0, 0, -9.81], [8 * np.sin(0.1), 0, -8 * np.cos(0.1)]],
        ),
        "wind": ([[0.0] * len(blow), blow], wind, [0.0, 3.0]),
        "push": ([[0.0, 1.0, *heading], [0.8, 1.0, *heading]], speed_after_a_push, [0.0, 0.8]),
        "delay": ([[0.0], [3.0]], lateness, [0, 3]),
        "cripple": ([[0.0, 99.0], [0.0, 0.0]], share_of_forces, of_limb(robot, 0.0)),
        "locked": ([[0.0, 99.0], [0.0, 0.0]], share_of_forces, of_limb(robot, 0.0)),
        "weak": ([[0.0, 99.0, 0.4], [0.0, 0.0, 0.4]], share_of_forces, of_limb(robot, 0.4)),
        "damage": (
            [[0.0, 99.0, 2.0, 0.3], [0.0, 0.0, 2.0, 0.3]],
            share_of_forces,
            of_limb(robot, 0.3),
        ),
        "actuator": ([[*gears, 0.0], [*strong, 0.0]], share_of_forces, [gears, strong]),
        "joint": (
            [[1.0, 1.0], [1.5, 1.0]],
            field("dof_damping"),
            factors * bare.dof_damping,
        ),
        "servo": ([[1.0, 1.0], [1.3, 1.0]], share_of_forces, np.array([[1.0], [1.3]]) * gears),
    }


@pytest.mark.parametrize("name", VARIATIONS)
@pytest.mark.parametrize("robot", [*ROBOTS.values(), QUADRUPED], ids=lambda robot: robot.name)
def test_variation_changes_what_it_says_on_every_robot(name, robot):
    if VARIATIONS[name].needs_servos and robot is not QUADRUPED:
        pytest.skip("a robot of motors has no servos")
    tasks, measure, expected = cases(robot)[name]
    env = build(robot, VARIATIONS[name])
    assert env.spec.obs_size == build(robot).spec.obs_size
    pose(env, np.array(tasks, dtype=float))
    np.testing.assert_allclose(measure(env), expected, rtol=1e-9, atol=1e-9)
    assert np.ptp(np.array(expected), axis=0).any() or name == "com"
