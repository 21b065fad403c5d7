"""Cells from specs without simulations."""

from dataclasses import replace

import numpy as np
import pytest

from metarl.builders import make_env
from metarl.certification.cells import (
    NOMINAL,
    Training,
    compose,
    describe_outside,
    draw_tasks,
    make_cells,
)
from metarl.certification.grid import Axis, Grid, find_grid, read_grid, select_axes
from metarl.core.errors import ConfigError
from metarl.envs.registry import ENVIRONMENTS, parse_name

DEFAULT = read_grid(find_grid("legged"))


def spec_of(name):
    recipe = parse_name(name)
    return recipe.spec(name) if recipe else ENVIRONMENTS[name].spec(name)


def grid_of(*axes, product=False):
    return Grid("", 6, 2, axes, product)


def axis(variation, vary, *levels, **fixed):
    return Axis(f"{variation or 'own'} {vary}", variation, vary, levels, fixed)


def training_of(name):
    tasks = spec_of(name).tasks
    return Training(name, tasks.variables, tasks.test.variables)


@pytest.mark.parametrize(
    ("env", "variations", "name"),
    [
        ("quadruped-command", ["damage", "load"], "quadruped-command-damage-load"),
        ("quadruped-command-load", ["load"], "quadruped-command-load"),
        ("ant-cripple/hip_1", ["load"], "ant-cripple-load/hip_1"),
        ("robots/my_push.yaml:dir", ["push"], "robots/my_push.yaml:dir-push"),
        ("navigation-2d", [""], "navigation-2d"),
    ],
)
def test_names_are_composed(env, variations, name):
    assert compose(env, variations) == name


@pytest.mark.parametrize("env", ["quadruped-command", "ant-dir", "walker2d-vel"])
def test_default_grid_fits_legged_robots(env):
    cells = make_cells(DEFAULT, env, spec_of)
    assert cells[0].axis == NOMINAL and cells[0].env == env
    assert {cell.axis for cell in cells[1:]} == {each.name for each in DEFAULT.axes}
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    assert sum(cell.axis == "terrain" for cell in cells) == 8


def test_cells_differ_by_their_levels_alone():
    cells = make_cells(grid_of(axis("load", "load", 0.1, 0.4)), "ant-dir", spec_of)
    nominal, light, heavy = (draw_tasks(cell, spec_of(cell.env), 3, 6) for cell in cells)
    assert np.array_equal(nominal[:, 0], light[:, 0])  # the goal
    assert np.array_equal(light[:, [0, 2, 3]], heavy[:, [0, 2, 3]])  # goal and place of the load
    assert (light[:, 1] == 0.1).all() and (heavy[:, 1] == 0.4).all()
    assert len(np.unique(light[:, 2])) == 6 and np.abs(light[:, 2:]).max() <= 0.1
    other = draw_tasks(cells[1], spec_of(cells[1].env), 4, 6)
    assert not np.array_equal(other, light)


def test_all_kinds_take_turns_and_ranges_are_drawn():
    own = axis("damage", "strength", (0.3, 0.6), limb="all", failure="weak", onset=0.0)
    _, cell = make_cells(grid_of(own), "quadruped-command", spec_of)
    tasks = draw_tasks(cell, spec_of(cell.env), 0, 8)
    assert sorted(tasks[:, 0]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (tasks[:, 1] == 0).all() and (tasks[:, 2] == 2).all()
    assert 0.3 <= tasks[:, 3].min() < tasks[:, 3].max() <= 0.6
    assert cell.name == "damage strength: 0.3 to 0.6"


def test_numbers_that_are_left_out_are_drawn_as_in_training():
    _, cell = make_cells(grid_of(axis("damage", "onset", 50.0)), "quadruped-command", spec_of)
    limbs = draw_tasks(cell, spec_of(cell.env), 0, 12)[:, 0]
    assert sorted(set(limbs)) == [0, 1, 2]  # test tasks have limb 3


def test_product_combines_all_levels():
    axes = (axis("friction", "friction", 0.2, 2.0), axis("actuator", "delay", 1.0, 3.0))
    cells = make_cells(grid_of(*axes, product=True), "hopper-vel", spec_of)
    combined = [cell for cell in cells if cell.axis == "product"]
    assert {cell.env for cell in combined} == {"hopper-vel-friction-actuator"}
    spec = spec_of(combined[0].env)
    names = [variable.name for variable in spec.tasks.variables]
    tasks = [draw_tasks(cell, spec, 0, 2)[0] for cell in combined]
    pairs = [(t[names.index("friction")], t[names.index("delay")]) for t in tasks]
    assert pairs == [(0.2, 1), (0.2, 3), (2, 1), (2, 3)]
    with pytest.raises(ConfigError, match="dead limb and locked limb vary the same damage"):
        both = select_axes(DEFAULT, ["dead limb", "locked limb"])
        make_cells(replace(DEFAULT, axes=both, product=True), "quadruped-command", spec_of)


def test_numbers_of_the_environment_itself_can_be_varied():
    (nominal, near) = make_cells(grid_of(axis("", "goal_x", 0.5)), "ant-goal", spec_of)
    assert nominal.env == near.env == "ant-goal"
    before, after = (draw_tasks(cell, spec_of("ant-goal"), 0, 4) for cell in (nominal, near))
    assert (after[:, 0] == 0.5).all() and np.array_equal(before[:, 1], after[:, 1])
    _, own = make_cells(grid_of(axis("load", "load", 0.5)), "ant-dir-load", spec_of)
    assert own.env == "ant-dir-load"
    assert (draw_tasks(own, spec_of("ant-dir-load"), 0, 4)[:, 1] == 0.5).all()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (axis("load", "lod", 0.1), "axis load lod: ant-dir-load has no number 'lod'; did you mean"),
        (axis("load", "load", 0.9), r"load = 0.9: must be in \[0, 0.5\]"),
        (axis("load", "load", "heavy"), r"load = 'heavy': must be in \[0, 0.5\]"),
        (axis("terrain", "kind", "stair"), "kind = 'stair': must be one of slopes, .*mean stairs"),
        (axis("terrain", "kind", 0.5), "kind = 0.5: must be the name or the number of a kind"),
        (Axis("a", "load", "load", "all", {}), "levels: all: load has no names of kinds"),
    ],
)
def test_unusable_values_are_refused(own, message):
    with pytest.raises(ConfigError, match=message):
        make_cells(grid_of(own), "ant-dir", spec_of)


def test_axis_that_the_environment_lacks_is_refused():
    message = "axis load load: navigation-2d has no variation 'load'; leave the axis out with"
    with pytest.raises(ConfigError, match=message):
        grid = grid_of(axis("load", "load", 0.1))
        make_cells(grid, "navigation-2d", lambda name: make_env(name).spec)


OUTSIDE = [
    ("quadruped-command", axis("load", "load", 0.1), ["training had no load"]),
    ("quadruped-command-load", axis("load", "load", 0.3), []),
    ("quadruped-command-load", axis("load", "load", 0.4), ["load 0.4, trained on 0 to 0.3"]),
    ("quadruped-command-load", axis("load", "load", (0.2, 0.4)), None),
    ("quadruped-command-load-damage", axis("load", "load", 0.1), ["training always had damage"]),
    ("quadruped-command-damage", axis("damage", "limb", "RR_hip"), ["limb RR_hip"]),
    ("quadruped-command-damage", axis("damage", "limb", "FL_hip"), []),
    ("quadruped-command-damage/FR_hip", axis("damage", "limb", "FR_hip"), ["limb FR_hip"]),
    ("quadruped-command-damage/FR_hip", axis("damage", "limb", "RR_hip"), []),
    ("quadruped-command-cripple", axis("locked", "limb", "FL_hip"), None),
]


@pytest.mark.parametrize(("trained_on", "own", "reasons"), OUTSIDE)
def test_tasks_outside_training_are_described(trained_on, own, reasons):
    _, cell = make_cells(grid_of(own), "quadruped-command", spec_of)
    spec = spec_of(cell.env)
    found = describe_outside(cell, spec, draw_tasks(cell, spec, 0, 8), training_of(trained_on))
    assert found == reasons if reasons is not None else found


def test_world_without_a_variation_that_can_be_absent_is_inside():
    nominal = make_cells(grid_of(axis("load", "load", 0.1)), "quadruped-command", spec_of)[0]
    spec, tasks = spec_of("quadruped-command"), np.empty((2, 0))
    for trained_on, reasons in (
        ("quadruped-command-load-push-actuator", []),
        ("quadruped-command-delay", []),
        ("quadruped-command-friction", ["training always had friction"]),
        ("quadruped-dir", ["training had no command", "training always had dir"]),
    ):
        assert describe_outside(nominal, spec, tasks, training_of(trained_on)) == reasons


@pytest.mark.parametrize(
    "name",
    [
        "quadruped-payload-load",
        "quadruped-delay-actuator",
        "quadruped-cripple-weak-damage",
        "quadruped-gravity-push",
    ],
)
def test_training_tasks_of_combined_variations_are_inside(name):
    spec = spec_of(name)
    names = [variable.name for variable in spec.tasks.variables]
    assert len(set(names)) == len(names)
    cell = make_cells(grid_of(axis("gravity", "tilt", 0.1)), name, spec_of)[0]
    tasks = spec.tasks.sample(np.random.default_rng(0), 200)
    assert describe_outside(cell, spec, tasks, training_of(name)) == []
    test = spec.tasks.test.sample(np.random.default_rng(0), 20)
    has_reasons = bool(describe_outside(cell, spec, test, training_of(name)))
    assert has_reasons


@pytest.mark.parametrize("env", ["quadruped-dir", "quadruped-delay", "quadruped-actuator-delay"])
def test_axis_finds_the_number_of_its_variation(env):
    own = Axis("late", "actuator", "delay", (2.0,), {"gear *": 1.0})
    _, cell = make_cells(grid_of(own), env, spec_of)
    variables = spec_of(cell.env).tasks.variables
    found = [variables[c].name for c, value in cell.fixed.items() if value.values == (2.0,)]
    assert found == ["delay" if env == "quadruped-dir" else "actuator delay"]
