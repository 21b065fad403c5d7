"""Environments made by gymnasium.make and gymnasium.make_vec."""

import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path

import gymnasium
import gymnasium.utils.env_checker
import numpy as np
import pytest

from metarl.envs.registry import ENVIRONMENTS, UnknownEnvironment, make
from metarl.envs.wrappers.gymnasium import GymVectorEnv
from metarl.envs.wrappers.registration import HORIZONS, make_id, register

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch):
    """Registers the environments; MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)
    before = dict(gymnasium.registry)
    register()
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)


def make_single(env_id, **settings):
    return closing(gymnasium.make(env_id, **settings))


# ------------------------------------------------------------------------------------------ names


def test_every_built_in_environment_is_registered():
    assert list(HORIZONS) and HORIZONS.keys() == ENVIRONMENTS.keys()
    for name, horizon in HORIZONS.items():
        with closing(make(name, 1)) as env:
            assert env.spec.horizon == horizon
        assert gymnasium.spec(make_id(name)).max_episode_steps == horizon
    assert gymnasium.spec("metarl/half-cheetah-dir-rllib").kwargs == {
        "name": "half-cheetah-dir/rllib"
    }
    assert len({make_id(name) for name in HORIZONS}) == len(HORIZONS)


def test_register_twice_changes_nothing_and_warns_not():
    before = dict(gymnasium.registry)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register()
    assert gymnasium.registry == before


def test_register_adds_other_names():
    register("hopper-dir-gravity", "hopper-dri")
    with make_single("metarl/hopper-dir-gravity") as env:
        assert env.unwrapped.spec.kwargs["name"] == "hopper-dir-gravity"
    with pytest.raises(UnknownEnvironment, match="did you mean"):
        gymnasium.make("metarl/hopper-dri")


def test_register_imports_no_physics_and_is_fast():
    code = (
        "import sys, time\n"
        "import metarl.envs.wrappers.registration as r\n"
        "assert 'gymnasium' not in sys.modules\n"
        "import gymnasium.envs.registration\n"
        "start = time.perf_counter(); r.register(); wall = time.perf_counter() - start\n"
        "for name in ('mujoco', 'torch', 'metarl.envs.registry'): assert name not in sys.modules\n"
        "assert 'metarl/ant-dir' in gymnasium.registry\n"
        "print(wall)"
    )
    walls = []
    for _ in range(3):  # the fastest: other programs may use the cores
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        walls.append(float(done.stdout))
    assert min(walls) < 0.02


# ------------------------------------------------------------------------------------ one robot


@pytest.mark.parametrize("env_id", ["metarl/navigation-2d", "metarl/half-cheetah-dir-rllib"])
def test_registered_environment_passes_check_env(env_id):
    with warnings.catch_warnings(record=True) as caught, make_single(env_id) as env:
        warnings.simplefilter("always")
        gymnasium.utils.env_checker.check_env(env.unwrapped)
    # like Gymnasium's own robots, the observations have no bounds
    known = ("minimum value is -infinity", "maximum value is infinity")
    messages = [str(w.message) for w in caught]
    assert [m for m in messages if not any(text in m for text in known)] == []


def test_task_is_a_function_of_the_seed():
    with make_single("metarl/navigation-2d") as env:
        (first, one), (second, two) = env.reset(seed=3), env.reset()
        (again, three), (after, four) = env.reset(seed=3), env.reset()
    np.testing.assert_array_equal([first, second], [again, after])
    np.testing.assert_array_equal([one["task"], two["task"]], [three["task"], four["task"]])
    assert not np.array_equal(one["task"], two["task"])


def test_task_in_options_holds_for_one_episode():
    with make_single("metarl/navigation-2d") as env:
        _, info = env.reset(seed=0, options={"task": [0.3, 0.4]})
        np.testing.assert_array_equal(info["task"], [0.3, 0.4])
        # a point that stands at the origin pays its distance to the goal
        assert env.step(np.zeros(2, dtype=np.float32))[1] == pytest.approx(-0.5)
        _, info = env.reset()
        assert not np.array_equal(info["task"], [0.3, 0.4])
        reward = env.step(np.zeros(2, dtype=np.float32))[1]
        assert reward == pytest.approx(-np.linalg.norm(info["task"]))


def test_task_of_make_holds_for_every_episode():
    with make_single("metarl/navigation-2d", task=[0.3, 0.4]) as env:
        for seed in (0, 1, None):
            np.testing.assert_array_equal(env.reset(seed=seed)[1]["task"], [0.3, 0.4])
        _, info = env.reset(options={"task": [0.1, 0.2]})
        np.testing.assert_array_equal(info["task"], [0.1, 0.2])
        np.testing.assert_array_equal(env.reset()[1]["task"], [0.3, 0.4])


@pytest.mark.parametrize("task", [0.3, [0.3], [0.3, np.nan], [[0.3, 0.4]], "left", [[1], [2, 3]]])
def test_wrong_task_names_the_numbers_of_a_task(task):
    message = r"navigation-2d: a task must be finite numbers of shape \(2,\) \(goal_x \[m\]"
    with (
        make_single("metarl/navigation-2d") as env,
        pytest.raises(ValueError, match=message),
    ):
        env.reset(options={"task": task})


def test_episode_is_truncated_at_the_horizon():
    with make_single("metarl/half-cheetah-dir-rllib", task=[1.0]) as env:
        env.reset(seed=0)
        ends = [env.step(env.action_space.sample() * 0)[2:4] for _ in range(100)]
    assert ends == [(False, False)] * 99 + [(False, True)]


def test_shorter_time_limit_is_accepted():
    with make_single("metarl/navigation-2d", max_episode_steps=3, task=[0.3, 0.4]) as env:
        env.reset(seed=0)
        assert [env.step(np.zeros(2, dtype=np.float32))[3] for _ in range(3)] == [0, 0, 1]


def test_observation_can_contain_the_task():
    with make_single("metarl/navigation-2d", observe_task=True) as env:
        obs, info = env.reset(seed=0)
    assert obs.shape == (4,) and info["task"].shape == (2,)


# --------------------------------------------------------------------------------- many robots


def test_make_vec_gives_one_task_per_row():
    with closing(gymnasium.make_vec("metarl/ant-dir", num_envs=4, threads=1)) as env:
        assert isinstance(env, GymVectorEnv) and env.num_envs == 4
        obs, info = env.reset(seed=0)
        assert obs.shape == (4, 27) and len(np.unique(info["task"])) == 4
        assert info["task"].shape == (4, 1) and info["_task"].all()
        again, _ = env.reset(seed=0)
        np.testing.assert_array_equal(obs, again)
        step = env.step(env.action_space.sample())
        assert step[0].shape == (4, 27) and step[1].shape == (4,)


def test_vector_tasks_in_options_hold_until_the_next_reset():
    goals = np.array([[0.2, 0.0], [0.4, 0.4]])
    move = np.array([[0.1, 0.0], [0.1, 0.0]], dtype=np.float32)
    with closing(gymnasium.make_vec("metarl/navigation-2d", num_envs=2)) as env:
        _, info = env.reset(seed=0, options={"task": goals})
        np.testing.assert_array_equal(info["task"], goals)
        env.step(move)
        _, _, terminated, _, info = env.step(move)  # row 0 reaches its goal and restarts
        assert terminated.tolist() == [True, False] and info["_task"].tolist() == [True, False]
        np.testing.assert_array_equal(info["task"][0], goals[0])
        _, info = env.reset(options={"task": [0.1, 0.2]})
        np.testing.assert_array_equal(info["task"], [[0.1, 0.2]] * 2)
        _, info = env.reset()
        assert not np.isin(info["task"], [*goals.ravel(), 0.1]).any()
        with pytest.raises(ValueError, match=r"of shape \(2,\) or \(2, 2\) \(goal_x \[m\]"):
            env.reset(options={"task": [[0.1, 0.2]] * 3})


def test_vector_tasks_of_make_hold_for_every_episode():
    goals = [[0.2, 0.0], [0.4, 0.4]]
    with closing(gymnasium.make_vec("metarl/navigation-2d", num_envs=2, task=goals)) as env:
        for seed in (0, 1):
            np.testing.assert_array_equal(env.reset(seed=seed)[1]["task"], goals)


def test_vector_row_draws_a_new_task_for_each_episode():
    with closing(gymnasium.make_vec("metarl/navigation-2d", num_envs=2)) as env:
        _, info = env.reset(seed=0)
        tasks = [info["task"]]
        for _ in range(2 * HORIZONS["navigation-2d"]):
            info = env.step(np.zeros((2, 2), dtype=np.float32))[4]
            if info:
                assert info["_task"].all()
                tasks.append(info["task"])
    assert len(np.unique(np.concatenate(tasks), axis=0)) == 6


def test_vector_refuses_another_time_limit():
    with pytest.raises(ValueError, match="an episode of navigation-2d has 100 steps"):
        gymnasium.make_vec("metarl/navigation-2d", num_envs=2, max_episode_steps=5)
    env = gymnasium.make_vec("metarl/navigation-2d", num_envs=2, vectorization_mode="sync")
    with closing(env):
        assert env.reset(seed=0)[1]["task"].shape == (2, 2)
