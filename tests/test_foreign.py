import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import plugin_envs
import pytest

from envs.foreign import ForeignEnv, PluginFailure
from envs.protocol import NoPictures

REPOSITORY = Path(__file__).resolve().parent.parent
TASKS = np.array([[-0.9], [0.2], [0.7]])
EPISODES = 2
ROWS = len(TASKS) * EPISODES
STEPS = plugin_envs.Spot.horizon


def streams(first=0):
    return [np.random.default_rng([first, row]) for row in range(ROWS)]


def actions(size=1):
    return np.random.default_rng(7).normal(size=(STEPS, ROWS, size)).astype(np.float32)


def play(env, before=lambda t: None, first=0):
    """An episode in every row: obs (T + 1, M, S), reward (T, M), terminated (T, M)."""
    obs, reward, ended = [env.reset(streams(first)).copy()], [], []
    alive = np.ones(ROWS, dtype=bool)
    for t, action in enumerate(actions()):
        before(t)
        step = env.step(action, alive)
        obs.append(step.obs.copy()), reward.append(step.reward), ended.append(step.terminated)
        alive = alive & ~step.terminated
    return np.array(obs), np.array(reward), np.array(ended)


def played(kind, threads=2, **options):
    with closing(ForeignEnv(kind.__name__, kind, threads, **options)) as env:
        env.set_tasks(TASKS, EPISODES)
        return play(env)


def same(some, others):
    return all(np.array_equal(one, other) for one, other in zip(some, others, strict=True))


def message(call):
    with pytest.raises(PluginFailure) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def loop():
    """The same episodes by hand, one after another."""
    obs, reward = np.zeros((STEPS + 1, ROWS, 2)), np.zeros((STEPS, ROWS))
    for row, rng in enumerate(streams()):
        env = plugin_envs.Spot()
        env.set_task({"spot": TASKS[row // EPISODES, 0]})
        obs[0, row], _ = env.reset(seed=int(rng.integers(2**31)))
        for t, action in enumerate(actions()[:, row]):
            obs[t + 1, row], reward[t, row], *_ = env.step(action.clip(-1.0, 1.0))
    return obs, reward, np.zeros((STEPS, ROWS), dtype=bool)


# -------------------------------------------------------------------------------------------- a rollout


@pytest.fixture(scope="module")
def spots():
    """An environment with two workers whose tasks are set by each test."""
    with closing(ForeignEnv("spots", plugin_envs.Spot, 2)) as env:
        yield env


def test_the_batch_equals_a_loop_over_environments_whatever_the_number_of_workers(spots):
    expected = loop()
    for threads in (1, 4):
        assert same(played(plugin_envs.Spot, threads), expected)
    spots.set_tasks(TASKS, EPISODES)
    assert same(play(spots), expected)


def test_a_batch_of_another_size_and_other_tasks_leave_nothing_behind(spots):
    spots.set_tasks(TASKS, EPISODES)
    first = play(spots)
    spots.set_tasks(np.array([[0.4]]), 1)
    spots.reset([np.random.default_rng(3)])
    spots.step(np.ones((1, 1)), np.ones(1, dtype=bool))
    spots.set_tasks(TASKS[::-1].copy(), EPISODES)
    assert not same(play(spots), first)
    spots.set_tasks(TASKS, EPISODES)
    assert same(play(spots), first)


def test_the_spec_says_what_the_plug_in_says(spots):
    spec = spots.spec
    sizes = spec.name, spec.obs_size, spec.action_size, spec.horizon, spec.dt, spec.action_scale
    assert sizes == ("spots", 2, 1, 8, 0.05, 1.0)
    assert spec.reward == "A point on a line that shall come to a hidden spot."
    assert (spec.tasks.held_out, spec.note, spec.floors) == (True, "", {})
    with closing(ForeignEnv("ways", plugin_envs.TwoWays)) as env:
        spec = env.spec
    (way,) = spec.tasks.variables
    assert (way.name, way.unit, way.low, way.high) == ("way", "m", -1.0, 1.0)
    assert (spec.dt, spec.action_scale, spec.floors) == (0.5, 0.25, {"stand still": -8.0})
    assert (spec.tasks.held_out, spec.note) == (False, "test tasks are among the training tasks")


def test_actions_are_scaled_clipped_and_of_the_type_of_the_space():
    with closing(ForeignEnv("sends", plugin_envs.Sends, 1)) as env:
        env.set_tasks(np.array([[0.0]]), 2)
        env.reset(streams()[:2])
        sent = env.step(np.array([[0.25, -1.0], [0.75, 2.0]]), np.ones(2, dtype=bool)).obs
    np.testing.assert_array_equal(sent, [[0.5, 0.0], [1.0, 3.0]])


def test_of_discrete_actions_the_largest_entry_counts():
    with closing(ForeignEnv("levers", plugin_envs.Levers, 1)) as env:
        assert (env.spec.discrete, env.spec.action_size, env.spec.action_scale) == (True, 3, 1.0)
        env.set_tasks(np.array([[6.0]]), 4)
        env.reset(streams()[:4])
        action = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-9.0, 2.0, 1.5]], dtype=np.float32)
        assert env.step(action, np.ones(4, dtype=bool)).reward.tolist() == [0, 1, 0, 1]


def test_a_row_that_has_ended_is_not_stepped_and_keeps_its_observation():
    obs, reward, ended = played(plugin_envs.Falls)
    assert ended[3].tolist() == [True, True, False, False, False, False] and ended.sum() == 2
    assert (obs[4:, :2] == obs[4, :2]).all() and (reward[4:, :2] == 0).all()
    assert (reward[:, 2:] != 0).all()


def test_truncation_ends_an_episode_before_the_horizon_and_is_no_end_at_the_horizon():
    _, reward, ended = played(plugin_envs.CutShort)
    assert ended[2].tolist() == [True, True, False, False, False, False] and ended.sum() == 2
    assert (reward[2] != 0).all() and (reward[3:, :2] == 0).all()


def test_an_action_that_is_not_finite_is_a_fault_of_its_row_alone(spots):
    spots.set_tasks(TASKS, EPISODES)
    before = spots.reset(streams()).copy()
    action = np.ones((ROWS, 1))
    action[3] = np.nan
    step = spots.step(action, np.ones(ROWS, dtype=bool))
    assert step.fault.nonzero()[0].tolist() == [3] and not step.terminated.any()
    assert step.reward[3] == 0 and np.array_equal(step.obs[3], before[3])
    assert (np.delete(step.obs[:, 1], 3) == 1).all()


def test_wrong_calls_say_what_is_missing():
    with closing(ForeignEnv("spots", plugin_envs.Spot, 1)) as env:
        with pytest.raises(RuntimeError, match="spots: call set_tasks before reset"):
            env.reset([])
        with pytest.raises(ValueError, match=r"spots: tasks must be finite and \(N, 1\)"):
            env.set_tasks(np.zeros((2, 3)), 1)
        env.set_tasks(TASKS, EPISODES)
        with pytest.raises(RuntimeError, match="spots: call reset before step"):
            env.step(np.zeros((ROWS, 1)), np.ones(ROWS, dtype=bool))
        with pytest.raises(ValueError, match="6 rows need as many streams, got 1"):
            env.reset([np.random.default_rng(0)])


# ------------------------------------------------------------------------------- workers that die or hang


def process_ids(env):
    return [worker._process.pid for worker in env._resources.workers]


def test_a_worker_killed_in_mid_rollout_is_replaced_and_nothing_differs(spots):
    spots.set_tasks(TASKS, EPISODES)
    ids = process_ids(spots)

    def kill(t):
        if t == 5:
            os.kill(ids[1], signal.SIGKILL)

    assert same(play(spots, kill), loop())
    now = process_ids(spots)
    assert now[0] == ids[0] and now[1] != ids[1]


VERBS = {
    "reset": lambda env: None,
    "set_tasks": lambda env: env.set_tasks(TASKS, EPISODES),
    "sample": lambda env: env.spec.tasks.sample(np.random.default_rng(1), 3).tolist(),
    "task_words": lambda env: env.task_words(TASKS[0]),
}


@pytest.mark.parametrize("workers", [[0], [1], [0, 1]])
@pytest.mark.parametrize("verb", VERBS)
def test_a_worker_killed_between_rollouts_is_replaced(spots, verb, workers):
    spots.set_tasks(TASKS, EPISODES)
    said = VERBS[verb](spots)
    first = play(spots)
    ids = process_ids(spots)
    for worker in workers:
        os.kill(ids[worker], signal.SIGKILL)
    assert VERBS[verb](spots) == said
    assert same(play(spots), first)
    now = process_ids(spots)
    assert [now[i] != ids[i] for i in (0, 1)] == [i in workers for i in (0, 1)]


@pytest.mark.parametrize("at", [0, 5])
@pytest.mark.parametrize("verb", ["sample", "task_words"])
def test_a_question_to_a_killed_worker_in_mid_rollout_changes_nothing(spots, verb, at):
    spots.set_tasks(TASKS, EPISODES)
    ids, said = process_ids(spots), VERBS[verb](spots)

    def kill_and_ask(t):
        if t == at:
            os.kill(ids[0], signal.SIGKILL)
            assert VERBS[verb](spots) == said

    assert same(play(spots, kill_and_ask), loop())
    assert process_ids(spots)[0] != ids[0]


def test_after_an_episode_that_cannot_be_repeated_a_question_is_answered_all_the_same():
    with closing(ForeignEnv("random", plugin_envs.NotRepeatable, 1)) as env:
        env.set_tasks(TASKS, EPISODES)
        play(env)
        os.kill(process_ids(env)[0], signal.SIGKILL)
        assert env.task_words(TASKS[0]) == "spot -0.90"
        play(env)


def test_a_worker_that_hangs_in_reset_is_replaced_and_its_episode_forgotten():
    with closing(ForeignEnv("hangs", plugin_envs.HangsInReset, 1, timeout=2.0)) as env:
        env.set_tasks(TASKS, EPISODES)
        text = message(lambda: env.reset(streams()))
        assert text == "hangs, task 2 (spot 0.70), episode 0, reset: no answer for 2 s"
        assert env.task_words(TASKS[0]) == "spot -0.90"
        with pytest.raises(RuntimeError, match="call reset before step"):
            env.step(np.zeros((ROWS, 1)), np.ones(ROWS, dtype=bool))


def test_a_question_that_kills_every_worker_is_named_with_the_signal():
    with closing(ForeignEnv("mine", plugin_envs.AbortsInSample, 1)) as env:
        text = message(lambda: env.spec.tasks.sample(np.random.default_rng(0), 3))
        assert text == "mine: sample: its process died 3 times (SIGKILL)"
        env.set_tasks(TASKS, EPISODES)
        assert same(play(env), loop())


def test_a_further_worker_that_dies_at_its_start_is_named():
    with closing(ForeignEnv("mine", plugin_envs.Spot, 2)) as env:
        env.make = plugin_envs.DiesAtTheStart()
        text = message(lambda: env.set_tasks(TASKS, EPISODES))
        assert text == "mine: its process died at the start (SIGKILL)"


def test_a_worker_that_dies_within_a_step_is_replaced_and_its_share_redone(tmp_path, monkeypatch):
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    assert same(played(plugin_envs.AbortsOnce), loop())
    assert (tmp_path / "aborted").exists()


def test_a_share_that_cannot_be_redone_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ABORTED", str(tmp_path / "aborted"))
    text = message(lambda: played(plugin_envs.RandomAbortsOnce))
    assert "the episode did not come out the same again" in text and "step 5" in text


def test_a_step_that_kills_every_worker_is_named_with_the_signal():
    text = message(lambda: played(plugin_envs.Aborts))
    assert text == (
        "Aborts, task 2 (spot 0.70), episode 0, step 2: its process died 3 times (SIGKILL)"
    )


def test_a_step_that_hangs_is_named_and_the_environment_can_be_used_again():
    with closing(ForeignEnv("hangs", plugin_envs.Hangs, 2, timeout=2.0)) as env:
        env.set_tasks(TASKS, EPISODES)
        started = time.monotonic()
        text = message(lambda: play(env))
        assert time.monotonic() - started < 30.0
        assert text == "hangs, task 2 (spot 0.70), episode 0, step 2: no answer for 2 s"
        env.set_tasks(np.minimum(TASKS, 0.5), EPISODES)
        assert play(env)[0].shape == (STEPS + 1, ROWS, 2)


@pytest.mark.parametrize("kind", ["Spot", "TakesInterrupts"])
def test_ctrl_c_does_not_reach_the_workers(kind):
    with closing(ForeignEnv(kind, getattr(plugin_envs, kind), 2)) as env:
        env.set_tasks(TASKS, EPISODES)
        ids = process_ids(env)
        for number in ids:
            os.kill(number, signal.SIGINT)
        assert same(play(env), loop()) and process_ids(env) == ids


def test_an_interrupt_that_a_plug_in_raises_is_an_error_like_others(capfd):
    text = message(lambda: played(plugin_envs.RaisesInterrupt))
    where = "RaisesInterrupt, task 2 (spot 0.70), episode 0, step 2: "
    assert text.startswith(where + "step raised KeyboardInterrupt: by a key (")
    text = message(lambda: ForeignEnv("mine", plugin_envs.InterruptInSample, 1))
    assert text.startswith("mine: KeyboardInterrupt: by a key (")
    assert capfd.readouterr() == ("", "")


def running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] not in "ZX"
    except FileNotFoundError:
        return False


def gone(numbers):
    deadline = time.monotonic() + 10.0
    while any(map(running, numbers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return True


def test_close_ends_the_workers_and_gives_the_memory_back():
    env = ForeignEnv("spots", plugin_envs.Spot, 2)
    env.set_tasks(TASKS, EPISODES)
    memory, ids = Path("/dev/shm") / env._block.name, process_ids(env)
    assert memory.exists() and all(map(running, ids))
    env.close()
    assert gone(ids) and not memory.exists()
    env.set_tasks(TASKS, EPISODES)
    assert same(play(env), loop())
    env.close()


def test_workers_do_not_outlive_a_trainer_that_is_killed_even_if_they_hang():
    code = (
        "import plugin_envs, numpy as np\n"
        "from envs.foreign import ForeignEnv\n"
        "env = ForeignEnv('hangs', plugin_envs.Hangs, 2)\n"
        "env.set_tasks(np.array([[0.7], [0.0]]), 1)\n"
        "env.reset([np.random.default_rng(0)] * 2)\n"
        "print(*[w._process.pid for w in env._resources.workers], flush=True)\n"
        "for _ in range(3): env.step(np.zeros((2, 1)), np.ones(2, dtype=bool))\n"
    )
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python says that it removes the memory that was left
        text=True,
    ) as process:
        ids = [int(word) for word in process.stdout.readline().split()]
        assert len(ids) == 2 and all(map(running, ids))
        time.sleep(0.5)  # the first worker hangs, the second waits for orders
        process.kill()
    assert gone(ids)


# ------------------------------------------------------------------------------- what breaks the contract


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Raises", "(spot 0.70), episode 0, step 2: step raised ZeroDivisionError: no friction ("),
        ("NanReward", "(spot 0.70), episode 0, step 2: the reward is nan; it must be"),
        ("NanObs", "task 0 (spot -0.90), episode 0, step 2: obs[1] is inf; observations must be"),
        (
            "WrongShape",
            "task 0 (spot -0.90), episode 0, step 2: the observation has the shape (3,)",
        ),
        ("OldStep", "step 0: step must return (observation, reward, terminated, truncated, info)"),
        (
            "OldReset",
            "task 0 (spot -0.90), episode 0, reset: reset must return (observation, info)",
        ),
        (
            "RefusesTask",
            "task 0 (spot -0.90), episode 0, set_task: set_task raised KeyError: 'velocity'",
        ),
    ],
)
def test_a_broken_contract_names_environment_task_episode_and_step(kind, words):
    text = message(lambda: played(getattr(plugin_envs, kind)))
    assert text.startswith(f"{kind}, task ") and words in text


def test_a_raised_error_names_its_line():
    line = next(
        number
        for number, text in enumerate(Path(plugin_envs.__file__).read_text().splitlines(), start=1)
        if "raise ZeroDivisionError" in text
    )
    assert f"plugin_envs.py, line {line})" in message(lambda: played(plugin_envs.Raises))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("NoTasks", "lacks sample_tasks and set_task; the contract is sample_tasks(rng, n)"),
        ("Images", "image observations (64, 64, 3) are not supported; give a vector"),
        ("ChannelsFirst", "image observations (3, 8, 8) are not supported; give a vector"),
        ("Grey", "image observations (64, 48) are not supported; give a vector"),
        ("ImageInDict", "image observations (64, 64, 3) are not supported; give a vector"),
        ("ImageInTupleInDict", "image observations (8, 8, 1) are not supported; give a vector"),
        ("Matrix", "is no vector; wrap the environment in gymnasium.wrappers.FlattenObservation"),
        ("DictObs", "is no vector; wrap the environment in gymnasium.wrappers.FlattenObservation"),
        ("Switches", "the action space MultiBinary(3) is not supported; it must be a Box of one"),
        ("NoHorizon", "says no horizon; give the class one, as in `horizon = 200`"),
        ("TooFewTasks", "sample_tasks(rng, 64) returned 63 tasks"),
    ],
)
def test_an_environment_that_cannot_be_run_is_refused_at_once(kind, words):
    text = message(lambda: ForeignEnv("mine", getattr(plugin_envs, kind)))
    assert text.startswith("mine: ") and words in text


def test_a_class_that_a_worker_cannot_find_is_refused():
    class Local(plugin_envs.Spot):
        pass

    assert "cannot be sent to a worker" in message(lambda: ForeignEnv("mine", Local))
    text = message(lambda: ForeignEnv("mine", plugin_envs.Elsewhere()))
    assert text.startswith("mine: ModuleNotFoundError: no module of that name here (")


# ---------------------------------------------------------------------------------------------- pictures


def filmed(kind, threads=1):
    with closing(ForeignEnv("films", kind, threads)) as env:
        env.set_tasks(TASKS, EPISODES)
        states = []
        env.reset(streams())
        for action in actions():
            env.step(action, np.ones(ROWS, dtype=bool))
            states.append(env.snapshot()[4])
        play(env, first=1)  # a film stays what it was
        return list(env.render(np.array(states)[::3], TASKS[2], width=40, height=30))


def test_a_film_shows_the_recorded_episode_played_again():
    frames = filmed(plugin_envs.Spot)
    obs, _, _ = loop()
    assert len(frames) == 3 and frames[0].shape == (30, 40, 3) and frames[0].dtype == np.uint8
    for frame, t in zip(frames, (1, 4, 7), strict=True):
        bright = frame[15, :, 0].astype(float)
        shown = (bright * np.arange(40)).sum() / bright.sum()  # pictures are twice as large
        assert shown == pytest.approx(2 * int(10 + 5 * obs[t, 4, 0]) + 0.5, abs=0.6)
        assert not frame[:5].any() and not frame[25:].any()  # nothing is stretched


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("Blind", "films draws no pictures: its metadata names no render mode 'rgb_array'"),
        ("NoRenderMode", "films draws no pictures: its constructor takes no render_mode"),
        ("DrawsAnotherEpisode", "it drew another episode than was recorded"),
        ("CannotDraw", "films cannot be filmed: RuntimeError: no display"),
    ],
)
def test_what_cannot_be_filmed_says_why(kind, words):
    with pytest.raises(NoPictures, match=words.replace("(", r"\(")):
        filmed(getattr(plugin_envs, kind))
