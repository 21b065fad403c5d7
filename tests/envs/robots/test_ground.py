"""The ground of a user's model: which geom it is, what it is called, and where the robot stands."""

import mujoco
import numpy as np
import pytest
from own_robots import edit_model, values

from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.robot import bare_model

LEVEL = '<geom name="{name}" type="plane" size="9 9 .1" pos="0 0 {z}" {more}/>'


def put(path, world, defaults=""):
    """Writes more of the world and defaults into a model without a ground; returns the robot."""
    edit_model(path, "<worldbody>", f"{defaults}<worldbody>{world}")
    return robot_from_mjcf(path)


def drop(robot, seconds=1.0):
    """Returns the height of the base above its home [m] after a while."""
    model = robot.model()
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    while data.time < seconds:
        mujoco.mj_step(model, data)
    return data.qpos[2] - robot.rest()[2]


@pytest.mark.parametrize(
    "geom",
    [
        'contype="1" conaffinity="0"',
        'contype="0" conaffinity="1"',
        'contype="4" conaffinity="2"',
        'condim="1" friction="0.1" group="5" margin="0.1"',
    ],
)
def test_added_ground_is_the_same_with_any_defaults(write, geom):
    robot = put(write(), "", f"<default><geom {geom}/></default>")
    model = bare_model(robot)
    ground = model.geom("floor")
    np.testing.assert_array_equal(ground.friction, [1.0, 0.005, 0.0001])
    np.testing.assert_array_equal(ground.pos, 0.0)
    assert (ground.condim, ground.margin, ground.group) == (3, 0.0, 0)
    meets = model.geom_contype & ground.conaffinity | ground.contype & model.geom_conaffinity
    assert meets[model.geom_bodyid > 0].all()


def test_robot_does_not_fall_through_an_added_ground(write):
    robot = put(write(), "", '<default><geom contype="1" conaffinity="0"/></default>')
    assert drop(robot) > -0.4


def test_named_plane_keeps_its_name_in_pairs(write):
    path = write(more='<contact><pair geom1="lawn" geom2="trunk"/></contact>')
    edit_model(path, 'type="box"', 'type="box" name="trunk"')
    robot = put(path, LEVEL.format(name="lawn", z=0, more=""))
    assert robot.ground == "lawn" and values(path)["ground"] == "lawn"
    assert (bare_model(robot).geom_type == mujoco.mjtGeom.mjGEOM_PLANE).sum() == 1


def test_file_with_another_name_of_the_ground_finds_the_plane(write):
    path = write()
    put(path, LEVEL.format(name="lawn", z=0, more=""))
    assert robot_from_mjcf(path, ground="floor").ground == "lawn"


def test_plane_of_a_body_that_does_not_move_is_the_ground(write):
    arena = f'<body pos="0 0 0.2">{LEVEL.format(name="lawn", z=0.1, more="")}</body>'
    robot = put(write(), arena)
    model = bare_model(robot)
    assert robot.ground == "lawn"
    assert (model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE).sum() == 1
    assert robot.home[2] == pytest.approx(0.33 + 0.3)


def test_arena_collides_if_only_the_feet_do(write):
    path = write()
    put(path, f"<body>{LEVEL.format(name='lawn', z=0, more='')}</body>")
    model = robot_from_mjcf(path, contacts="feet").model()
    assert model.geom("lawn").contype[0] == 1


@pytest.mark.parametrize(
    "other",
    [
        LEVEL.format(name="sky", z=5, more='contype="0" conaffinity="0"'),
        '<geom name="wall" type="plane" size="9 9 .1" pos="-2 0 0" zaxis="1 0 0"/>',
        '<geom name="floor" type="plane" size="9 9 .1" contype="0" conaffinity="0"/>',
        '<geom type="plane" size="9 9 .1" pos="0 0 3" zaxis="0 0 -1"/>',
    ],
)
def test_ground_is_level_and_collides(write, other):
    robot = put(write(), other + LEVEL.format(name="", z=0.1, more="").replace('name=""', ""))
    assert bare_model(robot).geom(robot.ground).pos[2] == pytest.approx(0.1)
    assert robot.home[2] == pytest.approx(0.43)


@pytest.mark.parametrize("z", [-0.3, 0.3])
def test_home_and_health_follow_the_height_of_the_ground(write, z):
    path = write()
    robot = put(path, LEVEL.format(name="floor", z=z, more=""))
    assert robot.home[2] == pytest.approx(0.33 + z)
    assert values(path)["health"] == pytest.approx({"low": 0.165 + z, "high": 0.66 + z, "tilt": 1})


def test_base_at_the_ground_takes_the_band_of_the_robot(write):
    path = write()
    edit_model(path, 'pos="0 0 1"', 'pos="0 0 0"')
    text = path.read_text().replace("0 0 0 0 0 -0.3", "0 0 0 0 0 0.3")
    path.write_text(text.replace('size="0.3 0.15 0.05"', 'size="0.3 0.15 0.05" pos="0 0 0.05"'))
    guessed = values(path)
    assert guessed["home"][2] == pytest.approx(0.03)  # legs with a radius of 0.03 m
    # from -0.03 m to 0.33 m
    assert guessed["health"] == pytest.approx({"low": -0.15, "high": 0.39, "tilt": 1.0})
