"""Robots of Python code: guessed, registered, and given by installed packages."""

import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import metarl
from metarl.core.errors import ConfigError
from metarl.envs.registry import UnknownEnvironment, make
from metarl.envs.robots import registered
from metarl.envs.robots.included.quadruped import QUADRUPED


@pytest.fixture
def robot(monkeypatch):
    monkeypatch.setattr(registered, "_REGISTERED", {})
    keys = {"contacts": "feet", "top_speed": 0.5, "bonus": 0.25}
    return metarl.robot_from_mjcf(QUADRUPED.model_file, "my-dog", **keys)


def test_robot_from_a_model_has_the_keys_that_were_given(robot):
    assert robot.name == "my-dog" and robot.feet_only and robot.top_speed == 0.5
    assert robot.home == QUADRUPED.home and robot.control_cost == 0.01
    other = metarl.robot_from_mjcf(QUADRUPED.model_file)
    assert other.name == "quadruped" and other.definition != robot.definition


def test_robot_class_makes_and_recognises_robots(robot):
    keys = {"contacts": "feet", "top_speed": 0.5, "bonus": 0.25}
    made = metarl.Robot.from_mjcf(QUADRUPED.model_file, "my-dog", **keys)
    assert made == robot and isinstance(made, metarl.Robot)
    assert not isinstance("my-dog", metarl.Robot)
    with closing(metarl.make_env(made, goal="command", variations=["payload"])) as env:
        assert env.spec.name == "my-dog-command-payload"


@pytest.mark.parametrize("arguments", [(), ("robot.xml",)])
def test_call_of_the_class_of_robots_is_refused(arguments):
    with pytest.raises(ConfigError, match=r"is made from a model: metarl.Robot.from_mjcf\("):
        metarl.Robot(*arguments)


def test_unknown_key_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown key contact; did you mean contacts?"):
        metarl.robot_from_mjcf(QUADRUPED.model_file, contact="feet")


def test_environment_of_a_robot_has_its_goal_and_variations(robot):
    with closing(metarl.make_env(robot, goal="vel", variations=["payload"])) as env:
        assert env.spec.name == "my-dog-vel-payload"
        assert env.spec.tasks.variables[0].high == 0.5
        env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), 2), 1)
        env.reset([np.random.default_rng(row) for row in range(2)])
    with closing(make("my-dog-command", 1)) as env:  # now it has a name
        assert env.spec.action_size == 12
    with pytest.raises(UnknownEnvironment, match="no goal-variation of this robot"):
        make("my-dog-fly", 1)


def test_goal_without_a_robot_is_refused():
    with pytest.raises(ConfigError, match="they belong to a robot"):
        metarl.make_env("ant-dir", goal="vel")


@pytest.mark.parametrize("name", ["ant", "quadruped-two", "go2", "My dog", " ", "a/b", "-x"])
def test_name_that_is_taken_or_no_name_is_refused(name, robot):
    with pytest.raises(ConfigError, match=f"robot {name!r}: the name"):
        registered.register_robot(metarl.robot_from_mjcf(QUADRUPED.model_file, name))


def write_package(folder, value):
    code = "from pathlib import Path\nimport metarl\n"
    code += f"FILE = {QUADRUPED.model_file!r}\n"
    code += "def dog():\n    return metarl.robot_from_mjcf(FILE, 'boxed-dog')\n"
    code += "robot = dog()\nnumber = 3\ndef fails():\n    raise RuntimeError('no\\nmodel')\n"
    (folder / "boxed_dogs.py").write_text(code)
    info = folder / "boxed_dogs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: boxed-dogs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[metarl.robots]\nboxed-dog = boxed_dogs:{value}\n")


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield lambda value: write_package(Path(tmp_path), value)
    sys.modules.pop("boxed_dogs", None)


@pytest.mark.parametrize("value", ["robot", "dog"])
def test_robot_of_an_installed_package_has_a_name(package, value):
    package(value)
    with closing(make("boxed-dog-dir-wind", 1)) as env:
        assert env.spec.name == "boxed-dog-dir-wind" and env.spec.action_size == 12


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("number", "robot boxed-dog of boxed_dogs:number: is a int, not a Robot"),
        ("fails", "robot boxed-dog of the package boxed_dogs: RuntimeError: no$"),
        ("missing", "robot boxed-dog of the package boxed_dogs: AttributeError"),
    ],
)
def test_robot_of_a_package_that_fails_is_one_line(package, value, message):
    package(value)
    with pytest.raises(ConfigError, match=message):
        make("boxed-dog-dir", 1)


def test_robot_without_goal_and_variation_is_refused(robot):
    with pytest.raises(ConfigError, match="my-dog needs a goal or a variation"):
        metarl.make_env(robot)


def test_physics_keep_the_control_period():
    physics = {"timestep": 0.01, "cone": "pyramidal", "integrator": "Euler"}
    robot = metarl.robot_from_mjcf(QUADRUPED.model_file, physics=physics)
    assert robot.frame_skip == 2
    assert (
        metarl.robot_from_mjcf(QUADRUPED.model_file, physics=physics, frame_skip=7).frame_skip == 7
    )


@pytest.mark.parametrize("convert", [np.array, tuple])
def test_keys_from_python_may_be_tuples_or_arrays(convert):
    home = list(QUADRUPED.home)
    robot = metarl.Robot.from_mjcf(QUADRUPED.model_file, "dog", home=home)
    assert metarl.Robot.from_mjcf(QUADRUPED.model_file, "dog", home=convert(home)) == robot


DRONE = """
<mujoco><worldbody><body pos="0 0 1"><freejoint/><geom size="0.1"/>{sites}</body></worldbody>
<actuator>{motors}</actuator></mujoco>
"""


def test_actuator_at_a_site_has_a_name_and_no_unit(tmp_path):
    sites = "".join(f'<site name="s{i}" pos="{i} 0 0"/>' for i in range(4))
    motors = "".join(f'<motor site="s{i}" gear="0 0 1" ctrlrange="0 9"/>' for i in range(4))
    (tmp_path / "drone.xml").write_text(DRONE.format(sites=sites, motors=motors))
    robot = metarl.robot_from_mjcf(tmp_path / "drone.xml")
    with closing(metarl.make_env(robot, 1, goal="dir")) as env:
        assert [each.unit for each in env.spec.actuators] == ["1"] * 4
