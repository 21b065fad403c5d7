"""Trials, and the collector that splits their tasks into two halves."""

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gain_robot import HORIZON, KEY, TASKS, Gain, RobotBatch, assert_same, collect
from whole_trial import trial

from metarl.core.errors import ConfigError, EnvironmentContractError
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.envs.wrappers.observe_task import ObserveTask
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.sampling import sampler
from metarl.sampling.sampler import Collector, rollout

# ------------------------------------------------------------------------------------------- trials


@pytest.fixture(autouse=True)
def _split_few_rows_too(monkeypatch):
    monkeypatch.setattr(sampler, "MIN_ROWS_TO_SPLIT", 0)


class Counting(Gain):
    """Counts its actions and keeps the rollouts that it adapted to, in the context."""

    def begin(self, num_tasks, num_episodes, rngs=()):
        self.began = (num_tasks, num_episodes)
        return (0, ())

    def act(self, context, obs, noise, feedback=None, *, explore):
        action, _ = super().act(torch.zeros(len(obs)), obs, noise, explore=explore)
        return action, (context[0] + 1, context[1])

    def adapt(self, context, rollout, rngs=()):
        return (context[0], (*context[1], rollout))


def test_trial_adapts_between_rollouts_of_the_same_tasks():
    env, learner = RobotBatch(), Counting()
    rollouts, (acted, adapted) = trial(env, learner, TASKS[1:3], 4, 2, KEY)
    assert learner.began == (2, 4)
    assert len(rollouts) == 3
    assert acted == 3 * HORIZON  # each rollout continues the context of the previous one
    assert [a is r for a, r in zip(adapted, rollouts, strict=False)] == [True, True]
    assert [r.truncated[0].all().item() for r in rollouts] == [True] * 3
    for one, other in ((0, 1), (1, 2), (0, 2)):  # every rollout has its own noise
        assert not torch.equal(rollouts[one].action, rollouts[other].action)


def test_trial_without_adaptation_is_one_rollout():
    rollouts, _ = trial(RobotBatch(), Gain(), TASKS, 4, 0, KEY)
    assert len(rollouts) == 1
    assert_same(rollouts[0], collect(k=0)[0])


def test_trial_passes_explore_and_observer_on():
    env, calls = RobotBatch(), []
    rollouts, _ = trial(
        env, Counting(), TASKS, 2, 1, KEY, explore=False, observer=lambda *c: calls.append(c[0])
    )
    assert calls == [0] * HORIZON + [1] * HORIZON
    assert not rollouts[0].action.any()


# --------------------------------------------------------------------------------------- two halves


class Halving(RobotBatch):
    """Robots in two halves, which act in turn or at the same time."""

    def __init__(self, threads=2, half=RobotBatch):
        super().__init__()
        self.threads, self.half, self.halves = threads, half, []

    def split(self, parts):
        self.halves = [self.half() for _ in range(parts)]
        return self.halves


@dataclasses.dataclass
class Gains:
    """A gain for each task, and the number of its actions."""

    gain: torch.Tensor
    acted: torch.Tensor

    def slice_tasks(self, start, stop):
        return Gains(self.gain[start:stop], self.acted[start:stop])

    @classmethod
    def join(cls, parts):
        parts = list(parts)
        return Gains(
            torch.cat([p.gain for p in parts]),
            torch.cat([p.acted for p in parts]),
        )


class Remembering(Gain):
    """Counts the steps of every episode that goes on, in the context."""

    def begin(self, num_tasks, num_episodes, rngs=()):
        gain = super().begin(num_tasks, num_episodes, ())
        return Gains(gain, torch.zeros(num_tasks, num_episodes))

    def act(self, context, obs, noise, feedback=None, *, explore):
        action, _ = super().act(context.gain, obs, noise, explore=explore)
        going_on = 1.0 if feedback is None else feedback.alive.float()
        return action, Gains(context.gain, context.acted + going_on)

    def adapt(self, context, rollout, rngs=()):
        return Gains(context.gain + 0.1, context.acted)


@pytest.mark.parametrize("threads", [1, 2])
def test_two_halves_equal_the_whole(threads):
    env = Halving(threads)
    collector = Collector(env)
    made, context = collector.trial(Remembering(), TASKS, 4, 2, KEY)
    expected, whole = trial(RobotBatch(), Remembering(), TASKS, 4, 2, KEY)
    for one, other in zip(made, expected, strict=True):
        assert_same(one, other)
    assert torch.equal(context.gain, whole.gain)
    assert torch.equal(context.acted, whole.acted)
    assert [len(half.robots) for half in env.halves] == [2 * 4, 3 * 4]
    places = [robot.place for half in env.halves for robot in half.robots]
    np.testing.assert_array_equal(collector.snapshot(), places)
    assert not env.stepped


def fresh_learner(algo, env):
    algorithm = ALGORITHMS[algo]
    return build_learner(algorithm, algorithm.config(), env.spec, seed=0)


@pytest.mark.parametrize("algo", ["maml-trpo", "rl2"])
@pytest.mark.parametrize("name", ["half-cheetah-dir", "hopper-vel-terrain"])
def test_robots_do_not_depend_on_the_number_of_threads(algo, name):
    def run(threads):
        env = make(name, threads)
        learner = fresh_learner(algo, env)
        tasks = env.spec.tasks.sample(stream(0, "tasks"), 3)
        try:
            return Collector(env).trial(learner, tasks, 4, 1, KEY)[0], env.threads
        finally:
            env.close()

    alone, threads = run(1)
    assert threads == 1
    assert alone[0].num_steps() > 100
    for one, other in zip(alone, run(3)[0], strict=True):
        assert_same(one, other)


def test_half_of_the_robots_act_as_among_all():
    env = make("half-cheetah-dir", 2)
    learner = fresh_learner("maml-trpo", env)
    tasks = env.spec.tasks.sample(stream(0, "tasks"), 5)
    try:
        made, context = Collector(env).trial(learner, tasks, 4, 1, KEY)
        expected, whole = trial(env, learner, tasks, 4, 1, KEY)
    finally:
        env.close()
    for one, other in zip(made, expected, strict=True):
        assert_same(one, other)
    assert all(torch.equal(context.params[n], v) for n, v in whole.params.items())
    assert len(context.batches) == 1  # the context after acting is the whole one, for the update


def test_task_is_observed_in_both_halves():
    env = make("half-cheetah-vel", 2, observe_task=True)
    tasks = env.spec.tasks.sample(stream(0, "tasks"), 4)
    learner = fresh_learner("maml-trpo", env)
    try:
        made, _ = Collector(env).trial(learner, tasks, 1, 0, KEY)
        env.set_tasks(tasks, 1)
        observed = env.reset(KEY.episodes(0, 4, 1))[:, -1]
    finally:
        env.close()
    assert len(set(observed)) == 4
    made = made[0].obs[:, 0, :, -1].numpy()
    np.testing.assert_array_equal(made, np.broadcast_to(np.float32(observed)[:, None], made.shape))


class Generous:
    """A wrapper that gives a reward of 7 in every step and forwards all else."""

    def __init__(self, env):
        self.env = env

    def __getattr__(self, name):
        return getattr(self.env, name)

    def step(self, action, alive):
        step = self.env.step(action, alive)
        return dataclasses.replace(step, reward=np.full(len(alive), 7.0))


@pytest.mark.parametrize("wrapped", [Generous, lambda env: ObserveTask(Generous(env))])
def test_wrapper_that_forwards_split_is_applied(wrapped):
    env = wrapped(make("half-cheetah-dir", 2))
    learner = fresh_learner("maml-trpo", env)
    tasks = env.spec.tasks.sample(stream(0, "tasks"), 2)
    try:
        made, _ = Collector(env).trial(learner, tasks, 1, 0, KEY)
    finally:
        env.close()
    assert (made[0].reward == 7.0).all()


def test_split_that_is_no_method_is_ignored():
    env = RobotBatch()
    env.split, env.threads = "train", None
    made, _ = Collector(env).trial(Remembering(), TASKS, 4, 0, KEY)
    assert_same(made[0], trial(RobotBatch(), Remembering(), TASKS, 4, 0, KEY)[0][0])


def test_unsplittable_contexts_and_single_tasks_stay_whole():
    for learner, tasks in ((Gain(), TASKS), (Remembering(), TASKS[:1])):
        env = Halving()
        made, _ = Collector(env).trial(learner, tasks, 4, 0, KEY)
        assert len(env.stepped) == HORIZON if len(tasks) > 1 else env.stepped
        assert_same(made[0], trial(RobotBatch(), learner, tasks, 4, 0, KEY)[0][0])


@dataclasses.dataclass
class Steps:
    """Steps taken: a context that acting changes, and whose slices cannot be joined."""

    count: int = 0

    def slice_tasks(self, start, stop):
        return self


class Stepping(Gain):
    def begin(self, num_tasks, num_episodes, rngs=()):
        return Steps()

    def act(self, context, obs, noise, feedback=None, *, explore):
        action, _ = super().act(torch.zeros(len(obs)), obs, noise, explore=explore)
        return action, Steps(context.count + 1)


def test_changed_context_that_cannot_be_joined_is_refused():
    collector = Collector(Halving())
    with pytest.raises(ConfigError, match="^Steps was changed by `act`; give it `join`, or leave"):
        collector.trial(Stepping(), TASKS, 2, 0, KEY)


def test_memory_of_a_trial_is_used_again_and_cleared():
    collector = Collector(Halving())
    first, _ = collector.trial(Remembering(), TASKS[::-1].copy(), 4, 1, KEY)
    places = [r.obs.data_ptr() for r in first]
    second, _ = collector.trial(Remembering(), TASKS, 4, 1, KEY)
    assert [r.obs.data_ptr() for r in second] == places
    for one, other in zip(
        second, trial(RobotBatch(), Remembering(), TASKS, 4, 1, KEY)[0], strict=True
    ):
        assert_same(one, other)
    other_size, _ = collector.trial(Remembering(), TASKS, 3, 0, KEY)
    assert_same(other_size[0], trial(RobotBatch(), Remembering(), TASKS, 3, 0, KEY)[0][0])


class Lying(RobotBatch):
    """Gives NaN as the observation of its last row without a fault."""

    def reset(self, rngs):
        obs = super().reset(rngs)
        obs[-1] = np.nan
        return obs


def test_task_of_a_bad_number_is_counted_over_both_halves():
    with pytest.raises(
        EnvironmentContractError, match=r"task (1|4), episode 3, step 0: .* obs nan"
    ):
        Collector(Halving(1, Lying)).trial(Remembering(), TASKS, 4, 0, KEY)
    env = Halving(1)
    collector = Collector(env)
    env.halves[1].__class__ = Lying
    with pytest.raises(EnvironmentContractError, match=r"task 4, episode 3, step 0"):
        collector.trial(Remembering(), TASKS, 4, 0, KEY)


class Diverging(Gain):
    """Chooses an infinite action in the second episode of its last task, from a step on."""

    def __init__(self, step):
        self._step = step

    def act(self, context, obs, noise, feedback=None, *, explore):
        count, own = context
        action, _ = super().act(own, obs, noise, explore=explore)
        action.value[-1, 1] += torch.inf if count % HORIZON >= self._step else 0.0
        return action, (count + 1, own)

    def begin(self, num_tasks, num_episodes, rngs=()):
        return 0, super().begin(num_tasks, num_episodes, ())

    def adapt(self, context, rollout, rngs=()):
        return context


@pytest.mark.parametrize(
    ("step", "fault"),
    [(5, False), (0, True)],  # the robot goes on with infinite numbers, or fails
)
def test_diverging_policy_is_not_an_environment_error(step, fault):
    tasks = np.array([[9.0, -1.0], [9.0, 0.0 if fault else -1.0]])
    message = f"task 1, episode 1, step {step} of rollout 0: the policy chose action inf$"
    with pytest.raises(FloatingPointError, match=message), np.errstate(all="ignore"):
        trial(RobotBatch(), Diverging(step), tasks, 4, 1, KEY)


def test_divergence_after_adaptation_is_named():
    env, learner = RobotBatch(), Diverging(5)
    env.set_tasks(TASKS[2:3], 4)
    message = "task 0, episode 1, step 5 of rollout 2: .* inf: it diverged in adaptation"
    with pytest.raises(FloatingPointError, match=message), np.errstate(all="ignore"):
        rollout(env, learner, learner.begin(1, 4, ()), KEY, 2, (1, 4))


def test_task_of_a_bad_action_is_counted_over_both_halves():
    class InHalves(Remembering):
        def act(self, context, obs, noise, feedback=None, *, explore):
            action, after = super().act(context, obs, noise, feedback, explore=explore)
            return dataclasses.replace(action, value=action.value / (len(obs) < 3)), after

    # of 5 tasks the first half has two
    message = "task 2, episode 0, step 0 of rollout 0"
    with pytest.raises(FloatingPointError, match=message), np.errstate(all="ignore"):
        Collector(Halving(1)).trial(InHalves(), TASKS, 4, 0, KEY)


def test_failure_in_one_half_stops_the_other():
    env = Halving()
    collector = Collector(env)
    one, other = env.halves
    failed = threading.Event()

    def fail(action, alive):
        failed.set()
        raise RuntimeError("the robot is on fire")

    def wait(action, alive):
        assert failed.wait(10.0)
        waited.append(alive)
        if len(waited) > 1:  # the other half has been stopped by now, or is within a second
            assert collector._stop.wait(10.0)
        return RobotBatch.step(other, action, alive)

    waited = []
    one.step, other.step = fail, wait
    lasting = np.tile(TASKS[2], (4, 1))
    with pytest.raises(RuntimeError, match="on fire"):
        collector.trial(Remembering(), lasting, 1, 0, KEY)
    assert 1 <= len(waited) <= 2 < HORIZON  # it may be stopped in its first step
    made, _ = collector.trial(Remembering(), lasting[:1], 1, 0, KEY)  # the next one runs to its end
    assert made[0].valid.all()
    del one.step, other.step
    made, _ = collector.trial(Remembering(), lasting, 1, 0, KEY)  # and works again
    assert made[0].valid.all()


def test_close_releases_the_halves_only():
    closed = []
    env = SimpleNamespace(
        spec="spec",
        set_tasks=print,
        reset=print,
        step=print,
        threads=2,
        split=lambda parts: [
            SimpleNamespace(close=lambda i=i: closed.append(i)) for i in range(parts)
        ],
        close=lambda: closed.append("env"),
    )
    Collector(env).close()
    assert closed == [0, 1]
