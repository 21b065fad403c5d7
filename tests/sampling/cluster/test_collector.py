"""Trials on workers, bit for bit those of one machine."""

from contextlib import closing, contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from cluster_cases import CASES, config_of, iterate, parts, trained_here
from thread_group import run_together
from thread_workers import ThreadWorkers

from metarl import collecting
from metarl.builders import build_env, training_tasks
from metarl.config.schema import build_config, to_yaml
from metarl.core.env import supports
from metarl.core.errors import ConfigError
from metarl.core.learner import SplitsUpdate
from metarl.core.machine.parallel import ALONE
from metarl.core.rng import stream
from metarl.sampling.sampler import Collector
from metarl.sampling.trials import Key


@contextmanager
def on_workers(config, capacity=2, disturb=lambda seat, call: None, group=ALONE, **options):
    env, learner = parts(config)
    build = partial(collecting.build_worker, to_yaml(config), ".")
    workers = ThreadWorkers(build, capacity, disturb, **options)
    if supports(learner, SplitsUpdate):
        learner.join_group(group)
    local = Collector(env, config.sampler.slices, group)
    made = collecting.join_cluster(config, local, workers, learner, group)
    with closing(env), closing(made):
        yield made, learner, env, workers


def trained_on_workers(config, **options):
    with on_workers(config, **options) as (collector, learner, env, _):
        return iterate(config, collector, learner, env)


def assert_same(found, expected):
    for (metrics, state), (other, before) in zip(found, expected, strict=True):
        assert metrics == other
        assert state.keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in state.items())


@pytest.mark.parametrize("case", CASES)
def test_training_on_workers_has_the_bits_of_one_machine(case):
    config = config_of(case)
    expected = trained_here(config)
    assert len(expected[0][0]) > 5
    assert_same(trained_on_workers(config, capacity=3), expected)


@pytest.mark.parametrize("capacity", [1, 2, 5, 9])
def test_number_of_workers_does_not_matter(capacity):
    config = config_of("maml")
    assert_same(trained_on_workers(config, capacity=capacity), trained_here(config))


def test_slices_are_a_setting_and_used_by_as_many_workers():
    config = config_of("robot rl2", slices=4)
    used = set()
    expected = trained_here(config)
    disturb = lambda seat, call: used.add(seat.number)  # noqa: E731
    assert_same(trained_on_workers(config, capacity=4, disturb=disturb), expected)
    assert len(used) == 4


@pytest.mark.parametrize("case", ["maml", "rl2", "robot"])
def test_lost_workers_have_their_tasks_played_again(case):
    def lose(seat, call):
        if seat.number in (0, 2, 3) and call == 2:
            seat.is_lost = True

    config = config_of(case)
    with on_workers(config, disturb=lose) as (collector, learner, env, workers):
        assert_same(iterate(config, collector, learner, env), trained_here(config))
        counts = collector.take_counts()
        assert counts["workers/lost"] == counts["workers/redone"] == len(workers.stopped) >= 1
        assert len(workers.seats) == 2 + counts["workers/lost"]
        assert collector.take_counts()["workers/lost"] == 0


def test_tasks_of_a_failed_shard_are_counted_in_the_trial(monkeypatch):
    config = config_of("maml", num_tasks=4)
    with on_workers(config) as (collector, learner, env, _):
        tasks = training_tasks(env, config).sample(stream(0, "tasks"), 4)
        learner.params["log_std"].fill_(200.0)
        with pytest.raises(FloatingPointError, match="task 0, episode ., step 0 of rollout 0"):
            collector.trial(learner, tasks, 3, 1, Key(0, "train", 0))


def test_own_loops_given_environments_and_groups_are_refused():
    config = build_config("navigation-2d", "sb3-ppo", {"sampler.backend": "ray"})
    with pytest.raises(ConfigError, match="--sampler.backend ray with --algo sb3-ppo: it collects"):
        collecting.build_collector(config, build_env(config), None, ALONE)
    config = config_of("maml", backend="ray")
    with pytest.raises(ConfigError, match="workers cannot build navigation-2d again"):
        collecting.build_collector(config, build_env(config), None, ALONE, is_given=True)
    mirrored = config_of("maml", mirror=True)
    with pytest.raises(ConfigError, match="--sampler.mirror with 2 processes: which tasks are"):
        collecting.build_collector(mirrored, build_env(mirrored), None, SimpleNamespace(size=2))
    with pytest.raises(ConfigError, match="--sampler.backend ray with 2 processes: each would"):
        collecting.build_collector(config, build_env(config), None, SimpleNamespace(size=2))


def lose_some(seat, call):
    if seat.number in (0, 2) and call == 2:
        seat.is_lost = True


@pytest.mark.parametrize("case", ["maml", "meta-sgd", "normalized", "maml-ppo", "robot"])
@pytest.mark.parametrize("capacity", [2, 5])
def test_processes_with_workers_have_the_bits_of_one_machine(case, capacity):
    config = config_of(case)
    options = {"capacity": capacity, "disturb": lose_some}
    found = run_together(2, lambda group: trained_on_workers(config, group=group, **options))
    for own in found:
        assert_same(own, trained_here(config))


def trained_in_group(config, group):
    env, learner = parts(config)
    learner.join_group(group)
    with closing(env), closing(Collector(env, config.sampler.slices, group)) as collector:
        return iterate(config, collector, learner, env)


@pytest.mark.parametrize(
    ("case", "episodes", "size"),
    [("rl2", 3, 2), ("rl2", 16, 2), ("robot rl2", 3, 2), ("robot rl2", 16, 3), ("teacher", 3, 2)],
)
def test_processes_with_workers_have_the_bits_of_those_without(case, episodes, size):
    """Also of more processes than the environment has parts."""
    config = config_of(case, num_episodes=episodes)
    expected = run_together(size, lambda group: trained_in_group(config, group))
    found = run_together(size, lambda group: trained_on_workers(config, group=group, capacity=3))
    for own, other in zip(found, expected, strict=True):
        assert_same(own, other)


def test_processes_share_the_workers_and_their_counts():
    config = config_of("maml")

    def play(group):
        with on_workers(config, capacity=5, group=group) as (collector, learner, env, workers):
            iterate(config, collector, learner, env, range(1))
            return len(workers.seats), collector.take_counts()["workers/number"]

    assert run_together(2, play) == [(2, 5.0), (3, 5.0)]


def test_failure_of_a_worker_is_one_of_all_processes():
    config = config_of("maml", num_tasks=4)

    def fail(group):
        with on_workers(config, group=group) as (collector, learner, env, _):
            tasks = training_tasks(env, config).sample(stream(0, "tasks"), 4)
            if group.rank == 1:
                learner.params["log_std"].fill_(200.0)
            with pytest.raises(FloatingPointError, match="task 2, episode ., step 0 of rollout 0"):
                collector.trial(learner, tasks, 3, 1, Key(0, "train", 0))

    run_together(2, fail)


def test_fewer_workers_than_processes_are_refused():
    with pytest.raises(ConfigError, match="1 workers for 2 processes: each needs one"):
        config = config_of("maml", backend="ray", workers=1)
        run_together(2, lambda group: trained_on_workers(config, group=group))
