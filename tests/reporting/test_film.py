import re

import numpy as np
import pytest
import torch

from metarl.core.env import MovableCamera, supports
from metarl.core.errors import ConfigError, EnvironmentContractError, NumericalError
from metarl.core.rollout import Action
from metarl.envs.registry import make
from metarl.envs.wrappers.observe_task import ObserveTask
from metarl.reporting.episode import View
from metarl.reporting.film import film_trial, write_films
from metarl.sampling.sampler import Key

SMALL, ABOVE = View(64), View(camera=(0.0, -45.0))
TASKS = np.array([[0.3, -0.2], [-0.45, 0.5], [0.05, 0.0]])
KEY = Key(1, "video", 0)


class Chaser:
    """Stands still until it has adapted; then each step takes a fraction of the way to the goal."""

    def __init__(self):
        self.explored, self.adapted = [], []

    def begin(self, num_tasks, num_episodes, rngs=()):
        return torch.zeros(num_tasks)

    def act(self, context, obs, noise, feedback=None, *, explore):
        self.explored.append(explore)
        goal = torch.from_numpy(TASKS).float()[:, None]
        mean = context[:, None, None] * (goal - obs)
        value = mean + 0.1 * noise if explore else mean
        return Action(value, torch.zeros(value.shape[:2])), context

    def adapt(self, context, rollout, rngs=()):
        self.adapted.append(rollout)
        return context + torch.tensor([0.5, 0.1, 0.0])


def film(learner=None, env=None, num_adaptations=1, num_episodes=3, **options):
    env = env or make("navigation-2d")
    settings = {"num_episodes": num_episodes, "num_adaptations": num_adaptations, "key": KEY}
    settings |= options
    return film_trial(env, learner or Chaser(), TASKS, **settings)


def test_film_shows_every_task_before_and_after_adaptation():
    panels = film()
    assert [[e.stage for e in row] for row in panels] == [
        ["before adaptation", "after 1 adaptation"]
    ] * 3
    for row, task in zip(panels, TASKS, strict=True):
        assert all(np.array_equal(episode.task, task) for episode in row)
    assert film(num_adaptations=2)[0][1].stage == "after 2 adaptations"


def test_episode_has_its_length_and_the_rewards_of_the_env():
    for row, task in zip(film(), TASKS, strict=True):
        for episode in row:
            distance = np.linalg.norm(episode.states - task, axis=1)
            np.testing.assert_allclose(episode.reward, -distance, rtol=1e-6)
            assert (distance[:-1] >= 0.01).all()
            assert len(episode.states) == 100 or distance[-1] < 0.01
    before, after = np.array([[len(e.states) for e in row] for row in film()]).T
    # |goal| (1 - fraction)^n < 0.01; a step moves at most 0.1 along an axis; the last fraction is 0
    assert before.tolist() == [100, 100, 100] and after[2] == 100
    assert 5 <= after[0] < after[1] < 100


def test_film_explores_to_adapt_and_shows_the_mode():
    learner = Chaser()
    panels = film(learner, num_adaptations=2)
    assert len(learner.adapted) == 2
    first, second = learner.adapted
    assert bool(first.action.std() > 0.05) and not torch.equal(first.action, second.action)
    assert learner.explored.count(False) == 200 and set(learner.explored) == {True, False}
    assert np.array_equal(panels[0][0].states, np.zeros((100, 2)))


def test_film_does_not_depend_on_num_episodes():
    # Chaser learns nothing from the rollout, and the mode of the first episode is shown
    for one, other in zip(film(num_episodes=1), film(num_episodes=4), strict=True):
        assert all(np.array_equal(a.states, b.states) for a, b in zip(one, other, strict=True))


class FailingTask:
    """Navigation in which the simulation of one task fails in the first step."""

    def __init__(self, task):
        self._env, self._task = make("navigation-2d"), task
        self.spec, self.snapshot, self.reset = self._env.spec, self._env.snapshot, self._env.reset

    def set_tasks(self, tasks, num_episodes):
        self._env.set_tasks(tasks, num_episodes)
        self._broken = np.repeat(np.arange(len(tasks)) == self._task, num_episodes)

    def step(self, action, alive):
        step = self._env.step(action, alive & ~self._broken)
        step.fault[:] = alive & self._broken
        return step


def test_episode_that_fails_at_once_is_one_picture():
    for episode in film(env=FailingTask(1))[1]:
        assert episode.states.shape == (1, 2) and episode.reward.tolist() == [0.0]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (FloatingPointError("task 2: not finite"), NumericalError),
        (ValueError("task 2 has no valid step"), EnvironmentContractError),
    ],
)
def test_failed_adaptation_names_the_video(error, failure):
    class Fails(Chaser):
        def adapt(self, context, rollout, rngs=()):
            raise error

    with pytest.raises(failure, match="video of navigation-2d: task 2"):
        film(Fails())


class NoisyChaser(Chaser):
    """Chaser with noise in its mode too, so that the episodes of a task differ."""

    def act(self, context, obs, noise, feedback=None, *, explore):
        goal = torch.from_numpy(TASKS).float()[:, None]
        value = context[:, None, None] * (goal - obs) + 0.1 * noise
        return Action(value, torch.zeros(value.shape[:2])), context


def test_num_shown_adds_episodes_and_keeps_the_first():
    one, three = film(NoisyChaser()), film(NoisyChaser(), num_shown=3)
    assert len(three) == 9
    for index, row in enumerate(three):
        task, number = divmod(index, 3)
        assert all(np.array_equal(episode.task, TASKS[task]) for episode in row)
        text = one[task][0].task_text
        assert re.fullmatch(r"goal x -?0\.\d\d m, goal y -?0\.?\d* m", text)
        assert row[0].task_text == f"{text}, episode {number + 1}"
        for episode in row:
            distance = np.linalg.norm(episode.states - TASKS[task], axis=1)
            np.testing.assert_allclose(episode.reward, -distance, rtol=1e-6)
        for a, b in zip(row, one[task], strict=True):
            assert np.array_equal(a.states, b.states) == (number == 0)


def test_task_words_of_the_env_are_shown():
    class Described(FailingTask):
        def task_words(self, task):
            return f"door {task[0]:.1f}"

    assert [row[1].task_text for row in film(env=Described(9))] == [
        "door 0.3",
        "door -0.5",
        "door 0.1",
    ]
    assert film(env=Described(9), num_shown=2)[1][0].task_text == "door 0.3, episode 2"


@pytest.mark.parametrize("error", [KeyError("no words"), ValueError("mine: no words")])
def test_task_without_words_is_described_by_its_numbers(error, capsys):
    class Speechless(FailingTask):
        def task_words(self, task):
            raise error

    assert [row[0].task_text for row in film(env=Speechless(9))] == [
        row[0].task_text for row in film()
    ]
    warning = capsys.readouterr().err.splitlines()[0]
    assert "no words" in warning and warning.endswith("; the numbers of the task describe it")


def test_write_films_writes_film_and_replay_by_default(tmp_path):
    env, panels = make("navigation-2d"), film()[:1]
    path = tmp_path / "a.mp4"
    assert write_films(path, env, panels, view=SMALL) == [path, tmp_path / "a.html"]
    assert "WebGL" in (tmp_path / "a.html").read_text() and path.read_bytes()[4:8] == b"ftyp"
    (gif,) = write_films(path, env, panels, ("gif",), view=SMALL)
    assert gif == tmp_path / "a.gif" and gif.read_bytes()[:6] == b"GIF89a"


class Flat(FailingTask):
    """An environment without a scene."""

    def render(self, states, task, *, width, height):
        return self._env.render(states, task, width=width, height=height)


def test_env_without_scene_has_a_film_and_no_replay(tmp_path):
    env = Flat(9)
    assert write_films(tmp_path / "a.mp4", env, film()[:1], view=SMALL) == [tmp_path / "a.mp4"]
    with pytest.raises(ConfigError, match="navigation-2d has no scene to show; take mp4 or gif"):
        write_films(tmp_path / "b.mp4", env, film()[:1], ("html",))
    with pytest.raises(ConfigError, match="has a fixed camera; leave --camera out"):
        write_films(tmp_path / "b.mp4", env, film()[:1], view=ABOVE)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_fixed_camera_cannot_be_moved(tmp_path):
    env = make("navigation-2d")
    with pytest.raises(
        ConfigError, match="--camera: navigation-2d has a fixed camera; take --format html"
    ):
        write_films(tmp_path / "a.mp4", env, film()[:1], view=ABOVE)
    assert list(tmp_path.iterdir()) == []
    write_films(tmp_path / "a.mp4", env, film()[:1], ("html",), view=View(camera=(12.0, -45.0)))
    assert '"azimuth":12.0,"elevation":-45.0' in (tmp_path / "a.html").read_text()


def test_wrapper_passes_on_that_the_camera_moves():
    assert supports(ObserveTask(make("ant-dir", threads=1)), MovableCamera)
    assert not supports(ObserveTask(make("navigation-2d")), MovableCamera)


@pytest.mark.parametrize("kind", ["mp4", "html"])
@pytest.mark.parametrize(
    ("panels", "message"), [([], "at least one task"), ([[]], "at least one episode")]
)
def test_film_of_nothing_is_refused(panels, message, kind, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_films(tmp_path / "folder" / "a.mp4", make("navigation-2d"), panels, (kind,))
    assert list(tmp_path.iterdir()) == []
