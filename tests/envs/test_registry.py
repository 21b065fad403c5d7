import re

import numpy as np
import pytest

from metarl.envs.listing import list_environments
from metarl.envs.locomotion.failures import limb_names
from metarl.envs.registry import (
    ENVIRONMENTS,
    FAMILIES,
    WORLDS,
    Recipe,
    UnknownEnvironment,
    make,
    parse_name,
)

# name: S, A, T, dt [s], action scale, held-out tasks
SPECS = {
    "ant-dir": (27, 8, 200, 0.05, 0.2, True),
    "ant-fwd-bwd": (27, 8, 200, 0.05, 0.2, False),
    "ant-goal": (27, 8, 200, 0.05, 0.2, True),
    "ant-vel": (27, 8, 200, 0.05, 0.2, True),
    "half-cheetah-dir": (17, 6, 200, 0.05, 1.0, False),
    "half-cheetah-vel": (17, 6, 200, 0.05, 1.0, True),
    "walker2d-dir": (17, 6, 200, 0.008, 1.0, False),
    "walker2d-vel": (17, 6, 200, 0.008, 1.0, True),
    "hopper-vel": (11, 3, 200, 0.008, 1.0, True),
    "humanoid-dir": (348, 17, 200, 0.015, 1.0, True),
    "quadruped-command": (36, 12, 200, 0.02, 0.4, False),
    "quadruped-dir": (33, 12, 200, 0.02, 0.4, True),
    "quadruped-vel": (33, 12, 200, 0.02, 0.4, True),
    "quadruped-cripple": (33, 12, 200, 0.02, 0.4, True),
    "quadruped-terrain": (33, 12, 200, 0.02, 0.4, True),
    "ant-terrain": (27, 8, 200, 0.05, 0.2, True),
    "ant-dir-terrain": (27, 8, 200, 0.05, 0.2, True),
    "half-cheetah-terrain": (17, 6, 200, 0.05, 1.0, True),
    "walker2d-terrain": (17, 6, 200, 0.008, 1.0, True),
    "ant-cripple": (27, 8, 200, 0.05, 0.2, True),
    "half-cheetah-cripple": (17, 6, 200, 0.05, 1.0, True),
    "walker2d-params": (17, 6, 200, 0.008, 1.0, True),
    "hopper-params": (11, 3, 200, 0.008, 1.0, True),
    "ant-friction": (27, 8, 200, 0.05, 0.2, True),
    "half-cheetah-friction": (17, 6, 200, 0.05, 1.0, True),
    "ant-payload": (27, 8, 200, 0.05, 0.2, True),
    "ant-gravity": (27, 8, 200, 0.05, 0.2, True),
    "ant-wind": (27, 8, 200, 0.05, 0.2, True),
    "ant-actuator": (27, 8, 200, 0.05, 0.2, True),
    "arm-reach": (11, 4, 200, 0.02, 1.0, True),
    "arm-reach-payload": (11, 4, 200, 0.02, 1.0, True),
    "arm-reach-weak": (11, 4, 200, 0.02, 1.0, True),
    "navigation-2d": (2, 2, 100, 1.0, 1.0, True),
    "navigation-2d-sparse": (2, 2, 100, 1.0, 0.1, True),
    "ant-dir/promp": (111, 8, 200, 0.05, 0.1, True),
    "ant-dir/pearl": (27, 8, 200, 0.05, 1.0, True),
    "ant-dir/varibad": (27, 8, 200, 0.05, 1.0, False),
    "half-cheetah-dir/rllib": (17, 6, 100, 0.05, 1.0, False),
    "ant-gravity/resel": (27, 8, 1000, 0.05, 1.0, True),
    "half-cheetah-gravity/resel": (17, 6, 1000, 0.05, 1.0, True),
    "hopper-gravity/resel": (11, 3, 1000, 0.008, 1.0, True),
    "walker2d-gravity/resel": (17, 6, 1000, 0.008, 1.0, True),
    "humanoid-gravity/resel": (348, 17, 1000, 0.015, 1.0, True),
}

VERSIONS = {name: 2 for name in SPECS if not name.startswith(("half", "navigation", "arm"))}
VERSIONS["ant-goal"] = 1  # it has no bonus
VERSIONS["quadruped-vel"] += 1  # the bonus was once 0.5
VERSIONS |= {name: VERSIONS.get(name, 1) + 1 for name in SPECS if "terrain" in name}
VERSIONS["quadruped-terrain"] += 1
"""Versions other than 1: one more for the bonus of healthy robots, one for endless terrain, and one
for terrain in proportion to a small robot."""

PLUG_IN = """
from metarl.envs.navigation import DenseGoal, NavigationEnv

def make_env(name, threads):
    env = NavigationEnv(name, DenseGoal(), horizon=7)
    env.threads = threads
    return env

SIZE = 3
"""


@pytest.fixture(autouse=True)
def change_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Returns a function that writes a module into a folder on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, text=PLUG_IN: (tmp_path / f"{name}.py").write_text(text)


def message(name):
    with pytest.raises(UnknownEnvironment) as caught:
        make(name)
    text = str(caught.value)
    assert "\n" not in text and name in text
    return text


def test_table_lists_the_expected_environments():
    assert list(ENVIRONMENTS) == list(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_environment_steps_in_the_shapes_of_its_spec(name):
    env = make(name, threads=1)
    spec = env.spec
    held_out = spec.tasks.held_out
    values = (
        spec.obs_size,
        spec.action_size,
        spec.horizon,
        round(spec.dt, 12),
        spec.action_scale,
        held_out,
    )
    assert values == SPECS[name]
    assert (spec.name, spec.version) == (name, VERSIONS.get(name, 1))
    assert spec.reward and all(np.isfinite(list(spec.floors.values())))
    assert spec.note.endswith("" if held_out else "test tasks are the training tasks")
    assert (spec.note == "") == (held_out and "humanoid" not in name and "resel" not in name)

    tasks = spec.tasks.sample(np.random.default_rng(0), 3)
    env.set_tasks(tasks, 2)
    obs = env.reset([np.random.default_rng(i) for i in range(6)])
    assert obs.shape == (6, spec.obs_size) and np.isfinite(obs).all()
    step = env.step(np.full((6, spec.action_size), 0.3), np.ones(6, dtype=bool))
    assert step.obs.shape == (6, spec.obs_size) and np.isfinite(step.obs).all()
    for array, kind in ((step.reward, "f"), (step.terminated, "b"), (step.fault, "b")):
        assert array.shape == (6,) and array.dtype.kind == kind
    assert np.isfinite(step.reward).all() and not step.fault.any()
    assert len(env.snapshot()) == 6
    assert env.marker(tasks[0]).kind in ("arrow", "target", "point")
    env.close()


def test_spec_notes_error_and_task_split_of_the_source():
    varibad = make("ant-dir/varibad", threads=1).spec
    assert "the signs +-1 were used as angles [rad]" in varibad.note
    np.testing.assert_array_equal(
        np.unique(varibad.tasks.sample(np.random.default_rng(0), 10)), [-1.0, 1.0]
    )
    assert list(varibad.floors) == ["stand still"]  # both tasks reward running along +x
    assert make("humanoid-wind", threads=1).spec.note.endswith("not Gymnasium's")
    assert make("ant-dir/pearl", threads=1).spec.task_split == (100, 30)
    assert make("ant-dir", threads=1).spec.task_split is None


def test_gravity_of_resel_is_scaled_over_a_decade():
    for name, most, reward in (
        ("ant", 3.0, "v_x + 1 healthy - 0.5 sum a^2"),
        ("half-cheetah", 3.0, "v_x - 0.1 sum a^2"),
        ("hopper", 3.0, "v_x + 1 healthy - 0.001 sum a^2"),
        ("walker2d", 3.0, "v_x + 1 healthy - 0.001 sum a^2"),
        ("humanoid", 2.0, "1.25 v_x + 5 healthy - 0.1 sum a^2"),
    ):
        env = make(f"{name}-gravity/resel", threads=1)
        (variable,) = env.spec.tasks.variables
        assert (variable.low, variable.high, env.spec.task_split) == (-most, most, (100, 20))
        assert env.spec.reward.startswith(reward) and env.spec.horizon == 1000
        env.set_tasks(np.array([[-most], [0.0], [2.0]]), 1)
        found = [env._batch.get_model(row).opt.gravity for row in range(3)]
        expected = [[0.0, 0.0, -9.81 * factor] for factor in (1.5**-most, 1.0, 2.25)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        env.close()


def test_name_combines_robot_goal_and_variations():
    env = make("half-cheetah-vel-gravity-friction", threads=1)
    assert env.spec.name == "half-cheetah-vel-gravity-friction"
    names = [v.name for v in env.spec.tasks.variables]
    assert names == ["speed", "gravity", "tilt", "friction"]  # in the order of the name
    assert env.spec.reward == "-|v_x - g| - 0.05 sum a^2"
    for robot, goals in FAMILIES.items():
        for goal in goals:
            for word, variation in WORLDS.items():
                recipe = parse_name("-".join(part for part in (robot, goal, word) if part))
                assert (recipe.robot.name, recipe.goal) == (robot, goals[goal].goal)
                assert recipe.variations == (variation,)


@pytest.mark.parametrize(
    "name", ["ant", "hopper", "ant-", "ant-wind-wind", "ant-wind-dir", "hopper-goal", "ant-dir-"]
)
def test_name_needs_a_task_and_ordered_single_variations(name):
    assert parse_name(name) is None
    message(name)


@pytest.mark.parametrize(
    ("name", "held_out"),
    [("ant-cripple/hip_1", 0), ("ant-dir-cripple/hip_3", 2), ("half-cheetah-cripple/bfoot", 2)],
)
def test_name_after_a_slash_holds_out_a_limb(name, held_out):
    recipe = parse_name(name)
    spec = recipe.spec(name)
    place = [variable.name for variable in spec.tasks.variables].index("limb")
    train, test = (
        set(tasks.sample(np.random.default_rng(0), 200)[:, place])
        for tasks in (spec.tasks, spec.tasks.test)
    )
    count = len(limb_names(recipe.robot))
    assert test == {held_out} and train == set(range(count)) - {held_out}
    assert spec.version == parse_name(name.partition("/")[0]).version


def test_unknown_limb_is_refused_with_a_hint():
    with pytest.raises(UnknownEnvironment, match=r"did you mean ant-cripple/hip_\d\?"):
        make("ant-cripple/hip_9", threads=1)


@pytest.mark.parametrize("name", ["ant-dir/hip_1", "ant-cripple/", "nobody-cripple/hip_1"])
def test_limb_of_nothing_is_refused(name):
    with pytest.raises(UnknownEnvironment, match=f"no environment '{name}'"):
        make(name, threads=1)


def test_listed_spec_equals_the_built_one():
    for name, factory in ENVIRONMENTS.items():
        if isinstance(factory, Recipe):
            assert factory.spec(name) == make(name, threads=1).spec


def test_list_environments_gives_numbers_split_and_floors():
    text = list_environments()
    for name in ENVIRONMENTS:
        assert re.search(rf"^{re.escape(name)} ", text, re.M), name
    entry = text[text.index("ant-friction ") : text.index("half-cheetah-friction ")].splitlines()
    assert entry == [
        "ant-friction             T=200 dt=0.05 s  S=27 A=8 action x0.2  version 2",
        "    task    friction in [0.2, 1.5]",
        "    world   sliding friction of the ground, uniform in log",
        "    split   held out friction in [0.08, 0.2] or [1.5, 2.5]",
        "    reward  v_x + 1 healthy - 0.5 sum a^2",
        "    floors  stand still 200",
    ]
    for words in (
        "angle in [0, 6.283] rad, kind of slopes, rough, waves, level in [0.2, 1], patch in [0, 3]",
        "held out kind of stairs, basin, hill, steep, gaps",
        "limb of hip_1, hip_2, hip_3, onset",
        "held out limb of hip_4",
        "fresh draws; 100 fixed training tasks (the source tests on 30)",
        "fresh draws; 40 fixed training tasks (the source tests on 10)",
        "none: test = train",
        "mass (7 numbers) in [-3, 3], inertia (21 numbers)",
    ):
        assert words in text, words
    families = text[text.index("names any other") :]
    assert all(f"  {word} " in families for word in (*FAMILIES, *WORLDS))


def test_make_observes_terrain_only_where_there_is_one():
    plain, observed = make("ant-terrain", 1), make("ant-terrain", 1, observe_terrain=True)
    assert observed.spec.obs_size == plain.spec.obs_size + 25
    with pytest.raises(UnknownEnvironment, match="'ant-dir' has no terrain to observe"):
        make("ant-dir", 1, observe_terrain=True)


def test_closed_environment_can_be_used_again():
    env = make("half-cheetah-dir", threads=1)
    for _ in range(2):
        env.set_tasks(np.array([[1.0]]), 1)
        assert env.reset([np.random.default_rng(0)]).shape == (1, 17)
        env.close()
    with pytest.raises(RuntimeError, match="half-cheetah-dir: call set_tasks before reset"):
        env.reset([np.random.default_rng(0)])


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ant_dir", "ant-dir"),
        ("ant-direction", "ant-dir"),
        ("halfcheetah-vel", "half-cheetah-vel"),
        ("navigation2d", "navigation-2d"),
        ("ant-dir/prmp", "ant-dir/promp"),
        ("ant-dir-terain", "ant-dir-terrain"),
        ("half-cheetah-frictoin", "half-cheetah-friction"),
        ("walker-params", "walker2d-params"),
        ("ant-goal-wind-fricton", "ant-goal-wind-friction"),
    ],
)
def test_make_suggests_a_similar_name(name, near):
    expected = f"no environment '{name}'; did you mean {near}? (--list-envs shows all)"
    assert message(name) == expected


@pytest.mark.parametrize("name", ["xyzzy", "nope", "CartPole-v9"])
def test_make_suggests_nothing_for_other_names(name):
    assert message(name) == f"no environment '{name}' (--list-envs shows all)"


def test_make_accepts_module_and_attribute(plug_in):
    plug_in("my_points")
    env = make("my_points:make_env", threads=2)
    assert (env.spec.name, env.spec.horizon, env.threads) == ("my_points:make_env", 7, 2)
    env.set_tasks(np.array([[0.3, 0.4]]), 1)
    env.reset([np.random.default_rng(0)])
    assert env.step(np.zeros((1, 2)), np.ones(1, dtype=bool)).reward[0] == pytest.approx(-0.5)


def test_make_names_a_missing_module(plug_in):
    expected = "'no_such_module:make': no module 'no_such_module' can be imported"
    assert message("no_such_module:make") == expected
    # also if an import of the plug-in itself fails
    plug_in("needs_more", "import not_installed_anywhere\n")
    assert "no module 'not_installed_anywhere'" in message("needs_more:make")


def test_make_suggests_a_similar_attribute(plug_in):
    plug_in("my_other_points")
    text = message("my_other_points:make_emv")
    assert "my_other_points has no class or function 'make_emv'; did you mean make_env?" in text
    assert "has no class or function 'SIZE'" in message("my_other_points:SIZE")


@pytest.mark.parametrize("name", [":make", "module:", ".relative:make", ":"])
def test_make_explains_the_form_of_half_a_name(name):
    assert "write module:attribute" in message(name)


def test_make_lets_errors_of_a_plug_in_through(plug_in):
    plug_in("broken_points", "import math\nmath.no_such_function\n")
    with pytest.raises(AttributeError, match="no_such_function"):
        make("broken_points:make_env")
