"""A BatchEnv as gymnasium.Env, gymnasium.vector.VectorEnv and VecEnv of Stable-Baselines3."""

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import gymnasium.utils.env_checker
import numpy as np
import pytest
import stable_baselines3.common.env_checker
from gymnasium.vector import AutoresetMode

from metarl.core.env import Step
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.envs.registry import make
from metarl.envs.wrappers.autoreset import Episodes, make_streams
from metarl.envs.wrappers.gymnasium import GymEnv, GymVectorEnv
from metarl.envs.wrappers.observe_task import ObserveTask
from metarl.envs.wrappers.sb3 import Sb3VecEnv
from metarl.envs.wrappers.trials import Trials

REPOSITORY = Path(__file__).resolve().parents[3]
NAVIGATION, CHEETAH = "navigation-2d", "half-cheetah-dir/rllib"
both = pytest.mark.parametrize("name", [NAVIGATION, CHEETAH])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo writes MUJOCO_LOG.TXT into the working directory."""
    monkeypatch.chdir(tmp_path)


def some_tasks(env, count, key=0):
    return env.spec.tasks.sample(np.random.default_rng(key), count)


def commands(env, steps, rows, key=1):
    size = (steps, rows, env.spec.action_size)
    return np.random.default_rng(key).uniform(-0.1, 0.1, size).astype(np.float32)


def short(horizon=4, **goal):
    """Makes navigation with few steps."""
    return NavigationEnv("short", DenseGoal(**goal), horizon=horizon)


class Breaking:
    """Navigation with a fault in one row at the n-th step, where no number may be used."""

    def __init__(self, row, at, horizon=6):
        self._env, self._row, self._at, self._count = short(horizon), row, at, 0
        self.spec, self.set_tasks, self.close = self._env.spec, self._env.set_tasks, self._env.close
        self.reset, self.reset_rows = self._env.reset, self._env.reset_rows

    def step(self, action, alive):
        self._count += 1
        step = self._env.step(action, alive)
        if self._count != self._at:
            return step
        hit = np.arange(len(alive)) == self._row
        obs = np.where(hit[:, None], np.nan, step.obs)
        return Step(obs, np.where(hit, np.nan, step.reward), step.terminated | hit, hit)


# --------------------------------------------------------------------------------------- check_env


@both
@pytest.mark.parametrize("observed", [False, True])
def test_single_env_passes_checks_of_gymnasium_and_sb3(name, observed):
    env = make(name, 1)
    task = some_tasks(env, 1)[0]
    single = GymEnv(ObserveTask(env) if observed else env, task)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gymnasium.utils.env_checker.check_env(single)
        stable_baselines3.common.env_checker.check_env(single)
    # like Gymnasium's own robots, the observations have no bounds; there is no spec without make
    known = ("minimum value is -infinity", "maximum value is infinity", "not having a spec")
    assert [
        str(w.message) for w in caught if not any(words in str(w.message) for words in known)
    ] == []


def test_single_env_renders_its_state():
    env = make(NAVIGATION)
    with pytest.raises(ValueError, match="render_mode 'human'"):
        GymEnv(env, np.zeros(2), render_mode="human")
    single = GymEnv(env, np.array([0.3, 0.4]), render_mode="rgb_array")
    single.reset(seed=0)
    before = single.render()
    single.step(np.array([0.1, 0.1]))
    assert before.shape == (480, 480, 3) and before.dtype == np.uint8
    assert (single.render() != before).any()


# --------------------------------------------------------------------------- the same as the batch


@both
def test_adapters_equal_the_batch_for_the_same_streams(name):
    env, rows = make(name, 1), 3
    tasks, steps = some_tasks(env, rows), env.spec.horizon - 1
    actions, keys = commands(env, steps, rows), make_streams(5)
    env.set_tasks(tasks, 1)
    expected_obs = [env.reset([keys(0, row) for row in range(rows)]).astype(np.float32)]
    expected_reward = []
    for action in actions:
        step = env.step(action, np.ones(rows, dtype=bool))
        assert not step.terminated.any() and not step.fault.any()
        expected_obs.append(step.obs.astype(np.float32))
        expected_reward.append(step.reward.copy())
    vec = Sb3VecEnv(Episodes(env, tasks, rows, keys))
    obs = [vec.reset()]
    for t, action in enumerate(actions):
        seen, reward, done, infos = vec.step(action)
        obs.append(seen)
        np.testing.assert_array_equal(reward, expected_reward[t].astype(np.float32))
        assert not done.any() and infos == [{}] * rows
    np.testing.assert_array_equal(obs, expected_obs)
    single = GymEnv(env, tasks[1])
    single.reset()
    single.np_random = keys(0, 1)
    seen, _ = single.reset()
    for t, action in enumerate(actions):
        np.testing.assert_array_equal(seen, expected_obs[t][1])
        seen, reward, *_ = single.step(action[1])
        assert reward == expected_reward[t][1]
    env.close()


def test_action_box_ends_where_the_environment_clips():
    for name, bound in [
        (NAVIGATION, 1.0),
        (CHEETAH, 1.0),
        ("ant-dir", 5.0),
        ("ant-dir/promp", 10.0),
    ]:
        env = make(name, 1)
        space = GymEnv(env, some_tasks(env, 1)[0]).action_space
        assert space.shape == (env.spec.action_size,) and space.dtype == np.float32
        np.testing.assert_allclose(
            [space.low, space.high], [[-bound] * len(space.low), [bound] * len(space.low)]
        )
        if name != NAVIGATION:
            np.testing.assert_allclose(
                space.high * env.spec.action_scale, env.model.actuator_ctrlrange[:, 1]
            )


# ------------------------------------------------------------------------------- episodes that end


def test_episode_at_the_horizon_is_truncated_and_restarts():
    goal = np.array([0.3, 0.4])
    vec = Sb3VecEnv(Episodes(short(), goal, 2, make_streams(0)))
    vec.reset()
    move = np.full((2, 2), 0.1, dtype=np.float32)
    for _ in range(3):
        assert vec.step(move)[3] == [{}, {}]
    obs, reward, done, infos = vec.step(move)
    # at (0.4, 0.4) the distance is 0.1, and the episode has not terminated
    np.testing.assert_allclose(reward, -0.1, rtol=1e-6)
    np.testing.assert_array_equal(obs, np.zeros((2, 2)))
    assert done.all()
    for info in infos:
        np.testing.assert_allclose(info["terminal_observation"], [0.4, 0.4], rtol=1e-6)
        assert info["TimeLimit.truncated"] is True
        episode = info["episode"]
        assert (episode["l"], episode["index"], episode["fault"]) == (4, 0, False)
        # distances to the goal after 0.1, 0.2, 0.3 and 0.4 along both axes
        total = -sum(np.hypot(0.3 - x, 0.4 - x) for x in (0.1, 0.2, 0.3, 0.4))
        assert episode["r"] == pytest.approx(total)


def test_terminated_row_restarts_while_others_go_on():
    goals = np.array([[0.2, 0.0], [0.4, 0.4]])
    vec = Sb3VecEnv(Episodes(short(), goals, 2, make_streams(0)))
    vec.reset()
    move = np.array([[0.1, 0.0], [0.1, 0.0]])
    vec.step(move)
    obs, reward, done, infos = vec.step(move)
    assert done.tolist() == [True, False] and infos[1] == {}
    assert infos[0]["TimeLimit.truncated"] is False and infos[0]["episode"]["l"] == 2
    np.testing.assert_allclose(obs, [[0.0, 0.0], [0.2, 0.0]], atol=1e-7)
    # row 1 reaches its horizon two steps later, row 0 two steps after that
    ends = [vec.step(np.zeros((2, 2)))[2].tolist() for _ in range(4)]
    assert ends == [[False, False], [False, True], [False, False], [True, False]]


def test_goal_reached_in_the_last_step_is_no_truncation():
    env = GymEnv(short(horizon=2), np.array([0.2, 0.0]))
    env.reset(seed=0)
    env.step(np.array([0.1, 0.0]))
    assert env.step(np.array([0.1, 0.0]))[2:4] == (True, False)
    vec = Sb3VecEnv(Episodes(short(horizon=2), np.array([0.2, 0.0]), 1, make_streams(0)))
    vec.reset()
    vec.step(np.array([[0.1, 0.0]]))
    assert vec.step(np.array([[0.1, 0.0]]))[3][0]["TimeLimit.truncated"] is False


def test_fault_truncates_and_repeats_the_observation():
    vec = Sb3VecEnv(Episodes(Breaking(row=1, at=3), np.array([0.4, 0.4]), 2, make_streams(0)))
    vec.reset()
    move = np.full((2, 2), 0.1)
    for _ in range(2):
        before, *_ = vec.step(move)
    obs, reward, done, infos = vec.step(move)
    assert done.tolist() == [False, True] and reward[1] == 0.0
    assert infos[1]["episode"]["r"] == pytest.approx(-np.sqrt(0.18) - np.sqrt(0.08))
    assert infos[1]["TimeLimit.truncated"] is True
    np.testing.assert_array_equal(infos[1]["terminal_observation"], before[1])
    assert infos[1]["episode"]["fault"] and infos[1]["episode"]["l"] == 2
    np.testing.assert_allclose(obs, [[0.3, 0.3], [0.0, 0.0]], rtol=1e-6)


def test_fault_truncates_the_single_env():
    env = GymEnv(Breaking(row=0, at=2), np.array([0.4, 0.4]))
    env.reset(seed=0)
    before, *_ = env.step(np.array([0.1, 0.1]))
    obs, reward, terminated, truncated, info = env.step(np.array([0.1, 0.1]))
    np.testing.assert_array_equal(obs, before)
    assert (reward, terminated, truncated, info) == (0.0, False, True, {"fault": True})


def test_non_finite_number_without_fault_names_its_row():
    env = Breaking(row=1, at=2)
    inner = env.step

    def hidden(action, alive):
        step = inner(action, alive)
        return Step(step.obs, step.reward, step.terminated, np.zeros(2, dtype=bool))

    env.step = hidden
    rows = Episodes(env, np.array([0.4, 0.4]), 2, make_streams(0))
    rows.reset()
    rows.step(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="short, row 1, step 1: obs or reward is not finite"):
        rows.step(np.zeros((2, 2)))


def test_env_without_reset_rows_is_refused_with_a_hint():
    env = Breaking(row=0, at=1)
    del env.reset_rows
    with pytest.raises(ValueError, match=r"short cannot start .*; give it reset_rows"):
        Episodes(env, np.zeros(2), 2, make_streams(0))


# --------------------------------------------------------------------------------- seeds and tasks


def first_observations(vec):
    return np.array([vec.reset(seed=3)[0], vec.reset()[0], vec.reset(seed=3)[0], vec.reset()[0]])


def test_seed_determines_all_later_episodes():
    env = make(CHEETAH, 1)
    vec = GymVectorEnv(env, env.spec.tasks, 3)
    one, two, again, after = first_observations(vec)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(two, after)
    starts = np.concatenate([one, two, vec.reset(seed=4)[0]])
    assert len(np.unique(starts, axis=0)) == 9  # rows, resets and neighbouring seeds differ
    sb3 = Sb3VecEnv(Episodes(env, env.spec.tasks, 3, make_streams(0)))
    sb3.seed(8)
    first, second = sb3.reset(), sb3.reset()
    sb3.seed(8)
    np.testing.assert_array_equal(sb3.reset(), first)
    assert not (first == second).any()
    env.close()


def test_distribution_gives_every_episode_its_own_task():
    rows = Episodes(short(horizon=1), DenseGoal().tasks, 3, make_streams(0))
    rows.reset()
    goals = [rows.tasks.copy()]
    for _ in range(4):
        step = rows.step(np.zeros((3, 2)))
        # a point at the origin pays minus its distance to the goal
        np.testing.assert_allclose(step.reward, -np.linalg.norm(goals[-1], axis=1))
        goals.append(rows.tasks.copy())
    assert len(np.unique(np.concatenate(goals), axis=0)) == 15


def test_discrete_actions_have_no_box():
    env = short()
    env.spec = replace(env.spec, discrete=True)
    with pytest.raises(ValueError, match="short has discrete actions, which have no Box"):
        GymEnv(env, np.zeros(2))


def test_vector_env_resets_in_the_same_step():
    vec = GymVectorEnv(short(), np.array([[0.2, 0.0], [0.4, 0.4]]), 2)
    assert vec.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    obs, info = vec.reset(seed=0)
    assert obs in vec.observation_space and sorted(info) == ["_task", "task"]
    np.testing.assert_array_equal(info["task"], [[0.2, 0.0], [0.4, 0.4]])
    assert info["_task"].all()
    assert vec.action_space.sample().shape == (2, 2)
    move = np.array([[0.1, 0.0], [0.1, 0.0]], dtype=np.float32)
    vec.step(move)
    obs, reward, terminated, truncated, info = vec.step(move)
    assert obs in vec.observation_space
    assert terminated.tolist() == [True, False] and truncated.tolist() == [False, False]
    assert info["_final_obs"].tolist() == [True, False]
    np.testing.assert_allclose(info["final_obs"][0], [0.2, 0.0], rtol=1e-6)
    assert info["final_info"]["fault"].tolist() == [False, False]
    np.testing.assert_allclose(obs[0], 0.0)
    vec.close()


# ------------------------------------------------------------------------------------------ trials


def test_trial_carries_memory_and_ends_after_its_last_episode():
    episodes = Episodes(
        short(horizon=2), DenseGoal().tasks, 1, make_streams(0), episodes_per_task=2
    )
    vec = Sb3VecEnv(Trials(episodes))
    obs = vec.reset()
    np.testing.assert_array_equal(obs, np.zeros((1, 2 + 2 + 2)))
    goal = episodes.tasks[0].copy()
    action = np.array([[0.05, -0.03]], dtype=np.float32)
    seen, dones = [], []
    for _ in range(4):
        obs, reward, done, infos = vec.step(action)
        seen.append(obs[0])
        dones.append((bool(done[0]), "episode" in infos[0], "terminal_observation" in infos[0]))
        last = infos[0]
        np.testing.assert_allclose(reward, seen[-1][4] if not done[0] else reward)
    assert dones == [
        (False, False, False),
        (False, True, False),
        (False, False, False),
        (True, True, True),
    ]
    # position, last action, last reward, done: the second episode begins at the origin with
    # the last action and reward of the first
    first, second = -np.hypot(*(goal - [0.05, -0.03])), -np.hypot(*(goal - [0.1, -0.06]))
    np.testing.assert_allclose(seen[0], [0.05, -0.03, 0.05, -0.03, first, 0.0], rtol=1e-5)
    np.testing.assert_allclose(seen[1], [0.0, 0.0, 0.05, -0.03, second, 1.0], rtol=1e-5)
    np.testing.assert_allclose(seen[2], [0.05, -0.03, 0.05, -0.03, first, 0.0], rtol=1e-5)
    # the next trial has another task and an empty memory
    np.testing.assert_array_equal(seen[3], np.zeros(6))
    assert (episodes.tasks[0] != goal).all()
    np.testing.assert_allclose(
        last["terminal_observation"], [0.1, -0.06, 0.05, -0.03, second, 0.0], rtol=1e-5
    )
    assert last["TimeLimit.truncated"] is False and last["episode"]["index"] == 1


def test_early_end_and_fault_continue_the_trial():
    env = Breaking(row=1, at=2, horizon=3)
    goals = np.array([[0.1, 0.0], [0.4, 0.4]])
    episodes = Episodes(env, goals, 2, make_streams(0), episodes_per_task=2)
    rows = Trials(episodes)
    rows.reset()
    step = rows.step(np.array([[0.1, 0.0], [0.0, 0.0]]))  # row 0 reaches its goal
    assert not (step.terminated | step.truncated).any() and len(step.finished) == 1
    assert step.obs[:, -1].tolist() == [1.0, 0.0]
    # row 0 reaches its goal again, which ends its trial; row 1 has a fault
    step = rows.step(np.array([[0.1, 0.0], [0.1, 0.1]]))
    assert step.terminated.tolist() == [True, False] and not step.truncated.any()
    np.testing.assert_allclose(step.obs[1], [0.0, 0.0, 0.1, 0.1, 0.0, 1.0], rtol=1e-6)


def test_reset_within_a_trial_starts_a_new_trial():
    episodes = Episodes(
        short(horizon=2), DenseGoal().tasks, 2, make_streams(0), episodes_per_task=3
    )
    rows = Trials(episodes)
    rows.reset()
    before = episodes.tasks.copy()
    for _ in range(3):
        rows.step(np.zeros((2, 2)))
    rows.reset()
    assert episodes.index.tolist() == [3, 3] and (episodes.tasks != before).all()


# ----------------------------------------------------------------------------------------- imports


def test_gymnasium_adapters_import_neither_sb3_nor_torch():
    code = (
        "import sys, metarl.envs.wrappers.gymnasium; "
        "sys.exit('stable_baselines3' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
