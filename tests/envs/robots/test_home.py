"""Home poses and starts of users' robots: inside the ranges of the joints, and no falls."""

from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from own_robots import edit_model, values

from metarl.core.errors import ConfigError
from metarl.envs import env_checker
from metarl.envs.registry import own_recipe
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.health import Standing
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.own import read_robot

LIMIT = np.pi / 3  # the hips turn by 60 degrees
BAND = {"low": 0.165, "high": 0.66, "tilt": 1.0}
KEY = '<keyframe><key name="home" qpos="0 0 0.4 1 0 0 0 {}"/></keyframe>'


def gymnasium_model(name):
    return files("gymnasium") / "envs" / "mujoco" / "assets" / f"{name}.xml"


def starts(robot, count=50):
    rest = robot.rest()
    states = [robot.initial_state(np.random.default_rng(i), rest) for i in range(count)]
    return np.array([qpos for qpos, _ in states])


def test_guessed_home_is_inside_the_ranges_of_joints(write):
    guesses = {guess.key: guess for guess in guess_robot(write(more=KEY.format("2 -0.5")))}
    assert guesses["home"].value[7:] == [pytest.approx(LIMIT, abs=1e-6), -0.5]
    assert guesses["home"].reason.endswith("keyframe home; inside the ranges of left_hip")


def test_guess_without_keyframe_stands_in_the_clipped_pose(write):
    path = write()
    edit_model(path, 'range="-60 60"', 'range="30 60"')
    home = values(path)["home"]
    assert home[7:] == pytest.approx([np.pi / 6] * 2, abs=1e-6)
    # legs of 0.3 m, 30 degrees from the vertical, with a radius of 0.03 m, boxed upright
    lowest = 0.3 * np.cos(np.pi / 6) + 0.03
    assert lowest - 1e-6 <= home[2] < lowest + 0.03


def test_start_is_inside_the_ranges_of_joints(write):
    robot = robot_from_mjcf(write(more=KEY.format("2 0")), reset_noise=0.1)
    hips = starts(robot)[:, 7:]
    assert np.abs(hips).max() <= LIMIT
    assert (hips[:, 0] == LIMIT).any() and (hips[:, 0] < LIMIT - 0.05).any()
    assert 0.05 < hips[:, 1].max() < 0.1  # the noise of the other joint is as it was


def test_start_inside_the_ranges_keeps_its_bits(write):
    robot = robot_from_mjcf(write())
    rest = robot.rest()
    rng = np.random.default_rng(3)
    expected = rest + rng.uniform(-0.03, 0.03, len(rest))
    qpos, _ = robot.initial_state(np.random.default_rng(3), rest)
    assert (qpos == expected).all() and not robot.has_clipped_starts
    assert not QUADRUPED.has_clipped_starts


def test_clipped_starts_change_the_version(robot_file):
    recipe = own_recipe(f"{robot_file(reset_noise=2.0)}:dir")
    assert recipe.robot.has_clipped_starts
    assert recipe.version == 2 + (recipe.terms.bonus > 0) + recipe.robot.definition


def test_home_outside_a_range_is_refused_by_name(robot_file):
    home = [0, 0, 0.33, 1, 0, 0, 0, 0, 1.5]
    message = "home.8. = 1.5: must be in the range of its joint right_hip, -1.0472 to 1.0472"
    with pytest.raises(ConfigError, match=message):
        read_robot(robot_file(home=home))


# --- falls ----------------------------------------------------------------------------------------


def home_at(height):
    return [0, 0, height, 1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"home": home_at(0.7)}, "is not healthy"),
        ({"home": [0, 0, 0.33, 0, 1, 0, 0, 0, 0]}, "is not healthy"),  # upside down
        ({"home": home_at(3.0), "health": BAND | {"high": 4.0}}, "is too high: it falls 0.3 s"),
        ({"health": BAND | {"low": 0.3299}}, "falls within 0.0. s without an action"),
        ({"home": home_at(-0.1), "health": BAND | {"low": -0.2}}, "has its centre of mass below"),
    ],
)
def test_home_that_falls_at_once_is_refused(robot_file, changes, reason):
    with pytest.raises(ConfigError, match=rf"robot.yaml: home: in this pose the robot {reason}"):
        read_robot(robot_file(**changes))


def test_home_that_falls_over_later_is_a_warning():
    robot = robot_from_mjcf(gymnasium_model("walker2d_v5"))  # a biped of motors
    checks = env_checker._Checks()
    env_checker._check_robot(checks, robot)
    (finding, _) = checks.findings
    assert not finding.violation and finding.note.startswith("each of the 6 actuators")
    assert finding.warning.startswith("falls 1.") and "without an action" in finding.warning


def test_checker_refuses_a_home_that_falls_at_once(write):
    robot = replace(robot_from_mjcf(write()), healthy=Standing(0.4, 1.0, 1.0))
    checks = env_checker._Checks()
    env_checker._check_robot(checks, robot)
    assert checks.findings[0].violation == "in its home pose the robot is not healthy (see health)"
