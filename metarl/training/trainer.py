"""The outer loop: sample tasks, run a trial, update; with checkpoints, signals and failures."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metarl.config.identity import describe_identity
from metarl.config.schema import TrainConfig
from metarl.core.env import BatchEnv, HasWorkers, NoAnswer, supports
from metarl.core.errors import (
    CheckpointError,
    MetarlError,
    NumericalError,
    Preempted,
    ResourceError,
    handle_signals,
    interrupt,
    name_failures,
)
from metarl.core.learner import HasOwnLoop, HasReplay, Learner
from metarl.core.machine.allocation import keep_freed_memory
from metarl.core.machine.parallel import ALONE, Group, one_torch_thread
from metarl.core.rng import stream
from metarl.core.rollout import Iteration, Metrics, Rollout
from metarl.functional.params import find_non_finite
from metarl.runs import checkpoint
from metarl.runs.folder import list_checkpoints
from metarl.runs.logger import TrainingLog
from metarl.runs.storage import Segment, append_entries
from metarl.sampling.sampler import Collector
from metarl.sampling.trials import Key, TrialCollector
from metarl.training.alignment import align
from metarl.training.curriculum import ease, next_level
from metarl.training.place import Place

LEVEL, SHARE = "curriculum/level", "curriculum/success"
"""Metrics of the curriculum: its level, and the share of successful episodes."""


@dataclass(frozen=True)
class Progress:
    """Position of a run between two iterations.

    Attributes:
        iteration: Iterations done.
        env_steps: Environment steps taken.
        seconds: Wall-clock time spent, over all restarts [s].
        segments: Saved entries of the learner's replay store.
        level: Level of difficulty of the next iteration; None without a curriculum.
    """

    iteration: int = 0
    env_steps: int = 0
    seconds: float = 0.0
    segments: tuple[Segment, ...] = ()
    level: float | None = None

    def state(self) -> dict[str, Any]:
        """Returns the numbers, as `state.json` of a checkpoint holds them."""
        state = {"iteration": self.iteration, "env_steps": self.env_steps, "seconds": self.seconds}
        return state if self.level is None else {**state, "level": self.level}


def restore(learner: Learner[Any], saved: checkpoint.Checkpoint) -> Progress:
    """Restores a learner from a checkpoint and returns the progress at that point.

    Raises:
        CheckpointError: The checkpoint is of another learner or network; the learner is unchanged.
    """
    try:
        progress = Progress(**saved.state, segments=saved.segments)
        if supports(learner, HasReplay):
            _load_with_replay(learner, saved)
        elif saved.segments:
            raise ValueError("the learner has no replay store")
        else:
            learner.load_state_dict(saved.tensors)
    except (TypeError, ValueError) as error:
        hint = "it is of another learner, environment or network"
        raise CheckpointError(
            f"the checkpoint of iteration {saved.step} does not fit ({error}): {hint}"
        ) from error
    return progress


def _load_with_replay(learner: Any, saved: checkpoint.Checkpoint) -> None:
    before = learner.state_dict()
    learner.load_state_dict(saved.tensors)
    try:
        learner.load_replay(saved.replay)
    except BaseException:
        learner.load_state_dict(before)
        raise


class Trainer:
    """Trains a learner on an environment's tasks.

    Args:
        env: The environment.
        learner: The learner.
        distribution: Source of training tasks; anything with sample(rng, n) -> (n, D).
        config: The run's settings.
        run_dir: The run folder, which exists.
        log: Receives the metrics.
        progress: Position of a resumed run, as `restore` returned it; by default the start.
        collector: Runs the trials; by default in this process. It is closed after the training.
    """

    def __init__(
        self,
        env: BatchEnv,
        learner: Learner[Any],
        distribution: Any,
        config: TrainConfig[Any],
        run_dir: Path,
        log: TrainingLog,
        progress: Progress | None = None,
        collector: TrialCollector | None = None,
    ):
        self.learner, self.distribution = learner, distribution
        self.config, self.log = config, log
        self._collector = collector or Collector(env, config.sampler.slices)
        self._group = ALONE
        self._workers = env if supports(env, HasWorkers) else None
        self._place = Place(run_dir)
        self.progress = progress or Progress()
        if config.curriculum.success is not None and self.progress.level is None:
            self.progress = replace(self.progress, level=config.curriculum.start)
        self._saved = progress.iteration if progress else None
        self._stop: str | None = None
        self._is_warned = False

    def run(self, group: Group = ALONE) -> None:
        """Trains until config.iterations are done.

        SIGINT, SIGTERM and SIGHUP are handled in the main thread only.

        Args:
            group: Processes that train together, with equal learners. Only the first one writes.

        Raises:
            Preempted: SIGINT, SIGTERM or SIGHUP arrived; the iteration was finished and saved.
            KeyboardInterrupt: It arrived twice; the last checkpoint stands.
            NumericalError: An update met a number that is not finite; the state before the
                iteration was saved.
            ResourceError: The disk refused a record; the last checkpoint stands, and a resume
                repeats what came after it.
            FolderLost: The run folder was moved or removed; the state is saved, and the message
                says where.
            EnvironmentContractError: A task had no valid step, or the environment gave a number
                that is not finite without a fault; the state before the iteration was saved.
        """
        keep_freed_memory()
        self._group = group
        started = last_save = time.monotonic()
        before, stop = self.progress.seconds, None
        # sums in the main thread depend on torch's number of threads, and results must not
        with handle_signals(self._note_signal), one_torch_thread(), ExitStack() as held:
            held.enter_context(closing(self._collector))
            held.enter_context(self._place)
            self.save()  # a run that is killed in its first minutes can be resumed too
            for iteration in range(self.progress.iteration, self.config.iterations):
                place = f"iteration {iteration + 1}"
                with self._save_on_failure(), self._stop_on_silence(), name_failures(place):
                    done = self._iterate(iteration)
                ended = time.monotonic()
                self.progress = replace(
                    self.progress,
                    iteration=iteration + 1,
                    env_steps=self.progress.env_steps + done.steps,
                    seconds=before + ended - started,
                    level=self._next_level(done),
                )
                self._write(self._record(iteration, done))
                if ended - last_save >= 60.0 * self.config.trainer.checkpoint_minutes:
                    self.save()
                    last_save = ended
                with self._save_on_failure(), name_failures(place):
                    stop = self._agree()
                if stop:
                    break
            self.save()
            # also if the signal arrived while the last checkpoint was written; the others wait here
            stop = self._agree() or stop
        if stop:
            raise Preempted(f"stopped by {stop} after iteration {self.progress.iteration}")

    def _write(self, record: Mapping[str, Any]) -> None:
        """Writes a record; without it the iteration is not saved, so that a resume repeats it."""
        try:
            self.log.write(record)
        except ResourceError as error:
            if self._place.is_lost():
                self.save()
            place = f"the last checkpoint is {self._newest()}, and what came after it is repeated"
            raise ResourceError(f"{error}; {place}") from error
        except Exception:
            self.save()
            raise

    def _agree(self) -> str | None:
        """Returns the signal that has stopped one of the processes, and aligns their learners."""
        if align(self.learner, self._group) and not self._is_warned:
            self._is_warned = True
            text = "the processes round in different ways, and take the numbers of the first one"
            self.log.notify(f"metarl: warning: {text}; the run does not repeat on other machines")
        return next(filter(None, self._group.gather(lambda: self._stop)), None)

    def _iterate(self, iteration: int) -> Iteration:
        """Collects one trial and learns from it; a learner with its own loop does both itself."""
        if supports(self.learner, HasOwnLoop):
            return self.learner.iterate(iteration)
        sampler, seed = self.config.sampler, self.config.seed
        sizes = (sampler.num_episodes, sampler.num_adaptations)
        key = Key(seed, "train", iteration)
        began = time.monotonic()
        level = self.progress.level
        source = self.distribution if level is None else ease(self.distribution, level)
        tasks = source.sample(stream(seed, "tasks", iteration), sampler.num_tasks)
        self._collector.take_reward_terms()  # an evaluation may have stepped the environment
        with self._at_level():
            rollouts, context = self._collector.trial(
                self.learner, tasks, *sizes, key, is_training=True
            )
        terms = {f"reward/{n}": v for n, v in self._collector.take_reward_terms().items()}
        collected = time.monotonic()
        counts = self._collector.take_counts()
        metrics = {**self.learner.update(context, rollouts, tasks), **terms, **counts}
        metrics |= self._describe_level(rollouts[-1])
        return _summarize(rollouts, metrics, collected - began, time.monotonic() - collected)

    @contextmanager
    def _at_level(self) -> Generator[None]:
        """Gives the environment the level of difficulty; evaluations have none."""
        if self.progress.level is None:
            yield
            return
        self._collector.set_level(self.progress.level)
        try:
            yield
        finally:
            self._collector.set_level(1.0)

    def _describe_level(self, rollout: Rollout) -> Metrics:
        """Returns the level and the share of successful episodes after adaptation."""
        level, success = self.progress.level, self.config.curriculum.success
        if level is None or success is None:
            return {}
        share = float((rollout.returns() >= success).double().mean())
        return {LEVEL: level, SHARE: share}

    def _next_level(self, done: Iteration) -> float | None:
        if self.progress.level is None:
            return None
        return next_level(self.config.curriculum, self.progress.level, done.metrics[SHARE])

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self._place.path / "checkpoints"

    def save(self) -> None:
        """Writes a checkpoint of the state between two iterations, unless it exists already.

        Raises:
            NumericalError: The state is not finite; names the tensor and the last checkpoint.
            FolderLost: The run folder was moved or removed; the state is saved.
        """
        if self._saved == self.progress.iteration:
            return
        if self._group.rank:  # the first process writes for all
            self._saved = self.progress.iteration
            return
        state = self.learner.state_dict()
        if name := find_non_finite(state):
            place = f"the last checkpoint is {self._newest()}"
            raise NumericalError(f"{name!r} is not finite and is not saved; {place}")
        lost = self._place.find(self.config) if self._place.is_lost() else None
        if lost is None:
            self.log.sync()
        if supports(self.learner, HasReplay):
            is_new = lost is not None and lost.is_new
            segments = () if is_new else self.progress.segments
            folder = self.checkpoints / checkpoint.REPLAY
            segments = append_entries(folder, self.learner, segments)
            self.progress = replace(self.progress, segments=segments)
        checkpoint.save(
            self.checkpoints,
            self.progress.iteration,
            state,
            self.progress.state(),
            keep=self.config.trainer.keep_checkpoints,
            segments=self.progress.segments,
            settings=describe_identity(self.config),
        )
        self._saved = self.progress.iteration
        if lost is not None:
            raise lost

    def _newest(self) -> str:
        """Returns the path of the newest checkpoint, for a message."""
        known = list_checkpoints(self.checkpoints) if self.checkpoints.is_dir() else []
        return str(known[-1][2]) if known else "none"

    @contextmanager
    def _save_on_failure(self) -> Generator[None]:
        """Saves the state before the failure; a failed update leaves the learner as it was."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            self.save()
            hint = "use --device cpu, or fewer --sampler.num-tasks in a new run"
            raise ResourceError(f"no GPU memory left, the state is saved; {hint}") from error
        except MetarlError as error:
            self.save()
            place = self._newest()
            raise type(error)(f"{error}; the state before it is saved in {place}") from error
        except Exception:
            self.save()
            raise

    @contextmanager
    def _stop_on_silence(self) -> Generator[None]:
        """Stops before the end of an iteration in which an environment hangs, if asked to stop."""
        try:
            yield
        except MetarlError as error:
            if not (self._stop and isinstance(error.__cause__, NoAnswer)):
                raise
            done = f"stopped by {self._stop} after iteration {self.progress.iteration}"
            raise Preempted(f"{done}, as the next one hangs: {error}") from error

    def _note_signal(self, number: int, frame: object) -> None:
        """Stops after the iteration at the first signal, and at once at the second."""
        if self._stop:
            interrupt(number, frame)
        self._stop = signal.Signals(number).name
        if self._workers is not None:
            self._workers.hurry()
        text = f"metarl: {self._stop}: stopping after this iteration; once more stops at once"
        with suppress(OSError):  # SIGHUP says that the terminal is closed
            self.log.notify(text)

    def _record(self, iteration: int, done: Iteration) -> dict[str, Any]:
        return {
            "iteration": iteration + 1,
            "env_steps": self.progress.env_steps,
            "seconds": self.progress.seconds,
            "steps_per_second": done.steps / (done.collect + done.update),
            "time/collect": done.collect,
            "time/update": done.update,
            "return_pre": done.returns[0],
            "return_post": done.returns[-1],
            **{f"return/{k}": value for k, value in enumerate(done.returns)},
            "rollout/length": done.length,
            "rollout/terminated": done.terminated,
            "rollout/faults": done.faults,
            **({"workers/restarts": self._workers.restarts} if self._workers else {}),
            **done.metrics,
        }


def _summarize(
    rollouts: Sequence[Rollout], metrics: Metrics, collect: float, update: float
) -> Iteration:
    last = rollouts[-1]
    return Iteration(
        steps=sum(rollout.num_steps() for rollout in rollouts),
        returns=[float(rollout.returns().mean()) for rollout in rollouts],
        length=float(last.valid.sum(dim=2).double().mean()),
        terminated=float(last.terminated.double().mean()),
        faults=float(sum(rollout.truncated.sum() for rollout in rollouts)),
        metrics=metrics,
        collect=collect,
        update=update,
    )
