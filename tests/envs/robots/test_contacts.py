"""Which shapes of a user's robot collide: all, its feet, or those that its file names."""

import mujoco
import numpy as np
import pytest
from own_robots import edit_model

from metarl.core.errors import ConfigError
from metarl.envs.robots.own import read_robot


def colliding(robot):
    model = robot.model()
    can_collide = (model.geom_contype | model.geom_conaffinity) > 0
    return [model.geom(int(geom)).name for geom in np.flatnonzero(can_collide)]


@pytest.mark.parametrize(
    ("contacts", "names"),
    [
        ("all", ["floor", "base 1", "left 1", "right 1"]),
        ("feet", ["floor", "left 1", "right 1"]),
        (["base 1"], ["floor", "base 1"]),
        (["right 1", "base 1"], ["floor", "base 1", "right 1"]),
    ],
)
def test_only_the_named_shapes_collide(robot_file, contacts, names):
    health = {"low": 0.0, "high": 0.66, "tilt": 3.0}
    assert colliding(read_robot(robot_file(contacts=contacts, health=health))) == names


def test_shape_without_contacts_goes_through_the_ground(robot_file):
    health = {"low": 0.0, "high": 0.66, "tilt": 3.0}
    robot = read_robot(robot_file(contacts=["base 1"], health=health))
    model = robot.model()
    data = mujoco.MjData(model)
    data.qpos[:] = robot.rest()
    mujoco.mj_step(model, data, 1000)
    # the box of the base lies on the ground, the legs of 0.33 m are below it
    assert data.qpos[2] == pytest.approx(0.05, abs=0.01)
    assert {model.geom(int(g)).name for g in np.ravel(data.contact.geom)} == {"floor", "base 1"}


def test_pair_of_a_shape_without_contacts_is_off(robot_file):
    file = robot_file(contacts="feet")
    edit_model(file, '<geom type="box"', '<geom name="trunk" type="box"')
    edit_model(file, "</mujoco>", "<contact><pair geom1='trunk' geom2='left'/></contact></mujoco>")
    edit_model(file, '<geom type="capsule"', '<geom name="left" type="capsule"')
    text = file.with_suffix(".xml").read_text()
    place = text.rindex('name="left"', 0, text.rindex("</body>"))
    file.with_suffix(".xml").write_text(text[:place] + 'name="right"' + text[place + 11 :])
    file.write_text(file.read_text().replace("left 1", "left").replace("right 1", "right"))
    assert read_robot(file).model().npair == 0
    file.write_text(file.read_text().replace("contacts: feet", "contacts: [left, trunk]"))
    assert read_robot(file).model().npair == 1


@pytest.mark.parametrize(
    ("contacts", "message"),
    [
        (["left 1", "left 2"], "a list of geoms of .* collide: 'left 2'; did you mean left 1"),
        (["floor"], "can collide: 'floor' is no such geom"),
        ([], "contacts = ..: must be all or feet, or a list of geoms that is not empty"),
        ("foot", "contacts = 'foot': must be all or feet, or a list of geoms"),
        ({"left 1": 1}, "must be all or feet, or a list of geoms"),
    ],
)
def test_unknown_contacts_are_refused_by_name(robot_file, contacts, message):
    with pytest.raises(ConfigError, match=message):
        read_robot(robot_file(contacts=contacts))
