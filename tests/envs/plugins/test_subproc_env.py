from contextlib import closing
from pathlib import Path

import action_envs
import numpy as np
import plugin_envs
import pytest
from plugin_episodes import (
    EPISODES,
    ROWS,
    TASKS,
    actions,
    message,
    play,
    play_episode,
    play_in_a_loop,
    same,
    streams,
)

from metarl.core.env import NoPictures
from metarl.envs.plugins.subproc_env import SubprocEnv

REPOSITORY = Path(__file__).resolve().parents[3]


# --------------------------------------------------------------------------------------- a rollout


def test_batch_equals_a_loop_with_any_number_of_workers(spots):
    expected = play_in_a_loop()
    for threads in (1, 4):
        assert same(play_episode(plugin_envs.Spot, threads), expected)
    spots.set_tasks(TASKS, EPISODES)
    assert same(play(spots), expected)


def test_batches_of_other_sizes_and_tasks_leave_no_trace(spots):
    spots.set_tasks(TASKS, EPISODES)
    first = play(spots)
    spots.set_tasks(np.array([[0.4]]), 1)
    spots.reset([np.random.default_rng(3)])
    spots.step(np.ones((1, 1)), np.ones(1, dtype=bool))
    spots.set_tasks(TASKS[::-1].copy(), EPISODES)
    assert not same(play(spots), first)
    spots.set_tasks(TASKS, EPISODES)
    assert same(play(spots), first)


def test_spec_has_the_properties_of_the_plugin(spots):
    spec = spots.spec
    sizes = spec.name, spec.obs_size, spec.action_size, spec.horizon, spec.dt, spec.action_scale
    assert sizes == ("spots", 2, 1, 8, 0.05, 1.0)
    assert spec.reward == "A point on a line that must reach a hidden spot."
    assert (spec.tasks.held_out, spec.note, spec.floors) == (True, "", {})
    with closing(SubprocEnv("ways", plugin_envs.TwoWays)) as env:
        spec = env.spec
    (way,) = spec.tasks.variables
    assert (way.name, way.unit, way.low, way.high) == ("way", "m", -1.0, 1.0)
    assert (spec.dt, spec.action_scale, spec.floors) == (0.5, 0.25, {"stand still": -8.0})
    assert (spec.tasks.held_out, spec.note) == (False, "test tasks are among the training tasks")


def test_actions_are_scaled_clipped_and_converted():
    with closing(SubprocEnv("sends", plugin_envs.Sends, 1)) as env:
        env.set_tasks(np.array([[0.0]]), 2)
        env.reset(streams()[:2])
        sent = env.step(np.array([[0.25, -1.0], [0.75, 2.0]]), np.ones(2, dtype=bool)).obs
    np.testing.assert_array_equal(sent, [[0.5, 0.0], [1.0, 3.0]])


def send(kind, outputs):
    """Returns the actions that a plug-in receives for outputs (M, A), and its spec."""
    with closing(SubprocEnv("sends", kind, 1)) as env:
        env.set_tasks(np.array([[0.0]]), len(outputs))
        env.reset(streams()[: len(outputs)])
        return env.step(np.array(outputs), np.ones(len(outputs), dtype=bool)).obs, env.spec


def test_output_is_mapped_to_a_finite_box():
    outputs = [[-1.0, -1.0, -1.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [1.5, 1.5, 1.5]]
    sent, spec = send(action_envs.Newtons, outputs)
    expected = [[-200, -1, 0], [0, 0, 0.25], [100, 0.5, 0.375], [200, 1, 0.5]]
    np.testing.assert_array_equal(sent, expected)
    assert spec.action_scale == (200.0, 1.0, 0.25)
    assert spec.action_centre == (0.0, 0.0, 0.25)
    assert spec.action_range == ((-200.0, -1.0, 0.0), (200.0, 1.0, 0.5))
    assert spec.version == 2
    sent, spec = send(action_envs.Fixed, outputs[:2])
    np.testing.assert_array_equal(sent, [[-3, 0.25, 1], [-1, 0.25, 1.5]])
    # where the ends are equal the action cannot differ, whatever the factor
    assert (spec.action_scale, spec.action_centre) == ((2.0, 1.0, 0.5), (-1.0, 0.25, 1.5))


@pytest.mark.parametrize("kind", ["Bounded", "OneSided", "HugeBox"])
def test_box_of_one_or_without_ends_gets_the_output(kind):
    outputs = np.random.default_rng(0).normal(size=(4, 3))
    outputs[0] = -0.0
    sent, spec = send(getattr(action_envs, kind), outputs)
    space = getattr(action_envs, kind).action_space
    expected = np.clip(outputs, space.low, space.high).astype(np.float32)
    np.testing.assert_array_equal(sent, expected)
    np.testing.assert_array_equal(np.signbit(sent), np.signbit(expected))
    assert (spec.action_scale, spec.action_centre, spec.version) == (1.0, 0.0, 1)


def test_action_scale_takes_precedence_over_the_box():
    sent, spec = send(action_envs.NewtonsScaled, [[1.5, 1.5, 1.5], [-0.1, -0.1, -0.1]])
    np.testing.assert_array_equal(sent, np.float32([[3.0, 1.0, 0.5], [-0.2, -0.2, 0.0]]))
    assert (spec.action_scale, spec.action_centre, spec.version) == (2.0, 0.0, 1)


def test_box_of_whole_numbers_gets_the_nearest():
    outputs = [[-2.0, -0.8, -0.95], [-0.4, -0.2, 0.0], [0.1, 0.4, 0.2], [0.6, 0.6, 0.98]]
    sent, _ = send(action_envs.Whole, outputs)
    np.testing.assert_array_equal(sent, [[0, -1, 2], [1, 0, 6], [2, 0, 6], [2, 1, 9]])


def test_discrete_action_is_the_largest_entry():
    with closing(SubprocEnv("levers", plugin_envs.Levers, 1)) as env:
        assert (env.spec.discrete, env.spec.action_size, env.spec.action_scale) == (True, 3, 1.0)
        env.set_tasks(np.array([[6.0]]), 4)
        env.reset(streams()[:4])
        action = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-9.0, 2.0, 1.5]], dtype=np.float32)
        assert env.step(action, np.ones(4, dtype=bool)).reward.tolist() == [0, 1, 0, 1]


def test_ended_row_is_not_stepped_and_keeps_its_observation():
    obs, reward, ended = play_episode(plugin_envs.Falls)
    assert ended[3].tolist() == [True, True, False, False, False, False] and ended.sum() == 2
    assert (obs[4:, :2] == obs[4, :2]).all() and (reward[4:, :2] == 0).all()
    assert (reward[:, 2:] != 0).all()


def test_truncation_is_an_end_only_before_the_horizon():
    _, reward, ended = play_episode(plugin_envs.CutShort)
    assert ended[2].tolist() == [True, True, False, False, False, False] and ended.sum() == 2
    assert (reward[2] != 0).all() and (reward[3:, :2] == 0).all()


def test_non_finite_action_is_a_fault_of_its_row(spots):
    spots.set_tasks(TASKS, EPISODES)
    before = spots.reset(streams()).copy()
    action = np.ones((ROWS, 1))
    action[3] = np.nan
    step = spots.step(action, np.ones(ROWS, dtype=bool))
    assert step.fault.nonzero()[0].tolist() == [3] and not step.terminated.any()
    assert step.reward[3] == 0 and np.array_equal(step.obs[3], before[3])
    assert (np.delete(step.obs[:, 1], 3) == 1).all()


def test_wrong_calls_are_reported():
    with closing(SubprocEnv("spots", plugin_envs.Spot, 1)) as env:
        with pytest.raises(RuntimeError, match="spots: call set_tasks before reset"):
            env.reset([])
        with pytest.raises(ValueError, match=r"spots: tasks must be finite and \(N, 1\)"):
            env.set_tasks(np.zeros((2, 3)), 1)
        env.set_tasks(TASKS, EPISODES)
        with pytest.raises(RuntimeError, match="spots: call reset before step"):
            env.step(np.zeros((ROWS, 1)), np.ones(ROWS, dtype=bool))
        with pytest.raises(ValueError, match="6 rows need as many streams, got 1"):
            env.reset([np.random.default_rng(0)])


# ------------------------------------------------------------------------ what breaks the contract


@pytest.mark.parametrize(
    ("kind", "expected"),
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
def test_broken_contract_names_task_episode_and_step(kind, expected):
    text = message(lambda: play_episode(getattr(plugin_envs, kind)))
    assert text.startswith(f"{kind}, task ") and expected in text


def test_raised_error_names_its_line():
    line = next(
        number
        for number, text in enumerate(Path(plugin_envs.__file__).read_text().splitlines(), start=1)
        if "raise ZeroDivisionError" in text
    )
    assert f"plugin_envs.py, line {line})" in message(lambda: play_episode(plugin_envs.Raises))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("NoTasks", "lacks sample_tasks and set_task; the contract is sample_tasks(rng, n)"),
        ("Images", "image observations (64, 64, 3) are not supported; give a vector"),
        ("ChannelsFirst", "image observations (3, 8, 8) are not supported; give a vector"),
        ("Grey", "image observations (64, 48) are not supported; give a vector"),
        ("ImageInDict", "image observations (64, 64, 3) are not supported; give a vector"),
        ("ImageInTupleInDict", "image observations (8, 8, 1) are not supported; give a vector"),
        (
            "Matrix",
            "is not a vector; wrap the environment in gymnasium.wrappers.FlattenObservation",
        ),
        (
            "DictObs",
            "is not a vector; wrap the environment in gymnasium.wrappers.FlattenObservation",
        ),
        ("Switches", "the action space MultiBinary(3) is not supported; it must be a Box of one"),
        ("NoHorizon", "has no horizon; give the class one, as in `horizon = 200`"),
        ("TooFewTasks", "sample_tasks(rng, 64) returned 63 tasks"),
    ],
)
def test_unusable_environment_is_refused_at_once(kind, expected):
    text = message(lambda: SubprocEnv("mine", getattr(plugin_envs, kind)))
    assert text.startswith("mine: ") and expected in text


def test_class_that_a_worker_cannot_import_is_refused():
    class Local(plugin_envs.Spot):
        pass

    assert "cannot be sent to a worker" in message(lambda: SubprocEnv("mine", Local))
    text = message(lambda: SubprocEnv("mine", plugin_envs.Elsewhere()))
    assert text.startswith("mine: ModuleNotFoundError: no module of that name here (")


# ---------------------------------------------------------------------------------------- pictures


def render_film(kind, threads=1):
    with closing(SubprocEnv("films", kind, threads)) as env:
        env.set_tasks(TASKS, EPISODES)
        states = []
        env.reset(streams())
        for action in actions():
            env.step(action, np.ones(ROWS, dtype=bool))
            states.append(env.snapshot()[4])
        play(env, first=1)  # must not change the film
        return list(env.render(np.array(states)[::3], TASKS[2], width=40, height=30))


def test_film_shows_the_recorded_episode():
    frames = render_film(plugin_envs.Spot)
    obs, _, _ = play_in_a_loop()
    assert len(frames) == 3 and frames[0].shape == (30, 40, 3) and frames[0].dtype == np.uint8
    for frame, t in zip(frames, (1, 4, 7), strict=True):
        bright = frame[15, :, 0].astype(float)
        shown = (bright * np.arange(40)).sum() / bright.sum()  # the frame is twice the picture
        assert shown == pytest.approx(2 * int(10 + 5 * obs[t, 4, 0]) + 0.5, abs=0.6)
        assert not frame[:5].any() and not frame[25:].any()  # black: the picture is not stretched


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("Blind", "films draws no pictures: its metadata names no render mode 'rgb_array'"),
        ("NoRenderMode", "films draws no pictures: its constructor takes no render_mode"),
        ("DrawsAnotherEpisode", "the replay gave other rewards than were recorded"),
        ("CannotDraw", "films cannot be filmed: RuntimeError: no display"),
    ],
)
def test_missing_film_has_a_reason(kind, expected):
    with pytest.raises(NoPictures, match=expected.replace("(", r"\(")):
        render_film(getattr(plugin_envs, kind))
