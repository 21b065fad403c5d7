"""Terms of an observation: scale, clip, noise of the episode's stream, and the last action."""

from contextlib import closing

import numpy as np
import pytest
import yaml

from metarl.core.errors import ConfigError
from metarl.envs.registry import make
from metarl.envs.robots.own import read_robot

PLAIN = {"scale": 1.0, "clip": 0.0, "noise": 0.0}


@pytest.fixture
def env_of(robot_file):
    """Makes an environment of the two-legged robot whose file has these terms."""

    def build(goal="dir", **terms):
        names = {name.replace("_", " "): {**PLAIN, **own} for name, own in terms.items()}
        return make(f"{robot_file(observation=names)}:{goal}", 1)

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
