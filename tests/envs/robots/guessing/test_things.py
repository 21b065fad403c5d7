"""Other things in a user's model: tables, stairs and doors are no part of the robot."""

from contextlib import closing

import numpy as np
import pytest
from own_robots import edit_model

import metarl
from metarl.envs.registry import recipe_of
from metarl.envs.robots.bodies import extent, moving_mass
from metarl.envs.robots.guessing.guess import robot_from_mjcf

THINGS = {
    "stairs": '<body pos="3 0 0.1"><geom type="box" size="1 1 .1"/></body>',
    "slab": '<geom type="box" size="1 1 .1" pos="3 0 0"/>',
    "door": '<body pos="3 0 1"><joint axis="0 0 1"/><geom type="box" size="1 1 1"/></body>',
    "arena": '<body><geom name="lawn" type="plane" size="9 9 .1"/></body>',
}


@pytest.fixture(params=THINGS)
def pair(request, write):
    """Writes files of the same robot without and with a thing, and returns their paths."""
    files = []
    for name, thing in (("alone", ""), ("beside", THINGS[request.param])):
        path = write()
        edit_model(path, "</worldbody>", f"{thing}</worldbody>")
        files.append(path.rename(path.with_name(f"{name}.xml")))
    return files


def test_thing_is_no_part_of_the_mass_and_size(pair):
    alone, beside = (robot_from_mjcf(path) for path in pair)
    assert moving_mass(alone) == pytest.approx(moving_mass(beside), rel=1e-12)
    np.testing.assert_allclose(extent(alone), extent(beside), rtol=1e-12)
    # the box of 0.6 x 0.3 x 0.1 m and legs of 0.03 m radius that end 0.33 m below its centre
    np.testing.assert_allclose(extent(alone), [0.6, 0.3, 0.38], rtol=1e-6)


@pytest.mark.parametrize("variation", ["wind", "com"])
def test_thing_changes_no_range_of_tasks(pair, variation):
    specs = [recipe_of(robot_from_mjcf(path), variation).spec("x") for path in pair]
    assert specs[0].tasks.variables == specs[1].tasks.variables


def test_load_is_a_share_of_the_robot_alone(pair):
    for path in pair:
        robot = robot_from_mjcf(path)
        with closing(metarl.make_env(robot, goal="dir", variations=["load"])) as env:
            columns = [v.name for v in env.spec.tasks.variables]
            task = env.spec.tasks.sample(np.random.default_rng(0), 1)
            task[:, columns.index("load")] = 0.3
            env.set_tasks(task, 1)
            mass = env._batch.get_model(0).body("load").mass
            # a box of 0.3 x 0.15 x 0.05 m (halves) and two capsules of water's density
            capsule = np.pi * 0.03**2 * 0.3 + 4 / 3 * np.pi * 0.03**3
            whole = 1000.0 * (0.6 * 0.3 * 0.1 + 2 * capsule)
            np.testing.assert_allclose(mass, 0.3 * whole, rtol=1e-9)
