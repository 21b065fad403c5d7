"""Every observed number and every control has a name and a unit, in the order of the arrays."""

from contextlib import closing

import numpy as np
import pytest

from metarl.envs.registry import make

NAMES = """
ant-dir ant-dir/promp half-cheetah-vel walker2d-params hopper-vel humanoid-dir quadruped-command
quadruped-command-damage-load ant-terrain half-cheetah-terrain navigation-2d
""".split()


def names(env):
    return [quantity.name for quantity in env.spec.observed]


@pytest.mark.parametrize("options", [{}, {"observe_task": True}], ids=["plain", "task"])
@pytest.mark.parametrize("name", NAMES)
def test_all_numbers_have_names_of_their_own(name, options):
    with closing(make(name, 1, **options)) as env:
        assert len(env.spec.observed) == env.spec.obs_size
        assert len(env.spec.actuators) == env.spec.action_size
        assert len(set(names(env))) == env.spec.obs_size
        assert all(quantity.unit for quantity in env.spec.observed)


def test_observed_ground_is_named_by_its_place():
    with closing(make("quadruped-terrain", 1, observe_terrain=True)) as env:
        assert len(env.spec.observed) == env.spec.obs_size
        assert names(env)[-1].startswith("ground over rest at x ")


@pytest.mark.parametrize("robot", ["half-cheetah-vel", "quadruped-dir"])
def test_number_of_a_joint_follows_that_joint(robot):
    with closing(make(robot, 1)) as env:
        model = env.model
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 1), 1)
        env.reset([np.random.default_rng(0)])
        found = names(env)
        for joint in range(model.njnt):
            if model.jnt_type[joint] == 0:
                continue
            name, address = model.joint(joint).name, model.jnt_qposadr[joint]
            own = [i for i, each in enumerate(found) if each.startswith(f"{name} position")]
            if not own:  # the world position is not observed
                assert address < env.robot.skip_qpos
                continue
            qpos, qvel = env._qpos.copy(), np.zeros((1, model.nv))
            before = env.restore(qpos, qvel).copy()
            qpos[0, address] += 0.125
            after = env.restore(qpos, qvel)
            assert after[0, own[0]] - before[0, own[0]] == pytest.approx(0.125), name
            speed = next(i for i, each in enumerate(found) if each == f"{name} speed")
            qvel[0, model.jnt_dofadr[joint]] = 0.5
            assert env.restore(qpos, qvel)[0, speed] == pytest.approx(0.5), name


def test_units_tell_hinges_from_slides_and_servos_from_motors():
    with closing(make("half-cheetah-vel", 1)) as env:
        units = {quantity.name: quantity.unit for quantity in env.spec.observed}
        assert units["rootz position"] == "m" and units["bthigh position"] == "rad"
        assert units["rootx speed"] == "m/s" and units["bthigh speed"] == "rad/s"
        assert env.spec.actuators[0].name == "bthigh" and env.spec.actuators[0].unit == "1"
    with closing(make("quadruped-dir", 1)) as env:
        assert env.spec.actuators[2].unit == "rad"
        assert names(env)[:3] == [f"base velocity {axis}, own axes" for axis in "xyz"]
        assert names(env)[9] == "FL_hip position relative to home"
