"""Training tasks in a mirror, against the physics of the mirror image."""

import numpy as np
import pytest

import metarl
from metarl.core.errors import ConfigError
from metarl.core.rng import stream
from metarl.envs.locomotion.env import MujocoBatchEnv
from metarl.envs.mirror import find_mirror, reflect_state
from metarl.envs.registry import make, recipe_of
from metarl.envs.robots.guessing.guess import robot_from_mjcf
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.envs.wrappers.mirrored import Mirrored


@pytest.mark.parametrize("name", ["quadruped-dir", "ant-dir", "quadruped-vel"])
def test_mirror_image_is_seen_and_moves_as_the_robot(name):
    """A robot, and its mirror image in a mirrored row: same outputs, same observations."""
    env = make(name, 1)
    mirrored, rng = Mirrored(env), np.random.default_rng(0)
    mirror, rest = find_mirror(env.robot, env.robot.model()), env.robot.rest()
    tasks = np.repeat(env.spec.tasks.sample(rng, 1), 2, axis=0)
    mirrored.set_tasks(tasks, 1)
    mirrored.reset([np.random.default_rng(i) for i in range(2)])
    qpos, qvel = env.robot.initial_state(rng, rest)
    both = zip((qpos, qvel), reflect_state(mirror, rest, qpos, qvel), strict=True)
    env.restore(*(np.stack(pair) for pair in both))
    alive = np.ones(2, dtype=bool)
    for t in range(12):
        action = np.repeat(rng.normal(size=(1, env.spec.action_size)), 2, axis=0)
        step = mirrored.step(action, alive)
        # rounding differs, and contacts amplify it
        np.testing.assert_allclose(step.obs[1], step.obs[0], atol=1e-9 * 10 ** (t / 3))
    physical = env.step(np.zeros_like(action), alive).obs
    assert not np.allclose(physical[0], physical[1], atol=1e-2)
    mirrored.close()


def test_commands_are_mirrored():
    env = make("quadruped-command", 1)
    mirrored = Mirrored(env)
    mirrored.set_tasks(np.zeros((2, 0)), 1)
    plain = env.reset([stream(0, "a"), stream(0, "a")]).copy()
    seen = mirrored.reset([stream(0, "a"), stream(0, "a")])
    np.testing.assert_array_equal(plain[:, -3:][0], plain[:, -3:][1])
    np.testing.assert_array_equal(seen[1, -3:], plain[1, -3:] * [1.0, -1.0, -1.0])
    np.testing.assert_array_equal(seen[0], plain[0])
    mirrored.close()


def test_scaled_commands_and_outputs_in_any_place_are_mirrored():
    observation = {
        "command": {"scale": 2.0, "clip": 1.5, "noise": 0.1},
        "last action": {"scale": 0.5, "clip": 0.0, "noise": 0.0},
        "gravity": {"scale": 1.0, "clip": 0.0, "noise": 0.0},
    }
    robot = robot_from_mjcf(QUADRUPED.model_file, "listed", observation=observation)
    env = MujocoBatchEnv("test", recipe_of(robot, "command"), 1)
    mirrored, mirror = Mirrored(env), find_mirror(env.robot, env.robot.model())
    mirrored.set_tasks(np.zeros((2, 0)), 1)
    seen = mirrored.reset([stream(0, "a"), stream(0, "a")])
    np.testing.assert_array_equal(seen[1, :3], seen[0, :3] * [1.0, -1.0, -1.0])
    assert (seen[0, :3] != 0.0).all()
    output = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 12))
    seen = mirrored.step(output, np.ones(2, dtype=bool)).obs
    physical = env._obs[1, 3:15]
    np.testing.assert_allclose(seen[1, 3:15], 0.5 * output[1], atol=1e-12)
    np.testing.assert_allclose(
        physical[mirror.actuator], 0.5 * mirror.actuator_sign * output[1], atol=1e-12
    )
    mirrored.close()


def test_rewards_and_other_rows_are_those_of_the_environment():
    env, other = make("quadruped-vel", 1), make("quadruped-vel", 1)
    mirrored, rng = Mirrored(env), np.random.default_rng(1)
    tasks = env.spec.tasks.sample(rng, 3)
    for each in (mirrored, other):
        each.set_tasks(tasks, 2)
        each.reset([stream(0, "b", i) for i in range(6)])
    action, alive = rng.normal(size=(6, 12)), np.ones(6, dtype=bool)
    ours = mirrored.step(action, alive)
    theirs = other.step(action, alive)
    odd = np.array([False, False, True, True, False, False])
    np.testing.assert_array_equal(ours.obs[~odd], theirs.obs[~odd])
    np.testing.assert_array_equal(ours.reward[~odd], theirs.reward[~odd])
    assert (ours.reward[odd] != theirs.reward[odd]).all()
    assert mirrored.split(2)[1].spec == env.spec
    for each in (mirrored, other):
        each.close()


def test_halves_of_odd_length_mirror_half_of_all_tasks():
    mirrored = Mirrored(make("quadruped-vel", 1))
    counts = []
    for half in mirrored.split(2):
        half.set_tasks(np.full((5, 1), 1.0), 2)
        counts.append(int(half._rows.sum()))
        half.close()
    assert sum(counts) == 10
    mirrored.close()


SMALL = {"num_tasks": 4, "num_episodes": 1, "threads": 1}


@pytest.mark.parametrize(
    ("env", "algo", "message"),
    [
        ("half-cheetah-vel", "rl2", "half-cheetah has no left and right side"),
        ("navigation-2d", "rl2", "navigation-2d cannot be mirrored: it is no robot of MuJoCo"),
        ("quadruped-damage", "teacher-student", "it sees the task"),
    ],
)
def test_what_has_no_mirror_image_is_refused(env, algo, message, tmp_path):
    sampler = SMALL | {"mirror": True}
    with pytest.raises(ConfigError, match=f"--sampler.mirror.*{message}"):
        metarl.train(env=env, algo=algo, iterations=1, sampler=sampler, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("algo", ["rl2", "sb3-ppo"])
def test_mirror_changes_the_training_and_not_the_evaluation(algo, tmp_path):
    states = {}
    for mirror in (False, True):
        options = {"iterations": 1, "sampler": SMALL | {"mirror": mirror}, "evaluate": False}
        run = tmp_path / f"{mirror}"
        with metarl.train(env="quadruped-vel", algo=algo, run_dir=run, **options) as policy:
            states[mirror] = policy.learner.state_dict()
            assert policy.env.spec.name == "quadruped-vel" and not isinstance(policy.env, Mirrored)
    changed = [n for n, v in states[True].items() if not v.equal(states[False][n])]
    assert any("policy" in name for name in changed)


def test_actions_of_any_type_are_mirrored_alike():
    mirrored, seen = Mirrored(make("quadruped-vel", 1)), []
    for kind in (float, np.float32, int, bool):
        mirrored.set_tasks(mirrored.spec.tasks.sample(np.random.default_rng(0), 2), 1)
        mirrored.reset([stream(0, "c", i) for i in range(2)])
        action = (np.arange(24).reshape(2, 12) % 3 == 0).astype(kind)
        seen.append(mirrored.step(action, np.ones(2, dtype=bool)).obs.copy())
        np.testing.assert_array_equal(seen[-1], seen[0])
    mirrored.close()
