"""Balls on robots of users: their mass, their carrier, their names, and other variations."""

from contextlib import closing

import mujoco
import numpy as np
import pytest
from own_robots import LEG, RANGED, WALKER

import metarl
from metarl.envs.locomotion.payload import Load, Payload
from metarl.envs.robots.guessing.guess import robot_from_mjcf

BOX = '<geom type="box" size="0.3 0.15 0.05"/>'
INERTIA = '<inertial mass="{}" pos="0 0 0" diaginertia="1e-9 1e-9 1e-9"/>'
DOOR = '<body name="door" pos="3 0 1"><joint name="hinge"/><geom name="wood" size="0.5"/></body>'


@pytest.fixture
def write(tmp_path):
    def write_model(base=BOX, more="", compiler=""):
        legs = LEG.format(name="left", x=0.2) + LEG.format(name="right", x=-0.2)
        text = WALKER.format(
            ground=compiler, base="<freejoint/>", legs=legs, actuators=RANGED, more=""
        )
        path = tmp_path / "robot.xml"
        path.write_text(text.replace(BOX, base).replace("</worldbody>", f"{more}</worldbody>"))
        return path

    return write_model


def compile_with(path, variations, **numbers):
    """Returns the model of a task with numbers of the variations, the others are 0."""
    robot = robot_from_mjcf(path)
    with closing(metarl.make_env(robot, goal="dir", variations=variations)) as env:
        names = [v.name for v in env.spec.tasks.variables]
        task = np.zeros((1, len(names)))
        for name, value in numbers.items():
            task[0, names.index(name.replace("_of_", " "))] = value
        env.set_tasks(task, 1)
        return env._batch.get_model(0)


@pytest.mark.parametrize("order", [["params", "payload"], ["payload", "params"]])
def test_params_and_payload_in_any_order(write, order):
    path = write(more=DOOR)
    plain = robot_from_mjcf(path).model()
    numbers = {"mass_of_door": 2.0, "friction_of_wood": -1.0, "inertia door z": 1.0}
    model = compile_with(path, order, payload=0.5, **numbers)
    assert model.body("door").mass == pytest.approx(1.5**2 * plain.body("door").mass)
    assert model.body("door").inertia[2] == pytest.approx(1.5 * plain.body("door").inertia[2])
    assert model.geom("wood").friction[0] == pytest.approx(plain.geom("wood").friction[0] / 1.5)
    ball = model.body("payload")
    assert ball.mass == pytest.approx(0.5 * plain.body("base").mass)
    np.testing.assert_allclose(ball.inertia, 0.4 * 0.06**2 * ball.mass[0])
    assert model.geom("payload").friction[0] == 1.0


@pytest.mark.parametrize("own", ["", INERTIA.format(0.001)])
def test_payload_is_a_share_of_what_is_welded_to_an_empty_base(write, own):
    path = write(base=f'{own}<body name="trunk">{BOX}</body>')
    trunk = robot_from_mjcf(path).model().body("trunk").mass
    assert compile_with(path, ["payload"], payload=1.0).body("payload").mass == pytest.approx(
        trunk, rel=1e-3
    )


def test_com_of_an_empty_base_moves_what_is_welded_to_it(write):
    path = write(base=f'<body name="trunk" euler="0 90 0">{BOX}</body>')
    models = [compile_with(path, ["com"], com_x=x) for x in (0.0, 0.02)]
    centres = []
    for model in models:
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        centres.append(data.xipos[model.body("trunk").id].copy())
    np.testing.assert_allclose(centres[1] - centres[0], [0.02, 0.0, 0.0], atol=1e-12)


TOP = '<geom name="TOP" type="box" size="0.1 0.1 0.02" pos="0 0 0.08"/>'
CAMERA = '<geom type="box" size="0.02 0.02 0.02" pos="0.32 0 -0.05"/>'
MAST = '<geom type="box" size="0.02 0.02 0.3" pos="0.28 0 0.3"/>'


@pytest.mark.parametrize(
    "base, top",
    [
        (BOX, 0.05),
        (CAMERA + BOX + TOP, 0.1),
        (BOX + MAST, 0.05),
        (f'<body name="trunk" pos="0 0 0.02">{BOX}</body>', 0.07),
        (CAMERA, -0.03),  # nothing is above the origin: the first geom
    ],
    ids=["box", "camera", "mast", "welded", "aside"],
)
def test_ball_is_on_top_of_the_torso(write, base, top):
    path = write(base=base)
    ball = compile_with(path, ["payload"], payload=1.0).body("payload")
    np.testing.assert_allclose(ball.pos, [0.0, 0.0, top + 0.06], atol=1e-12)
    revisions = {each.num_revisions(robot_from_mjcf(path)) for each in (Payload(), Load())}
    assert revisions == {int("TOP" in base or "trunk" in base)}


@pytest.mark.parametrize("variation", ["payload", "load"])
def test_payload_of_a_model_that_fuses_its_bodies(write, variation):
    things = '<body name="box" pos="4 0 0"><geom size="0.1"/></body>'
    fuse = '<compiler fusestatic="true"/>'
    model = compile_with(write(more=things, compiler=fuse), [variation], **{variation: 0.2})
    parent = model.body(int(model.body(variation).parentid[0]))
    assert parent.name == "base" and model.body(variation).mass > 0.0


@pytest.mark.parametrize("variation", ["payload", "load"])
@pytest.mark.parametrize("kind", ["body", "geom"])
def test_payload_beside_a_thing_with_its_name(write, variation, kind):
    names = {"body": f'name="{variation}"', "geom": ""}[kind], {"geom": variation}.get(kind, "x")
    thing = f'{BOX}<body {names[0]}><geom name="{names[1]}" size="0.02" mass="0.1"/></body>'
    model = compile_with(write(base=thing), [variation], **{variation: 0.2})
    assert model.body(f"metarl {variation}").mass > 0.1
    if kind == "body":
        assert model.body(variation).mass == pytest.approx(0.1)
