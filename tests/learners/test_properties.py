"""Properties of all learners, those of `learner_cases.CASES`."""

import math
from dataclasses import replace

import pytest
import torch
from learner_cases import CASES, RL2, Case
from torch_faults import FailingOperation, spread
from whole_trial import trial

from metarl.core.env import supports
from metarl.core.errors import EnvironmentContractError
from metarl.core.learner import HasReplay
from metarl.core.machine.parallel import one_torch_thread
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.evaluation.evaluate import evaluate, held_out_tasks
from metarl.functional.running_moments import Moments
from metarl.learners.maml import outer_trpo
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.networks.distributions import DiagonalGaussian
from metarl.runs import checkpoint
from metarl.runs.storage import append_entries
from metarl.sampling.sampler import Key
from metarl.training.alignment import digest
from metarl.training.packing import from_bytes, list_forms, to_bytes


@pytest.fixture(params=CASES)
def algo(request):
    return request.param


class Bench:
    """A learner on an environment, with a small meta-batch."""

    def __init__(
        self, name, seed=0, env="navigation-2d", threads=1, num_threads=1, small=True, case=None
    ):
        self.case, self.seed, algo = case or CASES[name], seed, name.partition(",")[0]
        self.size = (3, 4) if small else (self.case.num_tasks, self.case.num_episodes)
        self.env = make(env, threads)
        spec = self.env.spec
        config = self.case.config
        if env != "navigation-2d":  # sizes and rates of the default, choices of the case
            choices = {n: value for n, value in vars(config).items() if isinstance(value, str)}
            config = replace(ALGORITHMS[algo].config(), **choices)
        if small and algo == "teacher-student":
            # so that the second update is the student's, and the third fine-tunes it
            later = min(config.student_updates, 1)
            config = replace(config, teacher_updates=1, student_updates=later)
        if small and algo == "pearl":
            config = replace(config, update_ratio=0.002)
        if small and algo == "grbal":
            config = replace(config, gradient_steps=4)
        self.learner = build_learner(
            ALGORITHMS[algo], config, spec, seed=seed, num_threads=num_threads
        )

    def trial(self, iteration):
        tasks = self.env.spec.tasks.sample(stream(self.seed, "tasks", iteration), self.size[0])
        key = Key(self.seed, "train", iteration)
        adaptations = self.case.num_adaptations
        options = {"is_training": True}
        found = trial(self.env, self.learner, tasks, self.size[1], adaptations, key, **options)
        return *found, tasks

    def iterate(self, iterations):
        """Trains; returns the metrics of every iteration."""
        metrics = []
        with one_torch_thread():
            for iteration in iterations:
                rollouts, context, tasks = self.trial(iteration)
                metrics.append(self.learner.update(context, rollouts, tasks))
        return metrics

    def returns(self):
        """Mean return on held-out tasks after 0..K adaptations."""
        tasks = held_out_tasks(self.env.spec, self.seed, 16)
        key = Key(self.seed, "evaluate", 0)
        settings = {"num_episodes": self.size[1], "num_adaptations": self.case.num_adaptations}
        measured = evaluate(self.env, self.learner, tasks, key=key, **settings)
        return measured.returns.mean(axis=(1, 2))


def state(learner):
    return {name: value.clone() for name, value in learner.state_dict().items()}


def whole_state(learner):
    """The state and the entries of a replay store, as a checkpoint keeps them."""
    entries = {}
    if supports(learner, HasReplay) and learner.replay_size():
        entries = learner.read_replay(0, learner.replay_size())
    return state(learner), entries


def restore(learner, saved):
    learner.load_state_dict(saved[0])
    if supports(learner, HasReplay):
        learner.load_replay(saved[1])


def assert_same_whole(one, other):
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def assert_same(one, other):
    assert one.keys() == other.keys() and len(one) > 0
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def test_every_learner_has_a_case():
    own = {name for name, algorithm in ALGORITHMS.items() if not algorithm.has_own_loop}
    assert own == {name.partition(",")[0] for name in CASES}


def test_learner_learns_to_adapt(algo):
    bench = Bench(algo, small=False)
    start = bench.returns()[-1]
    bench.iterate(range(bench.case.iterations))
    before, *_, after = bench.returns()
    assert after > start + 12.0
    assert after > before + bench.case.gain
    assert after > bench.case.least


def test_same_seed_gives_the_same_learner_bit_for_bit(algo):
    one, other = Bench(algo), Bench(algo)
    assert one.iterate(range(2)) == other.iterate(range(2))
    assert_same(state(one.learner), state(other.learner))


def test_first_state_goes_between_processes(algo):
    """Its digest tells any change of a tensor, and its bytes give it again."""
    first = Bench(algo).learner.state_dict()
    text = digest(first)
    for name, value in first.items():
        other = value.clone()
        other.view(-1)[-1:] = 3 if value.dtype != torch.bool else ~other.view(-1)[-1:]
        assert digest(first | {name: other}) != text or torch.equal(other, value), name
    tensors = list(first.values())
    again = from_bytes(to_bytes(tensors, torch.device("cpu")), list_forms(tensors))
    assert digest(dict(zip(first, again, strict=True))) == text


def test_another_seed_gives_another_learner_from_the_start(algo):
    one, other = Bench(algo, seed=1), Bench(algo, seed=2)
    starts = [state(bench.learner) for bench in (one, other)]
    assert any(not torch.equal(starts[0][name], starts[1][name]) for name in starts[0])
    other.learner.load_state_dict(starts[0])
    assert one.iterate(range(1)) != other.iterate(range(1))  # tasks and noise differ too


def test_update_changes_the_learner(algo):
    bench = Bench(algo)
    before = state(bench.learner)
    bench.iterate(range(1))
    after = state(bench.learner)
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_noise_of_the_actions_is_logged(algo):
    bench = Bench(algo)
    config = bench.learner.config
    if not hasattr(config, "initial_log_std"):
        return  # grbal plans, pearl has another noise in every state
    (metrics,) = bench.iterate(range(1))
    assert metrics["policy/log_std"] == pytest.approx(config.initial_log_std, abs=0.3)


def test_resumed_learner_equals_the_uninterrupted_one(algo, tmp_path):
    whole, first, second = Bench(algo), Bench(algo), Bench(algo, seed=0)
    expected = whole.iterate(range(4))
    metrics = first.iterate(range(2))
    segments = ()
    if supports(first.learner, HasReplay):
        segments = append_entries(tmp_path / checkpoint.REPLAY, first.learner, ())
    checkpoint.save(tmp_path, 2, first.learner.state_dict(), {}, segments=segments)
    for value in second.learner.state_dict().values():
        value.zero_()  # a state_dict is a copy, so this must not change the learner
    second.iterate(range(7, 8))  # earlier updates must not matter
    loaded = checkpoint.load_newest(tmp_path)
    restore(second.learner, (loaded.tensors, loaded.replay))
    metrics += second.iterate(range(2, 4))
    assert metrics == expected
    assert_same(state(second.learner), state(whole.learner))


def test_saved_state_does_not_change_with_the_learner(algo):
    bench = Bench(algo)
    saved = bench.learner.state_dict()
    copy = {name: value.clone() for name, value in saved.items()}
    bench.iterate(range(1))
    assert_same(saved, copy)
    bench.learner.load_state_dict(saved)
    bench.iterate(range(1, 2))
    assert_same(saved, copy)


def test_state_of_another_network_is_rejected(algo):
    bench = Bench(algo)
    before = state(bench.learner)
    for name, value in before.items():
        missing = {key: tensor for key, tensor in before.items() if key != name}
        larger = {**before, name: torch.cat([value.reshape(-1), value.reshape(-1)])}
        older = {"reward_unit", "adam/lr"} if algo.startswith("rl2") else {"reward_unit"}
        # states of older versions lack these
        for broken in (larger,) if name in older else (missing, larger):
            with pytest.raises(ValueError, match=name.rpartition("/")[2]):
                bench.learner.load_state_dict(broken)
            assert_same(state(bench.learner), before)


def test_state_that_is_not_finite_is_rejected(algo):
    bench = Bench(algo)
    before = state(bench.learner)
    for name in (name for name, value in before.items() if value.is_floating_point()):
        broken = {**before, name: before[name].clone()}
        broken[name].view(-1)[-1] = -float("inf")
        with pytest.raises(ValueError, match=f"{name}.* is not finite"):
            bench.learner.load_state_dict(broken)
        assert_same(state(bench.learner), before)


def test_acting_and_adapting_do_not_change_the_learner(algo):
    bench = Bench(algo)
    before = state(bench.learner)
    bench.trial(0)
    bench.returns()
    assert_same(state(bench.learner), before)


def test_acting_without_exploration_ignores_the_noise(algo):
    learner = Bench(algo).learner
    obs, noise = torch.ones(3, 4, 2), torch.full((3, 4, 2), float("nan"))
    with torch.inference_mode():
        chosen, _ = learner.act(learner.begin(3, 4, ()), obs, noise, explore=False)
    assert chosen.value.shape == (3, 4, 2) and chosen.value.isfinite().all()
    assert torch.equal(chosen.log_prob, torch.zeros(3, 4))


def test_update_threads_do_not_change_it_bit_for_bit(algo):
    one, two = Bench(algo, num_threads=1), Bench(algo, num_threads=2)
    assert one.iterate(range(2)) == two.iterate(range(2))
    assert_same(state(one.learner), state(two.learner))


def test_physics_threads_do_not_change_learning_bit_for_bit(algo):
    env = "half-cheetah-dir/rllib"
    one, two = Bench(algo, env=env, threads=1), Bench(algo, env=env, threads=2)
    assert one.iterate(range(1)) == two.iterate(range(1))
    assert_same(state(one.learner), state(two.learner))
    for bench in (one, two):
        bench.env.close()


# --- an update that fails midway

RL2_CASES = {
    f"rl2, {memory}": Case(replace(RL2, memory=memory), 64, 1, 1, 30)
    for memory in ("gru", "lstm", "transformer")
}

# (name, object and attribute of a function inside the update, the call that raises)
FAULTS = {
    "before the step": ("maml-trpo", outer_trpo, "line_search", 1),
    "in the metrics": ("maml-trpo", DiagonalGaussian, "metrics", 2),
    "in the moments": ("maml-trpo, normalized", Moments, "merge", 2),
    "gru": ("rl2, gru", torch.optim.Adam, "step", 2),
    "lstm": ("rl2, lstm", torch.optim.Adam, "step", 2),
    "transformer": ("rl2, transformer", torch.optim.Adam, "step", 2),
    "pearl": ("pearl", torch.optim.Adam, "step", 2),
    "teacher and student": ("teacher-student", torch.optim.Adam, "step", 2),
    "encoder of varibad": ("varibad", torch.optim.Adam, "step", 22),
    "after the last step": ("rl2, gru", Moments, "merge", 2),
}


def raise_in_call(patch, target, name, number, error):
    """Lets a function raise in its number-th call."""
    original, calls = getattr(target, name), []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise error("midway")
        return original(*args, **kwargs)

    patch.setattr(target, name, function)


@pytest.mark.parametrize(("error", "earlier"), [(RuntimeError, 0), (KeyboardInterrupt, 1)])
@pytest.mark.parametrize("fault", FAULTS)
def test_update_that_fails_midway_changes_nothing(fault, error, earlier, monkeypatch):
    name, target, function, number = FAULTS[fault]
    bench, clean = (Bench(name, case=RL2_CASES.get(name)) for _ in range(2))
    assert bench.iterate(range(earlier)) == clean.iterate(range(earlier))
    before = state(bench.learner)
    rollouts, context, tasks = bench.trial(earlier)
    with monkeypatch.context() as patch, pytest.raises(error, match="midway"):
        raise_in_call(patch, target, function, number, error)
        bench.learner.update(context, rollouts, tasks)
    assert_same(state(bench.learner), before)
    later = range(earlier, earlier + 1)
    assert bench.iterate(later) == clean.iterate(later)
    assert_same(state(bench.learner), state(clean.learner))


def test_update_that_fails_at_any_operation_changes_nothing(algo):
    """The first updates, one of every phase, fail at operations of each part."""
    bench, clean = Bench(algo), Bench(algo)
    for iteration in range(3 if "fine-tuned" in algo else 2):
        assert clean.iterate(range(iteration, iteration + 1))
        rollouts, context, tasks = bench.trial(iteration)
        before = whole_state(bench.learner)
        with FailingOperation() as counter:
            bench.learner.update(context, rollouts, tasks)
        assert_same_whole(whole_state(bench.learner), whole_state(clean.learner))
        restore(bench.learner, before)
        for place in spread(counter.count, 4):
            kind = (RuntimeError, KeyboardInterrupt)[place % 2]
            with FailingOperation(place, kind), pytest.raises(kind, match="midway"):
                bench.learner.update(context, rollouts, tasks)
            assert_same_whole(whole_state(bench.learner), before)
        bench.learner.update(context, rollouts, tasks)
        assert_same_whole(whole_state(bench.learner), whole_state(clean.learner))


def count_phases(name):
    """Updates of `Bench` that differ: those of teacher, student and fine-tuning."""
    return (3 if "fine-tuned" in name else 2) if "teacher" in name else 1


def fail_at_once(rollout, failed):
    """Returns the rollout without the steps of the episodes failed (N, E)."""
    valid = rollout.valid & ~failed.unsqueeze(-1)
    return replace(rollout, valid=valid, truncated=rollout.truncated | failed)


@pytest.mark.parametrize("name", CASES)
def test_update_without_a_valid_step_is_refused(name):
    bench = Bench(name)
    for phase in range(count_phases(name)):
        rollouts, context, tasks = bench.trial(phase)
        before = whole_state(bench.learner)
        failed = [fail_at_once(each, torch.ones(bench.size).bool()) for each in rollouts]
        with pytest.raises((ValueError, EnvironmentContractError), match="valid step|two steps"):
            bench.learner.update(context, failed, tasks)
        assert_same_whole(whole_state(bench.learner), before)
        bench.learner.update(context, rollouts, tasks)


@pytest.mark.parametrize("name", [n for n in CASES if "rl2" in n or "teacher" in n])
def test_minibatch_without_a_valid_step_is_left_out(name):
    config = replace(CASES[name].config, minibatches=12)  # one for each trial
    bench = Bench(name, case=replace(CASES[name], config=config))
    for phase in range(count_phases(name)):
        rollouts, context, tasks = bench.trial(phase)
        failed = torch.zeros(bench.size, dtype=torch.bool)
        failed[1, 2] = True
        rollouts = [fail_at_once(each, failed) for each in rollouts]
        metrics = bench.learner.update(context, rollouts, tasks)
        assert all(math.isfinite(value) for value in metrics.values())
