"""The curriculum: levels of tasks and commands, and a training that follows its successes."""

import dataclasses
import itertools

import numpy as np
import pytest
from small_training import CONFIG, assert_same_runs, records, run, saved, trainer_in

from metarl.api import train
from metarl.config.curriculum import CurriculumConfig
from metarl.config.schema import SamplerConfig
from metarl.core.errors import ConfigError
from metarl.core.tasks import Choice, Grades, Product, Uniform, Variable
from metarl.envs.locomotion.goals.command import Command
from metarl.envs.locomotion.terrain import LEVELS, TEST_KINDS
from metarl.envs.registry import make
from metarl.training.curriculum import ease, graded_names, next_level

SETTINGS = CurriculumConfig(success=0.0, step=0.25)


def rng():
    return np.random.default_rng(0)


# --- the level


def test_level_rises_with_success_and_falls_without():
    moves = [next_level(SETTINGS, 0.5, share) for share in (0.0, 0.49, 0.5, 0.79, 0.8, 1.0)]
    assert moves == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75]
    assert moves == sorted(moves)


def test_level_stays_between_its_ends_and_reaches_them():
    config = CurriculumConfig(success=0.0)
    level, levels = 0.0, []
    for share in 22 * [1.0] + 22 * [0.0]:
        level = next_level(config, level, share)
        levels.append(level)
    assert levels[19:22] == 3 * [1.0] and levels[41:] == 3 * [0.0]
    assert levels[:3] == [0.05, 0.1, 0.15]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": 1.5}, r"curriculum.start = 1.5: must be in \[0, 1\]"),
        ({"step": 0.0}, r"curriculum.step = 0.0: must be in \(0, 1\]"),
        ({"lower_below": 0.9}, "lower_below = 0.9: must be at most curriculum.raise_at = 0.8"),
        ({"success": float("nan")}, "curriculum.success = nan: must be a finite number"),
    ],
)
def test_setting_out_of_range_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        CurriculumConfig(**changes)


# --- tasks and commands


def test_terrain_begins_with_its_easiest_maps():
    tasks = make("quadruped-vel-terrain", 1).spec.tasks
    assert graded_names(tasks) == ("level",)
    column = [v.name for v in tasks.variables].index("level")
    for level, count in ((0.0, 1), (0.24, 1), (0.25, 2), (0.3 + 0.45, 4), (0.99, 4), (1.0, 5)):
        drawn = ease(tasks, level).sample(rng(), 100)
        assert set(drawn[:, column]) == set(LEVELS[:count])
    np.testing.assert_array_equal(ease(tasks, 1.0).sample(rng(), 50), tasks.sample(rng(), 50))
    assert set(tasks.test.sample(rng(), 100)[:, column]) == set(LEVELS)
    kinds = tasks.test.sample(rng(), 100)[:, column - 1]
    assert len(set(kinds)) == len(TEST_KINDS)


def test_grades_draw_as_the_choice_of_all():
    choice = Choice(Variable("n", "1", 1.0, 3.0), (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(Grades(choice).sample(rng(), 7), choice.sample(rng(), 7))


def test_tasks_without_levels_stay():
    tasks = Product((Uniform((Variable("x", "m", 0.0, 1.0),)),))
    assert graded_names(tasks) == () and ease(tasks, 0.0) == tasks


def test_commands_begin_slow_and_keep_their_bits_at_the_end():
    goal = Command(easiest=0.25)
    full = goal.draw(rng(), 1000)
    np.testing.assert_array_equal(goal.draw(rng(), 1000, 1.0), full)
    for level, share in ((0.0, 0.25), (0.5, 0.625)):
        np.testing.assert_allclose(goal.draw(rng(), 1000, level), share * full)


@pytest.mark.parametrize("observe_task", [False, True])
def test_level_reaches_the_commands_of_every_half(observe_task):
    env = make("quadruped-command-push", 1, observe_task=observe_task)
    assert env.graded == ("command",) and make("quadruped-dir", 1).graded == ()
    tasks = env.spec.tasks.sample(rng(), 2)
    size = env.spec.obs_size - 3 * observe_task
    observed = []
    for level in (1.0, 0.0, 1.0):
        env.set_level(level)
        for each in (env, *env.split(2)):
            each.set_tasks(tasks, 2)
            obs = each.reset([np.random.default_rng(row) for row in range(4)])
            observed.append(obs[:, size - 3 : size].copy())
    full, easy, again = observed[0], observed[3], observed[6]
    assert np.abs(full).max() > 0.3
    np.testing.assert_allclose(easy, 0.25 * full)
    np.testing.assert_array_equal(again, full)
    for first, other in itertools.product((0, 3, 6), (1, 2)):
        np.testing.assert_array_equal(observed[first + other], observed[first])


# --- a training


class Far:
    """Goals of navigation at a distance; the level is the largest distance [m]."""

    held_out = True

    def __init__(self, tasks, asked=None, level=1.0):
        self.variables, self._level = tasks.variables, level
        self.asked = [] if asked is None else asked

    @property
    def test(self):
        return self

    def at_level(self, level):
        self.asked.append(level)
        return Far(self, self.asked, level)

    def sample(self, rng, num_tasks):
        angle = rng.uniform(0.0, 2.0 * np.pi, num_tasks)
        return self._level * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def graded_navigation():
    env = make("navigation-2d")
    env.spec = dataclasses.replace(env.spec, tasks=Far(env.spec.tasks))
    return env


def config_of(success, iterations=6, **settings):
    curriculum = CurriculumConfig(success=success, step=0.25, **settings)
    return dataclasses.replace(CONFIG, iterations=iterations, curriculum=curriculum)


def levels(folder):
    return [record["curriculum/level"] for record in records(folder)]


def test_training_follows_its_successes(tmp_path):
    env = graded_navigation()
    run(trainer_in(tmp_path / "up", env, config_of(-1e6)))
    assert levels(tmp_path / "up") == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0] == env.spec.tasks.asked
    assert saved(tmp_path / "up").state["level"] == 1.0
    run(trainer_in(tmp_path / "down", graded_navigation(), config_of(1e6, start=0.6)))
    assert levels(tmp_path / "down") == [0.6, 0.35, 0.1, 0.0, 0.0, 0.0]
    assert all(record["curriculum/success"] == 0.0 for record in records(tmp_path / "down"))


def test_success_is_the_share_of_returns_after_adaptation(tmp_path):
    config = config_of(-20.0, iterations=3)
    trainer = trainer_in(tmp_path, graded_navigation(), config)
    update, seen = trainer.learner.update, []

    def watched(context, rollouts, tasks):
        seen.append(float((rollouts[-1].reward.double().sum(dim=2) >= -20.0).double().mean()))
        return update(context, rollouts, tasks)

    trainer.learner.update = watched
    run(trainer)
    assert [record["curriculum/success"] for record in records(tmp_path)] == seen


def test_resumed_curriculum_repeats_bit_for_bit(tmp_path):
    # half of the returns are above, so that the level moves in both directions
    config = config_of(-10.0, iterations=8, start=0.5, raise_at=0.6)
    run(trainer_in(tmp_path / "whole", graded_navigation(), config))
    assert len(set(levels(tmp_path / "whole"))) > 2
    part = dataclasses.replace(config, iterations=3)
    run(trainer_in(tmp_path / "part", graded_navigation(), part))
    trainer = trainer_in(tmp_path / "part", graded_navigation(), config, resume=True)
    assert trainer.progress.level == levels(tmp_path / "whole")[3]
    run(trainer)
    assert_same_runs(tmp_path / "part", tmp_path / "whole")
    assert saved(tmp_path / "part").state["level"] == saved(tmp_path / "whole").state["level"]


def test_training_without_curriculum_has_no_level(tmp_path):
    env = graded_navigation()
    run(trainer_in(tmp_path, env, dataclasses.replace(CONFIG, iterations=1)))
    assert env.spec.tasks.asked == [] and "level" not in saved(tmp_path).state
    assert not any("curriculum" in name for name in records(tmp_path)[0])


def test_levels_do_not_depend_on_threads_and_end_at_the_end(tmp_path):
    sampler = SamplerConfig(num_tasks=4, num_episodes=16)
    curriculum = CurriculumConfig(success=100.0, step=0.5)
    config = dataclasses.replace(CONFIG, iterations=2, sampler=sampler, curriculum=curriculum)
    for threads in (1, 2):
        env = make("quadruped-command-push", threads)
        trainer = run(trainer_in(tmp_path / str(threads), env, config))
        halves = trainer._collector._parts
        assert [each._level for each in (env, *halves)] == [1.0, 1.0, 1.0]
        env.close()
    assert_same_runs(tmp_path / "1", tmp_path / "2")


# --- refusals


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        ("ant-dir", {}, "--curriculum.success 5: ant-dir has no levels of difficulty; terrain"),
        ("ant-terrain", {"sampler.train_tasks": 5}, "a fixed set of tasks has not"),
        ("ant-terrain", {"algo": "sb3-ppo"}, "sb3-ppo collects its experience itself"),
    ],
)
def test_curriculum_without_levels_is_refused(env, settings, message, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ConfigError, match=message) as caught:
        train(env, run_dir=folder, **{"curriculum.success": 5.0}, **settings)
    assert caught.value.exit_code == 2 and not folder.exists()
