"""Friction and terrain of robots whose ground is not a plane of the world at height 0."""

from contextlib import closing

import mujoco
import numpy as np
import pytest
from own_robots import LEG, RANGED, WALKER

import metarl
from metarl.core.errors import ConfigError
from metarl.envs.locomotion.terrain import CEILING, size_of
from metarl.envs.locomotion.variations import Friction
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included.gymnasium import ANT, HALF_CHEETAH
from metarl.envs.robots.included.quadruped import QUADRUPED

PLANE = '<geom name="lawn" type="plane" size="9 9 .1" {}/>'
GROUNDS = {
    "plane": PLANE.format('pos="2 1 0.3" euler="0 0 30"'),
    "body": '<body pos="1 0 0.1" euler="0 0 20">' + PLANE.format('pos="0 1 0.2"') + "</body>",
    "frame": f'<frame pos="1 0 0.3" euler="0 0 20">{PLANE.format("")}</frame>',
}


@pytest.fixture
def write(tmp_path):
    def write_model(world):
        legs = LEG.format(name="left", x=0.2) + LEG.format(name="right", x=-0.2)
        text = WALKER.format(ground="", base="<freejoint/>", legs=legs, actuators=RANGED, more="")
        path = tmp_path / "robot.xml"
        path.write_text(text.replace("<worldbody>", f"<worldbody>{world}"))
        return path

    return write_model


def make(path, variation, **keys):
    robot = robot_from_mjcf(path, **keys)
    return closing(metarl.make_env(robot, goal="dir", variations=[variation]))


@pytest.mark.parametrize("ground", GROUNDS)
def test_terrain_takes_the_place_of_the_ground(write, ground):
    with make(write(GROUNDS[ground]), "terrain") as env:
        tasks = env.spec.tasks.sample(np.random.default_rng(0), 1)
        env.set_tasks(tasks, 1)
        env.reset([np.random.default_rng(0)])
        model, data = env._batch.get_model(0), env._batch.get_data(0)
        mujoco.mj_forward(model, data)
        assert (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE).sum() == 0
        map_ = data.geom("lawn")
        scale = size_of(env.robot)
        assert scale == 0.44  # the base is 0.33 m above the ground, that of the ant 0.75 m
        np.testing.assert_allclose(map_.xpos, [0, 0, 0.3 - scale * CEILING], atol=1e-12)
        np.testing.assert_allclose(map_.xmat, np.eye(3).ravel(), atol=1e-12)
        # the start is flat, so the feet touch it as they would the plane
        down, group = np.array([0.0, 0.0, -1.0]), np.zeros(1, dtype=np.int32)
        start = np.array([0.0, 0.4, 2.0])
        assert mujoco.mj_ray(model, data, start, down, None, 1, -1, group) == pytest.approx(1.7)


@pytest.mark.parametrize("ground", GROUNDS)
def test_friction_is_that_of_the_ground(write, ground):
    with make(write(GROUNDS[ground]), "friction") as env:
        tasks = env.spec.tasks.sample(np.random.default_rng(0), 2)
        tasks[:, [v.name for v in env.spec.tasks.variables].index("friction")] = [0.1, 2.0]
        env.set_tasks(tasks, 1)
        env.reset([np.random.default_rng(0), np.random.default_rng(0)])
        for _ in range(5):
            env.step(np.zeros((2, 2)), np.ones(2, dtype=bool))
        for row, friction in enumerate([0.1, 2.0]):
            model, data = env._batch.get_model(row), env._batch.get_data(row)
            mujoco.mj_forward(model, data)
            assert data.ncon and (data.contact.friction[:, 0] == friction).all()


@pytest.mark.parametrize("ground", [0, 3])
def test_friction_of_robot_with_priority_over_the_ground(write, ground):
    path = write(PLANE.format(f'priority="{ground}"'))
    own = 'condim="6" priority="2" friction="0.8 0.02 0.01" solimp="0.015 1 0.022"'
    path.write_text(path.read_text().replace('type="box"', f'type="box" {own}'))
    health = {"low": 0.0, "high": 0.66, "tilt": 1.0}  # it lies on its box
    robot = robot_from_mjcf(path, contacts="feet", feet=["base 1"], health=health)
    assert Friction().num_revisions(robot) == 1
    with closing(metarl.make_env(robot, variations=["friction"])) as env:
        env.set_tasks(np.array([[0.1], [2.0]]), 1)
        rest = np.tile(env._rest, (2, 1))
        rest[:, 2] = 0.04  # the box touches the ground
        env.restore(rest, np.zeros((2, env.model.nv)))
        for row, friction in enumerate([0.1, 2.0]):
            model, data = env._batch.get_model(row), env._batch.get_data(row)
            mujoco.mj_forward(model, data)
            contact = data.contact
            assert len(contact) and (contact.friction[:, 0] == friction).all()
            # the rest is as without the variation
            assert (contact.dim == (3 if ground else 6)).all()
            limp = [0.9, 0.95, 0.001] if ground else [0.015, 1.0, 0.022]
            np.testing.assert_array_equal(contact.solimp[:, :3], np.tile(limp, (len(contact), 1)))


def test_friction_raises_the_version_where_geoms_have_priority(write):
    assert Friction().num_revisions(robot_from_mjcf(write(PLANE.format("")))) == 0
    assert [Friction().num_revisions(each) for each in (ANT, HALF_CHEETAH, QUADRUPED)] == [0] * 3


@pytest.fixture
def pairs(write):
    """Writes a robot that meets the ground by pairs, one of them with less friction."""
    path = write(PLANE.format('contype="0" conaffinity="0"'))
    more = '<pair geom1="lawn" geom2="base 1" friction="0.5 0.5 0.01 0.0001 0.0001"/>'
    more += '<pair geom1="lawn" geom2="toe"/><pair geom1="base 1" geom2="toe"/>'
    text = path.read_text().replace("</actuator>", f"</actuator><contact>{more}</contact>")
    text = text.replace('type="box"', 'type="box" name="base 1"')
    path.write_text(text.replace('type="capsule"', 'type="capsule" name="toe"', 1))
    return path


def pair_friction(env, tasks):
    env.set_tasks(tasks, 1)
    return np.array([env._batch.get_model(row).pair_friction for row in range(len(tasks))])


def test_friction_is_that_of_pairs_with_the_ground(pairs):
    with make(pairs, "friction") as env:
        tasks = env.spec.tasks.sample(np.random.default_rng(0), 2)
        tasks[:, [v.name for v in env.spec.tasks.variables].index("friction")] = [0.1, 2.0]
        found = pair_friction(env, tasks)
        np.testing.assert_array_equal(found[0, :, :2], [[0.1, 0.1], [0.1, 0.1], [1.0, 1.0]])
        np.testing.assert_array_equal(found[1, :, :2], [[2.0, 2.0], [2.0, 2.0], [1.0, 1.0]])
        np.testing.assert_array_equal(found[:, 0, 2:], 2 * [[0.01, 0.0001, 0.0001]])
        other = tasks[:1].copy()
        other[:, -1] = 0.7
        env.reset_rows(np.array([False, True]), [np.random.default_rng(0)], other)
        friction = [env._batch.get_model(row).pair_friction[0, 0] for row in (0, 1)]
        assert friction == [0.1, 0.7]


def test_params_change_the_friction_of_pairs(pairs):
    with make(pairs, "params") as env:
        names = [v.name for v in env.spec.tasks.variables]
        tasks = np.zeros((2, len(names)))
        tasks[1, names.index("friction toe")] = 2.0
        tasks[1, names.index("friction lawn")] = -3.0
        found = pair_friction(env, tasks)[:, :, 0]
        # the larger of 1.5^0, 1.5^2 and 1.5^-3 of the two geoms
        np.testing.assert_allclose(found, [[0.5, 1.0, 1.0], [0.5, 1.5**2, 1.5**2]])


OTHERS = {
    "box": '<geom name="slab" type="box" size="9 9 .5" pos="0 0 -.5"/>',
    "body": '<body><geom name="slab" type="box" size="9 9 .5" pos="0 0 -.5"/></body>',
    "plane": f'{PLANE.format("")}<geom name="slab" type="plane" size="9 9 .1" euler="0 5 0"/>',
}


@pytest.mark.parametrize("variation", ["terrain", "friction"])
@pytest.mark.parametrize("other", OTHERS)
def test_other_thing_below_the_robot_is_refused(write, other, variation):
    match = f"{variation}: robot stands on slab beside the ground .*; make it the ground"
    with pytest.raises(ConfigError, match=match):
        make(write(OTHERS[other]), variation)


def test_friction_of_a_slab_that_is_the_ground(write):
    with make(write(OTHERS["box"]), "friction", ground="slab") as env:
        assert env.model.geom("slab").priority == 1


@pytest.mark.parametrize("variation", ["terrain", "friction"])
@pytest.mark.parametrize(
    "geom",
    [
        'type="box" size="1 1 .1" pos="3 0 0"',  # not where the robot starts
        'type="box" size="9 9 .5" pos="0 0 -.6"',  # below the ground
        'type="box" size="9 9 .5" pos="0 0 -.5" contype="0" conaffinity="0"',
        'type="plane" size="9 9 1" pos="-2 0 0" euler="0 90 0"',
    ],
)
def test_things_that_do_not_carry_the_robot_are_allowed(write, geom, variation):
    with make(write(f"{PLANE.format('')}<geom {geom}/>"), variation) as env:
        assert env.robot.ground == "lawn"


def test_terrain_on_a_slope_is_refused(write):
    with pytest.raises(ConfigError, match="terrain: the ground lawn of robot: .* slope"):
        make(write(PLANE.format('euler="0 5 0"')), "terrain")
