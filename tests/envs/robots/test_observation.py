"""Terms of an observation: scale, clip and noise; the last action, command and heights."""

from contextlib import closing
from dataclasses import replace
from importlib.resources import files

import mujoco
import numpy as np
import pytest
import yaml

from metarl.core.errors import ConfigError
from metarl.envs.locomotion.terrain import Terrain
from metarl.envs.registry import make, recipe_of
from metarl.envs.robots.guessing.guess import guess_robot, robot_from_mjcf
from metarl.envs.robots.own import read_robot

PLAIN = {"scale": 1.0, "clip": 0.0, "noise": 0.0}


@pytest.fixture
def env_of(robot_file):
    """Makes an environment of the two-legged robot whose file has these terms."""

    def build(goal="dir", observe_terrain=False, **terms):
        names = {name.replace("_", " "): {**PLAIN, **own} for name, own in terms.items()}
        path = robot_file(observation=names)
        return make(f"{path}:{goal}", 1, observe_terrain=observe_terrain)

    return build


def play(env, seeds, steps=6):
    """Observations (steps + 1, rows, S) of episodes with these seeds and equal actions."""
    task = env.spec.tasks.sample(np.random.default_rng(0), 1)
    env.set_tasks(np.tile(task, (len(seeds), 1)), 1)
    found = [env.reset([np.random.default_rng(seed) for seed in seeds]).copy()]
    rng = np.random.default_rng(5)
    for _ in range(steps):
        action = np.tile(rng.uniform(-2.0, 2.0, (1, 2)), (len(seeds), 1))
        found.append(env.step(action, np.ones(len(seeds), dtype=bool)).obs.copy())
    return np.array(found)


def test_terms_are_scaled_and_clipped(env_of):
    with closing(env_of(base_velocity={}, joint_speeds={})) as plain:
        expected = play(plain, [0, 1])
    with closing(env_of(base_velocity={"scale": 2.0}, joint_speeds={"clip": 0.5})) as env:
        found = play(env, [0, 1])
        names = [quantity.name for quantity in env.spec.observed]
    np.testing.assert_array_equal(found[..., :3], 2.0 * expected[..., :3])
    np.testing.assert_array_equal(found[..., 3:], np.clip(expected[..., 3:], -0.5, 0.5))
    assert (np.abs(expected[..., 3:]) > 0.5).any()
    assert names[0] == "2 x base velocity x, own axes" and names[3] == "left_hip speed"


def test_noise_is_new_in_every_step_and_comes_from_the_episode(env_of):
    with closing(env_of(gravity={}, joint_positions={})) as plain:
        expected, all_plain = play(plain, [0, 1, 0]), play(plain, list(range(60)))
    with closing(env_of(gravity={}, joint_positions={"noise": 0.1})) as env:
        found = play(env, [0, 1, 0])
        np.testing.assert_array_equal(play(env, [0, 1, 0]), found)
        errors = (play(env, list(range(60))) - all_plain)[..., 3:]
    noise = found[..., 3:] - expected[..., 3:]
    np.testing.assert_array_equal(found[..., :3], expected[..., :3])
    assert len(np.unique(noise[:, :2].round(12))) == noise[:, :2].size
    np.testing.assert_array_equal(noise[:, 0], noise[:, 2])
    assert errors.std() == pytest.approx(0.1, rel=0.1) and abs(errors.mean()) < 0.02


def test_last_action_is_the_clipped_output_and_zero_at_the_start(env_of):
    with closing(env_of(last_action={}, gravity={})) as env:
        env.set_tasks(np.zeros((2, 1)), 1)
        streams = [np.random.default_rng(row) for row in range(2)]
        assert not env.reset(streams)[:, :2].any()
        action = np.array([[0.25, 3.0], [-0.5, 0.1]])
        seen = env.step(action, np.array([True, False])).obs
        low, high = (np.array(env.spec.action_range) - env.spec.action_centre) / np.array(
            env.spec.action_scale
        )
        np.testing.assert_allclose(seen[0, :2], np.clip(action[0], low, high), atol=1e-12)
        assert not seen[1, :2].any()
        assert not env.reset_rows(np.array([True, False]), streams[:1])[0, :2].any()


def test_commands_follow_the_terms(env_of):
    with closing(env_of("command", gravity={"scale": 3.0})) as env:
        assert env.spec.obs_size == 6
        assert env.spec.observed[3].name == "command: speed forward"
        assert play(env, [0])[0, 0, 2] == pytest.approx(-3.0, abs=0.05)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"gravty": PLAIN}, "observation = 'gravty': must be one of base velocity"),
        ({"gravity": {"scale": 1}}, "observation.gravity = {'scale': 1}: must be a mapping with"),
        ({"gravity": {**PLAIN, "scale": 0}}, "observation.gravity.scale = 0: must be a number"),
        ({}, "observation = {}: must be a mapping of terms"),
        ({"height scan": PLAIN, "command": PLAIN}, "not of command, height scan alone"),
        ({"gravity": PLAIN, "commands": PLAIN}, "did you mean command?"),
    ],
)
def test_wrong_term_is_refused_by_name(terms, message, robot_file):
    with pytest.raises(ConfigError) as error:
        read_robot(robot_file(observation=terms))
    assert message in str(error.value)


def test_file_names_the_terms_without_noise(robot_file):
    tree = yaml.safe_load(robot_file().read_text())
    names = ["base velocity", "base turn", "gravity", "joint positions", "joint speeds"]
    assert tree["observation"] == {name: PLAIN for name in names}


def test_observed_vertical_does_not_show_the_tilt_of_gravity():
    with closing(make("quadruped-dir-gravity", 1)) as env:
        tasks = np.array([[0.0, 9.81, 0.0, 0.0], [0.0, 9.81, 0.3, 0.0]])  # angle, size, tilt
        env.set_tasks(tasks, 1)
        level, tilted = env.reset([np.random.default_rng(0), np.random.default_rng(0)])
        names = [each.name for each in env.spec.observed]
    vertical = [i for i, name in enumerate(names) if name.startswith("direction of gravity")]
    np.testing.assert_array_equal(level[vertical], tilted[vertical])
    assert len(vertical) == 3 and level[vertical[2]] < -0.99


# --- terms of goal and terrain --------------------------------------------------------------------

WALK = {"goal": "command-terrain-payload", "observe_terrain": True}


def test_listed_plain_terms_have_the_bits_of_the_default_order(env_of):
    own = {"gravity": {"noise": 0.1}, "joint_positions": {}}
    with closing(env_of(**WALK, **own)) as plain:
        expected, names = play(plain, [0, 1]), plain.spec.observed
    assert names[5].name == "command: speed forward" and "ground over rest" in names[8].name
    listed = {"height_scan": {}, "gravity": {"noise": 0.1}, "command": {}, "joint_positions": {}}
    with closing(env_of(**WALK, **listed)) as env:
        found = play(env, [0, 1])
        order = [names.index(each) for each in env.spec.observed]
    assert order == [*range(8, 33), 0, 1, 2, 5, 6, 7, 3, 4]
    np.testing.assert_array_equal(found, expected[..., order])


def test_terms_that_goal_and_terrain_lack_are_left_out(env_of):
    own, found = {"gravity": {}, "joint_positions": {"noise": 0.1}}, []
    noisy = {"command": {"noise": 1.0}, "height_scan": {"noise": 1.0}}
    for terms in (own, {**noisy, **own}):
        with closing(env_of(**terms)) as env:
            unobserved = recipe_of(env.robot, "dir-terrain").spec("test")
            found.append((play(env, [0, 1]), env.spec.observed, unobserved.observed))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:] and len(found[0][1]) == len(found[0][2]) == 5


def test_command_and_heights_are_noisy_scaled_and_clipped(env_of):
    """Against a loop over rows, terms and points, with streams of its own."""
    terms = {
        "command": {"scale": 2.0, "clip": 0.9, "noise": 0.3},
        "gravity": {"noise": 0.05},
        "height_scan": {"scale": 5.0, "clip": 0.4, "noise": 0.02},
    }
    with closing(env_of(**WALK, **terms)) as env:
        task = env.spec.tasks.sample(np.random.default_rng(0), 1)
        env.set_tasks(np.repeat(task, 3, axis=0), 1)
        env.reset([np.random.default_rng(row) for row in range(3)])
        qpos = env.snapshot()
        qpos[:, :2] = [[6.0, -4.0], [-5.0, 5.0], [4.0, 7.0]]  # beyond the flat area
        obs, states = [env.restore(qpos, np.zeros((3, env.model.nv))).copy()], [qpos]
        rng = np.random.default_rng(4)
        for _ in range(12):
            step = env.step(rng.normal(size=(3, 2)), np.ones(3, dtype=bool))
            obs.append(step.obs.copy())
            states.append(env.snapshot())
        for row in range(3):
            commands, noise = draw(env, row)
            for t, (seen, qpos) in enumerate(zip(obs, states, strict=True)):
                qpos[:, 3:7] /= np.linalg.norm(qpos[:, 3:7], axis=1, keepdims=True)
                values = [*commands[t], *vertical(qpos[row]), *heights(env, qpos[row], row)]
                own = [terms["command"]] * 3 + [terms["gravity"]] * 3 + [terms["height_scan"]] * 25
                for column, (value, term) in enumerate(zip(values, own, strict=True)):
                    value = term.get("scale", 1.0) * (value + term["noise"] * noise[t, column])
                    limit = term.get("clip", np.inf)
                    expected = min(max(value, -limit), limit)
                    assert seen[row, column] == pytest.approx(expected, abs=1e-9)
        is_cut = np.abs(obs)[..., 6:] == 0.4
        assert 0.0 < is_cut.mean() < 1.0
        quantities = env.spec.observed
    assert (quantities[0].name, quantities[0].unit) == ("2 x command: speed forward", "2 x m/s")
    assert quantities[6].name.startswith("5 x ground over rest at x ")
    assert quantities[6].unit == "5 x m"


def draw(env, row):
    """Returns commands (T + 1, 3) and standard noise (T + 1, S) of an episode, from its stream."""
    rng, steps = np.random.default_rng(row), env.spec.horizon + 1
    env.robot.initial_state(rng, env.robot.rest())
    hold = round(2.0 / env.spec.dt)
    commands = env.goal.draw(rng, -(-steps // hold))
    return np.repeat(commands, hold, axis=0), rng.standard_normal((steps, env.spec.obs_size))


def vertical(qpos):
    """Returns the direction of gravity in the axes of the base."""
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, qpos[3:7])
    return -matrix.reshape(3, 3)[2]


def heights(env, qpos, row):
    """Returns the heights of the ground at the points named, over that of a robot at rest."""
    ahead = np.zeros(3)
    mujoco.mju_rotVecQuat(ahead, np.array([1.0, 0.0, 0.0]), qpos[3:7])
    cos, sin = ahead[:2] / np.hypot(*ahead[:2])
    found = []
    for x, y in env._scan:
        east, north = qpos[0] + cos * x - sin * y, qpos[1] + sin * x + cos * y
        there = np.tile([[east], [north]], (1, 3))
        ground = env._world.ground.height(*there)[row]
        found.append(np.clip(ground - qpos[2] + env.robot.rest()[2], -1.0, 1.0))
    return found


def test_planar_robot_lists_heights_and_no_command():
    path = files("gymnasium") / "envs" / "mujoco" / "assets" / "walker2d_v5.xml"
    with pytest.raises(ConfigError, match="'command': must be one of positions, speeds"):
        robot_from_mjcf(path, observation={"positions": PLAIN, "command": PLAIN})
    scan = {**PLAIN, "scale": 2.0}
    robot = robot_from_mjcf(path, observation={"height scan": scan, "positions": PLAIN})
    recipe = recipe_of(robot, "vel-terrain")
    recipe = replace(recipe, variations=(Terrain(observed=True),))
    names = [each.name for each in recipe.spec("test").observed]
    assert names[0] == "2 x ground over rest at x -1.5, y 0 m" and names[13] == "rootz position"


def test_guess_names_the_terms_of_goal_and_terrain(write):
    (guess,) = (each for each in guess_robot(write()) if each.key == "observation")
    assert guess.reason.endswith("; also command, height scan, which else come last")
    assert not {"command", "height scan"} & set(guess.value)


def test_noisy_command_changes_no_reward(env_of):
    rewards = []
    for noise in (0.0, 1.0):
        terms = {"gravity": {"noise": 0.1}, "command": {"noise": noise, "clip": 5.0}}
        with closing(env_of("command", **terms)) as env:
            play(env, [0, 1], steps=0)
            action, alive = np.full((2, 2), 0.3), np.ones(2, dtype=bool)
            rewards.append([env.step(action, alive).reward for _ in range(20)])
    np.testing.assert_array_equal(*rewards)


def test_restarted_row_has_a_new_command_and_noise(env_of):
    with closing(env_of("command", command={"noise": 0.3}, gravity={})) as env:
        first, last = play(env, [0, 1], steps=5)[[0, -1]]
        obs = env.reset_rows(np.array([False, True]), [np.random.default_rng(1)])
    np.testing.assert_array_equal(obs[1], first[1])
    np.testing.assert_array_equal(obs[0], last[0])
