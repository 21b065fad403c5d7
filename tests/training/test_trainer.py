import dataclasses
import os
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_training import CONFIG, assert_same_runs, records, run, saved, trainer_in

from metarl.builders import training_tasks
from metarl.config.schema import SamplerConfig, TrainerConfig
from metarl.core.errors import (
    CheckpointError,
    EnvironmentContractError,
    NumericalError,
    Preempted,
    ResourceError,
    Terminated,
)
from metarl.envs.registry import make
from metarl.learners.maml.maml import Maml
from metarl.runs import checkpoint
from metarl.training.distributed import pick_device
from metarl.training.trainer import Progress, restore


class Nuisance:
    """Navigation with an event before one step of one training iteration."""

    def __init__(self, iteration, happen, *, step=30):
        self._env, self._at, self._happen = make("navigation-2d"), (2 * iteration, step), happen
        self.spec, self.reset, self.snapshot = self._env.spec, self._reset, self._env.snapshot
        self.tasks, self._rollout = [], -1

    def set_tasks(self, tasks, num_episodes):
        self.tasks.append(tasks.copy())
        self._env.set_tasks(tasks, num_episodes)

    def _reset(self, rngs):
        self._rollout, self._step = self._rollout + 1, -1
        return self._env.reset(rngs)

    def step(self, action, alive):
        self._step += 1
        step = self._env.step(action, alive)
        happens = (self._rollout, self._step) == self._at
        return (self._happen(step, alive) if happens else None) or step


def nothing(step, alive):
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of 4 iterations."""
    folder = tmp_path_factory.mktemp("whole")
    run(trainer_in(folder))
    return folder


# ----------------------------------------------------------------------------------------- the loop


def test_run_records_every_iteration_and_saves_the_last(whole):
    assert [r["iteration"] for r in records(whole)] == [1, 2, 3, 4]
    assert saved(whole).step == saved(whole).state["iteration"] == 4
    assert saved(whole).state["env_steps"] == records(whole)[-1]["env_steps"] <= 4 * 2 * 400
    for key in ("return_pre", "return_post", "return/0", "return/1", "kl", "rollout/faults"):
        assert all(np.isfinite(r[key]) for r in records(whole)), key


def test_finished_trainer_does_nothing_more(whole):
    before = records(whole)
    learner = SimpleNamespace(load_state_dict=lambda tensors: None)  # has no other method
    trainer = trainer_in(whole, resume=True, learner=learner)
    run(trainer)
    assert records(whole) == before and trainer.progress.iteration == 4


def test_checkpoints_come_by_the_clock_and_old_ones_go(tmp_path):
    config = dataclasses.replace(
        CONFIG, trainer=TrainerConfig(checkpoint_minutes=1e-6, keep_checkpoints=2)
    )
    run(trainer_in(tmp_path, config=config))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["it_00000003", "it_00000004"]


def test_resume_continues_steps_and_seconds(tmp_path, whole):
    short = dataclasses.replace(CONFIG, iterations=2)
    run(trainer_in(tmp_path, config=short))
    before = saved(tmp_path).state
    trainer = trainer_in(tmp_path, resume=True)
    assert trainer.progress == Progress(**before) and before["seconds"] > 0.0
    run(trainer)
    seconds = [r["seconds"] for r in records(tmp_path)]
    assert seconds == sorted(seconds) and seconds[1] == before["seconds"] < seconds[2]
    assert_same_runs(tmp_path, whole)


def test_results_do_not_depend_on_torch_threads(tmp_path):
    # torch splits sums of more than 32,768 elements among its threads
    sampler = SamplerConfig(num_tasks=2, num_episodes=200)
    config = dataclasses.replace(CONFIG, iterations=1, sampler=sampler)
    run(trainer_in(tmp_path / "one", config=config))
    torch.set_num_threads(2)
    try:
        run(trainer_in(tmp_path / "two", config=config))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert_same_runs(tmp_path / "one", tmp_path / "two")


# ----------------------------------------------------------------------------------- training tasks


def test_training_tasks_come_from_the_fixed_set(tmp_path):
    sampler = dataclasses.replace(CONFIG.sampler, train_tasks=3)
    config = dataclasses.replace(CONFIG, sampler=sampler)
    env = Nuisance(0, nothing)
    run(trainer_in(tmp_path, env, config))
    expected = set(training_tasks(env, config).tasks)
    assert {tuple(task) for task in np.concatenate(env.tasks)} == expected


# ------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_saves_after_the_iteration_for_a_resume(number, tmp_path, whole, capfd):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    env = Nuisance(1, lambda step, alive: os.kill(os.getpid(), number))
    with pytest.raises(Preempted, match=f"stopped by {number.name} after iteration 2") as caught:
        run(trainer_in(tmp_path, env))
    assert caught.value.exit_code == 75
    assert f"{number.name}: stopping after this iteration" in capfd.readouterr().err
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert saved(tmp_path).step == len(records(tmp_path)) == 2
    run(trainer_in(tmp_path, resume=True))
    assert_same_runs(tmp_path, whole)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_stops_at_once(second, tmp_path, whole, capfd):
    def twice(step, alive):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), second)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(trainer_in(tmp_path, Nuisance(2, twice)))
    assert caught.type is (Terminated if second == signal.SIGTERM else KeyboardInterrupt)
    assert saved(tmp_path).step == 0 and len(records(tmp_path)) == 2
    run(trainer_in(tmp_path, resume=True))
    assert_same_runs(tmp_path, whole)


def test_signal_in_the_last_iteration_loses_nothing(tmp_path, whole, capfd):
    env = Nuisance(3, lambda step, alive: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted, match="after iteration 4"):
        run(trainer_in(tmp_path, env))
    assert_same_runs(tmp_path, whole)


def test_signal_during_the_last_save_is_reported(tmp_path, whole, monkeypatch, capfd):
    save = checkpoint.save

    def signalled(directory, step, *rest, **options):
        if step == CONFIG.iterations:
            os.kill(os.getpid(), signal.SIGTERM)
        return save(directory, step, *rest, **options)

    monkeypatch.setattr(checkpoint, "save", signalled)
    with pytest.raises(Preempted, match="stopped by SIGTERM after iteration 4"):
        run(trainer_in(tmp_path))
    assert_same_runs(tmp_path, whole)


def test_training_works_in_a_thread(tmp_path, whole):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    trainer, errors = trainer_in(tmp_path), []

    def train():
        try:
            run(trainer)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join(120.0)
    assert not thread.is_alive() and errors == []
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert_same_runs(tmp_path, whole)


# ----------------------------------------------------------------------------------------- failures


def make_nan(name):
    def happen(step, alive):
        array = getattr(step, name).copy()
        array[3] = np.nan
        return dataclasses.replace(step, **{name: array})

    return happen


def fail_all_of_task_1(step, alive):
    fault = np.array([False, False, True, True])
    return dataclasses.replace(step, fault=fault & alive, reward=np.where(fault, np.nan, 0.0))


def raise_error(error):
    def happen(step, alive):
        raise error

    return happen


@pytest.mark.parametrize(
    ("happen", "step", "failure", "text"),
    [
        (
            make_nan("reward"),
            30,
            EnvironmentContractError,
            "task 1, episode 1, step 30: .* gave reward nan and reported no fault",
        ),
        (
            make_nan("obs"),
            30,
            EnvironmentContractError,
            "task 1, episode 1, step 31: .* gave obs nan and reported no fault",
        ),
        (
            make_nan("obs"),
            99,
            EnvironmentContractError,
            "task 1, episode 1, after step 99: .* gave obs nan and reported no fault",
        ),
        (fail_all_of_task_1, 0, EnvironmentContractError, "task 1 has no valid step"),
        (raise_error(FloatingPointError("overflow")), 30, NumericalError, "overflow"),
        (raise_error(MemoryError()), 30, ResourceError, "no memory left; free some"),
        (raise_error(torch.OutOfMemoryError()), 30, ResourceError, "no GPU memory left"),
        (raise_error(KeyError("a bug")), 30, KeyError, "a bug"),
    ],
)
def test_failure_names_the_iteration_and_saves_before_it(
    happen, step, failure, text, tmp_path, whole
):
    with pytest.raises(failure, match=text) as caught:
        run(trainer_in(tmp_path, Nuisance(2, happen, step=step)))
    if failure not in (KeyError, ResourceError):
        assert str(caught.value).startswith("iteration 3: ")
        place = tmp_path / "checkpoints" / "it_00000002"
        assert str(caught.value).endswith(f"; the state before it is saved in {place}")
        assert "\n" not in str(caught.value)
    assert saved(tmp_path).step == len(records(tmp_path)) == 2
    run(trainer_in(tmp_path, resume=True))  # with a repaired environment nothing is lost
    assert_same_runs(tmp_path, whole)


def test_update_that_is_not_finite_has_exit_code_4(tmp_path, whole):
    trainer = trainer_in(tmp_path)
    update, count = trainer.learner.update, []

    def breaks(context, rollouts, tasks):
        count.append(1)
        if len(count) == 3:
            raise FloatingPointError("task 1: the gradient of 'weight0' is not finite")
        return update(context, rollouts, tasks)

    trainer.learner.update = breaks
    with pytest.raises(NumericalError, match="iteration 3: task 1: the gradient") as caught:
        run(trainer)
    assert caught.value.exit_code == 4 and saved(tmp_path).step == 2


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_state_that_is_not_finite_is_never_saved(value, tmp_path, whole):
    trainer = trainer_in(tmp_path)
    update = trainer.learner.update

    def breaks(context, rollouts, tasks):
        metrics = update(context, rollouts, tasks)
        if trainer.progress.iteration == 3:  # a learner of a user that checks nothing
            trainer.learner.params["weight0"].view(-1)[-1] = value
        return metrics

    trainer.learner.update = breaks
    last = tmp_path / "checkpoints" / "it_00000000"
    with pytest.raises(NumericalError, match="'policy/weight0' is not finite") as caught:
        run(trainer)
    assert str(caught.value).endswith(f"is not saved; the last checkpoint is {last}")
    assert saved(tmp_path).step == 0
    run(trainer_in(tmp_path, resume=True))
    assert_same_runs(tmp_path, whole)


def test_divergence_in_adaptation_has_exit_code_4(tmp_path):
    learner = dataclasses.replace(CONFIG.learner, inner_lr=1e30)
    config = dataclasses.replace(CONFIG, learner=learner)
    with pytest.raises(NumericalError, match="iteration 1: task 0.* rollout [01].*saved") as caught:
        run(trainer_in(tmp_path, config=config))
    assert caught.value.exit_code == 4


def test_failed_log_loses_no_update(tmp_path):
    trainer = trainer_in(tmp_path)
    write = trainer.log.write

    def full(record):
        if record["iteration"] == 2:
            raise OSError(28, "No space left on device")
        write(record)

    trainer.log.write = full
    with pytest.raises(OSError, match="No space"):
        run(trainer)
    assert saved(tmp_path).step == 2


def test_failed_episodes_are_counted_and_left_out(tmp_path):
    def fail_one(step, alive):
        fault = np.array([False, True, False, False])
        return dataclasses.replace(step, fault=fault, reward=np.where(fault, np.nan, step.reward))

    run(trainer_in(tmp_path, Nuisance(1, fail_one, step=10)))
    assert [r["rollout/faults"] for r in records(tmp_path)] == [0.0, 1.0, 0.0, 0.0]
    assert all(value.isfinite().all() for value in saved(tmp_path).tensors.values())
    first, second = records(tmp_path)[:2]
    assert second["env_steps"] - first["env_steps"] <= 2 * 400 - 90


# ---------------------------------------------------------------------------------------- restoring


@pytest.mark.parametrize(
    ("tensors", "state", "text"),
    [
        ({}, {"iteration": 3}, "weight0' is missing"),
        ({"policy/weight0": torch.zeros(1)}, {"iteration": 3}, "weight0' is of shape"),
        (None, {"epoch": 3}, "epoch"),
    ],
)
def test_unfitting_checkpoint_is_one_line_with_exit_code_5(tensors, state, text):
    learner = Maml(CONFIG.learner, 2, 2, seed=0)
    before = learner.state_dict()
    tensors = before if tensors is None else tensors
    with pytest.raises(CheckpointError, match=f"iteration 3 does not fit .*{text}") as caught:
        restore(learner, checkpoint.Checkpoint(3, tensors, state))
    assert caught.value.exit_code == 5 and "\n" not in str(caught.value)
    for name, value in learner.state_dict().items():
        assert torch.equal(value, before[name])


def test_missing_gpu_is_refused_with_a_hint():
    count = torch.cuda.device_count()
    with pytest.raises(ResourceError, match="--device cuda:99: .*use --device cpu, or") as caught:
        pick_device("cuda:99")
    assert caught.value.exit_code == 6
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type == ("cuda" if count else "cpu")
