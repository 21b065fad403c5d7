import numpy as np
import pytest
import torch

from metarl.core.errors import ConfigError, EnvironmentContractError, NumericalError
from metarl.core.rollout import Action
from metarl.envs.registry import make
from metarl.reporting.film import film_trial, write_films
from metarl.sampling.sampler import Key

TASKS = np.array([[0.3, -0.2], [-0.45, 0.5], [0.05, 0.0]])
KEY = Key(1, "video", 0)


class Chaser:
    """Stands still until it has adapted; then heads for the goals, each by its share of the way a step."""

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


def test_every_task_is_shown_before_and_after_with_its_label():
    panels = film()
    assert [[e.label for e in row] for row in panels] == [
        ["before adaptation", "after 1 adaptation"]
    ] * 3
    for row, task in zip(panels, TASKS, strict=True):
        assert all(np.array_equal(episode.task, task) for episode in row)
    assert film(num_adaptations=2)[0][1].label == "after 2 adaptations"


def test_an_episode_is_as_long_as_it_lasted_with_the_rewards_of_the_environment():
    for row, task in zip(film(), TASKS, strict=True):
        for episode in row:
            distance = np.linalg.norm(episode.states - task, axis=1)
            np.testing.assert_allclose(episode.reward, -distance, rtol=1e-6)
            assert (distance[:-1] >= 0.01).all()
            assert len(episode.states) == 100 or distance[-1] < 0.01
    before, after = np.array([[len(e.states) for e in row] for row in film()]).T
    # |goal| (1 - share)^n < 0.01; a step moves at most 0.1 along an axis; the last task learns nothing
    assert before.tolist() == [100, 100, 100] and after[2] == 100
    assert 5 <= after[0] < after[1] < 100


def test_it_adapts_with_exploration_and_films_the_mode():
    learner = Chaser()
    panels = film(learner, num_adaptations=2)
    assert len(learner.adapted) == 2
    first, second = learner.adapted
    assert bool(first.action.std() > 0.05) and not torch.equal(first.action, second.action)
    assert learner.explored.count(False) == 200 and set(learner.explored) == {True, False}
    assert np.array_equal(panels[0][0].states, np.zeros((100, 2)))


def test_the_number_of_episodes_that_are_adapted_to_does_not_change_what_is_filmed():
    # Chaser does not learn from the rollout, and the mode is filmed: only the first episode counts
    for one, other in zip(film(num_episodes=1), film(num_episodes=4), strict=True):
        assert all(np.array_equal(a.states, b.states) for a, b in zip(one, other, strict=True))


class Breaks:
    """Navigation whose rows of one task break down in their first step."""

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


def test_an_episode_that_broke_down_at_once_is_one_picture_without_reward():
    for episode in film(env=Breaks(1))[1]:
        assert episode.states.shape == (1, 2) and episode.reward.tolist() == [0.0]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (FloatingPointError("task 2: not finite"), NumericalError),
        (ValueError("task 2 has no valid step"), EnvironmentContractError),
    ],
)
def test_an_adaptation_that_fails_names_the_film(error, failure):
    class Fails(Chaser):
        def adapt(self, context, rollout, rngs=()):
            raise error

    with pytest.raises(failure, match="video of navigation-2d: task 2"):
        film(Fails())


class Draws(Chaser):
    """Chaser whose mode is drawn too, so that the episodes of a task differ."""

    def act(self, context, obs, noise, feedback=None, *, explore):
        goal = torch.from_numpy(TASKS).float()[:, None]
        value = context[:, None, None] * (goal - obs) + 0.1 * noise
        return Action(value, torch.zeros(value.shape[:2])), context


def test_more_episodes_of_a_task_follow_one_another_and_the_first_stays_as_it_was():
    one, three = film(Draws()), film(Draws(), num_shown=3)
    assert len(three) == 9
    for index, row in enumerate(three):
        task, number = divmod(index, 3)
        assert all(np.array_equal(episode.task, TASKS[task]) for episode in row)
        assert (
            row[0].task_words.endswith(f"m, episode {number + 1}") and one[task][0].task_words == ""
        )
        for episode in row:
            distance = np.linalg.norm(episode.states - TASKS[task], axis=1)
            np.testing.assert_allclose(episode.reward, -distance, rtol=1e-6)
        for a, b in zip(row, one[task], strict=True):
            assert np.array_equal(a.states, b.states) == (number == 0)


def test_the_words_of_an_environment_for_its_tasks_are_shown():
    class Speaks(Breaks):
        def task_words(self, task):
            return f"door {task[0]:.1f}"

    assert [row[1].task_words for row in film(env=Speaks(9))] == [
        "door 0.3",
        "door -0.5",
        "door 0.1",
    ]
    assert film(env=Speaks(9), num_shown=2)[1][0].task_words == "door 0.3, episode 2"


def test_films_are_written_as_asked_for_and_by_default_with_a_replay(tmp_path):
    env, panels = make("navigation-2d"), film()[:1]
    path = tmp_path / "a.mp4"
    assert write_films(path, env, panels, size=64) == [path, tmp_path / "a.html"]
    assert "WebGL" in (tmp_path / "a.html").read_text() and path.read_bytes()[4:8] == b"ftyp"
    (gif,) = write_films(path, env, panels, ("gif",), size=64)
    assert gif == tmp_path / "a.gif" and gif.read_bytes()[:6] == b"GIF89a"


class Flat(Breaks):
    """An environment without a scene."""

    def render(self, states, task, *, width, height):
        return self._env.render(states, task, width=width, height=height)


def test_an_environment_without_a_scene_has_a_film_and_no_replay(tmp_path):
    env = Flat(9)
    assert write_films(tmp_path / "a.mp4", env, film()[:1], size=64) == [tmp_path / "a.mp4"]
    with pytest.raises(ConfigError, match="navigation-2d has no scene to show; take mp4 or gif"):
        write_films(tmp_path / "b.mp4", env, film()[:1], ("html",))
    with pytest.raises(ConfigError, match="drawn from its own place; leave --camera out"):
        write_films(tmp_path / "b.mp4", env, film()[:1], camera=(0.0, -45.0))
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_camera_is_refused_where_pictures_have_none(tmp_path):
    env = make("navigation-2d")
    with pytest.raises(ConfigError, match="--camera: navigation-2d .*; take --format html"):
        write_films(tmp_path / "a.mp4", env, film()[:1], camera=(0.0, -45.0))
    assert list(tmp_path.iterdir()) == []
    write_films(tmp_path / "a.mp4", env, film()[:1], ("html",), camera=(12.0, -45.0))
    assert '"azimuth":12.0,"elevation":-45.0' in (tmp_path / "a.html").read_text()
