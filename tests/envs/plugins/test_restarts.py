"""`reset_rows` on plug-ins: restarted rows, the others, replays, films and messages."""

import os
import signal
from contextlib import closing

import numpy as np
import plugin_envs
import pytest
import restarting_envs
from plugin_episodes import EPISODES, ROWS, TASKS, message, process_ids

from metarl.core.env import RestartableEnv, supports
from metarl.envs.plugins.subproc_env import SubprocEnv

PLAN = {2: [0, 4], 3: [1], 5: [4, 5], 9: [0, 1, 2, 3, 4, 5], 12: [3]}
"""Rows that restart before the step of that number; no episode is longer than the horizon."""

NUM_STEPS = 15


def action_of(t):
    return np.random.default_rng([9, t]).normal(size=(ROWS, 1)).astype(np.float32)


def stream_of(t, row):
    return np.random.default_rng([t, row])


def task_of(t, row):
    return round(float(np.random.default_rng([5, t, row]).uniform(-1.0, 1.0)), 3)


def mask_of(rows):
    return np.isin(np.arange(ROWS), rows)


def restart(env, t, has_tasks=True):
    rows = PLAN[t]
    tasks = np.array([[task_of(t, row)] for row in rows]) if has_tasks else None
    return env.reset_rows(mask_of(rows), [stream_of(t, row) for row in rows], tasks)


def play(env, before=lambda t: None, *, has_tasks=True):
    """Plays NUM_STEPS steps with the restarts of PLAN: obs (2 T + 1, M, S), reward (T, M)."""
    env.set_tasks(TASKS, EPISODES)
    obs = [env.reset([stream_of(100, row) for row in range(ROWS)]).copy()]
    rewards = []
    for t in range(NUM_STEPS):
        before(t)
        if t in PLAN:
            obs.append(restart(env, t, has_tasks).copy())
        step = env.step(action_of(t), np.ones(ROWS, dtype=bool))
        obs.append(step.obs.copy()), rewards.append(step.reward)
    return np.array(obs), np.array(rewards)


def play_in_a_loop(*, has_tasks=True):
    """Plays the same episodes row by row, each in a new environment without workers."""
    obs, rewards = [], np.zeros((NUM_STEPS, ROWS))
    for row in range(ROWS):
        spot, seen = TASKS[row // EPISODES, 0], []

        def begin(t, row=row, seen=seen):
            env = plugin_envs.Spot()
            env.set_task({"spot": spot})  # noqa: B023
            seed = int(stream_of(t, row).integers(2**31))
            seen.append(env.reset(seed=seed)[0])
            return env

        env = begin(100)
        for t in range(NUM_STEPS):
            if row in PLAN.get(t, ()):
                spot = task_of(t, row) if has_tasks else spot
                env = begin(t)
            elif t in PLAN:
                seen.append(seen[-1])
            answer = env.step(action_of(t)[row].clip(-1.0, 1.0))
            seen.append(answer[0])
            rewards[t, row] = answer[1]
        obs.append(seen)
    return np.array(obs).swapaxes(0, 1), rewards


def assert_same(played, expected):
    for one, other in zip(played, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("has_tasks", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_restarted_rows_equal_new_environments(workers, has_tasks):
    with closing(SubprocEnv("spots", plugin_envs.Spot, workers)) as env:
        assert supports(env, RestartableEnv)
        assert_same(play(env, has_tasks=has_tasks), play_in_a_loop(has_tasks=has_tasks))


def test_rows_of_opaque_tasks_restart_with_their_own():
    with closing(SubprocEnv("mazes", plugin_envs.Mazes, 2)) as env:
        tasks = env.spec.tasks.sample(np.random.default_rng(0), 3)
        env.set_tasks(tasks, EPISODES)
        env.reset([stream_of(100, row) for row in range(ROWS)])
        fresh = env.spec.tasks.sample(np.random.default_rng(1), 1)
        start = env.reset_rows(mask_of([2]), [stream_of(0, 2)], fresh)[2, 0]
        reward = env.step(np.zeros((ROWS, 1)), np.ones(ROWS, dtype=bool)).reward
        rng = np.random.default_rng(1)
        (place,) = plugin_envs.Mazes().sample_tasks(rng, 1)[0].place
        assert reward[2] == pytest.approx(-abs(start - place))


def test_horizon_counts_from_the_reset_of_the_row():
    tasks = np.repeat([[-0.5]], 2, axis=0)  # cut in its third step, and at the horizon
    with closing(SubprocEnv("cut", restarting_envs.CutAtEight, 1)) as env:
        env.set_tasks(tasks, 1)
        env.reset([stream_of(0, row) for row in range(2)])
        ended = []
        for t in range(13):
            if t == 5:
                env.reset_rows(np.array([False, True]), [stream_of(1, 1)])
            alive = np.array([t < 8, True])
            ended.append(env.step(np.zeros((2, 1)), alive).terminated.tolist())
    # its eighth step is the horizon and no end, although the batch has taken thirteen
    assert not np.any(ended)


def test_early_truncation_ends_a_restarted_row():
    with closing(SubprocEnv("cut", plugin_envs.CutShort, 1)) as env:
        env.set_tasks(np.array([[-0.5], [0.5]]), 1)  # the first is cut in its third step
        env.reset([stream_of(0, row) for row in range(2)])
        ended = []
        for t in range(12):
            step = env.step(np.zeros((2, 1)), np.array([True, t < 8]))
            ended.append(bool(step.terminated[0]))
            if ended[-1]:
                env.reset_rows(np.array([True, False]), [stream_of(t, 0)])
    assert ended == 4 * [False, False, True]


def test_wrong_calls_of_reset_rows_change_nothing(spots):
    rows = mask_of([1, 2])
    with closing(SubprocEnv("new", plugin_envs.Spot, 1)) as env:
        with pytest.raises(RuntimeError, match="new: call set_tasks before reset"):
            env.reset_rows(rows, [stream_of(0, 1)] * 2)
        env.set_tasks(TASKS, EPISODES)
        with pytest.raises(RuntimeError, match="new: call reset before reset_rows"):
            env.reset_rows(rows, [stream_of(0, 1)] * 2)

    def misuse(t):
        if t == 4:
            with pytest.raises(ValueError, match="spots: 2 rows need as many streams, got 1"):
                spots.reset_rows(rows, [stream_of(0, 1)])
            with pytest.raises(ValueError, match="spots: 2 rows need as many tasks, got 3"):
                spots.reset_rows(rows, [stream_of(0, 1)] * 2, TASKS)
            with pytest.raises(ValueError, match=r"tasks must be finite and \(N, 1\)"):
                spots.reset_rows(rows, [stream_of(0, 1)] * 2, np.array([[0.5], [np.nan]]))
            spots.reset_rows(np.zeros(ROWS, dtype=bool), [])

    assert_same(play(spots, misuse), play_in_a_loop())


# ------------------------------------------------------------------------------------ dead workers


@pytest.mark.parametrize("at", [2, 4, 9, 14])  # before a restart, a step, a restart of all, the end
@pytest.mark.parametrize("workers", [[0], [0, 1]])
def test_worker_killed_after_restarts_leaves_no_trace(spots, workers, at):
    before = []

    def kill(t):
        if t == at:
            before.extend(process_ids(spots))
            for worker in workers:
                os.kill(before[worker], signal.SIGKILL)

    assert_same(play(spots, kill), play_in_a_loop())
    after = process_ids(spots)
    assert [after[i] != before[i] for i in (0, 1)] == [i in workers for i in (0, 1)]


def test_worker_killed_before_a_draw_of_tasks_leaves_no_trace(spots):
    def kill(t):
        if t == 6:
            os.kill(process_ids(spots)[0], signal.SIGKILL)
            spots.spec.tasks.sample(np.random.default_rng(0), 2)

    assert_same(play(spots, kill), play_in_a_loop())


def test_worker_that_dies_in_the_reset_of_a_row_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    with closing(SubprocEnv("once", restarting_envs.AbortsInSecondReset, 2)) as env:
        assert_same(play(env), play_in_a_loop())
        assert env.restarts == 1


def test_unrepeatable_row_is_reported_with_its_step():
    with closing(SubprocEnv("random", plugin_envs.NotRepeatable, 2)) as env:

        def kill(t):
            if t == 8:
                os.kill(process_ids(env)[1], signal.SIGKILL)

        text = message(lambda: play(env, kill))
    # its worker has the rows 3 to 5, of which row 3 has not restarted
    assert text.startswith("random, task 1 (spot 0.20), episode 1, step 8: its process died")


# ---------------------------------------------------------------------------------------- memory


def count_steps(env):
    return {id(step) for each in env._batch.recording.episodes for step in each.steps}


def test_record_stays_bounded_while_rows_restart():
    horizon, largest, rng = plugin_envs.Spot.horizon, 0, np.random.default_rng(0)
    with closing(SubprocEnv("spots", plugin_envs.Spot, 1)) as env:
        env.set_tasks(TASKS, EPISODES)
        env.reset([stream_of(0, row) for row in range(ROWS)])
        alive, length = np.ones(ROWS, dtype=bool), np.zeros(ROWS, dtype=int)
        for t in range(1000):
            alive[0] = t < 3  # rests and never restarts, which must not keep the others' steps
            length += alive
            env.step(action_of(0), alive)
            ended = (length >= horizon) | (rng.random(ROWS) < 0.1)
            ended[0] = False
            length[ended] = 0
            env.reset_rows(ended, [stream_of(t, 0)] * int(ended.sum()))
            largest = max(largest, len(count_steps(env)))
        before = env.reset_rows(np.zeros(ROWS, dtype=bool), []).copy()
        os.kill(process_ids(env)[0], signal.SIGKILL)
        after = env.step(action_of(0), alive).obs
        np.testing.assert_array_equal(after[:, 1], before[:, 1] + alive)
    assert horizon <= largest <= horizon + 3
    assert env._films == []


# ---------------------------------------------------------------------------------------- films


def shown_position(frame):
    """Returns the column of the bright line of Spot's picture, drawn at twice its size."""
    bright = frame[15, :, 0].astype(float)
    return (bright * np.arange(40)).sum() / bright.sum()


def test_films_of_finished_episodes_stay_correct(spots):
    states, positions = [], []

    def snap(t):
        if t in (2, 4, 8):  # row 4: its first, second and third episode
            states.append(spots.snapshot()[4])
            positions.append(spots.step(action_of(0), np.zeros(ROWS, dtype=bool)).obs[4, 0])

    play(spots, snap)
    assert len({tuple(state) for state in states}) == 3
    for state, x in zip(states, positions, strict=True):
        (frame,) = spots.render(state[None], np.zeros(1), width=40, height=30)
        assert shown_position(frame) == pytest.approx(2 * int(10 + 5 * x) + 0.5, abs=0.6)
    frames = list(spots.render(np.array(states), np.zeros(1), width=40, height=30))
    assert len(frames) == 3


# ------------------------------------------------------------------------------------- messages


def test_failing_reset_of_a_row_is_named_in_one_line():
    with closing(SubprocEnv("mine", restarting_envs.FailsInThirdReset, 2)) as env:
        text = message(lambda: play(env))
        assert text.startswith(
            f"mine, task 2 (spot {task_of(5, 4):.2f}), episode 0, restart 2, reset: "
            "reset raised OSError: no robot ("
        )
        with pytest.raises(RuntimeError, match="mine: call set_tasks before reset"):
            env.reset([stream_of(0, row) for row in range(ROWS)])


def test_refused_task_of_a_restarted_row_is_named():
    with closing(SubprocEnv("mine", restarting_envs.RefusesFarTasks, 2)) as env:
        env.set_tasks(TASKS, EPISODES)
        env.reset([stream_of(0, row) for row in range(ROWS)])
        rows, streams = mask_of([1, 3]), [stream_of(1, 0)] * 2
        text = message(lambda: env.reset_rows(rows, streams, np.array([[0.5], [7.0]])))
        assert text.startswith("mine, task 1 (spot 7), episode 1, restart 1, reset: set_task")
        assert "ValueError: too far" in text


def test_failing_step_counts_from_the_reset_of_its_row():
    with closing(SubprocEnv("mine", restarting_envs.FailsInSixthStep, 2)) as env:
        text = message(lambda: play(env, has_tasks=False))
    # rows 2 and 3 never restart before step 5
    assert text.startswith("mine, task 1 (spot 0.20), episode 0, step 5: step raised OSError")
    plan = {t: rows for t, rows in PLAN.items() if t < 3}
    with closing(SubprocEnv("mine", restarting_envs.FailsInSixthStep, 2)) as env:
        env.set_tasks(TASKS, EPISODES)
        env.reset([stream_of(0, row) for row in range(ROWS)])
        for _ in range(3):
            env.step(action_of(0), np.ones(ROWS, dtype=bool))
        env.reset_rows(mask_of(plan[2]), [stream_of(1, 0)] * 2)
        for t in range(6):
            alive = mask_of(plan[2])
            if t == 5:
                text = message(lambda alive=alive: env.step(action_of(0), alive))
                break
            env.step(action_of(0), alive)
    where = "mine, task 0 (spot -0.90), episode 0, restart 1, step 5: step raised OSError"
    assert text.startswith(where)
