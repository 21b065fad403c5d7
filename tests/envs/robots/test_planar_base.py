"""Planar bases of several bodies: the torso is the last of them, and axes are the world's."""

from contextlib import closing

import mujoco
import numpy as np
import pytest
from own_robots import LEG

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.payload import Load, Payload
from metarl.envs.registry import make
from metarl.envs.rendering.camera import plan_shot
from metarl.envs.rendering.marker import Marker
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.guessing.guesses import to_yaml
from metarl.envs.robots.own import require_base

LINK = '<inertial mass="0.001" pos="0 0 0" diaginertia="1e-5 1e-5 1e-5"/>'
NESTED = """<mujoco><worldbody>
<body name="along" pos="0 0 1" {turn}><joint name="x" type="slide" axis="{x}"/>{link}
 <body name="up"><joint name="z" type="slide" axis="0 0 1"/>{link}
  <body name="torso"><joint name="tilt" axis="0 1 0"/>
   <geom type="box" size="0.3 0.15 0.05" mass="8"/>{legs}
  </body>
 </body>
</body>
</worldbody><actuator><motor joint="left_hip" ctrlrange="-5 5"/>
<motor joint="right_hip" ctrlrange="-5 5"/></actuator></mujoco>"""
TURN = 'euler="0 0 180"'


@pytest.fixture
def write(tmp_path):
    def write_model(turn="", x="1 0 0"):
        legs = LEG.format(name="left", x=0.2) + LEG.format(name="right", x=-0.2)
        path = tmp_path / "nest.xml"
        path.write_text(NESTED.format(turn=turn, x=x, link=LINK, legs=legs))
        return path

    return write_model


def test_torso_of_nested_planar_base_is_its_last_body(write):
    path = write()
    robot = robot_from_mjcf(path)
    assert robot.model().body(robot.torso()).name == "torso"
    assert robot.limb_names == ("left", "right")
    values = {guess.key: guess.value for guess in guess_robot(path)}
    assert values["feet"] == ["left 1", "right 1"]
    assert values["health"]["high"] - values["health"]["low"] == pytest.approx(1.5 * 0.33, abs=1e-4)


@pytest.mark.parametrize(
    ("variation", "share_of"), [(Payload(), 8.0), (Load(), None)], ids=["payload", "load"]
)
def test_ball_hangs_on_the_torso_of_a_nested_base(write, variation, share_of):
    path = write().with_suffix(".yaml")
    path.write_text(to_yaml(guess_robot(path.with_suffix(".xml")), "nest.xml"))
    with closing(make(f"{path}:dir-{variation.name}", 1)) as env:
        env.set_tasks(np.array([[1.0, 0.5, 0.1]]), 1)
        model = env._batch.get_model(0)
        ball = model.body(variation.name).id
        assert model.body(model.body_parentid[ball]).name == "torso"
        whole = model.body_subtreemass[1] - model.body_mass[ball]
        assert model.body_mass[ball] * 2 == pytest.approx(share_of or whole)


def test_camera_follows_the_torso_of_a_nested_base(write):
    model = robot_from_mjcf(write()).model()
    shot = plan_shot(model, np.array([[0.5, 0.2, 0.0, 0.0, 0.0]]), Marker("arrow", (1.0, 0.0)))
    np.testing.assert_allclose(shot.root[0], [0.5, 0.0, 1.2])


@pytest.mark.parametrize("turn", [TURN, 'euler="0 90 0"', 'euler="0 0 1"'])
def test_planar_base_of_other_axes_is_refused(write, turn):
    model = mujoco.MjModel.from_xml_path(str(write(turn=turn)))
    with pytest.raises(ConfigError, match=r"nest.xml: base: planar: .* in axes of the world"):
        require_base(model, "planar", "nest.xml")


def test_planar_base_may_turn_its_bodies_back(write):
    model = mujoco.MjModel.from_xml_path(str(write(turn=TURN, x="-1 0 0")))
    require_base(model, "planar", "nest.xml")


def test_planar_base_is_one_chain(write):
    text = write().read_text()
    apart = text.replace('<body name="torso">', '</body></body><body name="torso" pos="0 0 1">', 1)
    apart = apart.replace("</body>\n </body>\n</body>", "</body>")
    model = mujoco.MjModel.from_xml_string(apart)
    with pytest.raises(ConfigError, match="base: planar"):
        require_base(model, "planar", "nest.xml")
