"""Files of a user's robot."""

import pytest
import yaml
from own_robots import LEG, RANGED, WALKER

from metarl.envs.robots.guessing.guess import guess_robot
from metarl.envs.robots.guessing.guesses import to_yaml


@pytest.fixture
def write(tmp_path):
    def write_model(
        base="<freejoint/>",
        actuators=RANGED,
        ground="",
        more="",
    ):
        legs = LEG.format(name="left", x=0.2) + LEG.format(name="right", x=-0.2)
        text = WALKER.format(ground=ground, base=base, legs=legs, actuators=actuators, more=more)
        path = tmp_path / "robot.xml"
        path.write_text(text)
        return path

    return write_model


@pytest.fixture
def robot_file(write):
    """Writes a robot's file with some keys changed, and returns its path."""

    def write_file(text=None, **changes):
        path = write().with_suffix(".yaml")
        own = to_yaml(guess_robot(path.with_suffix(".xml")), "robot.xml")
        if changes:
            tree = yaml.safe_load(own)
            for key, value in changes.items():
                tree = {k: v for k, v in tree.items() if k != key} if value is None else tree
                tree |= {} if value is None else {key: value}
            own = yaml.safe_dump(tree, sort_keys=False)
        path.write_text(own if text is None else text)
        return path

    return write_file
