"""A robot's file: guessed from a model, read, refused by name, and used as an environment."""

from contextlib import closing
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from own_robots import MOTORS, PLANE, values

from metarl.core.errors import ConfigError
from metarl.envs.registry import UnknownEnvironment, make, own_recipe
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.guessing.guesses import to_yaml
from metarl.envs.robots.guessing.inspection import inspect_robot
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.robots.own import read_robot

PHYSICS = {"timestep": 0.01, "cone": "elliptic", "integrator": "Euler"}

# --- guesses --------------------------------------------------------------------------------------


def test_guess_puts_the_lowest_shape_on_the_ground(write):
    guessed = values(write())
    # legs of 0.3 m and a radius of 0.03 m below the base
    assert guessed["home"][:7] == pytest.approx([0, 0, 0.33, 1, 0, 0, 0])
    assert guessed["health"] == pytest.approx({"low": 0.165, "high": 0.66, "tilt": 1.0})
    assert guessed["base"] == "free" and guessed["ground"] == "floor"


def test_guess_takes_a_keyframe_of_the_model(write):
    key = '<keyframe><key name="a" qpos="0 0 1 1 0 0 0 0 0"/><key name="home" {}/></keyframe>'
    guessed = values(write(more=key.format('qpos="0 0 0.4 1 0 0 0 0.1 -0.1"')))
    assert guessed["home"] == [0, 0, 0.4, 1, 0, 0, 0, 0.1, -0.1]


def test_guess_names_actuators_by_joint_and_limbs_by_branch(write):
    guessed = values(write())
    assert list(guessed["actuators"]) == ["left_hip", "two"]
    assert guessed["limbs"] == {"left": ["left_hip"], "right": ["two"]}


def test_motor_has_its_own_range(write):
    row = values(write())["actuators"]["left_hip"]
    assert row == {"centre": 0, "scale": 4, "low": -5, "high": 3, "stiffness": 0, "damping": 0}


def test_position_servo_is_centred_on_home(write):
    servos = '<position joint="left_hip" kp="50"/><position joint="right_hip" kp="50"/>'
    key = '<keyframe><key name="home" qpos="0 0 0.4 1 0 0 0 0.2 0"/></keyframe>'
    row = values(write(actuators=servos, more=key))["actuators"]["left_hip"]
    limit = pytest.approx(np.pi / 3, abs=1e-6)
    assert row["centre"] == 0.2 and row["scale"] == 0.4 and row["high"] == limit
    assert row["stiffness"] == 0  # it is a servo already


def test_motors_of_a_robot_with_a_keyframe_become_servos(write, tmp_path):
    motors = '<motor joint="left_hip" ctrlrange="-6 6"/><motor joint="right_hip" ctrlrange="-3 3"/>'
    key = '<keyframe><key name="home" qpos="0 0 0.33 1 0 0 0 0 0"/></keyframe>'
    path = write(actuators=motors, more=key)
    table = values(path)["actuators"]
    assert table["left_hip"]["stiffness"] == 10 and table["right_hip"]["stiffness"] == 5
    (tmp_path / "robot.yaml").write_text(to_yaml(guess_robot(path), "robot.xml"))
    model = read_robot(tmp_path / "robot.yaml").model()
    data = mujoco.MjData(model)
    data.qpos[:] = [0, 0, 5, 1, 0, 0, 0, 0.1, 0.5]
    data.qvel[6] = 0.2
    data.ctrl[:] = [0.3, -0.5]
    mujoco.mj_forward(model, data)
    # 10 (0.3 - 0.1) - 0.25 x 0.2, and 5 (-0.5 - 0.5) beyond the motor's 3 N m
    np.testing.assert_allclose(data.actuator_force, [1.95, -3.0])


def test_planar_robot_is_recognised(write):
    guessed = values(write(base=PLANE))
    assert guessed["base"] == "planar"
    assert guessed["home"][:3] == pytest.approx([0, -0.67, 0])
    # the coordinate of height is 0 at 1 m above the ground
    assert guessed["health"]["low"] == pytest.approx(-0.67 - 0.165)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": '<joint name="s" type="slide"/>'}, "its joint s has no actuator"),
        ({"actuators": ""}, "it has no actuator"),
        ({"actuators": MOTORS.format(range="")}, "actuator two has no ctrlrange"),
        ({"more": "<nonsense/>"}, "nonsense"),
    ],
)
def test_model_that_does_not_fit_is_refused_with_the_reason(write, changes, message):
    path = write(**changes)
    with pytest.raises(ConfigError) as error:
        guess_robot(path)
    assert message in str(error.value) and "robot.xml" in str(error.value)
    assert "\n" not in str(error.value)


def test_second_free_body_is_refused(write):
    path = write()
    ball = '<body pos="1 0 1"><freejoint/><geom size="0.1"/></body></worldbody>'
    path.write_text(path.read_text().replace("</worldbody>", ball))
    with pytest.raises(ConfigError, match="2 free bodies; must be one"):
        guess_robot(path)


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hmoe": 1}, "unknown key hmoe; did you mean home?"),
        ({"home": None}, "the key home is missing"),
        ({"home": [0.0]}, "home = [0.0]: must be a list of 9 numbers"),
        ({"home": [0.0] * 8 + ["x"]}, "home[8] = 'x': must be a number"),
        ({"frame_skip": 0}, "frame_skip = 0: must be a number from 1"),
        ({"frame_skip": 2.5}, "frame_skip = 2.5: must be a whole number"),
        ({"frame_skip": True}, "frame_skip = True"),
        ({"base": "fixed"}, "unknown key health; a fixed base has none"),
        ({"base": "swimming"}, "base = 'swimming': must be free or planar or fixed"),
        ({"base": "planar"}, "a planar base has slides along x and z"),
        ({"model": "other.xml"}, "other.xml: there is no such model"),
        ({"limbs": {"a": ["left_hp"]}}, "actuators of the model; did you mean left_hip?"),
        ({"actuators": {"left_hip": {}}}, "all actuators of the model in their order: see ['two']"),
        ({"limbs": {"a": "two"}}, "limbs.a = 'two': must be a list of actuators"),
        ({"limbs": {"a": []}}, "limbs.a = []: must be a list of actuators"),
        ({"limbs": {"a": ["two"], "b": ["two"]}}, "without two, which comes twice"),
        ({"home": [0.0] * 9}, "the quaternion of the base, home[3:7], is zero"),
        ({"health": {"low": 5, "high": 1, "tilt": 1}}, "must be low < high and tilt > 0"),
        ({"health": {"low": 0}}, "a mapping with low, high [m] and tilt [rad]"),
        (
            {"feet": ["left 9"]},
            "feet = ['left 9']: must be geoms of the model; did you mean left 1?",
        ),
        ({"feet": "left 1"}, "feet = 'left 1': must be a list of geoms"),
        ({"feet": [], "contacts": "feet"}, "the geoms that collide, because contacts: feet"),
        ({"contacts": "none"}, "contacts = 'none': must be all or feet"),
        ({"physics": {"timestep": 1}}, "a mapping with timestep [s], cone, integrator"),
        (
            {"physics": {"timestep": 1, "cone": "pyramidal", "integrator": "Euler"}},
            "physics.timestep = 1: must be a number from 1e-05 to 0.1",
        ),
        (
            {"physics": {"timestep": 0.01, "cone": "flat", "integrator": "Euler"}},
            "physics.cone = 'flat': must be one of pyramidal, elliptic",
        ),
        *(
            (
                {
                    "physics": {
                        "timestep": 0.01,
                        "cone": "elliptic",
                        "integrator": "Euler",
                        key: odd,
                    }
                },
                f"physics.{key} = {odd!r}: must be ",
            )
            for key in ("timestep", "cone", "integrator")
            for odd in (["pyramidal"], {"a": 1}, None, "x", True)
        ),
        *(
            ({key: odd}, f"{key} = {odd!r}: must be ")
            for key in (
                "base",
                "contacts",
                "ground",
                "frame_skip",
                "delay",
                "home",
                "feet",
                "limbs",
            )
            for odd in ([["a"]], {"a": {"b": 1}}, True)
            if (key, odd) not in (("feet", [["a"]]), ("limbs", {"a": {"b": 1}}))
        ),
        ({"feet": [["a"]]}, "feet = [['a']]: must be geoms of the model"),
        ({"limbs": {"a": [["two"]]}}, "limbs.a = [['two']]: must be actuators of the model"),
        ({"reset_noise": float("nan")}, "reset_noise = nan: must be a number from 0 to 10"),
    ],
)
def test_file_with_a_wrong_value_is_refused_by_name(robot_file, changes, message):
    with pytest.raises(ConfigError) as error:
        read_robot(robot_file(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("timestep", [["a"], "fast", None, 0, -0.01, float("nan"), True])
def test_robot_from_mjcf_refuses_a_wrong_timestep(write, timestep):
    physics = PHYSICS | {"timestep": timestep}
    with pytest.raises(ConfigError, match="physics.timestep = .*: must be a number from"):
        robot_from_mjcf(write(), physics=physics)


def test_older_file_without_delay_and_filter_is_read(robot_file):
    robot = read_robot(robot_file(delay=None, lowpass=None))
    assert (robot.delay, robot.lowpass) == (0, 0.0)
    assert robot.model().nu == 2


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "x: " + "[" * 5000, "\x00", "a" * 200_000])
def test_file_that_is_no_mapping_is_refused(robot_file, text):
    with pytest.raises(ConfigError, match="robot.yaml: "):
        read_robot(robot_file(text))


def test_numbers_may_have_an_exponent_without_a_point(robot_file):
    path = robot_file(reset_noise=0.125)
    path.write_text(path.read_text().replace("reset_noise: 0.125", "reset_noise: 1e-3"))
    assert read_robot(path).reset_noise == 0.001


def test_range_and_centre_of_an_actuator_fit(robot_file):
    row = {"centre": 1, "scale": 1, "low": 2, "high": 3, "stiffness": 0, "damping": 0}
    with pytest.raises(ConfigError, match="must be low <= centre <= high"):
        read_robot(robot_file(actuators={"left_hip": row, "two": row}))


# --- environments ---------------------------------------------------------------------------------


def test_quadruped_from_its_own_model_is_the_built_in_one(tmp_path):
    """Reads back the model of the built-in robot, with the scales of the built-in one."""
    path = tmp_path / "copy.xml"
    path.write_bytes(Path(QUADRUPED.model_file).read_bytes())
    file = path.with_suffix(".yaml")
    file.write_text(to_yaml(guess_robot(path), "copy.xml"))
    own = read_robot(file)
    assert own.action_scale == (QUADRUPED.action_scale,) * 12
    for name in ("home", "action_centre", "frame_skip", "limbs", "observation", "reset_noise"):
        assert getattr(own, name) == getattr(QUADRUPED, name), name
    rewards = []
    for name in ("quadruped-dir-payload", f"{file}:dir-payload"):
        with closing(make(name, threads=1)) as env:
            env.set_tasks(np.tile([0.3, 0.5, 0.1, 0.0], (2, 1)), 1)
            env.reset([np.random.default_rng(i) for i in range(2)])
            action = np.random.default_rng(0).standard_normal((2, 12))
            rewards.append([env.step(action, np.ones(2, dtype=bool)).reward for _ in range(5)])
    np.testing.assert_array_equal(*rewards)


def test_feet_are_the_lowest_shapes_of_the_last_bodies(tmp_path):
    path = tmp_path / "copy.xml"
    path.write_bytes(Path(QUADRUPED.model_file).read_bytes())
    guessed = values(path)
    assert guessed["feet"] == [f"{leg}_foot" for leg in ("FL", "FR", "RL", "RR")]
    assert guessed["contacts"] == "all"
    own = {"timestep": 0.004, "cone": "pyramidal", "integrator": "implicitfast"}
    assert guessed["physics"] == own


def test_feet_are_all_shapes_that_touch_the_ground_and_no_hands(write):
    path = write()
    text = path.read_text()
    ball = '<geom name="{}" size="0.02" pos="{} 0 -0.34"/>'
    pads = ball.format("heel", -0.1) + ball.format("toe", 0.1)
    hand = '<body name="hand" pos="0.5 0 0"><joint name="h"/><geom name="hand" size="0.02"/></body>'
    place = text.index("</body>")
    first = text.index("<body", text.index("<freejoint/>"))
    path.write_text(text[:first] + hand + text[first:place] + pads + text[place:])
    assert values(path)["feet"] == ["heel", "toe", "right 1"]


def test_shapes_without_a_name_get_that_of_their_body(write):
    assert values(write())["feet"] == ["left 1", "right 1"]


def test_only_feet_collide_and_the_physics_is_that_of_the_file(robot_file):
    physics = {"timestep": 0.001, "cone": "elliptic", "integrator": "RK4"}
    for contacts, colliding in (("feet", 3), ("all", 4)):
        robot = read_robot(robot_file(contacts=contacts, physics=physics))
        model = robot.model()
        assert ((model.geom_contype | model.geom_conaffinity) > 0).sum() == colliding
        assert model.opt.timestep == 0.001
        assert model.opt.cone == mujoco.mjtCone.mjCONE_ELLIPTIC
        assert model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4


def test_inspection_says_what_the_robot_does(robot_file):
    standing, actuators, speed = inspect_robot(QUADRUPED)
    assert standing.startswith("stands 2 s without an action")
    assert actuators == "each of the 12 actuators moves a joint"
    assert "control steps/s on one thread, 10 geoms that can collide" in speed
    path = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "walker2d_v5.xml"
    falling, _, _ = inspect_robot(robot_from_mjcf(path))
    hint = "without an action: its policy must learn to balance"
    assert falling == f"warning: falls 1.12 s after its home pose, {hint}"


@pytest.mark.parametrize("parts", ["dir", "vel", "goal", "fwd-bwd-wind", "payload", "vel-cripple"])
def test_own_robot_has_goals_and_variations(robot_file, parts):
    with closing(make(f"{robot_file()}:{parts}", threads=1)) as env:
        tasks = env.spec.tasks.sample(np.random.default_rng(0), 2)
        env.set_tasks(tasks, 1)
        assert env.reset([np.random.default_rng(i) for i in range(2)]).shape == (2, 13)
        step = env.step(np.zeros((2, 2)), np.ones(2, dtype=bool))
        assert np.isfinite(step.obs).all() and not step.fault.any()


@pytest.mark.parametrize("parts", ["", "dri", "dir-dir", "dir-terain", "-", "dir-", "dir--wind"])
def test_unknown_goal_of_an_own_robot_is_refused(robot_file, parts):
    with pytest.raises(UnknownEnvironment, match="is no goal-variation of this robot"):
        own_recipe(f"{robot_file()}:{parts}")


def test_own_robot_without_a_goal_gets_a_hint(robot_file):
    with pytest.raises(UnknownEnvironment, match="add a goal or variation"):
        own_recipe(str(robot_file()))


def test_version_changes_with_the_file_and_with_its_model(robot_file):
    file = robot_file()
    first = own_recipe(f"{file}:dir").version
    assert own_recipe(f"{file}:dir").version == first
    file.write_text(file.read_text().replace("bonus: 0.5", "bonus: 0.25"))
    second = own_recipe(f"{file}:dir").version
    model = file.with_suffix(".xml")
    model.write_text(model.read_text().replace('size="0.03"', 'size="0.04"'))
    assert len({first, second, own_recipe(f"{file}:dir").version}) == 3


def test_version_changes_with_an_included_file(robot_file, tmp_path):
    file = robot_file()
    model = file.with_suffix(".xml")
    model.rename(tmp_path / "body.xml")
    model.write_text('<mujoco><include file="body.xml"/></mujoco>')
    first = own_recipe(f"{file}:dir").version
    body = tmp_path / "body.xml"
    body.write_text(body.read_text().replace('range="-60 60"', 'range="-60 60" damping="7"'))
    assert own_recipe(f"{file}:dir").version != first


@pytest.mark.parametrize(("parts", "near"), [("dri", "dir"), ("dir-terain", "terrain")])
def test_mistyped_goal_of_an_own_robot_names_the_nearest(robot_file, parts, near):
    with pytest.raises(UnknownEnvironment, match=f"of this robot; did you mean {near}\\?"):
        own_recipe(f"{robot_file()}:{parts}")
