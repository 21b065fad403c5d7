"""The check that each variation of an environment changes what it says."""

from contextlib import closing
from dataclasses import replace

import pytest

from metarl.envs.env_checker_play import Violation
from metarl.envs.env_checker_tasks import check_variations
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.locomotion.variations import VARIATIONS
from metarl.envs.registry import parse_name


class Idle(type(VARIATIONS["gravity"])):
    """A variation whose numbers have no effect."""

    def write(self, world, tasks):
        pass


def test_variations_that_change_the_motion_are_named():
    recipe = parse_name("quadruped-dir-payload-delay")
    with closing(MujocoBatchEnv("x", recipe, 1)) as env:
        assert check_variations(env, 2, 100) == "payload, delay changed the motion"


def test_variation_without_effect_is_named_beside_others():
    recipe = parse_name("quadruped-dir-payload-gravity")
    recipe = replace(recipe, variations=(recipe.variations[0], Idle()))
    message = "variation gravity: 8 tasks gave the same observations .*: set_task changes nothing"
    with closing(MujocoBatchEnv("x", recipe, 1)) as env, pytest.raises(Violation, match=message):
        check_variations(env, 2, 20)
