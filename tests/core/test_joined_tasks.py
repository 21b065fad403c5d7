"""Products of tasks have different names of all numbers."""

import numpy as np
import pytest

from metarl.core.joined_tasks import join_tasks
from metarl.core.tasks import Bands, Choice, Product, Split, Uniform, Variable

ANGLES = Uniform((Variable("angle", "rad", 0.0, 6.0),))
SIGNS = Choice(Variable("sign", "1", -1.0, 1.0), (-1.0, 1.0))
LIMB = Split(*(Bands("limb", "1", ((low, low + 1.0),)) for low in (0.0, 2.0)))
DELAY = Choice(Variable("delay", "step", 0.0, 3.0), (0.0, 3.0))


def names(tasks):
    return [variable.name for variable in tasks.variables]


def test_join_tasks_drops_parts_without_numbers():
    nothing = Uniform((), held_out=False)
    assert join_tasks(ANGLES) is ANGLES and join_tasks(nothing, SIGNS) is SIGNS
    assert join_tasks(nothing, ANGLES, SIGNS) == Product((ANGLES, SIGNS))
    empty = join_tasks(nothing, nothing)
    assert empty.sample(np.random.default_rng(0), 4).shape == (4, 0) and not empty.held_out


@pytest.mark.parametrize("order", [("cripple", "weak"), ("weak", "cripple")])
def test_names_do_not_depend_on_the_order(order):
    tasks = join_tasks(ANGLES, LIMB, LIMB, owners=["", *order])
    named = {"cripple": "limb", "weak": "weak limb"}
    assert names(tasks) == ["angle", *(named[owner] for owner in order)]
    assert names(tasks.test) == names(tasks)
    assert tasks.test.variables[1].low == 2.0 and tasks.held_out


def test_owner_of_the_name_keeps_it():
    assert names(join_tasks(DELAY, DELAY, owners=["actuator", "delay"])) == [
        "actuator delay",
        "delay",
    ]


def test_numbers_of_a_part_are_counted():
    gears = Uniform(tuple(Variable("gear a", "1", 0.0, 1.0) for _ in range(3)))
    assert names(join_tasks(gears, owners=["actuator"])) == ["gear a", "gear a 2", "gear a 3"]


def test_other_names_change_no_draw():
    tasks = join_tasks(LIMB, LIMB, owners=["cripple", "weak"])
    draws = (t.sample(np.random.default_rng(0), 5) for t in (tasks, Product((LIMB, LIMB))))
    np.testing.assert_array_equal(*draws)
