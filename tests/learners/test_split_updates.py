"""Learners whose updates several processes compute together, against a single process."""

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from sign_tasks import SignBatch
from thread_group import run_together

from metarl.core.env import supports
from metarl.core.learner import SplitsUpdate
from metarl.core.machine.parallel import ALONE
from metarl.core.rng import stream
from metarl.core.tasks import Choice, Variable
from metarl.envs.registry import make
from metarl.learners.maml.config import MamlConfig
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.split_gradient import split_gradient
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.varibad.config import VaribadConfig
from metarl.sampling import sampler
from metarl.sampling.sampler import Collector, Key

MAML = MamlConfig(hidden_sizes=(8,), initial_log_std=-1.0, cg_iterations=4)
RL2 = Rl2Config(memory_size=8, hidden_size=8, epochs=2, minibatches=3, discount=0.9)
TEACHER = TeacherStudentConfig(
    hidden_size=8, memory_size=8, latent_size=3, teacher_updates=1, minibatches=3, epochs=2
)
VARIBAD = VaribadConfig(
    memory_size=8, hidden_size=8, decoder_size=8, encoder_updates=3, elbo_trials=11, epochs=2
)

BOUND = 2e-5
"""Largest difference of a parameter, and of a relative metric, between one and several processes
where the order of sums differs: a step of Adam with a step size of 3e-4 changes one by 3e-4."""


@dataclass(frozen=True)
class Case:
    config: Any
    updates: int = 2
    is_exact: bool = False


CASES = {
    "maml-trpo": Case(replace(MAML, normalize_obs=True), 3, is_exact=True),
    "maml-trpo, pcgrad": Case(replace(MAML, task_conflict="pcgrad"), is_exact=True),
    "e-maml": Case(replace(MAML, sampling_weight=1.0), is_exact=True),
    "promp": Case(replace(MAML, outer="ppo", inner_kl=0.01), is_exact=True),
    "reptile": Case(replace(MAML, outer="reptile", outer_lr=0.5), is_exact=True),
    "cavia": Case(replace(MAML, adapts="context"), is_exact=True),
    "leo": Case(replace(MAML, adapts="latent", inner_lr=1.0), is_exact=True),
    "meta-lstm": Case(replace(MAML, inner="lstm"), is_exact=True),
    "rl2": Case(RL2),
    "rl2, mann": Case(replace(RL2, memory="mann")),
    "rl2, mingru": Case(replace(RL2, memory="mingru")),
    "rl2, transformer": Case(replace(RL2, memory="transformer")),
    "teacher-student": Case(replace(TEACHER, student_updates=1), 3),
    "varibad": Case(VARIBAD),
}


def train(name, group, env, num_tasks=5, num_episodes=3):
    """Trains for some updates; returns all metrics and the state at the end."""
    case, algorithm = CASES[name], ALGORITHMS[name.partition(",")[0]]
    learner = build_learner(algorithm, case.config, env.spec, seed=0)
    if group.size > 1:
        learner.join_group(group)
    collector, metrics = Collector(env, group=group), []
    for iteration in range(case.updates):
        tasks = env.spec.tasks.sample(stream(0, "tasks", iteration), num_tasks)
        key = Key(0, "train", iteration)
        rollouts, context = collector.trial(learner, tasks, num_episodes, 1, key, is_training=True)
        metrics.append(learner.update(context, rollouts, tasks))
    collector.close()
    return metrics, learner.state_dict()


def compare(name, size, make_env, is_exact=True, **sizes):
    """Compares a group with a single process; returns the largest difference of their states."""
    metrics, state = train(name, ALONE, make_env(), **sizes)
    results = run_together(size, lambda group: train(name, group, make_env(), **sizes))
    for others, other in results:
        assert others == results[0][0]  # all processes have the same bits
        assert all(torch.equal(value, results[0][1][n]) for n, value in other.items())
    found_metrics, found = results[0]
    for before, after in zip(metrics, found_metrics, strict=True):
        assert before.keys() == after.keys()
        if CASES[name].is_exact and is_exact:
            assert before == after
        for n, value in before.items():
            assert after[n] == pytest.approx(value, rel=1e-3, abs=1e-4), n
    return max(float((found[n].double() - v.double()).abs().max()) for n, v in state.items())


class Eventful(SignBatch):
    """Tasks whose episodes fall and fail at different steps, which are drawn for each row."""

    def __init__(self):
        super().__init__(horizon=6, eventful=True)
        self.spec.discrete = False
        self.spec.tasks = Choice(Variable("sign", "1", -1.0, 1.0), (-1.0, 1.0))

    def reset(self, rngs):
        obs = super().reset(rngs)
        self.is_fragile = np.array([rng.random() < 0.2 for rng in rngs])
        return obs


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_processes_train_what_one_trains(name, size):
    difference = compare(name, size, lambda: make("navigation-2d"))
    assert difference <= (0.0 if CASES[name].is_exact else BOUND)


@pytest.mark.parametrize("name", ["maml-trpo", "rl2", "teacher-student", "varibad"])
def test_processes_with_unequal_trials_train_what_one_trains(name, monkeypatch):
    monkeypatch.setattr(sampler, "MIN_ROWS_TO_SPLIT", 2)
    assert compare(name, 2, Eventful, is_exact=False) <= BOUND


def test_two_processes_play_the_halves_of_one_bit_for_bit():
    """65 rows are played in halves, of 2 and 3 tasks."""
    options = {"num_tasks": 5, "num_episodes": 13}
    assert compare("e-maml", 2, lambda: make("half-cheetah-dir/rllib", 1), **options) == 0.0


@pytest.mark.parametrize("name", ["maml-trpo", "rl2"])
def test_three_processes_divide_the_tasks_up_to_rounding(name):
    options = {"num_tasks": 5, "num_episodes": 13, "is_exact": False}
    assert compare(name, 3, lambda: make("navigation-2d"), **options) <= BOUND


@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_slices_and_the_sums_of_rewards(size):
    def play(group):
        env = make("half-cheetah-dir/rllib", 1)
        learner = build_learner(ALGORITHMS["maml-trpo"], MAML, env.spec, seed=0)
        tasks = env.spec.tasks.sample(stream(0, "tasks", 0), 5)
        with closing(Collector(env, 4, group)) as collector:
            rollouts, _ = collector.trial(learner, tasks, 2, 0, Key(0, "train", 0))
            return rollouts[0].reward.clone(), collector.take_reward_terms()

    reward, terms = play(ALONE)
    assert set(terms) == {"goal", "control", "healthy"}
    for found, others in run_together(size, play):
        assert torch.equal(found, reward) and others == terms


def test_learners_that_split_updates_are_known():
    env = make("navigation-2d")
    found = {
        name
        for name, algorithm in ALGORITHMS.items()
        if not algorithm.has_own_loop
        and supports(build_learner(algorithm, algorithm.default(), env.spec, seed=0), SplitsUpdate)
    }
    maml = {name for name, algorithm in ALGORITHMS.items() if algorithm.config is MamlConfig}
    assert found == maml | {"rl2", "teacher-student", "varibad"}


def test_failure_in_one_process_leaves_all_learners_as_they_were(monkeypatch):
    def fail(group):
        env = make("navigation-2d")
        learner = build_learner(ALGORITHMS["rl2"], RL2, env.spec, seed=0)
        learner.join_group(group)
        before = learner.state_dict()
        tasks = env.spec.tasks.sample(stream(0, "tasks", 0), 4)
        collector = Collector(env, group=group)
        rollouts, context = collector.trial(learner, tasks, 2, 1, Key(0, "train", 0))
        gradient, calls = learner._gradient, []

        class Failing(type(gradient)):
            def __call__(self, batch, rows):
                calls.append(1)
                if group.rank == 1 and len(calls) == 2:
                    raise FloatingPointError("midway")
                return super().__call__(batch, rows)

        learner._gradient = Failing(learner.policy, RL2, 1)
        with pytest.raises(FloatingPointError, match="midway"):
            learner.update(context, rollouts, tasks)
        after = learner.state_dict()
        return all(torch.equal(value, after[n]) for n, value in before.items())

    assert run_together(2, fail) == [True, True]


def test_split_gradient_is_the_mean_over_all_steps():
    """Rows have 0, 1, 2, ... steps; the gradient of a step of row i is i, and 2 i."""

    def differentiate(rows):
        weight = rows.double()
        mean = (weight * rows).sum() / weight.sum()
        return [mean, None], torch.stack([2 * mean])

    def call(group):
        rows = torch.arange(7)
        return split_gradient(differentiate, lambda own: int(own.sum()), rows, group)

    expected = sum(i * i for i in range(7)) / sum(range(7))
    for size in (1, 2, 3, 9):
        for gradient, means in run_together(size, call):
            assert gradient[1] is None
            assert float(gradient[0]) == pytest.approx(expected, rel=1e-14)
            assert means.tolist() == pytest.approx([2 * expected], rel=1e-14)
